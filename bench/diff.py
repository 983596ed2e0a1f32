"""Claim: all differences between two trees of 200,000 leaves cost no more than flattening both with paths."""

import _trees
from _measure import Case, main
from jax import ShapeDtypeStruct
from jax.tree_util import tree_flatten_with_path

from leafreport import diff


def equal():  # noqa: ANN201
    """Two trees that agree, with no object in common."""
    return _trees.abstract(200_000), _trees.abstract(200_000)


def unequal():  # noqa: ANN201
    """As `equal`, with one leaf of another shape, one block missing and one more."""
    left, right = equal()
    right["params"]["block_5"]["Dense_0"]["bias"] = ShapeDtypeStruct((65,), "float32")
    del right["params"]["block_7"]
    right["params"]["block_new"] = {"kernel": ShapeDtypeStruct((3, 3), "float32")}
    return left, right


def different_shapes():  # noqa: ANN201
    """Every second leaf differs: the worst there is to list."""
    left = _trees.nested(
        200_000, lambda: ShapeDtypeStruct((8, 8), "float32"), lambda: ShapeDtypeStruct((8,), "float32")
    )
    right = _trees.nested(
        200_000, lambda: ShapeDtypeStruct((8, 9), "float32"), lambda: ShapeDtypeStruct((8,), "float32")
    )
    return left, right


def flattens(pair):  # noqa: ANN001, ANN201
    """The yardstick: both flattened, nothing compared."""
    return [tree_flatten_with_path(tree) for tree in pair]


def ours(pair):  # noqa: ANN001, ANN201
    """From two trees to an answer."""
    return bool(diff(*pair))


CASES = {
    "equal_200k": Case(equal, ours, flattens, 1.0, rounds=5),
    "unequal_200k": Case(unequal, ours, flattens, 1.0, rounds=5),
    "half_changed_200k": Case(different_shapes, ours, flattens, 1.0, rounds=5),
}

if __name__ == "__main__":
    main(CASES)
