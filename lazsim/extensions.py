"""What is found by name: functions and systems in a Python file or of an installed package, modules of a folder."""

import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lazsim.errors import LazsimError, SpecError, did_you_mean, prefix_errors, unknown_name
from lazsim.files.reading import read_bytes
from lazsim.specs import sha256

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def origin(entry: "EntryPoint") -> str:
    """Name the object and the package of an entry point."""
    return f"{entry.value} of {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


@dataclass(frozen=True)
class Registry:
    """Things by name: those of lazsim, of installed packages, and of users, in a file as ``path.py:object``."""

    kind: str
    what: str
    """What errors call a thing, and the object of a file that is one."""
    group: str
    """Group of entry points under which packages offer such things."""
    own: Mapping[str, Any]
    """Those of lazsim, which no other replaces."""
    describe_own: Callable[[Any], str]
    """Describes one of these in a line."""

    def installed(self) -> Mapping[str, "EntryPoint"]:
        """Return what installed packages offer, by name, without importing it.

        Raise SpecError when two packages offer different things of one name.
        """
        from importlib.metadata import entry_points

        found: dict[str, EntryPoint] = {}
        for entry in sorted(entry_points(group=self.group), key=lambda entry: entry.name):
            other = found.setdefault(entry.name, entry)
            if other.value != entry.value:
                offers = f"{origin(other)}, and {origin(entry)}"
                raise SpecError(f"{self.kind} {entry.name!r} is offered twice: {offers}; uninstall one of them")
        return found

    def names(self) -> list[str]:
        """List the names of lazsim, then those of installed packages, sorted."""
        return list(dict.fromkeys([*self.own, *self.installed()]))

    def describe(self) -> dict[str, str]:
        """Describe all by name; for those of installed packages, name the origin without importing them."""
        own = {name: self.describe_own(one) for name, one in self.own.items()}
        return own | {name: origin(entry) for name, entry in self.installed().items() if name not in own}

    def source(self, name: str) -> dict[str, str]:
        """Identify a thing as an input of a run: one in a file by the file's hash, one of a package by its origin."""
        if name in self.own:
            return {"name": name}
        if ":" in name:
            return {"name": Path(name).name, "sha256": sha256(read_bytes(name.rpartition(":")[0]))}
        return {"name": name, "origin": origin(self.installed()[name])}

    def load(self, name: str) -> Any:
        """Load what a user or an installed package offers.

        Raise SpecError, which suggests known names, when there is no such file, object or entry point, or it cannot be
        imported, or may change: what was found for it would not hold.
        """
        if ":" in name or name.endswith(".py"):
            found = _load_from_file(self.kind, self.what, name)
        elif name in (offered := self.installed()):
            entry = offered[name]
            with prefix_errors(f"{self.kind} {name!r} ({origin(entry)}) cannot be imported"), own_code():
                found = entry.load()
        else:
            raise SpecError(unknown_name(self.kind, name, self.names(), f"path.py:{self.what}"))
        try:
            hash(found)
        except TypeError as error:
            raise SpecError(
                f"{self.kind} {name!r}: {error}; give a frozen dataclass, with tuples in place of lists and dicts"
            ) from error
        return found


def _load_from_file(kind: str, what: str, name: str) -> Any:
    """Run a Python file and take an object from it; `name` is ``path.py:object``, and `what` names it in errors.

    Raise SpecError when there is no such file or object, or the file does not run.
    """
    import importlib.util

    path, _, attribute = name.rpartition(":")
    if not path.endswith(".py") or not attribute:
        raise SpecError(f"{kind} {name!r}: expected path.py:{what}, the {what} to take from that file")
    if not os.path.isfile(path):
        raise SpecError(f"{kind} {name!r}: no file {path}; give path.py:{what}")
    # A name that no other module has: classes of the file look their module up.
    module_name = f"{__name__}:{Path(path).resolve()}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        with prefix_errors(f"{kind} {name!r}: {path} cannot be run"), own_code(module.__file__):
            spec.loader.exec_module(module)
    except LazsimError:
        del sys.modules[module_name]
        raise
    if not hasattr(module, attribute):
        # What is imported is not the file's own: a module, or a function or class of another.
        offered = [
            key
            for key, value in vars(module).items()
            if not (key.startswith("_") or isinstance(value, ModuleType))
            and (not hasattr(value, "__qualname__") or value.__module__ == module_name)
        ]
        near = f"; {did_you_mean(attribute, offered)}".rstrip("; ")
        has = f"which has: {', '.join(offered) or '-'}{near}"
        raise SpecError(f"{kind} {name!r}: no {what} {attribute!r} in {path}, {has}")
    return getattr(module, attribute)


@contextmanager
def own_code(path: str | None = None, what: str = "") -> Iterator[None]:
    """Run code of a user or a package: it prints to stderr, and what it raises is a `SpecError` of one line.

    That names what fails, if given, the type, and the line in the file of a path. Errors of lazsim stay as they are.
    """
    try:
        # stdout carries lazsim's own output.
        with redirect_stdout(sys.stderr):
            yield
    except LazsimError:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        where = f" (line {lines[-1]})" if lines else ""
        begin = f"{what}: " if what else ""
        raise SpecError(" ".join(f"{begin}{type(error).__name__}{where}: {error}".split())) from error


_REPEATED = set[str]()
"""What answered twice."""


def require_repeats(what: str, repeats: Callable[[], bool]) -> None:
    """Refuse code of a user that answers otherwise when asked the same again; it is asked once in a process.

    Nearly all that draws without a seed is found so. It would make other results of the same inputs.
    """
    if what not in _REPEATED and not repeats():
        raise SpecError(
            f"{what} answers otherwise when asked the same again, so that no run would repeat: "
            "draw with numpy.random.default_rng(seed), and keep nothing from call to call"
        )
    _REPEATED.add(what)


def module_names(folder: str) -> tuple[str, ...]:
    """Return the names of the modules in a folder of the package, without importing them.

    Examples
    --------
    >>> "parcae" in module_names("trace/readers")
    True
    """
    return tuple(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / folder)]))
