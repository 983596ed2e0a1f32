"""Two trees aligned without a program; every pair says so.

Leaves are taken layer by layer: a kernel goes with its bias. Layers are paired where they are the only ones
of their kind with a name, with numbers in the name, or with shapes; what is left of one kind is paired in
order, and is ambiguous. A layout is taken from the axes that adapters told, or from shapes where these
leave no choice.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from leafreport._align._alignment import Alignment, End
from leafreport._align._mapping import Said
from leafreport._align._named._layers import is_array, layers, paired
from leafreport._align._named._turns import moves
from leafreport._align._parts import Part, whole
from leafreport._align._records import LeafPair, dtype_differences
from leafreport._align._saying import as_said
from leafreport._leaf import Path


def by_names(left: End, right: End, said: Sequence[Said]) -> Alignment:
    """The alignment of two trees of which no program was read."""
    rows: list[LeafPair] = [as_said(one, left, right) for one in said]
    taken = {row.left_path for row in rows}, {row.right_path for row in rows}
    sides = [layers(end, gone) for end, gone in zip((left, right), taken, strict=True)]
    for ours, theirs, basis, rivals in paired(*sides):
        only = len(ours.leaves) == len(theirs.leaves) == 1
        for kind, leaf in ours.leaves.items():
            other = next(iter(theirs.leaves.values())) if only else theirs.leaves.get(kind)
            options = () if other is None else moves(leaf, other)
            if other is not None and options:
                candidates = tuple(
                    whole(r.leaves[kind].path, r.leaves[kind].shape or ()) for r in rivals if kind in r.leaves
                )
                rows.append(
                    LeafPair(
                        whole(leaf.path, leaf.shape or ()),
                        whole(other.path, other.shape or ()),
                        options[0],
                        kind if kind in _ROLES else "",
                        basis,
                        candidates,
                        len(options) > 1,
                    )
                )
    ends = [
        replace(
            end,
            alone=tuple(_lone(end, parts)),
            unused=tuple(leaf.path for leaf in end.report if not is_array(leaf)),
        )
        for end, parts in (
            (left, [row.left for row in rows]),
            (right, [row.right for row in rows]),
        )
    ]
    rows.sort(key=lambda row: left.numbers[row.left_path])
    return Alignment(
        tuple(rows), tuple(dtype_differences(rows, left.dtypes, right.dtypes)), False, ends[0], ends[1]
    )


_ROLES = frozenset({"weight", "table", "scale", "mean", "variance"})


def _lone(end: End, parts: Iterable[Part]) -> Iterator[Part]:
    """The leaves that are in no pair, or only in part."""
    covered: dict[Path, int] = {}
    for part in parts:
        covered[part.path] = covered.get(part.path, 0) + math.prod(part.sizes)
    for leaf in end.report:
        if is_array(leaf) and (leaf.path not in covered or covered[leaf.path] < (leaf.size or 0)):
            yield whole(leaf.path, leaf.shape or ())
