"""Adapters: the contract one framework's piece keeps, and how it is found.

An adapter is an object under an entry point of the group `leafreport.adapters`; the entry point's name is the
backend's. leafreport's own are found by the same door as anyone else's. Listing them imports none of them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any, Protocol, runtime_checkable

from leafreport._errors import AdapterError, FrameworkMissingError, nearest
from leafreport._model import Model

GROUP = "leafreport.adapters"


@runtime_checkable
class Adapter(Protocol):
    """What one framework's adapter offers.

    Importing the adapter's module imports no framework; building does, and raises ImportError without it.

    Attributes:
        name: the backend's name, equal to the entry point's.
    """

    @property
    def name(self) -> str:
        """The backend's name."""
        ...

    def dense_stack(self, seed: int, x: Any, num_layers: int, *, abstract: bool = False) -> Model:
        """Builds `Dense(D)` repeated `num_layers` times, D = `x.shape[-1]`.

        Args:
            seed: for `jax.random.PRNGKey`.
            x: a sample input, f[N, D]; only its shape and dtype are used.
            num_layers: 0 or more.
            abstract: make `jax.ShapeDtypeStruct` leaves and allocate no array.
        """
        ...


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """One adapter that is installed, whether or not its framework is.

    Attributes:
        name: the backend's name, as `adapter()` and `--backend` take it.
        distribution: the installed distribution that brings the adapter.
        version: that distribution's version.
        framework: the framework's distribution, or None where the adapter's metadata do not say.
        framework_version: its installed version, or None when it is not installed.
        extra: what to add to the distribution's name to install the framework with it, or None.
    """

    name: str
    distribution: str
    version: str
    framework: str | None
    framework_version: str | None
    extra: str | None

    @property
    def installed(self) -> bool:
        """Whether the framework is installed, as far as the metadata say."""
        return self.framework is None or self.framework_version is not None


def adapters() -> tuple[AdapterRecord, ...]:
    """Every adapter installed, by name, from installed distributions' metadata alone.

    Imports no adapter and no framework. Cost: one look at each installed distribution.

    Example:
        >>> [record.name for record in adapters() if record.distribution == "leafreport"]
        ['flax']
    """
    records = [_record(point) for point in _entry_points()]
    return tuple(sorted(records, key=lambda record: (record.name, record.distribution)))


def adapter(name: str) -> Adapter:
    """The adapter of a backend, loaded now.

    Raises:
        AdapterError: no installed adapter has the name, two distributions claim it, or it does not load.

    Example:
        >>> adapter("flax").name
        'flax'
    """
    found = [point for point in _entry_points() if point.name == name]
    if not found:
        known = sorted({point.name for point in _entry_points()})
        listed = ", ".join(known) if known else "none is installed"
        raise AdapterError(f"no backend is called {name!r}.{nearest(name, known)} Known: {listed}.")
    if len({_distribution(point) for point in found}) > 1:
        owners = " and ".join(sorted(_distribution(point) for point in found))
        raise AdapterError(f"the backend {name!r} is claimed by {owners}. Uninstall one of them.")
    return _loaded(found[0])


def build_stack(name: str, seed: int, x: Any, num_layers: int, *, abstract: bool) -> Model:
    """The stack from a backend; a missing framework named with the line that installs it."""
    chosen = adapter(name)
    try:
        return chosen.dense_stack(seed, x, num_layers, abstract=abstract)
    except ImportError as error:
        record = next(record for record in adapters() if record.name == name)
        wanted = record.framework or error.name or "its framework"
        package = f"{record.distribution}[{record.extra}]" if record.extra else wanted
        raise FrameworkMissingError(
            f"the backend {name!r} needs {wanted}, which cannot be imported ({error}). "
            f"Install it: pip install '{package}'"
        ) from error


def _entry_points() -> tuple[metadata.EntryPoint, ...]:
    return tuple(dict.fromkeys(metadata.entry_points(group=GROUP)))


@cache
def _loaded(point: metadata.EntryPoint) -> Adapter:
    try:
        loaded = point.load()
    except Exception as error:
        raise AdapterError(
            f"the adapter {point.name!r} of {_distribution(point)} does not load from {point.value}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if isinstance(loaded, type) or not isinstance(loaded, Adapter):
        found = f"the class {loaded.__name__}" if isinstance(loaded, type) else f"a {type(loaded).__name__}"
        raise AdapterError(
            f"the adapter {point.name!r} of {_distribution(point)} is no Adapter: {point.value} is {found}. "
            "An entry point names an object that has a name and dense_stack."
        )
    return loaded


def _distribution(point: metadata.EntryPoint) -> str:
    # Of damaged metadata the name is None, whatever its annotation says.
    return (point.dist.name if point.dist is not None else "") or "an unknown distribution"


def _record(point: metadata.EntryPoint) -> AdapterRecord:
    requires: Iterable[str] = (point.dist.requires or ()) if point.dist is not None else ()
    framework = _framework(requires, point.name)
    return AdapterRecord(
        name=point.name,
        distribution=_distribution(point),
        version=(point.dist.version if point.dist is not None else "") or "",
        framework=framework,
        framework_version=_version(framework) if framework else None,
        extra=point.name if framework else None,
    )


# "flax>=0.12; extra == 'flax'": the first requirement of the extra named like the backend is its framework.
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)[^;]*;.*\bextra\s*==\s*['\"]([^'\"]+)['\"]")


def _framework(requires: Iterable[str], backend: str) -> str | None:
    for line in requires:
        match = _REQUIREMENT.match(line)
        if match and match[2] == backend:
            return match[1]
    return None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
