"""What two programs do differently as a whole: how many results they give, in which dtypes they compute."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

import jax.numpy as jnp

from leafreport._align._compare._places import told
from leafreport._align._records import Difference, Place
from leafreport._align._trace._program import Array, Op, Program
from leafreport._render._rows import plural

_INEXACT = ("float", "bfloat", "complex")


def unlike(left: Program, right: Program, known: AbstractSet[str]) -> Iterator[Difference]:
    """Differences that are at no place that is matched. Cost: one step for each operation.

    Args:
        left: one program.
        right: the other.
        known: the kinds of differences that are said already.
    """
    if len(left.outputs) != len(right.outputs):
        counts = [plural(len(own.outputs), "result") for own in (left, right)]
        yield Difference("results", counts[0], counts[1], Place(), Place())
    elif [array.shape for array in left.inputs] == [array.shape for array in right.inputs]:
        sizes = [[_sizes(array) for array in own.outputs] for own in (left, right)]
        if sizes[0] != sizes[1]:
            said = [", ".join(str(list(array.shape)) for array in own.outputs) for own in (left, right)]
            yield Difference("results", said[0], said[1], Place(), Place())
    if not known & {"dtype", "accumulation"}:
        yield from _dtypes(left, right)


def _sizes(array: Array) -> list[int]:
    """The sizes of an array's axes, whatever their order: one side may have them in another."""
    return sorted(size for size in array.shape if size > 1)


def _dtypes(left: Program, right: Program) -> Iterator[Difference]:
    """The dtypes in which one program alone computes, or to which it alone rounds."""
    both = [_computing(own) for own in (left, right)]
    for kind, said in _KINDS.items():
        own = [{dtype: op for (k, dtype), op in computing.items() if k == kind} for computing in both]
        if kind == "round":
            known = [{dtype for _, dtype in computing} for computing in both]
            own = [{d: op for d, op in own[n].items() if d not in known[1 - n]} for n in (0, 1)]
        if own[0].keys() == own[1].keys() or (kind != "round" and not (own[0] and own[1])):
            continue
        names = [" and ".join(sorted(dtypes)) or "nothing" for dtypes in own]
        places = [
            Place(
                None, None, *told(next((op.source for d, op in own[n].items() if d not in own[1 - n]), None))
            )
            for n in (0, 1)
        ]
        yield Difference("dtype", f"{said} {names[0]}", f"{said} {names[1]}", *places)
        return


# What is done, and how it is said.
_KINDS = {"dot": "multiplies in", "reduce": "sums in", "apply": "computes in", "round": "rounds to"}


def _computing(own: Program) -> dict[tuple[str, str], Op]:
    """What is done in which dtypes, each with the first operation that does."""
    found: dict[tuple[str, str], Op] = {}
    for op in own.ops:
        dtype = op.output.dtype
        if op.dead or op.output.leafy or not dtype.startswith(_INEXACT):
            continue
        kind = _OF.get(op.name, "")
        if (
            op.name == "view"
            and op.inputs[0].dtype.startswith(_INEXACT)
            and _bits(dtype) < _bits(op.inputs[0].dtype)
        ):
            kind = "round"
        if kind:
            found.setdefault((kind, dtype), op)
    return found


_OF = {"dot": "dot", "conv": "dot", "reduce": "reduce", "apply": "apply"}


def _bits(dtype: str) -> int:
    return jnp.dtype(dtype).itemsize
