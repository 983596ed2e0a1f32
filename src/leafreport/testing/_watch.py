"""What a call does beside giving its result: what it changes, whose code it runs, which arrays it makes."""

import gc
import inspect
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import jax
import numpy as np

State = dict[str, dict[str, Any]]


def settings() -> State:
    """Global settings by what they are of and their name."""
    return {
        "jax.config": dict(jax.config.values),
        "os.environ": dict(os.environ),
        "sys.path": {"": list(sys.path)},
    }


def random_states() -> State:
    """The states of the global random generators."""
    legacy: Any = np.random.get_state()
    return {
        "NumPy's global random state": {"": (legacy[1].tolist(), *legacy[2:])},
        "Python's global random state": {"": random.getstate()},
    }


@contextmanager
def own_random_states() -> Iterator[None]:
    """Random states that no seed gives, so that seeding anew shows; put back afterwards."""
    numpys, pythons = np.random.get_state(), random.getstate()
    np.random.random(3)
    random.random()  # noqa: S311  # no secret: it moves the state
    try:
        yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)


def changed(before: State, after: State) -> Iterator[str]:
    """What differs, in words."""
    for what, values in before.items():
        now = after[what]
        keys = sorted(key for key in values.keys() | now.keys() if values.get(key) != now.get(key))
        if keys:
            names = ", ".join(filter(None, keys))
            yield f"{what} is changed{f': {names}' if names else ''}"


def functions(packages: Iterable[str]) -> dict[str, FunctionType]:
    """The functions of packages' modules and of their classes, by dotted name."""
    found: dict[str, FunctionType] = {}
    wanted = set(packages)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in wanted or module is None:
            continue
        for attribute, value in list(vars(module).items()):
            if isinstance(value, type) and getattr(value, "__module__", None) == name:
                for member, held in list(vars(value).items()):
                    plain = getattr(held, "__func__", held)
                    if inspect.isfunction(plain):
                        found[f"{name}.{attribute}.{member}"] = plain
            elif inspect.isfunction(value):
                found[f"{name}.{attribute}"] = value
    return found


def replaced(before: dict[str, FunctionType], after: dict[str, FunctionType]) -> list[str]:
    """The functions that are other objects now."""
    return [name for name, value in after.items() if before.get(name, value) is not value]


def imported(packages: Iterable[str]) -> list[str]:
    """The modules of packages that are imported."""
    wanted = set(packages)
    return sorted(name for name in sys.modules if name.partition(".")[0] in wanted)


def packages_run(function: Callable[[], object]) -> set[str]:
    """The top-level packages whose Python code runs in a call."""
    found: set[str] = set()

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call":
            found.add(str(frame.f_globals.get("__name__")).partition(".")[0])

    _profiled(function, note)
    return found


def arrays_made(function: Callable[[], object], shapes: set[tuple[int, ...]]) -> list[str]:
    """The functions that give an array of one of these shapes in a call, wherever it goes from there.

    Asked of Python's profiler: memory tells nothing of small arrays, and JAX makes large ones later.
    """
    kind = type(jax.numpy.zeros(()))  # the class of arrays that are there, and no tracers
    found: dict[str, str] = {}  # of those that pass one on the outermost, which is nearest to the adapter

    def note(frame: Any, event: str, given: Any) -> None:
        if event == "return" and type(given) is kind and given.shape in shapes:
            module, name = str(frame.f_globals.get("__name__")), frame.f_code.co_name
            if module != "jax._src.tree_util" and not name.startswith("<"):
                found[f"{given.dtype}{list(given.shape)}"] = f"{module}.{name}"

    _profiled(function, note)
    return [f"{made} by {name}" for made, name in found.items()]


def _profiled(function: Callable[[], object], note: Callable[[Any, str, Any], None]) -> None:
    before, collects = sys.getprofile(), gc.isenabled()
    gc.disable()  # what others have it call would be seen, wherever it happens to run
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()
