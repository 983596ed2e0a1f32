"""Where in a model a node is, in words a reader can follow: by the leaves around it, and the line of code."""

from collections.abc import Sequence
from pathlib import Path as File
from typing import Any

from jax.extend import source_info_util

from leafreport._align._match._graph import Graph
from leafreport._align._match._match import Side
from leafreport._align._records import Place
from leafreport._align._trace._dims import Dim
from leafreport._leaf import Path, display_path


class Places:
    """The places of a side's nodes."""

    def __init__(self, side: Side, paths: Sequence[Path]) -> None:
        self._graph: Graph = side.graph
        self._side = side
        self._paths = paths
        nodes, rank = side.graph.nodes, side.rank
        self._own: list[Path | None] = [None] * len(nodes)
        self._above: list[Path | None] = [None] * len(nodes)
        self._below: list[Path | None] = [None] * len(nodes)
        for n in side.live:
            taken = [t for _, t, _ in nodes[n].operands]
            leaves = [t for t in taken if nodes[t].kind == "leaf"]
            if nodes[n].kind == "leaf":
                self._own[n] = self._path(n)
            elif leaves:
                self._own[n] = self._path(leaves[0])
            rest = [t for t in taken if nodes[t].kind != "leaf"]
            self._above[n] = self._own[n] or (self._above[max(rest, key=rank.__getitem__)] if rest else None)
        for n in reversed(side.live):
            after = [t for _, t, _ in side.takers[n] if side.used[t] and rank[t] > rank[n]]
            self._below[n] = self._own[n] or (
                self._below[min(after, key=rank.__getitem__)] if after else None
            )

    def _path(self, n: int) -> Path | None:
        leaves = self._graph.nodes[n].info["leaves"]
        return self._paths[leaves[0]] if leaves else None

    def of(self, n: int) -> Place:
        """Where a node is."""
        if self._own[n] is not None:
            return Place(self._own[n], self._own[n], *self._code(n))
        return Place(self._above[n], self._below[n], *self._code(n))

    def between(self, n: int, taker: int, done: int) -> Place:
        """Where something is done to what a node gives, on its way to another."""
        if self._graph.nodes[n].kind == "leaf":
            return Place(self._own[n], self._own[n], *self._code(taker))
        return Place(self._above[n], self._below[taker], *self._code(taker, (n, done)))

    def axis(self, atom: Dim) -> str:
        """An axis in words: whose it is."""
        found = self._graph.whose(atom)
        if found is None:
            return f"an axis of {atom.size:,}"
        kind, number, axis = found
        owner = display_path(self._paths[number]) if kind == "leaf" else f"input {number}"
        return f"axis {axis} of {owner}"

    def _code(self, n: int, ref: tuple[int, int] | None = None) -> tuple[str, str]:
        """Module names and the line of code of what made a node, or an expression of it."""
        number = self._graph.origin.get(ref) if ref is not None else None
        if number is None:
            made = self._graph.nodes[n].made
            number = made[0] if made is not None else None
        return ("", "") if number is None else told(self._graph.program.ops[number].source)


def told(source: Any) -> tuple[str, str]:
    """Module names, and file, line and function, of an operation."""
    if source is None:
        return "", ""
    scope, info = source
    names = "/".join(filter(None, [*scope.split("/"), str(info.name_stack)]))
    line = source_info_util.summarize(info)
    where, _, function = line.partition(" (")
    file, _, rest = File(where).name.partition(":")
    number = rest.partition(":")[0]
    code = f"{file}:{number}" if number else ""
    return names, f"{code} {function.rstrip(')')}".rstrip() if code else ""
