"""Why a tree cannot be flattened: keys that do not sort, no end, or too deep. Nothing here recurses."""

import sys
from functools import cache
from typing import Any

from jax import tree_util

from leafreport._describe import type_name
from leafreport._errors import FlattenError
from leafreport._keys import key_name, text
from leafreport._leaf import Path, display_path


def _one_level(node: Any) -> list[Any]:
    """A node's children; none where it is a leaf, or cannot be opened and is not what is looked for."""
    try:
        return list(tree_util.default_registry.flatten_one_level(node)[0])
    except Exception:  # noqa: BLE001  # any class' own code, or None for a leaf, which has no children
        return []


def _step(node: Any, place: int) -> str:
    try:
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            return text(node._fields[place])
        return key_name(tree_util.default_registry.flatten_one_level_with_keys(node)[0][place][0])[0]
    except Exception:  # noqa: BLE001  # a name for an error message: the position will do
        return str(place)


def _shortened(path: Path) -> str:
    return display_path(path) if len(path) <= 12 else f".../{display_path(path[-12:])}"


def unflattenable(path: Path, node: Any, error: Exception) -> FlattenError:
    """What to say of a node whose flatten raised."""
    where = _shortened(path)
    if isinstance(node, dict):
        kinds = sorted({type(key).__name__ for key in node})
        return FlattenError(
            f"cannot flatten the {type(node).__name__} at {where}: JAX sorts dict keys, and keys of type "
            f"{', '.join(kinds)} cannot be compared with one another. Use keys of one type, or str(key)."
        )
    return FlattenError(
        f"cannot flatten the {type_name(type(node))} at {where}: its own flatten function raised "
        f"{type(error).__name__}: {error}"
    )


def never_ends(node: Any, finite: dict[int, Any]) -> bool:
    """Whether a node holds itself at some depth, or is deeper than any flatten goes.

    Args:
        node: where to begin.
        finite: nodes known to end, by id; grows. It keeps them alive, so that no id is used again.
    """
    return _without_end(node, finite) is not None


def endless(tree: Any) -> FlattenError:
    """What to say of a tree that has no end: it contains itself, or makes its nodes as it is flattened."""
    trail = _without_end(tree, {})
    if trail is None:
        return too_deep()
    *trail, (last, _) = trail
    above = next((i for i, (node, _) in enumerate(trail) if node is last), None)
    if above is None:
        return too_deep()
    steps = tuple(_step(node, place) for node, place in trail)
    return FlattenError(
        f"the tree contains itself: {_shortened(steps)} is the same object as {_shortened(steps[:above])}, "
        "so it has no end. Break the cycle, or hold one of the two outside."
    )


def _without_end(root: Any, finite: dict[int, Any]) -> list[tuple[Any, int]] | None:
    """The way down to the first node that is itself above, or too deep; None where all ends.

    Each step is a node and which of its children is next; of the last, which comes again, -1.
    """
    if id(root) in finite:
        return None
    trail = [(root, enumerate(_one_level(root)))]
    places: list[int] = []
    above = {id(root)}
    most = depth_limit()
    while trail:
        node, children = trail[-1]
        for place, child in children:
            if id(child) in above or len(trail) > most:
                nodes = [node for node, _ in trail]
                return [*zip(nodes, [*places, place], strict=True), (child, -1)]
            if id(child) not in finite and (found := _one_level(child)):
                trail.append((child, enumerate(found)))
                places.append(place)
                above.add(id(child))
                break
        else:
            trail.pop()
            if places:
                places.pop()
            above.discard(id(node))
            finite[id(node)] = node
    return None


def too_deep() -> FlattenError:
    """What to say of a tree deeper than JAX takes."""
    return FlattenError(
        f"the tree is more than {depth_limit():,} levels deep, deeper than JAX can flatten at Python's "
        f"recursion limit of {sys.getrecursionlimit():,}. Make it shallower (a flat dict), or raise "
        "sys.setrecursionlimit."
    )


def depth_limit() -> int:
    """More levels than JAX takes, or as many.

    A tree is never given to JAX to see. Where a flatten of dicts fails for depth, JAX 0.10.2 does not give
    back what it took of Python 3.11's recursion limit, and the thread can call nothing any more; in a list
    that holds itself twice it runs on.
    """
    return sys.getrecursionlimit() if sys.version_info < (3, 12) else _limit_of_c()


@cache
def _limit_of_c() -> int:
    """How many levels JAX takes from Python 3.12 on, where C code has a limit of its own no one can read.

    Tried once a process, on lists, which fail without harm.
    """
    takes, fails = 64, 20_000
    while fails - takes > 1:
        levels = (takes + fails) // 2
        chain: Any = 0
        for _ in range(levels):
            chain = [chain]
        try:
            tree_util.tree_structure(chain)
            takes = levels
        except (RecursionError, SystemError):
            fails = levels
    return takes
