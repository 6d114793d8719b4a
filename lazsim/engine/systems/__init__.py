"""Systems: ways to survive failures, one file each. `System` says what a system answers."""

from collections.abc import Mapping
from dataclasses import replace

from lazsim.engine.systems.async_checkpoint import ASYNC_CHECKPOINT
from lazsim.engine.systems.bamboo import BAMBOO
from lazsim.engine.systems.checkpoint import CHECKPOINT
from lazsim.engine.systems.expert_parallel import DROPLESS, DROPLESS_FT, DS, DS_FT, TUTEL, TUTEL_FT
from lazsim.engine.systems.gemini import GEMINI
from lazsim.engine.systems.lazarus import LAZARUS
from lazsim.engine.systems.moc import MOC
from lazsim.engine.systems.moevement import MOEVEMENT
from lazsim.engine.systems.oobleck import OOBLECK
from lazsim.engine.systems.own import guarded
from lazsim.engine.systems.recycle import RECYCLE
from lazsim.engine.systems.replica_drop import FT_HSDP, REPLICA_DROP
from lazsim.engine.systems.spare import SPARE
from lazsim.engine.systems.system import System as System
from lazsim.errors import SpecError
from lazsim.extensions import Registry

SYSTEMS: Mapping[str, System] = {
    system.name: system
    for system in (
        LAZARUS,
        DS,
        DS_FT,
        TUTEL,
        TUTEL_FT,
        DROPLESS,
        DROPLESS_FT,
        CHECKPOINT,
        ASYNC_CHECKPOINT,
        GEMINI,
        MOEVEMENT,
        MOC,
        REPLICA_DROP,
        FT_HSDP,
        OOBLECK,
        BAMBOO,
        RECYCLE,
        SPARE,
    )
}
"""Every system by name."""

DEFAULT_SYSTEMS = ("lazarus", "ds-ft", "ds")
"""The systems of the published comparison."""

_LIVE = LAZARUS, DS, DS_FT, TUTEL, TUTEL_FT, DROPLESS, DROPLESS_FT, ASYNC_CHECKPOINT, replace(REPLICA_DROP, is_led=True)
LIVE_SYSTEMS: Mapping[str, System] = {system.name: system for system in _LIVE}
"""The systems that the live mode carries out, as it does."""

REGISTRY = Registry(
    "system", "object", "lazsim.systems", SYSTEMS,
    lambda one: f"{one.description}. Survives {one.survives}. Needs {one.needs}.",
)  # fmt: skip

OWN_SYSTEMS = (
    "The path of a Python file and a System in it, as in mine.py:SYSTEM, works wherever a name does; "
    "a package offers systems under the entry points lazsim.systems."
)

system_names = REGISTRY.names


def find_system(name: str) -> System:
    """Find a system: a name of `SYSTEMS`, an entry point of an installed package, or ``path.py:object``.

    Raises
    ------
    SpecError
        When there is no such name, file or object, or it is no `System`.

    Examples
    --------
    >>> find_system("gemni")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    lazsim.errors.SpecError: unknown system 'gemni': did you mean 'gemini'? known: lazarus, ...
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    own, colon, policy = name.partition(":")
    if colon and own in SYSTEMS:
        raise SpecError(f"system {name!r}: give {own}, and {policy} by `placement`")
    system = REGISTRY.load(name)
    if isinstance(system, type):
        raise SpecError(f"system {name!r} is a class; give an object of it, as in SYSTEM = {system.__name__}(...)")
    if not isinstance(system, System):
        raise SpecError(f"system {name!r} is of type {type(system).__name__}, not lazsim.engine.systems.System")
    return guarded(system, name)


def system_source(name: str) -> dict[str, str] | None:
    """Identify a user's own system as an input of a run; None for one of `SYSTEMS`."""
    return None if name in SYSTEMS else REGISTRY.source(name)
