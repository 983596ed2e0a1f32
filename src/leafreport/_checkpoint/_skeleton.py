"""Paths and what is at their ends, to the columns of a report, in the order JAX would flatten them in."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from leafreport._columns import Columns, subtree_ends
from leafreport._leaf import Node, Spec

# JAX itself goes no deeper than a thousand; nothing is served by names of millions of characters.
MOST_STEPS = 512
MOST_CHARACTERS = 4096


@dataclass(frozen=True, slots=True)
class End:
    """What is at the end of a path.

    Attributes:
        steps: the path.
        in_list: for each step whether it is a place in a list; else it is a key of a dict.
        what: a leaf's spec, or the node of an empty container.
        stored: a leaf's bytes on disk, where they are known.
    """

    steps: tuple[str, ...]
    in_list: tuple[bool, ...]
    what: Spec | Node
    stored: int | None = None


@dataclass(slots=True)
class _Branch:
    in_list: bool
    children: "dict[str, _Branch | End]" = field(default_factory=dict)


DICT, LIST = Node("dict", "dict", "str"), Node("list", "list", "index")
EMPTY = {
    "Dict": Node("dict", "dict", ""),
    "List": Node("list", "list", ""),
    "Tuple": Node("tuple", "tuple", ""),
    "None": Node("none", "NoneType", ""),
    # Orbax gives None back for it.
    "NamedTuple": Node("none", "NoneType", ""),
}


def columns_of(ends: Iterable[End], refused: Callable[[str], Exception]) -> Columns:
    """The columns of a tree of dicts and lists.

    Args:
        ends: every leaf and every empty container, in any order.
        refused: the error for paths that are no tree's, from what is wrong with them.
    """
    return _Columns(_grown(ends, refused)).made()


def _grown(ends: Iterable[End], refused: Callable[[str], Exception]) -> "_Branch | End":
    root: _Branch | End | None = None
    for end in ends:
        if len(end.steps) > MOST_STEPS or sum(map(len, end.steps)) > MOST_CHARACTERS:
            raise refused(
                f"a path has {len(end.steps):,} steps and {sum(map(len, end.steps)):,} characters, more than "
                f"the {MOST_STEPS} and {MOST_CHARACTERS:,} that can be shown"
            )
        if root is None:
            root = _Branch(end.in_list[0]) if end.steps else end
        elif not end.steps:
            raise refused("a leaf is at the root, and there are others")
        if end.steps:
            _grow(root, end, refused)
    if root is None:
        return End((), (), EMPTY["Dict"])
    _check_lists(root, refused)
    return root


def _grow(root: "_Branch | End", end: End, refused: Callable[[str], Exception]) -> None:
    """Puts an end where its path leads, with the branches to it."""
    branch = root
    last = len(end.steps) - 1
    for depth, (step, in_list) in enumerate(zip(end.steps, end.in_list, strict=True)):
        if not isinstance(branch, _Branch):
            raise refused(f"{list(end.steps[:depth])!r:.300} is a leaf and has others below it")
        if branch.in_list != in_list:
            raise refused(f"{list(end.steps[:depth])!r:.300} is a list and a dict")
        inner = branch.children.get(step)
        if depth == last and inner is not None:
            raise refused(f"{list(end.steps)!r:.300} is there twice")
        if inner is None:
            branch.children[step] = inner = end if depth == last else _Branch(end.in_list[depth + 1])
        branch = inner


def _check_lists(root: "_Branch | End", refused: Callable[[str], Exception]) -> None:
    """Lists are seen to have every place from 0 up."""
    todo = [root]
    while todo:
        branch = todo.pop()
        if not isinstance(branch, _Branch):
            continue
        if branch.in_list and branch.children.keys() != set(map(str, range(len(branch.children)))):
            places = ", ".join(repr(place)[:30] for place in list(branch.children)[:5])
            raise refused(f"a list of {len(branch.children)} has the places {places}")
        todo += branch.children.values()


class _Columns:
    """Entries in preorder, dicts by key and lists by place: JAX's flatten order."""

    def __init__(self, root: "_Branch | End") -> None:
        self.names = {"": 0}
        self.specs: dict[Spec, int] = {}
        self.nodes: dict[Node, int] = {}
        self.parent: list[int] = []
        self.name: list[int] = []
        self.code: list[int] = []
        self.stored: list[int] = []
        todo: list[tuple[str, _Branch | End, int]] = [("", root, -1)]
        while todo:
            step, found, above = todo.pop()
            entry = len(self.parent)
            self.parent.append(above)
            self.name.append(self.names.setdefault(step, len(self.names)))
            if isinstance(found, End):
                self.end(found)
                continue
            self.node(LIST if found.in_list else DICT)
            order = sorted(found.children, key=int if found.in_list else None, reverse=True)
            todo += [(inner, found.children[inner], entry) for inner in order]

    def end(self, end: End) -> None:
        if isinstance(end.what, Node):
            self.node(end.what)
        else:
            self.code.append(self.specs.setdefault(end.what, len(self.specs)))
            self.stored.append(-1 if end.stored is None else end.stored)

    def node(self, node: Node) -> None:
        self.code.append(~self.nodes.setdefault(node, len(self.nodes)))

    def made(self) -> Columns:
        parent = np.array(self.parent, np.int32)
        return Columns(
            parent=parent,
            end=subtree_ends(parent),
            name=np.array(self.name, np.int32),
            code=np.array(self.code, np.int32),
            names=tuple(self.names),
            specs=tuple(self.specs),
            nodes=tuple(self.nodes),
            stored=np.array(self.stored, np.int64) if any(n >= 0 for n in self.stored) else None,
        )
