"""What an adapter tells of a leaf, in a report and wherever a report is shown, saved or compared."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leafreport import AdapterError, LeafFacts, LeafReport, Model, PatternError, diff, report

SHAPES = {"bias": (12, 6), "kernel": (12, 6, 6), "mean": (6,)}
TREE = {
    "blocks": {name: np.zeros(SHAPES[name], np.float32) for name in ("bias", "kernel")},
    "fn": len,
    "key": jax.random.key(0),
    "norm": {"mean": np.zeros(6, np.float32)},
}
FACTS = [
    LeafFacts("params", "Dense", ("out",), stacked=12, module=("blocks",), order=0),
    LeafFacts("params", "Dense", ("in", "out"), stacked=12, module=("blocks",), order=0),
    LeafFacts("static"),
    LeafFacts("rng"),
    LeafFacts("statistics", "BatchNorm", ("features",), module=("norm",)),
]


def apply(_params, x):
    return x


@pytest.fixture(scope="module")
def told():
    return report(Model(TREE, apply, FACTS))


def test_leaves_bear_what_was_told(told):
    facts = [(leaf.name, leaf.role, leaf.owner, leaf.axes, leaf.stacked) for leaf in told]
    assert facts == [
        ("blocks/bias", "params", "Dense", ("out",), 12),
        ("blocks/kernel", "params", "Dense", ("in", "out"), 12),
        ("fn", "static", None, None, None),
        ("key", "rng", None, None, None),
        ("norm/mean", "statistics", "BatchNorm", ("features",), None),
    ]


def test_facts_change_no_count(told):
    plain = report(TREE)
    assert (told.leaf_count, told.param_count, told.nbytes) == (
        plain.leaf_count,
        plain.param_count,
        plain.nbytes,
    )
    assert told.paths == plain.paths
    assert [leaf.role for leaf in plain] == [None] * 5
    assert told != plain


def test_logical_leaves_count_each_stacked_layer(told):
    assert told.leaf_count == 5
    assert told.logical_leaf_count == 12 + 12 + 3
    assert report(TREE).logical_leaf_count == 5
    assert "logical  27 leaves, were the layers that are stacked in one leaf counted each\n" in told.to_text()
    assert "logical" not in report(TREE).to_text()


def test_roles_add_up_to_the_report(told):
    assert {role: tuple(sums) for role, sums in told.roles.items()} == {
        "params": (2, 12 * 42, 12 * 42 * 4, 0),
        "statistics": (1, 6, 24, 0),
        "rng": (1, 0, 8, 0),
        "static": (1, 0, 0, 0),
    }
    assert sum(sums.nbytes for sums in told.roles.values()) == told.nbytes
    assert sum(sums.param_count for sums in told.roles.values()) == told.param_count
    assert report(TREE).roles == {}


def test_role_of_a_shared_array_counts_once():
    array = np.zeros(4, np.float32)
    roles = report(Model([array, array], apply, [LeafFacts("params")] * 2)).roles
    assert tuple(roles["params"]) == (2, 4, 16, 16)


def test_select_by_role(told):
    assert told.select(role="params").names == ("blocks/bias", "blocks/kernel")
    assert told.select("**/kernel", role="params").names == ("blocks/kernel",)
    assert told.select(role="other").names == ()
    assert report(TREE).select(role="params").names == ()
    with pytest.raises(PatternError, match=r"^'param' is no role\. Did you mean params\? Roles: params, "):
        told.select(role="param")


def test_table_has_columns_for_layer_and_role(told):
    lines = told.to_text().splitlines()
    assert lines[0].split() == ["path", "shape", "dtype", "params", "bytes", "layer", "role"]
    assert lines[1].split() == [
        "blocks/bias",
        "(12,6)",
        "float32",
        "72",
        "288",
        "B",
        "Dense",
        "x12",
        "params",
    ]
    assert lines[-2].startswith("roles  params 2 leaves, 504 params, 2 KiB (2,016 B); statistics 1 leaf, ")
    assert "layer" not in report(TREE).to_text()
    assert "role" not in report(TREE).to_text()


def test_role_is_no_column_where_there_is_one_alone():
    only = report(Model({"w": np.zeros(3)}, apply, [LeafFacts("params", "Dense")]))
    assert only.to_text().splitlines()[0].split() == ["path", "shape", "dtype", "params", "bytes", "layer"]


def test_tree_says_the_layer_where_its_leaves_are_and_what_is_no_param(told):
    assert told.to_tree() == (
        "(root)  5 leaves, 510 params, 2 KiB\n"
        "  blocks  2 leaves, 504 params, 2 KiB, Dense\n"
        "    bias  float32[12,6], 288 B, 12 layers stacked\n"
        "    kernel  float32[12,6,6], 1.7 KiB, 12 layers stacked\n"
        "  fn  builtin_function_or_method, static\n"
        "  key  key<fry>[], 8 B, rng\n"
        "  norm  1 leaf, 6 params, 24 B, BatchNorm\n"
        "    mean  float32[6], 24 B, statistics\n"
    )


def test_siblings_of_another_layer_do_not_fold():
    tree = {f"l_{n}": {"w": np.zeros(3, np.float32)} for n in range(4)}
    facts = [LeafFacts("params", "Dense" if n < 3 else "Conv") for n in range(4)]
    rows = report(Model(tree, apply, facts)).fold()
    assert [(row.label, row.times, row.detail) for row in rows if row.depth == 1] == [
        ("l_{0..2}", 3, "Dense"),
        ("l_3", 1, "Conv"),
    ]
    assert [row.label for row in report(tree).fold() if row.depth == 1] == ["l_{0..3}"]


def test_json_round_trip_is_exact(told):
    again = LeafReport.from_json(told.to_json())
    assert again == told
    assert [leaf.axes for leaf in again] == [leaf.axes for leaf in told]
    rows = json.loads(told.to_json())["leaves"]
    assert {key: rows[1][key] for key in ("role", "owner", "axes", "stacked")} == {
        "role": "params",
        "owner": "Dense",
        "axes": ["in", "out"],
        "stacked": 12,
    }
    assert "role" not in json.loads(report(TREE).to_json())["leaves"][0]


@pytest.mark.parametrize("owner", ["", "\ud800", "\ud83d\ude00", "a\nb\x1b[31m", "<b>"])
def test_owner_of_any_text_survives(owner):
    found = report(Model([np.zeros(2)], apply, [LeafFacts("params", owner, (owner,))]))
    again = LeafReport.from_json(found.to_json())
    assert (again.leaves[0].owner, again.leaves[0].axes) == (owner, (owner,))
    for text in (found.to_text(), found.to_tree(), found.to_csv(), found.to_markdown(), found.to_html()):
        assert "\x1b" not in text
        assert "a\nb" not in text
    assert "<b></b>" not in found.to_html()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("role", "parameter", "leaf 1 has the role 'parameter', which none has"),
        ("role", 3, "leaf 1 has the role 3, which none has"),
        ("owner", 3, "leaf 1 has 3 where a string belongs"),
        ("axes", "in", "leaf 1 has 'in' where a list belongs"),
        ("stacked", -1, "leaf 1 has -1 where a count belongs"),
        ("stacked", True, "leaf 1 has True where a count belongs"),
    ],
)
def test_damaged_facts_are_refused(field, value, said, told):
    document = json.loads(told.to_json())
    document["leaves"][1][field] = value
    with pytest.raises(ValueError, match=said):
        LeafReport.from_json(json.dumps(document))


def test_selection_and_columns_keep_facts(told):
    kept = told.select("blocks/**")
    assert [leaf.owner for leaf in kept] == ["Dense", "Dense"]
    assert kept.logical_leaf_count == 24
    columns = told.columns()
    assert columns["role"].tolist() == ["params", "params", "static", "rng", "statistics"]
    assert columns["owner"].tolist() == ["Dense", "Dense", None, None, "BatchNorm"]
    assert columns["stacked"].tolist() == [12, 12, None, None, None]


def test_diff_compares_roles_and_owners_where_both_sides_know():
    def model(role, owner):
        return Model({"w": np.zeros(3)}, apply, [LeafFacts(role, owner)])

    known = model("params", "Dense")
    assert not diff(known, model("params", "Dense"))
    assert not diff(known, {"w": np.zeros(3)})
    assert not diff(known, model(None, None))
    assert [str(change) for change in diff(known, model("statistics", "Conv")).changed] == [
        "w  role params -> statistics",
        "w  owner Dense -> Conv",
    ]


def test_facts_that_do_not_fit_the_tree_are_an_error():
    with pytest.raises(
        AdapterError, match=r"^the adapter told of 4 leaves, the tree has 5: facts are one for"
    ):
        report(Model(TREE, apply, FACTS[:4]))
    with pytest.raises(AdapterError, match=r"^the adapter told of 5 leaves, the tree has 1: "):
        report(dataclasses.replace(Model(TREE, apply, FACTS), params=np.zeros(3)))


def test_model_without_facts_is_its_params():
    assert report(Model(TREE, apply)) == report(TREE)


class Teller:
    """An adapter that tells one role of every leaf."""

    name = "teller"

    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        raise NotImplementedError

    def describe(self, tree):
        return [LeafFacts("other", "Teller") for _ in jax.tree_util.tree_leaves(tree)]


class Silent:
    name = "silent"

    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        raise NotImplementedError


def test_adapter_tells_of_a_tree():
    found = report({"a": jnp.zeros(2), "b": [1, 2]}, adapter=Teller())
    assert [(leaf.role, leaf.owner) for leaf in found] == [("other", "Teller")] * 3


def test_what_a_model_brings_comes_before_an_adapter():
    assert report(Model(TREE, apply, FACTS), adapter=Teller()).leaves[0].role == "params"
    assert report(Model(TREE, apply), adapter=Teller()).leaves[0].role == "other"


def test_adapter_that_tells_nothing_of_trees():
    with pytest.raises(AdapterError, match=r"^the adapter 'silent' tells nothing of a tree's leaves: "):
        report({"a": 1}, adapter=Silent())
    with pytest.raises(AdapterError, match=r"^no backend is called 'nowhere'"):
        report({"a": 1}, adapter="nowhere")


def test_wide_tree_with_facts_is_still_cheap_in_specs():
    """A thousand layers of one kind are two specs, whatever their modules are called."""
    tree = {f"l{n}": {"b": np.zeros(3), "w": np.zeros((3, 3))} for n in range(1000)}
    facts = [
        LeafFacts("params", "Dense", axes, module=(f"l{n}",), order=n)
        for n in range(1000)
        for axes in (("out",), ("in", "out"))
    ]
    assert len(report(Model(tree, apply, facts))._columns.specs) == 2


def test_role_that_is_none_is_refused():
    with pytest.raises(AdapterError, match=r"^the adapter told of the role 'bogus'\. Roles are params, "):
        report(Model({"w": np.zeros(3)}, apply, [LeafFacts("bogus")]))
    with pytest.raises(AdapterError, match=r"^the adapter told of -3 layers in a leaf"):
        report(Model({"w": np.zeros(3)}, apply, [LeafFacts("params", stacked=-3)]))


def test_axes_given_as_a_list_are_kept_as_a_tuple():
    assert LeafFacts(axes=["in", "out"]).axes == ("in", "out")
    assert LeafFacts(module=["a"]).module == ("a",)


def test_leaf_of_no_layers_counts_none():
    assert report(Model([np.zeros((0, 3))], apply, [LeafFacts(stacked=0)])).logical_leaf_count == 0
