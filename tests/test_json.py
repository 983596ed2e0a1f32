"""A saved report: exact, and safe to read when it is damaged."""

import copy
import json
import random

import jax
import numpy as np
import oracle
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from leafreport import LeafReport, ReportFormatError, report

SHARED = np.zeros((2, 3), np.float32)
SPLIT = NamedSharding(AbstractMesh((4, 2), ("x", "y")), P("x", ("y",)))
TREE = {
    "a": {"w": SHARED, "b": [1, "text", None, {}]},
    "c": (SHARED, jax.ShapeDtypeStruct((8, 2), np.int8, sharding=SPLIT)),
    "key": jax.eval_shape(lambda: jax.random.key(0)),
}


def again(found):
    return LeafReport.from_json(found.to_json())


def test_document_is_as_written_out(golden):
    golden("report.json", report(TREE).to_json())


def test_document_reads_as_plain_json():
    document = json.loads(report(TREE).to_json())
    assert document["schema"] == "leafreport/1"
    assert (document["leaf_count"], document["nbytes"], document["repeated_nbytes"]) == (6, 24 + 16 + 8, 24)
    assert [leaf["path"] for leaf in document["leaves"]] == list(map(list, report(TREE).paths))
    assert document["shared"] == [[2, 3]]


@pytest.mark.parametrize("seed", range(200))
def test_random_tree_comes_back_equal(seed):
    found = report(oracle.random_tree(seed))
    assert again(found) == found
    assert again(found).to_json() == found.to_json()
    assert list(again(found)) == list(found)
    assert again(found).nodes == found.nodes


@pytest.mark.parametrize(
    "name",
    ["", " ", "\ud800", "\udfff", "\ud83d\ude00", "😀", "\udc00\ud800", "\ud800\ud800\udc00\udc00", "\ud800x\udc00",  # noqa: PT014  # ruff takes all lone surrogates for one
     "\x00", '"', "\\", "\\ud83d", "é", "\u2028", "a" * 10_000, "[", "a, b", "\ud83d\ude00\ud83d\ude00"],  # noqa: PT014  # ruff takes all lone surrogates for one
    ids=ascii,
)  # fmt: skip
def test_any_name_comes_back_exactly(name):
    found = report({name: {"x": {name: 1}}, "y": 2})
    assert again(found) == found
    assert again(found).paths == found.paths
    assert (name, "x", name) in again(found).paths
    assert found.to_json().isascii()


def test_names_in_types_shardings_and_dtypes_come_back_exactly():
    odd = "\ud83d\ude00\n"
    kind = type("Odd", (), {"__module__": odd})
    mesh = AbstractMesh((2,), (odd,))
    tree = [kind(), jax.ShapeDtypeStruct((2,), np.int8, sharding=NamedSharding(mesh, P(odd)))]
    assert again(report(tree)) == report(tree)
    assert again(report(tree)).leaves[1].sharding.mesh == ((odd, 2),)


@pytest.mark.parametrize("tree", [1.5, np.zeros(3), None, {}, [], [[]], {"a": {}}])
def test_root_and_empty_trees_come_back_equal(tree):
    assert again(report(tree)) == report(tree)
    assert again(report(tree)).paths == report(tree).paths


@pytest.mark.parametrize(
    "shape", [(2**63 - 1,), (2**63,), (2**63 + 1,), (2**64, 2**64), (1,) * 300, (2**64, 0)]
)
def test_shape_of_any_size_comes_back_equal(shape):
    found = report({"a": jax.ShapeDtypeStruct(shape, np.float32), "b": np.zeros(2)})
    assert again(found) == found
    assert again(found)["a"].shape == shape


def test_reading_takes_text_bytes_and_a_path(tmp_path):
    found = report(TREE)
    path = tmp_path / "report.json"
    path.write_text(found.to_json())
    for source in (found.to_json(), found.to_json().encode(), path):
        assert LeafReport.from_json(source) == found
    with pytest.raises(FileNotFoundError, match="absent"):
        LeafReport.from_json(tmp_path / "absent.json")


def test_unknown_fields_are_passed_over():
    document = json.loads(report(TREE).to_json())
    document["note"] = {"by": "a later version"}
    document["leaves"][0]["note"] = document["nodes"][0]["note"] = [1]
    assert LeafReport.from_json(json.dumps(document)) == report(TREE)


def test_one_fact_said_in_two_ways_is_one_fact():
    document = json.loads(report([np.zeros(2), np.zeros(2)]).to_json())
    document["leaves"][1]["dtype"] = ["float", "64"]
    document["leaves"][1]["device_ids"] = None
    assert LeafReport.from_json(json.dumps(document)) == report([np.zeros(2), np.zeros(2)])


# --- Damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the JSON cannot be read"),
        ("{", "the JSON cannot be read"),
        ("null", 'it has no "schema"'),
        ("[]", 'it has no "schema"'),
        ("{}", 'it has no "schema"'),
        ('{"schema": "leafreport/2"}', r"its schema is 'leafreport/2', this version reads 'leafreport/1'"),
        ('{"schema": NaN}', "it holds NaN, which no report has"),
        ('{"schema": "leafreport/1"}', 'its "nodes" is no list'),
        ('{"schema": "leafreport/1", "nodes": [], "leaves": [], "shared": []}', "neither a node nor a leaf"),
        ("[" * 100_000, "the JSON cannot be read"),
        ('{"schema":' * 100_000, "the JSON cannot be read"),
        ('{"schema": ' + "9" * 10_000 + "}", "the JSON cannot be read"),
        ('{"schema": ' + "9" * 4_000 + "}", "its schema is a huge number"),
        (b"\xff\xfe", "it is not UTF-8 text"),
        ("\ufeff{}", "the JSON cannot be read"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_text_that_is_no_report_is_an_error(text, message):
    with pytest.raises(ReportFormatError, match=f"not a saved report: .*{message}"):
        LeafReport.from_json(text)


DAMAGE = {
    "wrong leaf_count": (("leaf_count",), 7, "its leaf_count is 7, its leaves add up to 6"),
    "wrong nbytes": (("nbytes",), 0, "its nbytes is 0"),
    "wrong param_count": (("param_count",), None, "its param_count is None"),
    "wrong repeated_nbytes": (("repeated_nbytes",), 25, "its repeated_nbytes is 25"),
    "size": (("leaves", 2, "size"), 7, "leaf 2 has size 7, which its shape does not give"),
    "negative dimension": (("leaves", 2, "shape"), [-2, -3], "leaf 2 has -2 where a count belongs"),
    "dimension that is true": (("leaves", 2, "shape"), [True, 6], "leaf 2 has True where a count belongs"),
    "dimension of 2.0": (("leaves", 2, "shape"), [2.0, 3], "leaf 2 has 2.0 where a count belongs"),
    "shape of a scalar": (
        ("leaves", 0, "shape"),
        [],
        "leaf 0 is of kind scalar and its shape is a list of 0",
    ),
    "no shape of an array": (("leaves", 2, "shape"), None, "leaf 2 is of kind array and its shape is None"),
    "shape that grows without end": (("leaves", 2, "shape"), [2] * 50_000, "leaf 2 has size 6, which"),
    "kind": (("leaves", 0, "kind"), "number", "leaf 0 is of no kind of leaf: 'number'"),
    "unhashable kind": (("leaves", 0, "kind"), [[]], "leaf 0 is of no kind of leaf: a list of 1"),
    "dtype": (("leaves", 0, "dtype"), 5, "leaf 0 has 5 where a string belongs"),
    "dtype in odd parts": (("leaves", 0, "dtype"), ["a", 5], "leaf 0 has a list of 2 where a string belongs"),
    "weak type": (("leaves", 2, "weak_type"), 1, "leaf 2 has 1 where true or false belongs"),
    "devices": (
        ("leaves", 4, "devices"),
        10**12,
        "leaf 4 lies on 1000000000000 devices, more than 1,048,576",
    ),
    "sharding": (("leaves", 4, "sharding"), [1], "leaf 4 has a sharding that is no object"),
    "mesh": (
        ("leaves", 4, "sharding", "mesh"),
        [["x"]],
        "leaf 4 has a mesh that is no list of axes and sizes",
    ),
    "mesh size": (("leaves", 4, "sharding", "mesh"), [["x", "y"]], "leaf 4 has 'y' where a count belongs"),
    "leaf that is no object": (("leaves", 0), 5, "leaf 0 is no object"),
    "root's path": (("nodes", 0, "path"), ["a"], r"node 0 should be the root: path \[\], parent -1"),
    "cyclic parents": (("nodes", 1, "parent"), 1, "node 1 has a parent that does not come before it"),
    "parent of none": (("nodes", 1, "parent"), None, "node 1 has a parent that does not come before it"),
    "negative parent": (("nodes", 2, "parent"), -1, "node 2 has a parent that does not come before it"),
    "other parent": (("leaves", 5, "parent"), 1, "leaf 5 has a path that does not continue its parent's"),
    "path": (("leaves", 0, "path"), ["a", "x", "0"], "leaf 0 has a path that does not continue its parent's"),
    "step": (("leaves", 5, "path"), [5], "leaf 5 has 5 where a string belongs"),
    "node kind": (("nodes", 1, "kind"), "set", "node 1 is of no kind of node: 'set'"),
    "unhashable node kind": (("nodes", 1, "kind"), {}, "node 1 is of no kind of node: a dict of 0"),
    "first leaf": (("nodes", 1, "first_leaf"), 99, 'node 1 has no fitting "first_leaf"'),
    "first leaf backwards": (("nodes", 5, "first_leaf"), 0, 'node 5 has no fitting "first_leaf"'),
    "shared beyond the leaves": (("shared",), [[2, 6]], "shared group 0 is not a list of leaves' numbers"),
    "shared alone": (("shared",), [[2]], "shared group 0 is not a list"),
    "shared in disorder": (("shared",), [[3, 2]], "shared group 0 is not a list"),
    "shared twice": (("shared",), [[2, 3], [2, 4]], "shared group 1 is not a list"),
    "shared is text": (("shared",), ["23"], "shared group 0 has '23' where a list belongs"),
    "leaves is an object": (("leaves",), {}, 'its "leaves" is no list'),
}


def damaged(path, value):
    document = json.loads(report(TREE).to_json())
    inner = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return json.dumps(document)


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_value_is_an_error_that_says_where(name):
    path, value, message = DAMAGE[name]
    with pytest.raises(ReportFormatError, match=f"not a saved report: {message}"):
        LeafReport.from_json(damaged(path, value))


def test_duplicate_keys_take_the_last_as_json_does():
    text = report(TREE).to_json()
    assert LeafReport.from_json(text.replace('{"schema"', '{"schema": 5, "schema"', 1)) == report(TREE)
    with pytest.raises(ReportFormatError, match="its schema is 5"):
        LeafReport.from_json(text.replace('"leaf_count"', '"schema": 5, "leaf_count"', 1))


def test_entry_after_its_parents_last_child_is_an_error():
    document = json.loads(report({"a": {"x": 1}, "b": {"y": 2}}).to_json())
    document["leaves"].append({**document["leaves"][0], "path": ["a", "z"]})
    document["leaf_count"] = 3
    with pytest.raises(ReportFormatError, match="leaf 2 comes after its parent's last child"):
        LeafReport.from_json(json.dumps(document))


def use(text):
    """Reads a document; what can be read must hold together."""
    try:
        found = LeafReport.from_json(text)
    except ReportFormatError:
        return
    assert again(found) == found
    assert oracle.Sums(
        *(sum(getattr(g, f) for g in found.group()) for f in oracle.Sums._fields)
    ) == oracle.sums_of(found)
    assert len(list(found)) == found.leaf_count
    for method in (found.to_text, found.to_csv, found.to_html, found.fold, found.columns):
        method()


WHOLE = report(TREE).to_json()
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 8),
    st.sampled_from(
        [2**31, 2**63, 10**30, 10**4000, -1, 0.5, 1e400, "", "a", "array", "\ud800", [], {}, [[]]]
    ),
    st.lists(st.integers(-1, 9), max_size=4),
    st.lists(st.text("ab", max_size=2), max_size=3),
    st.dictionaries(st.sampled_from(["type", "mesh", "spec"]), st.lists(st.integers(0, 3)), max_size=3),
)


def places(value, path=()):
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*path, key))


PLACES = [path for path in places(json.loads(WHOLE)) if path]


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(PLACES), VALUES, st.sampled_from(["set", "drop", "twice"])), max_size=3
    )
)
@example([(("leaves", 2, "shape"), [2**63, 2**63], "set"), (("leaves", 2, "size"), 2**126, "set")])
@example([(("leaves", 0, "kind"), {}, "set")])
def test_any_replaced_dropped_or_doubled_value_is_an_equal_report_or_an_error(changes):
    document = json.loads(WHOLE)
    for path, value, how in changes:
        inner = document
        try:
            for step in path[:-1]:
                inner = inner[step]
            if how == "set":
                inner[path[-1]] = copy.deepcopy(value)  # a later change may be one within it
            elif how == "drop":
                del inner[path[-1]]
            elif isinstance(inner, list):
                inner.insert(path[-1], inner[path[-1]])
        except (LookupError, TypeError):
            continue
    use(json.dumps(document))


@pytest.mark.parametrize("seed", range(300))
def test_text_with_bytes_flipped_cut_or_repeated_is_an_equal_report_or_an_error(seed):
    rng = random.Random(seed)
    text = WHOLE
    for _ in range(rng.randrange(1, 4)):
        at, stop = sorted(rng.randrange(len(text)) for _ in range(2))
        match rng.randrange(4):
            case 0:
                text = text[:at] + chr(rng.randrange(32, 127)) + text[at + 1 :]
            case 1:
                text = text[:at] + str(rng.randrange(10)) + text[at + 1 :]
            case 2:
                text = text[:at] + text[min(stop, at + 40) :]
            case 3:
                text = text[:stop] + text[at:]
        text = text or "x"
    use(text)


def test_number_with_its_digits_changed_is_an_equal_report_or_an_error():
    numbers = [i for i, char in enumerate(WHOLE) if char.isdigit()]
    for at in numbers[:: max(len(numbers) // 150, 1)]:
        for digit in "09":
            use(WHOLE[:at] + digit + WHOLE[at + 1 :])
