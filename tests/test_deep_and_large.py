"""Trees as deep as JAX itself takes, and trees of a million leaves."""

import jax
import numpy as np
import pytest
from jax import tree_util

from leafreport import FlattenError, LeafReport, diff, report


def _deep(levels):
    """A chain of dicts with a leaf at every level."""
    tree = {"leaf": np.zeros(1, np.float32)}
    for _ in range(levels - 1):
        tree = {"leaf": np.zeros(1, np.float32), "next": tree}
    return tree


@pytest.mark.parametrize("levels", [63, 64, 65, 850])
def test_deep_tree_is_reported(levels):
    tree = _deep(levels)
    found = report(tree)
    assert found.leaf_count == len(tree_util.tree_leaves(tree)) == levels
    assert found.param_count == levels
    assert max(map(len, found.paths)) == levels


def test_deep_tree_is_drawn_saved_and_compared():
    found = report(_deep(850))
    assert found.to_text().count("\n") == 852
    assert len([line for line in found.to_tree().splitlines() if "leaf  float32[1]" in line]) == 850
    assert found.to_html().count("leaf</b><span class=\"facts\">float32[1]") == 850
    assert len(found.fold()) == 1700
    assert LeafReport.from_json(found.to_json()) == found
    assert not diff(found, found)
    assert len(diff(found, report(_deep(849))).removed) == 1
    assert sum(group.nbytes for group in found.group(400)) == found.nbytes == 3400
    assert repr(found).startswith("<LeafReport: 850 leaves")


@pytest.mark.parametrize("levels", [1_500, 5_000])
def test_tree_too_deep_for_jax_is_one_clear_error(levels):
    tree = _deep(levels)
    with pytest.raises((RecursionError, SystemError)):
        tree_util.tree_leaves(tree)
    with pytest.raises(FlattenError, match=r"levels deep, more than JAX can flatten at Python's recursion"):
        report(tree)


def test_a_million_leaves_are_reported_folded_and_grouped():
    kernel, bias = jax.ShapeDtypeStruct((64, 64), "float32"), jax.ShapeDtypeStruct((64,), "float32")
    layer = {"kernel": kernel, "bias": bias}
    tree = {f"block_{i}": {f"Dense_{j}": dict(layer) for j in range(50)} for i in range(10_000)}
    found = report(tree)
    assert found.leaf_count == 1_000_000
    assert found.param_count == 500_000 * (64 * 64 + 64)
    assert found.nbytes == 4 * found.param_count
    assert [row.label for row in found.fold()] == [
        "(root)",
        "block_{0..9999}",
        "Dense_{0..49}",
        "bias",
        "kernel",
    ]
    assert found.to_text(fold=True).splitlines()[1].split()[:2] == ["block_{0..9999}/Dense_{0..49}/bias", "x500000"]
    assert found.to_text(depth=1, max_rows=1).splitlines()[-1] == (
        "total  1,000,000 leaves, 2,080,000,000 params, 7.7 GiB (8,320,000,000 B)"
    )
    assert sum(group.param_count for group in found.group(1)) == found.param_count


def test_a_hundred_thousand_leaves_come_back_from_json():
    tree = [[np.float32(0), jax.ShapeDtypeStruct((i % 7,), "int8")] for i in range(50_000)]
    found = report(tree)
    again = LeafReport.from_json(found.to_json())
    assert again == found
    assert again.nbytes == found.nbytes == sum(i % 7 for i in range(50_000)) + 4 * 50_000
