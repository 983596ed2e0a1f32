"""Claim: a report costs a fraction of JAX's own flatten with paths, in time and in memory."""

from functools import partial

import _trees
from _measure import Case, main
from jax.tree_util import tree_flatten_with_path

from leafreport import report


def case(make, leaves, limit, rounds=7):  # noqa: ANN001, ANN201
    """A tree against `tree_flatten_with_path` on it."""
    return Case(partial(make, leaves), report, tree_flatten_with_path, limit, rounds, leaves)


CASES = {
    "abstract_200k": case(_trees.abstract, 200_000, 0.3),
    "arrays_200k": case(_trees.arrays, 200_000, 0.4),
    "mixed_200k": case(_trees.mixed, 200_000, 0.6),
    "abstract_1M": case(_trees.abstract, 1_000_000, 0.3, rounds=3),
    "arrays_1M": case(_trees.arrays, 1_000_000, 0.4, rounds=3),
}

if __name__ == "__main__":
    main(CASES)
