"""Which experiments there are, and what stands in their ``spec.toml``."""

from collections.abc import Callable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from lazsim.errors import SpecError
from lazsim.specs import Spec, unknown_name

SPEC_FILE = "spec.toml"


class Experiment(Spec, frozen=True, kw_only=True, tag_field="kind"):
    """What every experiment says of itself; each kind adds what it needs.

    Attributes
    ----------
    name : str
        That of its folder.
    number : int
        Its place in the order in which experiments are listed and run.
    title : str
        A line for people.
    question : str
        What it answers.
    scenario : str
        The letter under which the published set-ups have it; empty where they have none.
    """

    name: str
    number: int
    title: str
    question: str
    scenario: str = ""


ExperimentT = TypeVar("ExperimentT", bound=Experiment)


def experiments_folder() -> Traversable:
    """Return the folder that has a folder for each experiment: ``experiments/`` of the repository, or its copy."""
    return resources.files("lazsim") / "catalog" / "experiments"


def experiment_titles() -> dict[str, str]:
    """Name the experiments in their order, each with its scenario and title."""
    raws = {entry.name: _read(entry.name) for entry in experiments_folder().iterdir() if (entry / SPEC_FILE).is_file()}
    order = sorted(raws, key=lambda name: (raws[name]["number"], name))
    return {name: f"{raws[name].get('scenario', '')} {raws[name]['title']}".strip() for name in order}


def read_experiment(name: str, decode: Callable[[Any], ExperimentT], *, small: bool = False) -> ExperimentT:
    """Read an experiment by its name, or by a path to a ``spec.toml``.

    Parameters
    ----------
    name
        As `experiment_titles` has it, or a path that ends in ``.toml``.
    decode
        From plain data to the specification of its kind.
    small
        Whether its table ``[small]`` is laid over the rest: the same with fewer and shorter runs.

    Raises
    ------
    SpecError
        When there is no such experiment, or its specification has a wrong or missing key.
    """
    raw = _read(name)
    changes = raw.pop("small", {})
    raw["name"] = Path(name).resolve().parent.name if name.endswith(".toml") else name
    try:
        return decode(overlay(raw, changes) if small else raw)
    except (msgspec.ValidationError, ValueError) as error:
        raise SpecError(f"{_label(name)}: {error}") from None


def _read(name: str) -> dict[str, Any]:
    if not name.endswith(".toml"):
        known = [entry.name for entry in experiments_folder().iterdir() if (entry / SPEC_FILE).is_file()]
        if name not in known:
            raise SpecError(unknown_name("experiment", name, sorted(known)) + "; or a path to a .toml file")
    try:
        path = Path(name) if name.endswith(".toml") else experiments_folder() / name / SPEC_FILE
        raw: dict[str, Any] = msgspec.toml.decode(path.read_bytes())
    except OSError as error:
        raise SpecError(f"{name}: cannot be read ({error.strerror}): give a TOML file or a name") from None
    except msgspec.DecodeError as error:
        raise SpecError(f"{_label(name)}: {error}") from None
    for key in ("number", "title"):
        if key not in raw:
            raise SpecError(f"{_label(name)}: has no {key}; add one")
    return raw


def _label(name: str) -> str:
    return name if name.endswith(".toml") else f"experiments/{name}/{SPEC_FILE}"


def overlay(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a table over another one, tables in them likewise.

    Examples
    --------
    >>> overlay({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 4}})
    {'a': 1, 'b': {'c': 4, 'd': 3}}
    """
    changed = dict(base)
    for key, value in changes.items():
        inner = changed.get(key)
        changed[key] = overlay(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return changed
