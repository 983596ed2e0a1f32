"""Trees as deep as JAX takes, deeper ones, and large ones."""

import gc
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import oracle
import pytest
from jax import tree_util

from leafreport import FlattenError, LeafReport, diff, report

WRAPS = {
    "lists": lambda tree: [tree],
    "dicts": lambda tree: {"a": tree},
    "tuples": lambda tree: (tree,),
    "mixed": lambda tree: {"b": [1, (tree,)], "a": None},
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("levels", [1, 19, 20, 21, 63, 64, 65, 66, 100, 290])
def test_tree_of_many_levels(wrap, levels):
    tree = oracle.nested(levels, np.zeros(3, np.int8), WRAPS[wrap])
    found = report(tree)
    oracle.agree(found, tree)
    assert found.group(levels * 3)[-1].leaf_count == 1
    assert LeafReport.from_json(found.to_json()) == found
    assert not diff(found, report(tree))
    rows = found._rows(fold=False)
    assert max(row.depth for row in rows) == len(found.paths[0]) or wrap == "mixed"
    for text in (found.to_tree(), found.to_html(), found.to_text(), found.to_tree(fold=False)):
        assert "int8" in text
    lines = found.to_tree().splitlines()
    assert max(len(line) - len(line.lstrip()) for line in lines) <= 40
    assert sum("int8[3]" in line for line in lines) == 1


AT_THE_LIMIT = """
import sys
sys.path.insert(0, TESTS)
import jax, oracle, leafreport, numpy as np
for wrap in (lambda t: [t], lambda t: {"a": t}):
    tree = oracle.nested(900, np.zeros(3), wrap)
    assert sys.getrecursionlimit() == 1000
    assert len(jax.tree_util.tree_leaves(tree)) == 1
    found = leafreport.report(tree)
    assert (found.leaf_count, len(found.paths[0])) == (1, 900)
    assert leafreport.LeafReport.from_json(found.to_json()) == found
    found.to_text(), found.to_tree(), found.to_html(), found.to_csv(), found.to_markdown(), found.fold(), str(found)
    found.group(900), found.select("**"), found.columns(), repr(found.leaves[0]), found.nodes
    assert found[found.paths[0]].size == 3
    assert found["/".join(found.paths[0])].size == 3
    assert not leafreport.diff(found, found)
for levels in (5_000, 100_000):
    try:
        leafreport.report(oracle.nested(levels))
    except leafreport.FlattenError as error:
        print(error)
print(leafreport.report(oracle.nested(900)).leaf_count)
"""


def test_tree_at_the_recursion_limit_and_far_beyond():
    code = AT_THE_LIMIT.replace("TESTS", repr(str(Path(__file__).parent)))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second, third = done.stdout.splitlines()
    for line in (first, second):
        assert "levels deep" in line
        assert "recursion limit" in line
        assert "sys.setrecursionlimit" in line
    assert third == "1"


def test_tree_too_deep_is_one_error():
    with pytest.raises(
        FlattenError, match=r"levels deep, .*than JAX can flatten at Python's recursion limit"
    ):
        report(oracle.nested(5_000))
    assert report(oracle.nested(500)).leaf_count == 1


def test_deep_and_wide_tree():
    tree = {f"l{i}": oracle.nested(80, {"w": i}) for i in range(300)}
    found = report(tree)
    assert found.leaf_count == len(tree_util.tree_leaves(tree)) == 300
    assert [row.label for row in found.fold()][:2] == ["(root)", "l{0..299}"]


def test_wide_node():
    tree = [0] * 100_000
    found = report(tree)
    assert found.leaf_count == 100_000
    assert len(found.fold()) == 2
    assert found.leaves[99_999].path == ("99999",)
    assert found.fold()[1].times == 100_000


def test_subtree_held_twice_at_each_of_many_levels_is_counted_as_jax_counts_it():
    tree = oracle.nested(14, np.zeros(2, np.int8), lambda t: [t, t])
    found = report(tree)
    assert found.leaf_count == len(tree_util.tree_leaves(tree)) == 2**14
    assert (found.nbytes, found.repeated_nbytes) == (2, 2 * (2**14 - 1))


def test_million_leaves_are_reported_shown_and_saved_within_a_minute():
    spec = jax.ShapeDtypeStruct((3, 5), np.float32)
    tree = {f"block_{i}": {f"layer_{j}": {"w": spec, "b": spec} for j in range(500)} for i in range(1000)}
    start = time.process_time()
    found = report(tree)
    assert found.leaf_count == 1_000_000
    assert (found.param_count, found.nbytes, found.repeated_nbytes) == (15_000_000, 60_000_000, 0)
    assert found.to_tree().splitlines() == [
        "(root)  1,000,000 leaves, 15,000,000 params, 57.2 MiB",
        "  block_{0..999} x1000  1,000,000 leaves, 15,000,000 params, 57.2 MiB",
        "    layer_{0..499} x500  1,000 leaves, 15,000 params, 58.6 KiB",
        "      b  float32[3,5], 60 B",
        "      w  float32[3,5], 60 B",
    ]
    assert len(found.to_text(fold=True).splitlines()) == 4
    again = LeafReport.from_json(found.to_json())
    assert again == found
    assert time.process_time() - start < 60
    assert gc.isenabled()


def test_report_is_small_beside_its_leaves():
    spec = jax.ShapeDtypeStruct((3, 5), np.float32)
    columns = report([{"w": spec, "b": spec} for _ in range(50_000)])._columns
    nbytes = sum(getattr(columns, name).nbytes for name in ("parent", "end", "name", "code"))
    assert nbytes == 16 * 150_001
    assert len(columns.specs) == 1
    assert len(columns.nodes) == 2
