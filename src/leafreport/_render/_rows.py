"""What renderers draw: a tree as rows in preorder. Flat, so that a tree of any depth needs no recursion."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from leafreport._leaf import Path, Spec, escape, format_nbytes

# Renderers that nest (treescope, HTML) fail on deep trees: treescope's own nodes stop at 30 levels under
# Python's default recursion limit, browsers at 512 elements.
DEEPEST = 20


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a tree.

    Attributes:
        depth: 0 for the root.
        label: the name as shown, escaped; of a folded row all the names it stands for.
        path: the path of the (first) entry it stands for.
        times: how many isomorphic siblings it stands for.
        leaf_count: leaves of all those siblings together; the same holds for the next three.
        param_count: elements of their arrays, each distinct array once.
        nbytes: bytes, each distinct array once.
        repeated_nbytes: bytes of arrays that were counted before.
        spec: what a leaf is; None for a subtree.
        detail: of a leaf its sharding and whom it shares its array with; of a subtree its type.
        closed: a subtree whose rows are left out.
    """

    depth: int
    label: str
    path: Path
    times: int
    leaf_count: int
    param_count: int
    nbytes: int
    repeated_nbytes: int
    spec: Spec | None
    detail: str = ""
    closed: bool = False


def plural(count: int, noun: str) -> str:
    """A count and its noun.

    >>> plural(1, "leaf"), plural(1200, "more leaf"), plural(2, "row")
    ('1 leaf', '1,200 more leaves', '2 rows')
    """
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun.removesuffix('f')}ves" if noun.endswith("leaf") else f"{count:,} {noun}s"


_PLAIN = ("dict", "list", "tuple", "collections.OrderedDict", "collections.defaultdict")


def facts(row: Row) -> str:
    """What a row says beside its label: what it is, its sums, and what is special about it."""
    parts: list[str] = []
    if row.spec is not None:
        parts.append(escape(str(row.spec)))
        if row.spec.size is not None:
            nbytes = row.spec.nbytes
            parts.append(format_nbytes(nbytes * row.times) if nbytes is not None else "")
        parts.append(row.detail)
    else:
        short = row.detail.rpartition(".")[2]
        if row.leaf_count == 0:
            parts.append("None" if short == "NoneType" else f"empty {escape(short)}")
        else:
            parts += [plural(row.leaf_count, "leaf"), plural(row.param_count, "param")]
            parts.append(format_nbytes(row.nbytes))
            if row.detail not in _PLAIN:
                parts.append(escape(short))
    if row.repeated_nbytes and (row.spec is None or row.times > 1):
        parts.append(f"{format_nbytes(row.repeated_nbytes)} more in shared leaves")
    return ", ".join(filter(None, parts))


def title(row: Row) -> str:
    """A row's label, and how often it stands there."""
    return f"{row.label} x{row.times}" if row.times > 1 else row.label


def shallow(rows: Sequence[Row], deepest: int = DEEPEST) -> Iterator[Row]:
    """Rows no deeper than `deepest`: what is deeper is listed there, under its joined labels."""
    trail: list[str] = []
    for i, row in enumerate(rows):
        if row.depth <= deepest:
            trail.clear()
            yield row
            continue
        del trail[row.depth - deepest - 1 :]
        trail.append(title(row))
        is_last = i + 1 == len(rows) or rows[i + 1].depth <= row.depth
        if is_last:
            yield replace(row, depth=deepest, label="/".join(trail), times=1)
