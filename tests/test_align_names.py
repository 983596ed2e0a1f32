"""Two trees without a program: names, shapes and layers tell, and every pair says so."""

import json

import numpy as np
import pytest
from plain_models import shape

from leafreport import AlignmentError, LeafReport, Model, align, report


def paired(found):
    return {(str(pair.left), str(pair.right)): pair for pair in found.pairs}


def test_every_pair_says_what_told():
    left = {
        "dense": {"kernel": shape(4, 8), "bias": shape(8)},
        "out": {"kernel": shape(8, 3), "bias": shape(3)},
    }
    right = {
        "dense": {"weight": shape(8, 4), "bias": shape(8)},
        "out": {"weight": shape(3, 8), "bias": shape(3)},
    }
    found = align(left, right)
    assert not found.traced
    assert found.summary().endswith("by names, shapes and layers alone: no program was read")
    assert {pair.basis for pair in found.pairs} == {"name"}
    rows = paired(found)
    assert rows["dense/kernel", "dense/weight"].layout == "transpose"
    assert rows["out/kernel", "out/weight"].layout == "transpose"
    assert found.ok


def test_which_way_a_square_kernel_lies_is_open():
    found = align(
        {"dense": {"kernel": shape(8, 8), "bias": shape(8)}},
        {"dense": {"weight": shape(8, 8), "bias": shape(8)}},
    )
    rows = paired(found)
    assert rows["dense/kernel", "dense/weight"].ambiguous
    assert not rows["dense/bias", "dense/bias"].ambiguous
    assert not found.ok
    with pytest.raises(AlignmentError, match="kernel could have its axes in another order"):
        found.convert({"dense": {"kernel": np.zeros((8, 8)), "bias": np.zeros(8)}})


def test_leaves_that_only_one_side_has():
    found = align({"a": shape(3), "b": shape(4)}, {"a": shape(3), "c": shape(5)})
    assert found.only_left == (("b",),)
    assert found.only_right == (("c",),)
    assert not found.ok


def test_other_dtypes_are_a_difference():
    found = align({"a": shape(3)}, {"a": shape(3, dtype=np.float16)})
    assert [(d.what, d.left, d.right) for d in found.differences] == [("dtype", "float32", "float16")]


def test_saved_reports_are_aligned():
    left = LeafReport.from_json(report({"dense": {"kernel": shape(4, 8), "bias": shape(8)}}).to_json())
    found = align(left, {"dense": {"kernel": shape(4, 8), "bias": shape(8)}})
    assert found.ok
    assert not found.traced
    with pytest.raises(AlignmentError, match="left_params must be given: a report holds no values"):
        found.convert(None)
    made = found.convert({"dense": {"kernel": np.ones((4, 8), np.float32), "bias": np.ones(8, np.float32)}})
    assert (np.asarray(made["dense"]["kernel"]) == 1).all()
    assert json.loads(found.to_json())["traced"] is False


def test_a_model_without_an_input_is_aligned_by_names():
    model = Model({"w": shape(4, 3)}, lambda p, x: x @ p["w"])
    found = align(model, model)
    assert not found.traced
    assert found.ok


def test_numbered_layers_are_paired_by_their_numbers():
    left = {f"layers_{n}": {"kernel": shape(4, 4 + n), "bias": shape(4 + n)} for n in range(11)}
    right = [{"weight": shape(4 + n, 4), "bias": shape(4 + n)} for n in range(11)]
    rows = paired(align(left, {"layers": right}))
    assert all((f"layers_{n}/kernel", f"layers/{n}/weight") in rows for n in range(11))


@pytest.mark.parametrize("side", [3, "text", None, object()])
def test_what_is_neither_model_nor_tree_is_refused_or_has_no_leaf(side):
    try:
        found = align(side, {"a": shape(3)})
    except AlignmentError as error:
        assert "give a model, a tree or a report" in str(error)  # noqa: PT017
    else:
        assert found.only_right == (("a",),)
        assert not found.pairs


def test_a_call_that_cannot_be_traced_says_why():
    model = Model({"w": shape(4, 3)}, lambda p, x: x @ p["w"])
    with pytest.raises(
        AlignmentError, match=r"the left model cannot be traced on float32\[2,5\]: TypeError: "
    ):
        align(model, model, shape(2, 5))
    with pytest.raises(AlignmentError, match=r"the right model cannot be traced .* as x_right\."):
        align(model, Model({"w": shape(3, 4)}, lambda p, x: x @ p["w"]), shape(2, 4))
