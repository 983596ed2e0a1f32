"""A report's leaves as a sequence of `Leaf`s."""

from collections.abc import Iterator, Sequence
from typing import overload

from leafreport._columns import Columns
from leafreport._leaf import Leaf, Path


class Leaves(Sequence[Leaf]):
    """A report's leaves, each made when it is asked for."""

    __slots__ = ("_columns",)

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns.leaves)

    @overload
    def __getitem__(self, index: int) -> Leaf: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Leaf, ...]: ...
    def __getitem__(self, index: int | slice) -> Leaf | tuple[Leaf, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        number = range(len(self))[index]
        return self._leaf(number, self._path(number))

    def __iter__(self) -> Iterator[Leaf]:
        return (self._leaf(number, path) for number, path in enumerate(self._columns.paths()))

    def _path(self, number: int) -> Path:
        return self._columns.path(int(self._columns.leaves[number]))

    def _leaf(self, number: int, path: Path) -> Leaf:
        spec = self._columns.specs[self._columns.leaf_code[number]]
        return Leaf(
            path=path,
            shape=spec.shape,
            dtype=spec.dtype,
            kind=spec.kind,
            size=spec.size,
            nbytes=spec.nbytes,
            sharding=spec.sharding,
            device_nbytes=spec.device_nbytes,
            shared_with=self._shared_with(number),
            weak_type=spec.weak_type,
            type=spec.type,
            role=spec.role,
            owner=spec.owner,
            axes=spec.axes,
            stacked=spec.stacked,
            chunk_shape=spec.chunk_shape,
            stored_nbytes=self._columns.stored_at(number),
        )

    def _shared_with(self, number: int) -> tuple[Path, ...]:
        if self._columns.first is None:
            return ()
        group = self._columns.shared.get(int(self._columns.first[number]), ())
        return tuple(self._path(other) for other in group if other != number)

    def __repr__(self) -> str:
        return f"<{len(self):,} leaves>"
