"""The contract an adapter keeps, and how one is loaded and asked."""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib import metadata
from typing import Any, Protocol, TypeVar, runtime_checkable

from leafreport._discovery import adapters, distribution, entry_points, packages
from leafreport._errors import (
    AdapterError,
    AdapterWarning,
    FrameworkMissingError,
    LeafReportError,
    nearest,
)
from leafreport._model import LeafFacts, Model


@runtime_checkable
class Adapter(Protocol):
    """What one framework's adapter offers: two things it must have, and three it may.

    Importing the adapter's module imports no framework; using it does, and raises ImportError without it. An
    adapter never changes what it is given, nor its framework's classes.

    Three more methods make an adapter complete. Without them, what needs them says so:

    - `model(obj, *example_inputs) -> Model`: a `Model` of one of the framework's own model objects. Where the
      object does not hold its arrays yet, they are made from the inputs, and are abstract where these are.
      Raises `ModelError` for an object that is none of the framework's, and where it cannot be traced.
    - `describe(tree) -> Sequence[LeafFacts]`: what the framework knows of each leaf of a tree it made, in the
      order of `jax.tree_util.tree_leaves`.
    - `recognizes(obj) -> bool`: whether an object is one of the framework's own, for `describe` or `model`.
      With it the command knows by itself whom to ask, where the adapter's metadata name its framework.

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

        Returns:
            A model of two leaves a layer, whose `apply(params, x)` gives f[N, D].
        """
        ...


def adapter(name: str) -> Adapter:
    """The adapter of a backend, loaded now.

    Raises:
        AdapterError: no installed adapter has the name, two distributions claim it, or it does not load.

    Example:
        >>> adapter("flax").name
        'flax'
    """
    points = entry_points()
    found = [point for point in points if point.name == name]
    if not found:
        known = sorted({point.name for point in points})
        listed = ", ".join(known) if known else "none is installed"
        raise AdapterError(f"no backend is called {name!r}.{nearest(name, known)} Known: {listed}.")
    if len({distribution(point) for point in found}) > 1:
        owners = " and ".join(sorted(distribution(point) for point in found))
        raise AdapterError(f"the backend {name!r} is claimed by {owners}. Uninstall one of them.")
    return _loaded(found[0])


@cache
def _loaded(point: metadata.EntryPoint) -> Adapter:
    try:
        loaded = point.load()
    except (Exception, SystemExit) as error:
        raise AdapterError(
            f"the adapter {point.name!r} of {distribution(point)} does not load from {point.value}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if isinstance(loaded, type) or not isinstance(loaded, Adapter):
        found = f"the class {loaded.__name__}" if isinstance(loaded, type) else f"a {type(loaded).__name__}"
        raise AdapterError(
            f"the adapter {point.name!r} of {distribution(point)} is no Adapter: {point.value} is {found}. "
            "An entry point names an object that has a name and dense_stack."
        )
    return loaded


def adapter_of(obj: Any) -> Adapter | None:
    """The adapter that recognizes an object, among those whose framework its class comes from.

    No other adapter is loaded, so a broken or slow one is not in the way.
    """
    first = obj[0] if type(obj) is tuple and obj else obj  # of a model and its state, the model
    origins = {kind.__module__.partition(".")[0] for kind in type(first).__mro__}
    if origins <= {"builtins", "jax", "jaxlib", "numpy"}:
        return None
    for record in adapters():
        if record.framework is None or record.rivals or not origins & packages(record.framework):
            continue
        try:
            found = adapter(record.name)
            if getattr(found, "recognizes", lambda _: False)(obj):
                return found
        except Exception as error:  # noqa: BLE001  # anyone's adapter, and no one asked for it
            warnings.warn(
                f"an adapter of {record.distribution} is broken: {error}", AdapterWarning, stacklevel=2
            )
    return None


def build_stack(name: str, seed: int, x: Any, num_layers: int, *, abstract: bool) -> Model:
    """The stack from a backend; a missing framework named with the line that installs it."""
    chosen = adapter(name)
    built = _asked(name, lambda: chosen.dense_stack(seed, x, num_layers, abstract=abstract))
    if not isinstance(built, Model):
        raise AdapterError(
            f"the adapter {name!r} breaks its contract: dense_stack gives a {type(built).__name__}, and no "
            "leafreport.Model."
        )
    return built


def describe(chosen: str | Adapter, tree: Any) -> Sequence[LeafFacts]:
    """What an adapter knows of each leaf of a tree.

    Raises:
        AdapterError: there is no such adapter, or it tells nothing of trees.
        FrameworkMissingError: the framework is not installed.
    """
    found = adapter(chosen) if isinstance(chosen, str) else chosen
    told = getattr(found, "describe", None)
    if not callable(told):
        raise AdapterError(
            f"the adapter {getattr(found, 'name', found)!r} tells nothing of a tree's leaves: it has no "
            "describe. Leave adapter out."
        )
    facts: Sequence[LeafFacts] = _asked(found.name, lambda: told(tree))
    return facts


def model(chosen: Adapter, obj: Any, inputs: Sequence[Any]) -> Model:
    """A `Model` of a framework's own model object.

    Raises:
        AdapterError: the adapter makes none.
        ModelError: it cannot be traced on these inputs.
    """
    make = getattr(chosen, "model", None)
    if not callable(make):
        raise AdapterError(f"the adapter {chosen.name!r} takes no model objects: it has no model.")
    made: Model = _asked(chosen.name, lambda: make(obj, *inputs))
    return made


_T = TypeVar("_T")


def _asked(name: str, question: Callable[[], _T]) -> _T:
    try:
        return question()
    except ImportError as error:
        if isinstance(error, LeafReportError):
            raise
        raise missing(name, error) from error
    except SystemExit as error:
        raise AdapterError(f"the adapter {name!r} stops the program: SystemExit: {error}") from error


def missing(name: str, error: Exception) -> FrameworkMissingError:
    """The error for a backend whose framework cannot be imported: what, why, and what installs it."""
    record = next((record for record in adapters() if record.name == name), None)
    wanted = (record and record.framework) or getattr(error, "name", None) or "its framework"
    package = record.package if record and record.framework else wanted
    return FrameworkMissingError(
        f"the backend {name!r} needs {wanted}, which cannot be imported ({error}). "
        f"Install it: pip install '{package}'"
    )
