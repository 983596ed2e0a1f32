"""Values of one model's leaves put where another's leaves do the same: bit by bit, nothing computed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from leafreport._align._layout import Pair, Piece


def converted(pairs: Sequence[Pair], left: Sequence[Any], right: Sequence[Any]) -> list[np.ndarray]:
    """The right leaves with the values of the left pieces they are paired with; the rest as they were.

    Args:
        pairs: which piece is which.
        left: the left leaves, in flatten order.
        right: the right leaves; of an abstract one without a partner the values are zeros.

    Raises:
        ValueError: a pair's two leaves have other dtypes, so that a value could not be kept.
    """
    made = [_own(leaf) for leaf in right]
    for pair in pairs:
        source = np.asarray(left[pair.left.leaf])
        target = made[pair.right.leaf]
        if source.dtype != target.dtype:
            raise ValueError(f"leaf {pair.left.leaf} is {source.dtype}, its partner {target.dtype}")
        _view(target, pair.right)[...] = _view(np.ascontiguousarray(source), pair.left).transpose(pair.order)
    return made


def _own(leaf: Any) -> np.ndarray:
    if not hasattr(leaf, "__array__"):
        return np.zeros(leaf.shape, leaf.dtype)
    return np.array(leaf)


def _view(array: np.ndarray, piece: Piece) -> np.ndarray:
    """A piece of an array, as a view of it."""
    flat = array.reshape(-1)[piece.start :]
    return as_strided(flat, piece.sizes, [step * array.itemsize for step in piece.strides])
