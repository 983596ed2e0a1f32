"""Values of one model's leaves put where another's do the same: bit by bit, unless a pair computes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from leafreport._align._parts import Part
from leafreport._align._records import LeafPair
from leafreport._errors import AlignmentError
from leafreport._leaf import Path, display_path

# A leaf's number by its path.
Numbers = Mapping[Path, int]


def converted(
    pairs: Sequence[LeafPair], left: Sequence[Any], right: Sequence[Any], numbers: tuple[Numbers, Numbers]
) -> list[Any]:
    """The right leaves with the values of the left parts they are paired with; the rest as they were.

    Args:
        pairs: which part is which.
        left: the left leaves, in flatten order.
        right: the right leaves; of an abstract one the parts without a partner become zeros.
        numbers: the number of each leaf of either side by its path.

    Raises:
        AlignmentError: a value cannot be kept in the dtype of the leaf it goes to.
    """
    held: dict[int, np.ndarray] = {}
    made: dict[int, np.ndarray] = {}

    def kept(values: dict[int, np.ndarray], number: int, leaf: Callable[[], np.ndarray]) -> np.ndarray:
        if number not in values:
            values[number] = leaf()
        return values[number]

    for pair in pairs:
        a, b = numbers[0][pair.left_path], numbers[1][pair.right_path]
        source = kept(held, a, lambda a=a: np.ascontiguousarray(left[a]))  # type: ignore[misc]
        target = kept(made, b, lambda b=b: _own(right[b]))  # type: ignore[misc]
        _put(pair, moved(pair, source), target)
    return [_placed(made[n], leaf) if n in made else _as_it_was(leaf) for n, leaf in enumerate(right)]


def moved(pair: LeafPair, source: np.ndarray) -> np.ndarray:
    """The left part as the right one has it."""
    found: np.ndarray = pair.left.of(source)
    for move in pair.move.steps():
        found = found.reshape(move.axes)
        if move.flip:
            found = np.flip(found, move.flip)
        found = found.transpose(move.order)
        if move.scale != 1.0 or move.offset:
            wide: np.ndarray = found.astype(np.float64) * move.scale + move.offset
            found = wide.astype(found.dtype)
    return found


def _put(pair: LeafPair, values: np.ndarray, target: np.ndarray) -> None:
    into = pair.right.of(target)
    if values.dtype != target.dtype:
        with np.errstate(all="ignore"):
            cast = values.astype(target.dtype)
            back = cast.astype(values.dtype)
        lost = (back != values) & ~((back != back) & (values != values))
        if lost.any():
            raise AlignmentError(
                f"{pair.left} is {values.dtype} and {pair.right} is {target.dtype}: {int(lost.sum()):,} of "
                f"{values.size:,} values would change. Cast the left values yourself where that is meant."
            )
        values = cast
    into[...] = values.reshape(into.shape)


def _own(leaf: Any) -> np.ndarray:
    """A leaf's values to be written over; zeros where it has none."""
    if isinstance(leaf, jax.ShapeDtypeStruct) or not hasattr(leaf, "__array__"):
        return np.zeros(leaf.shape, leaf.dtype)
    return np.array(leaf)


# The implementation of a typed key, by the mark in its dtype's name.
_KEYS = {"key<fry>": "threefry2x32", "key<rbg>": "rbg", "key<urbg>": "unsafe_rbg"}


def _as_it_was(leaf: Any) -> Any:
    """A leaf that nothing is put into: itself; of an abstract one zeros, or a key of zeros."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if not jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return np.zeros(leaf.shape, leaf.dtype)
    data = jax.eval_shape(jax.random.key_data, leaf)
    return jax.random.wrap_key_data(jax.numpy.zeros(data.shape, data.dtype), impl=_KEYS[str(leaf.dtype)])


def _placed(made: np.ndarray, leaf: Any) -> Any:
    """The values as a `jax.Array` where the right leaf lies; as they are where JAX would change the dtype."""
    if isinstance(leaf, np.ndarray) or jax.dtypes.canonicalize_dtype(made.dtype) != made.dtype:
        return made
    sharding = getattr(leaf, "sharding", None)
    return jax.numpy.asarray(made) if sharding is None else jax.device_put(made, sharding)


def listed(parts: Sequence[Part | Path]) -> str:
    """Up to ten names, then a count."""
    names = [str(part) if isinstance(part, Part) else display_path(part) for part in parts]
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more
