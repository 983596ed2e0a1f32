"""A program as records: arrays whose axes are `Dim`s, and the operations between them."""

from dataclasses import dataclass, field
from typing import Any

from leafreport._align._dims import Dim


@dataclass(eq=False, slots=True)
class Array:
    """One array of a program.

    Attributes:
        dims: its axes.
        dtype: its dtype, as text.
        value: what it holds, where that is one known number; None otherwise.
        constant: it depends on neither params nor inputs.
        stored: it is a leaf, or a view of leaves.
    """

    dims: tuple[Dim, ...]
    dtype: str
    value: float | None = None
    constant: bool = False
    stored: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return tuple(dim.size for dim in self.dims)


@dataclass(eq=False, slots=True)
class Op:
    """One operation.

    Attributes:
        name: what it does: `view`, `dot`, `conv`, `lookup`, `apply`, `reduce`, `loop`, `opaque`.
        inputs: the arrays it takes.
        output: the array it makes.
        info: what else there is to know, by name.
        place: where in the program it stands, as JAX tells it.
    """

    name: str
    inputs: tuple[Array, ...]
    output: Array
    info: dict[str, Any] = field(default_factory=dict)
    place: str = ""


@dataclass(eq=False, slots=True)
class Program:
    """What a trace gave.

    Attributes:
        leaves: an array for each leaf of params, in flatten order.
        inputs: an array for each leaf of the inputs.
        outputs: an array for each leaf of the result.
        ops: the operations, in order.
        unknown: names of primitives that were taken as opaque.
    """

    leaves: list[Array]
    inputs: list[Array]
    outputs: list[Array]
    ops: list[Op]
    unknown: set[str]
