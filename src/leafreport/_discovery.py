"""Which adapters are installed, from the metadata of installed distributions alone: nothing is imported.

An adapter is an entry point of the group `leafreport.adapters`; its name is the backend's. leafreport's own
are found by the same door as anyone else's.
"""

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

from leafreport._errors import AdapterWarning

GROUP = "leafreport.adapters"


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
        rivals: the other distributions that claim the same name; with any, the adapter cannot be used.
    """

    name: str
    distribution: str
    version: str
    framework: str | None
    framework_version: str | None
    extra: str | None
    rivals: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether the framework is installed, as far as the metadata say."""
        return self.framework is None or self.framework_version is not None

    @property
    def package(self) -> str:
        """What to give to `pip install` to have the framework with the adapter."""
        return f"{self.distribution}[{self.extra}]" if self.extra else self.framework or self.distribution

    @property
    def state(self) -> str:
        """Whether the adapter can be used and, where not, what to do, in a few words."""
        if self.rivals:
            return f"claimed by {' and '.join(sorted([self.distribution, *self.rivals]))}: uninstall one"
        if not self.installed:
            return f"{self.framework} is not installed: pip install '{self.package}'"
        return "ready"


def adapters() -> tuple[AdapterRecord, ...]:
    """Every adapter installed, by name, from installed distributions' metadata alone.

    Imports no adapter and no framework. A distribution whose metadata cannot be read is left out, with one
    `AdapterWarning` that names it. Cost: one look at each installed distribution.

    Example:
        >>> print(*(record.name for record in adapters() if record.distribution == "leafreport"))
        equinox flax haiku nnx
    """
    points = entry_points()
    records = [_record(point, points) for point in points]
    return tuple(sorted(records, key=lambda record: (record.name, record.distribution)))


def entry_points() -> tuple[metadata.EntryPoint, ...]:
    """The entry points of every adapter, those of a distribution that is installed twice once."""
    # importlib.metadata.entry_points would fail altogether where one distribution's file cannot be read.
    found: list[metadata.EntryPoint] = []
    seen: set[str] = set()
    for dist in metadata.distributions():
        try:
            text = dist.read_text("entry_points.txt")
            if not text or GROUP not in text:
                continue
            points = dist.entry_points.select(group=GROUP)
            name = re.sub(r"[-_.]+", "-", dist.name or "").lower()
            if name in seen:  # an older copy, later on the path
                continue
            found += points
        except Exception as error:  # noqa: BLE001  # anyone's files; those who do not use them go on
            _warn(f"the adapters of {_named(dist)} are left out: its metadata", error)
            continue
        seen |= {name} - {""}
    return tuple(dict.fromkeys(found))


_warned: set[str] = set()


def _warn(what: str, error: Exception) -> None:
    """Says once what cannot be read."""
    said = f"{what} cannot be read ({type(error).__name__}: {error}). Reinstall or uninstall it."
    if said not in _warned:
        _warned.add(said)
        warnings.warn(said, AdapterWarning, stacklevel=4)


def _named(dist: metadata.Distribution) -> str:
    folder = getattr(dist, "_path", None)  # the metadata may be what cannot be read
    return getattr(folder, "name", "").rpartition(".")[0] or "an unknown distribution"


def distribution(point: metadata.EntryPoint) -> str:
    """The name of the distribution an entry point is from."""
    # Of damaged metadata the name is None, whatever its annotation says.
    return (point.dist.name if point.dist is not None else "") or "an unknown distribution"


def _record(point: metadata.EntryPoint, points: Iterable[metadata.EntryPoint]) -> AdapterRecord:
    requires: Iterable[str] = (point.dist.requires or ()) if point.dist is not None else ()
    framework = _framework(requires, point.name)
    own = distribution(point)
    return AdapterRecord(
        name=point.name,
        distribution=own,
        version=(point.dist.version if point.dist is not None else "") or "",
        framework=framework,
        framework_version=_version(framework) if framework else None,
        extra=point.name if framework else None,
        rivals=tuple(sorted({distribution(p) for p in points if p.name == point.name} - {own})),
    )


# "flax>=0.12; extra == 'flax'": the first requirement of the extra named like the backend is its framework.
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)[^;]*;.*\bextra\s*==\s*['\"]([^'\"]+)['\"]")


def _framework(requires: Iterable[str], backend: str) -> str | None:
    for line in requires:
        match = _REQUIREMENT.match(line)
        if match and match[2] == backend:
            return match[1]
    return None


def packages(name: str) -> set[str]:
    """The top-level packages that an installed distribution brings; none where it is not installed."""
    try:
        dist = metadata.distribution(name)
        listed = (dist.read_text("top_level.txt") or "").split()
        return set(listed) or {
            file.parts[0].removesuffix(".py") for file in dist.files or () if file.suffix == ".py"
        }
    except metadata.PackageNotFoundError:
        return set()
    except Exception as error:  # noqa: BLE001  # as above
        _warn(f"what {name} brings", error)
        return set()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001  # as above
        _warn(f"the version of {name}", error)
        return None
