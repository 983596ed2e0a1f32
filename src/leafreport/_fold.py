"""A report's tree as rows, with isomorphic siblings folded into one.

Siblings fold when they differ by a number in the name and agree in everything under it: sub-paths, node
types, shapes, dtypes, kinds and shardings. One that differs keeps a row of its own, and so stands out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from leafreport._columns import Columns, Ints, signatures
from leafreport._display import Display
from leafreport._leaf import display_path, escape
from leafreport._render._rows import Row
from leafreport._totals import Sums, Totals

_NUMBER = re.compile("([0-9]+)")
_MOST_RUNS = 8


@dataclass(frozen=True, slots=True)
class _Group:
    label: str
    entries: tuple[int, ...]


def tree_rows(
    columns: Columns, display: Display, totals: Totals, *, fold: bool, depth: int | None = None
) -> list[Row]:
    """Every entry as a row, in the order shown.

    Args:
        columns: the report's columns.
        display: its order and names.
        totals: its sums.
        fold: show isomorphic siblings once. Cost: one pass over all entries, about 2 us a node.
        depth: leave out what is deeper; the rows above still sum everything below them.
    """
    signature = _signatures(columns) if fold else None
    sharding = [escape(str(spec.sharding or "")) for spec in columns.specs]
    kinds = _layers(columns)
    rows: list[Row] = []
    stack = [(_Group("(root)", (0,)), 0)]
    while stack:
        group, level = stack.pop()
        entry = group.entries[0]
        code = int(columns.code[entry])
        sums = _together(totals, group.entries)
        is_leaf = code >= 0
        closed = not is_leaf and depth is not None and level >= depth
        if is_leaf:
            told = _told(columns, entry, kinds) if kinds else ""
            alone = columns.first is not None and len(group.entries) == 1
            shared = _shared_note(columns, columns.first, entry) if alone else ""
            detail = ", ".join(filter(None, [told, sharding[code], shared]))
        else:
            detail = kinds[entry] if entry in kinds else columns.nodes[~code].type
        rows.append(
            Row(
                depth=level,
                label=group.label,
                path=columns.path(entry),
                times=len(group.entries),
                leaf_count=sums.leaf_count,
                param_count=sums.param_count,
                nbytes=sums.nbytes,
                repeated_nbytes=sums.repeated_nbytes,
                spec=columns.specs[code] if is_leaf else None,
                detail=detail,
                closed=closed,
            )
        )
        if not is_leaf and not closed:
            children = display.children(entry)
            names = display.names
            if signature is None:
                groups = [_Group(names[columns.name[child]], (child,)) for child in children]
            else:
                groups = _groups(columns, children, names, signature)
            stack.extend((child, level + 1) for child in reversed(groups))
    return rows


def _layers(columns: Columns) -> dict[int, str]:
    """The nodes that are layers, and of what class: plain containers whose own leaves have one owner.

    Of a tree of which no adapter told, nothing.
    """
    if not any(spec.owner or spec.role for spec in columns.specs):
        return {}
    owners: dict[int, set[str | None]] = {}
    leaves = columns.leaves
    for parent, code in zip(columns.parent[leaves].tolist(), columns.code[leaves].tolist(), strict=True):
        owners.setdefault(parent, set()).add(columns.specs[code].owner)
    layers: dict[int, str] = {-1: ""}
    for entry, names in owners.items():
        if entry >= 0:
            own = columns.nodes[~columns.code[entry]]
            (owner,) = names if len(names) == 1 else (None,)
            layers[entry] = owner if owner and own.kind in _PLAIN else own.type
    return layers


_PLAIN = ("dict", "list", "tuple")


def _told(columns: Columns, entry: int, layers: dict[int, str]) -> str:
    """What an adapter told of a leaf, where the row above does not say it."""
    spec = columns.specs[columns.code[entry]]
    above = layers[int(columns.parent[entry])].rpartition(".")[2]
    parts = [
        spec.role if spec.role not in (None, "params") else "",
        escape(spec.owner or "") if spec.owner != above else "",
        f"{spec.stacked:,} layers stacked" if spec.stacked else "",
    ]
    return ", ".join(filter(None, parts))


def _shared_note(columns: Columns, shared: Ints | None, entry: int) -> str:
    if shared is None:
        return ""
    leaf = int(columns.leaf_start[entry])
    first = int(shared[leaf])
    if first == leaf:
        return ""
    return f"same array as {display_path(columns.path(int(columns.leaves[first])))}"


def _together(totals: Totals, entries: Sequence[int]) -> Sums:
    if len(entries) == 1:
        return totals.within(entries[0])
    return Sums(*map(sum, zip(*map(totals.within, entries), strict=True)))


def _signatures(columns: Columns) -> list[int]:
    """i[entries]: equal where two subtrees are isomorphic."""
    shapes: dict[object, int] = {}
    leaf = [
        shapes.setdefault((s.kind, s.dtype, s.shape, s.sharding, s.role, s.owner, s.stacked), len(shapes))
        for s in columns.specs
    ]
    return signatures(columns, leaf, range(len(columns.nodes)), columns.name, {})


def _groups(columns: Columns, children: list[int], names: list[str], signature: list[int]) -> list[_Group]:
    """Siblings in the order shown, those of one numbered family folded where the first of them stands."""
    families: dict[object, list[tuple[int, list[str]]]] = {}
    for child in children:
        parts = _NUMBER.split(columns.names[columns.name[child]])
        families.setdefault((signature[child], *parts[::2]), []).append((child, parts))
    groups: dict[int, _Group] = {}
    for members in families.values():
        for group in _by_last_varying(members):
            first = group[0][0]
            if len(group) == 1:
                groups[first] = _Group(names[columns.name[first]], (first,))
            else:
                groups[first] = _Group(_label(group), tuple(child for child, _ in group))
    return [groups[child] for child in children if child in groups]


_Member = tuple[int, list[str]]


def _by_last_varying(members: list[_Member]) -> list[list[_Member]]:
    if len(members) == 1:
        return [members]
    numbers = range(1, len(members[0][1]), 2)
    varying = [i for i in numbers if len({parts[i] for _, parts in members}) > 1]
    if not varying:  # one name twice, which a keyed class may give
        return [[member] for member in members]
    last = varying[-1]
    out: dict[object, list[_Member]] = {}
    for member in members:
        parts = member[1]
        out.setdefault((*parts[:last], *parts[last + 1 :]), []).append(member)
    folded: list[list[_Member]] = []
    for group in out.values():
        if len({parts[last] for _, parts in group}) == len(group):
            folded.append(group)
        else:
            folded += [[member] for member in group]
    return folded


def _label(group: list[_Member]) -> str:
    first = group[0][1]
    place = next(i for i in range(1, len(first), 2) if first[i] != group[1][1][i])
    before, after = "".join(first[:place]), "".join(first[place + 1 :])
    return f"{escape(before)}{{{number_runs([parts[place] for _, parts in group])}}}{escape(after)}"


def number_runs(numbers: list[str]) -> str:
    """Numbers as runs.

    >>> number_runs(["0", "1", "2", "5"])
    '0..2,5'
    """
    runs: list[list[str]] = []
    for number in sorted(numbers, key=lambda n: (len(n.lstrip("0")), n.lstrip("0"), n)):
        if runs and len(number) < 18 and number == str(int(runs[-1][-1]) + 1).zfill(len(runs[-1][-1])):
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = [run[0] if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs[:_MOST_RUNS]]
    if len(runs) > _MOST_RUNS:
        shown.append(f"... {sum(map(len, runs[_MOST_RUNS:]))} more")
    return ",".join(shown)
