"""Arrays with a margin: what they are without it, so that what `pad` gives is padding like any other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leafreport._align._trace._program import Array, Op

if TYPE_CHECKING:
    from leafreport._align._trace._tracer import Tracer


@dataclass(frozen=True, slots=True)
class Margin:
    """Of an array with a margin what is within it.

    Attributes:
        inner: the array without it.
        value: what the margin holds; None where that is not known.
        rows: by axis, how wide it is before, after and between, as `pad` has it.
    """

    inner: Array
    value: float | None
    rows: dict[int, tuple[int, ...]]

    @property
    def plain(self) -> bool:
        """Whether nothing is cut off by it, or put between what is within."""
        return all(low >= 0 and high >= 0 and not between for low, high, between in self.rows.values())


def unpadded(
    tracer: "Tracer", array: Array, axes: Sequence[int], padding: Sequence[tuple[int, int]], empty: float
) -> tuple[Array, list[tuple[int, int]]]:
    """An array without the margin it was given by an operation of its own, and the padding with it.

    Args:
        tracer: the tracer.
        array: the array.
        axes: the axes that are padded.
        padding: the padding along each of these.
        empty: the value that padding has.
    """
    rows = {axis: (int(low), int(high)) for axis, (low, high) in zip(axes, padding, strict=True)}
    margin = tracer.padded.get(id(array))
    if margin is not None and margin.value == empty and margin.plain and margin.rows.keys() <= rows.keys():
        rows.update({n: (rows[n][0] + row[0], rows[n][1] + row[1]) for n, row in margin.rows.items()})
        array = margin.inner
    return array, [rows[axis] for axis in axes]


def view_of_padded(tracer: "Tracer", op: Op) -> None:
    """Notes what a view of an array with a margin is a view of, without the margin."""
    margin = tracer.padded[id(op.inputs[0])]
    source = _sources(op)
    places = {n: place for place, n in source.items()}
    if not margin.rows.keys() <= places.keys():
        return
    dims = list(op.output.dims)
    for n in margin.rows:
        dims[places[n]] = margin.inner.dims[n]
    made = tracer.add("view", [margin.inner], Array(tuple(dims), op.output.dtype), **op.info)
    rows = {places[n]: row for n, row in margin.rows.items()}
    tracer.padded[id(op.output)] = Margin(made, margin.value, rows)


def _sources(op: Op) -> dict[int, int]:
    """For each axis of a view that is one of what is viewed, which; none for a view that mixes axes."""
    before, after = op.inputs[0].shape, op.output.shape
    match op.info["kind"]:
        case "same":
            return {n: n for n in range(len(after))}
        case "transpose":
            return dict(enumerate(op.info["order"]))
        case "squeeze":
            return dict(enumerate(op.info["keep"]))
        case "broadcast":
            return {place: n for n, place in enumerate(op.info["axes"]) if before[n] == after[place]}
        case "reshape" if [n for n in before if n != 1] == [n for n in after if n != 1]:
            wide = (n for n, size in enumerate(before) if size != 1)
            return {place: next(wide) for place, size in enumerate(after) if size != 1}
    return {}
