"""A mapping: saved, read, edited by hand, and used again."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from plain_models import MODELS, fused_transformer, shape, transformer

from leafreport import AlignmentError, Model, align

X = shape(2, 8)
SQUARE = shape(8, 8)
TWO = {"a": SQUARE, "b": SQUARE}


def chain(p, x):
    return jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"])


def symmetric(p, x):
    return jnp.tanh(x @ p["a"]) + jnp.tanh(x @ p["b"])


CHAIN, SYMMETRIC = Model(TWO, chain), Model(TWO, symmetric)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_and_read_again_is_the_same_alignment(name):
    model, inputs = MODELS[name]()
    found = align(model, model, inputs)
    again = align(model, model, inputs, mapping=found.to_json())
    assert again == found


def test_parts_of_leaves_are_saved_too():
    (left, inputs), (right, _) = transformer(), fused_transformer()
    found = align(left, right, inputs)
    assert any(not pair.right.whole for pair in found.pairs)
    assert align(left, right, inputs, mapping=json.loads(found.to_json())) == found


def test_the_document_says_what_the_alignment_says(tmp_path):
    found = align(SYMMETRIC, SYMMETRIC, X)
    document = json.loads(found.to_json())
    assert document["schema"] == "leafreport-alignment/1"
    assert document["ok"] is False
    assert [row["ambiguous"] for row in document["pairs"]] == [True, True]
    assert [c["path"] for c in document["pairs"][0]["candidates"]] == [["a"], ["b"]]
    assert found.to_json().isascii()
    (tmp_path / "map.json").write_text(found.to_json())
    assert align(SYMMETRIC, SYMMETRIC, X, mapping=tmp_path / "map.json") == found  # what was open stays open


def test_what_is_open_is_what_the_mapping_says():
    found = align(SYMMETRIC, SYMMETRIC, X, mapping={"a": "b"})
    assert found.ok, str(found)
    assert {(str(pair.left), str(pair.right), pair.basis) for pair in found.pairs} == {
        ("a", "b", "mapping"),
        ("b", "a", "mapping"),
    }
    document = json.loads(align(SYMMETRIC, SYMMETRIC, X).to_json())
    for row in document["pairs"]:
        row["ambiguous"] = False
    assert align(SYMMETRIC, SYMMETRIC, X, mapping=document).ok


def test_a_mapping_the_programs_contradict_is_honoured_and_the_contradiction_said():
    found = align(CHAIN, CHAIN, X, mapping={"a": "b", "b": "a"})
    assert {(str(pair.left), str(pair.right)) for pair in found.pairs} == {("a", "b"), ("b", "a")}
    assert {difference.what for difference in found.differences} == {"mapping"}
    assert not found.ok
    own = {"a": np.eye(8, dtype=np.float32), "b": np.zeros((8, 8), np.float32)}
    # Of a square leaf nothing says which way it lies where no program has it so.
    np.testing.assert_array_equal(found.convert(own, choose="listed")["b"], own["a"])


def test_a_row_of_one_pair_leaves_the_rest_to_the_programs():
    found = align(CHAIN, CHAIN, X, mapping={("a",): ("a",)})
    assert found.ok
    assert [pair.basis for pair in found.pairs] == ["dataflow", "dataflow"]


def test_a_mapping_says_how_to_turn_what_no_program_says():
    left, right = {"kernel": SQUARE}, {"weight": SQUARE}
    found = align(left, right)
    assert found.ambiguous  # a square kernel may be turned
    row = {"left": ["kernel"], "right": ["weight"], "axes": [8, 8], "order": [1, 0]}
    found = align(left, right, mapping={"schema": "leafreport-alignment/1", "pairs": [row]})
    assert found.ok
    assert found.pairs[0].layout == "transpose"
    own = {"kernel": np.arange(64, dtype=np.float32).reshape(8, 8)}
    np.testing.assert_array_equal(found.convert(own)["weight"], own["kernel"].T)


def rows(*given):
    return {"schema": "leafreport-alignment/1", "pairs": list(given)}


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"a": "c"}, r"row 0 of the mapping, right: no leaf is called c\."),
        ({"kernel": "a"}, r"row 0 of the mapping, left: no leaf is called kernel"),
        ({"a": "a", "b": "a"}, "the mapping has a twice on the right: each element has one partner"),
        ({"a": 3}, r"row 0 of the mapping, right: 3 is no path"),
        (rows({"left": ["a"]}), "row 0 of the mapping has no 'right'"),
        (rows({"left": "a", "right": "b", "axes": [8, 8], "order": [0, 0]}), "is not b of shape"),
        (rows({"left": "a", "right": "b", "axes": [8, 8], "order": "x"}), "needs 'axes' and 'order'"),
        (rows({"left": "a", "right": "b", "left_part": {"shape": [8, 8]}}), "needs 'shape' and 'slices'"),
        (
            rows({"left": "a", "right": "b", "left_part": {"shape": [8, 8], "slices": [[0, 9], [0, 8]]}}),
            "is no part of a",
        ),
        ({"schema": "leafreport/1", "pairs": []}, "schema is 'leafreport/1', and this version reads"),
        ("[1, 2]", "is neither what Alignment.to_json gives nor a dict"),
        ("{", "is no JSON document"),
        ("no/such/file.json", "cannot be read: No such file"),
        (3, "the mapping is a int"),
        ("[" * 100_000, "is no JSON document"),
    ],
)
def test_a_mapping_that_cannot_be_read_says_why(mapping, said):
    with pytest.raises(AlignmentError, match=said):
        align(CHAIN, CHAIN, X, mapping=mapping)


def test_parts_that_cannot_become_each_other_are_refused():
    left = Model({"a": shape(8, 4), "b": shape(4, 3)}, lambda p, x: (x @ p["a"]) @ p["b"])
    with pytest.raises(AlignmentError, match="a"):
        align(left, left, X, mapping={"a": "b"})
