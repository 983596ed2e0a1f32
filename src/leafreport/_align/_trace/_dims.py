"""Dimensions as terms that are unified: which axes run over the same indices, and how each is made.

Every axis of every array in a trace is a `Dim`. Where an operation says that two axes are one (both sides of
an addition, the contracted axes of a product) they are unified. A reshape says that an axis is the product of
others, a slice or a concatenation that it is others put end to end. Two descriptions of one axis are refined
until they agree, so that a fused projection that is sliced later has its slices, whoever sliced it.

Only dims without parts have an identity of their own: a dim with parts is what its parts are.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar

_T = TypeVar("_T")


class NotAligned(Exception):  # noqa: N818  # a finding, which the caller turns into an opaque axis
    """Two descriptions of one axis that no refinement makes agree, as 4 x 3 and 3 x 4."""


Kind = Literal["product", "concat"]


class Dim:
    """One axis: a size, and parts where it has been taken apart.

    Attributes:
        size: how many indices.
    """

    __slots__ = ("_kind", "_parts", "_to", "size")

    def __init__(self, size: int, kind: Kind | None = None, parts: Sequence["Dim"] = ()) -> None:
        self.size = int(size)
        self._to: Dim | None = None
        self._kind: Kind | None = kind
        self._parts: tuple[Dim, ...] = tuple(parts)

    @property
    def kind(self) -> Kind | None:
        """`product`, `concat`, or None for a dim without parts."""
        return find(self)._kind

    @property
    def parts(self) -> tuple["Dim", ...]:
        """The parts in order: of a product the slowest first."""
        return tuple(map(find, find(self)._parts))

    def __repr__(self) -> str:
        root = find(self)
        if root._kind is None:
            return f"d{id(root) % 10_000}:{root.size}"
        sign = "*" if root._kind == "product" else "+"
        return f"({sign.join(map(repr, root.parts))})"


def find(dim: Dim) -> Dim:
    """What a dim has become."""
    while dim._to is not None:
        if dim._to._to is not None and _trail is None:
            dim._to = dim._to._to
        dim = dim._to
    return dim


# What was changed since an attempt began, so that it can be taken back.
_Change = tuple[Dim, "Dim | None", "Kind | None", tuple[Dim, ...]]
_trail: list[_Change] | None = None


def _set(dim: Dim, to: Dim | None, kind: Kind | None, parts: tuple[Dim, ...]) -> None:
    if _trail is not None:
        _trail.append((dim, dim._to, dim._kind, dim._parts))
    dim._to, dim._kind, dim._parts = to, kind, parts


def attempt(change: Callable[..., _T], *given: Any) -> _T:
    """Makes a change to dims whole, or not at all.

    Raises:
        NotAligned: what the change raises; everything is then as it was.
    """
    global _trail  # dims point at each other: one trail for all of them
    outer, _trail = _trail, []
    try:
        return change(*given)
    except NotAligned:
        for dim, to, kind, parts in reversed(_trail):
            dim._to, dim._kind, dim._parts = to, kind, parts
        _trail = []
        raise
    finally:
        _trail = None if outer is None else outer + _trail


def alias(dim: Dim) -> Dim:
    """The same axis under a name of its own, by which it can be told where it comes from."""
    made = Dim(dim.size)
    made._to = find(dim)
    return made


def product(parts: Iterable[Dim]) -> Dim:
    """The axis that runs over all combinations of others, the last one fastest."""
    flat = factors_of(parts)
    if len(flat) == 1:
        return flat[0]
    return Dim(math.prod(part.size for part in flat), "product" if flat else None, flat)


def concat(parts: Iterable[Dim]) -> Dim:
    """The axis that runs over others one after the other."""
    flat = [segment for part in parts for segment in segments(part) if segment.size]
    if len(flat) == 1:
        return flat[0]
    return Dim(sum(part.size for part in flat), "concat" if flat else None, flat)


def factors_of(parts: Iterable[Dim]) -> list[Dim]:
    """The factors of dims put together, without those of one index."""
    return [factor for part in parts for factor in factors(part)]


def factors(dim: Dim) -> list[Dim]:
    """A dim as factors, the slowest first; without those of one index."""
    dim = find(dim)
    if dim._kind == "product":
        return factors_of(dim.parts)
    return [dim] if dim.size != 1 else []


def segments(dim: Dim) -> list[Dim]:
    """A dim as what it is put together of, end to end; itself alone where nothing cuts it."""
    dim = find(dim)
    if dim._kind == "concat":
        return [segment for part in dim.parts for segment in segments(part)]
    if dim._kind == "product":
        first, *rest = factors(dim)
        outer = segments(first)
        if len(outer) > 1:
            return [product([segment, *rest]) for segment in outer]
    return [dim]


def unify(a: Dim, b: Dim) -> None:
    """Makes two dims one.

    Raises:
        NotAligned: they are of other sizes, or made of parts that do not fit each other.
    """
    a, b = find(a), find(b)
    if a is b:
        return
    if a.size != b.size:
        raise NotAligned(f"{a.size} and {b.size}")
    if a._kind is None:
        _become(a, b)
    elif b._kind is None:
        _become(b, a)
    elif a._kind == b._kind == "product":
        _unify_parts(factors(a), factors(b), split_product, (a, b))
        _become(a, b)
    else:
        _unify_parts(segments(a), segments(b), split_concat, (a, b))
        _become(a, b)


def _become(a: Dim, b: Dim) -> None:
    a, b = find(a), find(b)
    if a is b:
        return
    if a in _within(b):
        raise NotAligned("an axis within itself")
    _set(a, b, None, ())


def _within(dim: Dim) -> set[Dim]:
    found: set[Dim] = set()
    todo = list(find(dim).parts)
    while todo:
        part = find(todo.pop())
        if part not in found:
            found.add(part)
            todo += part.parts
    return found


def _unify_parts(
    left: list[Dim], right: list[Dim], split: Callable[[Dim, int], tuple[Dim, Dim]], whole: tuple[Dim, ...]
) -> None:
    """Unifies parts one by one, the larger of two taken apart first."""
    left, right = left[::-1], right[::-1]  # taken from the end
    while left and right:
        x, y = find(left.pop()), find(right.pop())
        if x.size > y.size:
            x, rest = split(x, y.size)
            left.append(rest)
        elif y.size > x.size:
            y, rest = split(y, x.size)
            right.append(rest)
        if x in whole or y in whole:  # nothing takes either apart
            raise NotAligned(f"{whole!r}")
        unify(x, y)


def split_product(dim: Dim, outer: int) -> tuple[Dim, Dim]:
    """A dim as an outer one of a given size and the rest.

    Raises:
        NotAligned: the size does not divide it, or what it is made of cannot be divided there.
    """
    dim = find(dim)
    if outer < 1 or dim.size % outer:
        raise NotAligned(f"{dim.size} is no multiple of {outer}")
    inner = dim.size // outer
    if dim._kind is None:
        first, rest = Dim(outer), Dim(inner)
        _set(dim, None, "product", (first, rest))
        return first, rest
    if dim._kind == "product":
        taken: list[Dim] = []
        left = factors(dim)
        size = 1
        while size < outer:
            part = left.pop(0)
            if size * part.size > outer:
                if outer % size:
                    raise NotAligned(f"{dim!r} at {outer}")
                part, rest = split_product(part, outer // size)
                left.insert(0, rest)
            taken.append(part)
            size *= part.size
        return product(taken), product(left)
    parts = [split_product(segment, segment.size // inner) for segment in _divisible(dim, inner)]
    for _, rest in parts[1:]:
        unify(parts[0][1], rest)
    first, rest = concat([first for first, _ in parts]), find(parts[0][1])
    _set(dim, None, "product", (first, rest))
    return first, rest


def _divisible(dim: Dim, inner: int) -> list[Dim]:
    found = segments(dim)
    if any(segment.size % inner for segment in found):
        raise NotAligned(f"{dim!r} in blocks of {inner}")
    return found


def split_concat(dim: Dim, at: int) -> tuple[Dim, Dim]:
    """A dim as its first indices and the rest.

    Raises:
        NotAligned: what it is made of cannot be cut there.
    """
    dim = find(dim)
    if not 0 < at < dim.size:
        raise NotAligned(f"{dim.size} cannot be cut at {at}")
    if dim._kind is None:
        first, rest = Dim(at), Dim(dim.size - at)
        _set(dim, None, "concat", (first, rest))
        return first, rest
    found = segments(dim)
    if len(found) > 1:
        taken: list[Dim] = []
        size = 0
        while size < at:
            segment = found.pop(0)
            if size + segment.size > at:
                segment, rest = split_concat(segment, at - size)
                found.insert(0, rest)
            taken.append(segment)
            size += segment.size
        return concat(taken), concat(found)
    outer, *inner = factors(dim)
    step = dim.size // outer.size
    if at % step:
        raise NotAligned(f"{dim!r} cut at {at}")
    before, after = split_concat(outer, at // step)
    return product([before, *inner]), product([after, *inner])


def cut_up(dim: Dim) -> None:
    """Cuts a dim into its indices.

    Raises:
        NotAligned: what it is made of cannot be cut there.
    """
    dim = find(dim)
    if dim._kind is None and dim.size > 1:
        _set(dim, None, "concat", tuple(Dim(1) for _ in range(dim.size)))
        return
    for at in range(1, dim.size):
        split_concat(dim, at)


def cut(dim: Dim, start: int, stop: int) -> Dim:
    """The indices from `start` to `stop` of a dim, as a dim.

    Raises:
        NotAligned: what it is made of cannot be cut there.
    """
    if stop < dim.size:
        dim, _ = split_concat(dim, stop)
    if start:
        _, dim = split_concat(dim, start)
    return find(dim)
