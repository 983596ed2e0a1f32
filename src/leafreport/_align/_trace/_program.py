"""A program as records: arrays whose axes are `Dim`s, and the operations between them."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from typing import Any

import numpy as np

from leafreport._align._trace._dims import Dim


@dataclass(eq=False, slots=True)
class Array:
    """One array of a program.

    Attributes:
        dims: its axes.
        dtype: its dtype, as text.
        constant: it depends on neither params nor inputs.
        stored: it is a leaf, or a view that has every element of what it views of leaves at most once.
        leafy: it is a view of leaves in which elements may repeat.
        known: of a constant what it holds, where that was found out; axes that repeat take no memory.
        term: of a constant how it is computed, so that one that is computed twice is known to be one.
        random: of a constant whether it comes of random numbers.
        drawn: of random numbers some that it may hold, in one row; None where that is not known.
        held: what it holds in a run on values, where there is one.
    """

    dims: tuple[Dim, ...]
    dtype: str
    constant: bool = False
    stored: bool = False
    leafy: bool = False
    known: np.ndarray | None = None
    term: Hashable = None
    random: bool = False
    drawn: np.ndarray | None = None
    held: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return tuple(dim.size for dim in self.dims)

    @property
    def value(self) -> float | None:
        """What it holds, where that is one known number."""
        return None if self.known is None else number(self.known)


@dataclass(eq=False, slots=True)
class Op:
    """One operation.

    Attributes:
        name: what it does: `view`, `dot`, `conv`, `lookup`, `apply`, `reduce`, `loop`, `opaque`.
        inputs: the arrays it takes.
        output: the array it makes.
        info: what else there is to know, by name.
        source: where in the program it stands, as JAX tells it.
        dead: it leads to no result.
    """

    name: str
    inputs: tuple[Array, ...]
    output: Array
    info: dict[str, Any] = field(default_factory=dict)
    source: Any = None
    dead: bool = False


@dataclass(eq=False, slots=True)
class Program:
    """What a trace gave.

    Attributes:
        leaves: an array for each leaf of params, in flatten order; leaves that are one array have one.
        inputs: an array for each leaf of the inputs.
        outputs: an array for each leaf of the result.
        ops: the operations, in order.
        unknown: names of primitives that were taken as opaque, and what else was not understood, with how
            often.
        owners: for axes of products of two activations, by the names they go on under, the product and which
            of the two has them.
        ensembles: whether there are axes along which members of an ensemble may stand.
    """

    leaves: list[Array]
    inputs: list[Array]
    outputs: list[Array]
    ops: list[Op]
    unknown: Counter[str]
    owners: dict[Dim, tuple[Op, int]] = field(default_factory=dict)
    ensembles: bool = False


def constant(array: Array, dims: tuple[Dim, ...], known: np.ndarray | None) -> Array:
    """What a view of a constant is.

    Args:
        array: the constant.
        dims: the view's axes.
        known: what the view holds, where that is known.
    """
    made = Array(dims, array.dtype, constant=True, known=known, term=array.term)
    made.random, made.drawn = array.random, array.drawn
    return made


@cache
def dtype_name(dtype: Any) -> str:
    """A dtype as text; that of one dtype is made once."""
    return str(dtype)


def lean(array: np.ndarray) -> np.ndarray:
    """An array without the repeats along its axes: those become axes of one index."""
    return array[tuple(slice(0, 1) if step == 0 else slice(None) for step in array.strides)]


_MOST_LOOKED_AT = 1 << 16


def number(array: np.ndarray) -> float | None:
    """The one number an array holds throughout; None where it holds several, or none that is real."""
    if not array.size or (
        array.dtype.kind not in "biuf" and not array.dtype.name.startswith(("bfloat", "float8"))
    ):
        return None
    core = lean(array)
    if core.size > _MOST_LOOKED_AT:
        return None
    first = core.reshape(-1)[0]
    if core.size > 1 and not (core == first).all():
        return None
    return float(first)


def digest(*what: object) -> int:
    """A number that stands for what a constant is; the same in every trace."""
    return int.from_bytes(blake2b(repr(what).encode(), digest_size=8).digest(), "big")
