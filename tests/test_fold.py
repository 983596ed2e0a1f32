"""Folding and display order: what is shown changes, sums do not."""

import random

import jax
import numpy as np
import oracle
import pytest
from jax import tree_util

from leafreport import report


def labels(tree, **options):
    return [(row.depth, row.label, row.times) for row in report(tree).fold(**options)]


def names(*numbers, form="L_{}", value=1):
    return {form.format(n): value for n in numbers}


def dense(width, dtype=np.float32):
    return {
        "kernel": jax.ShapeDtypeStruct((width, width), dtype),
        "bias": jax.ShapeDtypeStruct((width,), dtype),
    }


def test_stack_folds_to_one_subtree():
    tree = {f"Dense_{i}": dense(8) for i in range(12)}
    rows = report(tree).fold()
    assert labels(tree) == [(0, "(root)", 1), (1, "Dense_{0..11}", 12), (2, "bias", 1), (2, "kernel", 1)]
    assert (rows[1].leaf_count, rows[1].param_count, rows[1].nbytes) == (24, 12 * 72, 12 * 72 * 4)
    assert rows[1].path == ("Dense_0",)


@pytest.mark.parametrize("odd", range(12))
def test_outlier_sibling_stands_out_wherever_it_is(odd):
    tree = {f"Dense_{i}": dense(8, np.float16 if i == odd else np.float32) for i in range(12)}
    level = [(label, times) for depth, label, times in labels(tree) if depth == 1]
    assert (f"Dense_{odd}", 1) in level
    assert sorted(times for _, times in level) == [1, 11]
    assert level[0][0].startswith("Dense_{0.." if odd > 1 else "Dense_{0," if odd else "Dense_0")


@pytest.mark.parametrize(
    "other",
    [
        {"w": np.zeros((2, 3), np.float32)},
        {"w": np.zeros((3, 2), np.float16)},
        {"v": np.zeros((3, 2), np.float32)},
        {"w": np.zeros((3, 2), np.float32), "n": None},
        {"w": [np.zeros((3, 2), np.float32)]},
        {"w": 1.0},
        [np.zeros((3, 2), np.float32)],
        None,
        {},
    ],
    ids=str,
)
def test_any_difference_below_keeps_a_sibling_apart(other):
    plain = {"w": np.zeros((3, 2), np.float32)}
    tree = {"l0": plain, "l1": other, "l2": {"w": np.zeros((3, 2), np.float32)}}
    assert [label for depth, label, _ in labels(tree) if depth == 1] == ["l{0,2}", "l1"]


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (names(0, 1, 2), ["L_{0..2}"]),
        (names(0, 2, 4), ["L_{0,2,4}"]),
        (names(0, 1, 5, 6, 9), ["L_{0..1,5..6,9}"]),
        (names(9, 10, 11), ["L_{9..11}"]),
        (names("08", "09", "10"), ["L_{08..10}"]),
        (names(8, "09", 10), ["L_{8,09..10}"]),
        (names(1, "01", 2), ["L_{01,1..2}"]),
        (names("a", "b", "c"), ["L_a", "L_b", "L_c"]),
        (names(7), ["L_7"]),
        (names(2**80, 2**80 + 1), [f"L_{{{2**80},{2**80 + 1}}}"]),
        (names(*range(0, 40, 2)), ["L_{0,2,4,6,8,10,12,14,... 12 more}"]),
        (names(0, 1, form="conv{}x3"), ["conv{0..1}x3"]),
        (names("1_1", "1_2", "2_1"), ["L_1_{1..2}", "L_2_1"]),
        (names("0", form="{}") | names("1", form="{}"), ["{0..1}"]),
        ({"linear": 1, "linear_1": 1, "linear_2": 1}, ["linear", "linear_{1..2}"]),
        ({"mlp/~/linear_0": {"w": 1}, "mlp/~/linear_1": {"w": 1}}, ["mlp/~/linear_{0..1}"]),
        ({"a0": 1, "b0": 1, "a1": 1, "b1": 1}, ["a{0..1}", "b{0..1}"]),
        ({"²": 1, "³": 1}, ["²", "³"]),
        ({"\n0": 1, "\n1": 1}, ["\\n{0..1}"]),
        ({"e": None, "f": {}, "g0": [], "g1": []}, ["e", "f", "g{0..1}"]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_labels_written_out(tree, expected):
    assert [label for depth, label, _ in labels(tree) if depth == 1] == expected


def test_list_of_a_thousand_folds_to_one_row():
    tree = [{"w": np.zeros(2, np.int8)} for _ in range(1000)]
    assert labels(tree) == [(0, "(root)", 1), (1, "{0..999}", 1000), (2, "w", 1)]
    assert report(tree).fold()[1].nbytes == 2000


def test_folds_within_folds():
    tree = [{f"h{j}": {"w": 1} for j in range(3)} for _ in range(4)]
    assert labels(tree) == [(0, "(root)", 1), (1, "{0..3}", 4), (2, "h{0..2}", 3), (3, "w", 1)]
    assert "{0..3}/h{0..2}/w" in report(tree).to_text(fold=True)
    assert "x12" in report(tree).to_text(fold=True)


@tree_util.register_pytree_with_keys_class
class Twice:
    def __init__(self, *children):
        self.children = children

    def tree_flatten_with_keys(self):
        return [(tree_util.GetAttrKey("x1"), child) for child in self.children], None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def test_one_name_twice_does_not_fold():
    assert labels(Twice(1, 1)) == [(0, "(root)", 1), (1, "x1", 1), (1, "x1", 1)]


def test_shared_siblings_fold_and_their_bytes_are_counted_once():
    block = np.zeros(10, np.int8)
    rows = report([block, block, block]).fold()
    assert (rows[1].label, rows[1].nbytes, rows[1].repeated_nbytes) == ("{0..2}", 10, 20)


@pytest.mark.parametrize("seed", range(40))
def test_folded_rows_sum_to_the_whole_at_every_level(seed):
    tree = {f"n{i}": oracle.random_tree(seed % 13, depth=4) for i in range(3)}
    found = report(tree)
    for fold in (True, False):
        rows = found._rows(fold=fold)
        assert oracle.sums_of(found) == tuple(getattr(rows[0], f) for f in oracle.Sums._fields)
        trail = []
        for row in rows:
            del trail[row.depth :]
            trail.append([row, 0])
            if row.depth:
                trail[-2][1] += row.nbytes
        # Children of a folded row are those of its first member, so only unfolded sums add up row by row.
        if not fold:
            direct = [0] * len(rows)
            above = []
            for i, row in enumerate(rows):
                del above[row.depth :]
                if above:
                    direct[above[-1]] += row.leaf_count
                above.append(i)
            assert all(row.spec is not None or direct[i] == row.leaf_count for i, row in enumerate(rows))


@pytest.mark.parametrize("seed", range(20))
def test_folding_stands_for_every_leaf_once(seed):
    tree = [oracle.random_tree(seed % 5, depth=4) for _ in range(4)]
    rows = report(tree).fold()
    trail, count = [], 0
    for row in rows:
        del trail[row.depth :]
        trail.append(row.times)
        if row.spec is not None:
            count += int(np.prod(trail))
    assert count == len(tree_util.tree_leaves(tree))


def test_depth_closes_subtrees_and_keeps_their_sums():
    tree = {"a": {"b": {"c": np.zeros(3, np.int8)}}, "d": np.zeros(2, np.int8)}
    for depth, shown in [(0, 1), (1, 3), (2, 4), (3, 5), (4, 5)]:
        rows = report(tree).fold(depth=depth)
        assert len(rows) == shown
        assert rows[0].nbytes == 5
        assert all(row.depth <= depth for row in rows)
    assert [row.closed for row in report(tree).fold(depth=1)] == [False, True, False]


@pytest.mark.parametrize("seed", range(10))
def test_totals_do_not_change_with_what_is_shown(seed):
    found = report(oracle.random_tree(seed, depth=5))
    total = found.to_text().splitlines()[-1]
    assert total.startswith("total  ")
    for options in (
        {"fold": True}, {"depth": 0}, {"depth": 2}, {"max_rows": 0}, {"max_rows": 1}, {"fold": True, "max_rows": 1},
        {"sort": "bytes"}, {"depth": 1, "sort": "params", "max_rows": 1},
    ):  # fmt: skip
        assert found.to_text(**options).splitlines()[-1] == total
    first = found.to_tree().splitlines()[0]
    for options in ({"fold": False}, {"depth": 0}, {"max_rows": 1}, {"max_rows": 0}):
        assert found.to_tree(**options).splitlines()[0] == first


# --- Order --------------------------------------------------------------------------------------------------


def shown(tree):
    return [
        label for depth, label, _ in ((r.depth, r.label, 0) for r in report(tree)._rows(fold=False)) if depth
    ]


def independent_key(name):
    """Digits as numbers, by a loop over characters."""
    out, digits = [], ""
    for char in [*name, ""]:
        if char and char in "0123456789":
            digits += char
            continue
        if digits:
            out.append((1, int(digits), ""))
            digits = ""
        if char:
            out.append((2, 0, char))
    return out


def test_natural_order_of_random_names_agrees_with_an_independent_key():
    rng = random.Random(0)
    for _ in range(200):
        numbers = rng.sample(range(1, 2000), 9)
        tree = {f"{rng.choice('ab')}_{n}_{n * 7 % 13}": 1 for n in numbers}
        assert shown(tree) == sorted(tree, key=independent_key)


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (dict.fromkeys(["x10", "x9", "x1", "x", "x01"], 1), ["x", "x01", "x1", "x9", "x10"]),
        (dict.fromkeys(["9" * 5000, "1" + "0" * 5000], 1), ["9" * 5000, "1" + "0" * 5000]),
        ({10: 1, 9: 2}, ["9", "10"]),
        ({-1: 1, -2: 2, 10: 3, 9: 4}, ["-2", "-1", "9", "10"]),
        (list(range(12)), [str(i) for i in range(12)]),
        ({"B": 1, "a": 2, "": 3}, ['""', "B", "a"]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_siblings_are_shown_in_order(tree, expected):
    assert shown(tree) == expected


def test_order_someone_chose_is_kept():
    import collections

    tree = collections.OrderedDict((name, 1) for name in ["z", "l10", "l9", "a"])
    assert shown(tree) == ["z", "l10", "l9", "a"]


def test_flatten_order_of_leaves_does_not_change_with_display():
    tree = {f"l{i}": {"w": i} for i in range(12)}
    assert report(tree).paths == oracle.paths(tree)
    lines = report(tree).to_text().splitlines()[1:13]
    assert [line.split()[0] for line in lines] == [f"l{i}/w" for i in range(12)]
