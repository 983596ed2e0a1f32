"""`leafreport align`: what it prints, writes and exits with; never a traceback."""

import json
import re
import sys

import numpy as np
import pytest

from leafreport import report
from leafreport._cli import main

MODELS = """
import jax, jax.numpy as jnp, numpy as np
from leafreport import Model

def shape(*sizes): return jax.ShapeDtypeStruct(sizes, np.float32)
rng = np.random.default_rng(0)
def values(*sizes): return rng.normal(size=sizes).astype(np.float32)

def call(p, x): return jnp.tanh(x @ p["block0"]["kernel"] + p["block0"]["bias"]) @ p["block1"]["kernel"]
def turned(p, x): return jnp.tanh(x @ p["layers"][0]["weight"].T + p["layers"][0]["shift"]) @ p["layers"][1]["weight"].T
def other(p, x): return jax.nn.relu(x @ p["layers"][0]["weight"].T + p["layers"][0]["shift"]) @ p["layers"][1]["weight"].T

left = Model({"block0": {"kernel": values(4, 8), "bias": values(8)}, "block1": {"kernel": values(8, 3)}}, call)
_right = {"layers": [{"weight": shape(8, 4), "shift": shape(8)}, {"weight": shape(3, 8)}]}
right = Model(_right, turned)
unlike = Model(_right, other)
half = Model({"a": values(4, 3).astype(jnp.bfloat16)}, lambda p, x: x @ p["a"])
both = Model({"a": values(4, 4), "b": values(4, 4)}, lambda p, x: jnp.tanh(x @ p["a"]) + jnp.tanh(x @ p["b"]))
table = Model({"e": values(5, 4), "w": values(4, 3)}, lambda p, i, x: (p["e"][i] + x) @ p["w"])
image = Model({"k": values(3, 3, 2, 5)}, lambda p, x: jax.lax.conv_general_dilated(
    x, p["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
first = Model({"k": shape(5, 2, 3, 3)}, lambda p, x: jax.lax.conv_general_dilated(
    x, p["k"], (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")))
tree = {"a": values(4, 8)}
def boom(): raise RuntimeError("no\\nluck")
"""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "own_models.py").write_text(MODELS)

    def run(*arguments):
        named = [re.sub(r"^@", "own_models:", str(argument)) for argument in arguments]
        try:
            code = main(["align", *named])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, re.sub(r"(?m)^leafreport: .* \.\.\.\n", "", err)

    return run


TREE = """\
(root) -> layers  3 pairs
  block0 -> 0  2 pairs
    = bias float32[8] -> shift  identity, shift
    = kernel float32[4,8] -> weight  transpose, weight
  block1 -> 1  1 pair
    = kernel float32[8,3] -> weight  transpose, weight
aligned: 3 pairs (3 by dataflow)
"""


def test_one_tree_of_paired_rows_with_counts(command):
    assert command("@left", "@right", "--input", "2,4") == (0, TREE, "")


def test_one_row_a_pair(command):
    code, out, _ = command("@left", "@right", "--input", "2,4", "--format", "text")
    assert code == 0
    assert out.splitlines() == [
        "= block0/bias -> layers/0/shift  identity, shift",
        "= block0/kernel -> layers/0/weight  transpose, weight",
        "= block1/kernel -> layers/1/weight  transpose, weight",
        "aligned: 3 pairs (3 by dataflow)",
    ]
    _, out, _ = command("@left", "@right", "--input", "2,4", "--format", "text", "--max-rows", "1")
    assert "... 2 more rows not shown; the counts have all" in out


def test_depth_leaves_out_what_is_deeper(command):
    _, out, _ = command("@left", "@right", "--input", "2,4", "--depth", "1")
    assert out.splitlines() == [
        "(root) -> layers  3 pairs",
        "  block0 -> 0  2 pairs",
        "  block1 -> 1  1 pair",
        "aligned: 3 pairs (3 by dataflow)",
    ]


def test_a_difference_is_said_and_exits_with_1(command):
    code, out, err = command("@left", "@unlike", "--input", "2,4")
    assert code == 1
    assert "~ activation  tanh -> relu  left after block0/bias, before block1/kernel" in out
    assert out.splitlines()[-1] == "not aligned: 3 pairs (3 by dataflow), 1 difference"
    assert err == ""


def test_quiet_says_it_by_the_exit_code_alone(command):
    assert command("@left", "@right", "--input", "2,4", "-q") == (0, "", "")
    assert command("@left", "@unlike", "--input", "2,4", "-q") == (1, "", "")


def test_verify_runs_both(command):
    code, out, _ = command("@left", "@right", "--input", "2,4", "--verify")
    assert code == 0
    assert out.splitlines()[-1].startswith("outputs agree: at most ")
    code, out, _ = command("@left", "@unlike", "--input", "2,4", "--verify")
    assert code == 1
    assert "they part first at: " in out.splitlines()[-1]


def test_a_document_stays_one(command):
    code, out, err = command("@left", "@right", "--input", "2,4", "--format", "json", "--verify")
    assert code == 0
    document = json.loads(out)
    assert document["schema"] == "leafreport-alignment/1"
    assert [row["layout"] for row in document["pairs"]] == ["identity", "transpose", "transpose"]
    assert "outputs agree" in err


def test_converted_values_are_written(command, tmp_path):
    code, _, _ = command("@left", "@right", "--input", "2,4", "--convert", "out.npz")
    assert code == 0
    own = sys.modules["own_models"].left.params
    with np.load(tmp_path / "out.npz") as held:
        assert sorted(held.files) == ["layers/0/shift", "layers/0/weight", "layers/1/weight"]
        np.testing.assert_array_equal(held["layers/0/weight"], own["block0"]["kernel"].T)
        np.testing.assert_array_equal(held["layers/1/weight"], own["block1"]["kernel"].T)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".npz") == ["out.npz"]


def test_safetensors_hold_what_numpy_does_not(command, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    code, _, err = command("@half", "@half", "--input", "2,4", "--convert", "out.npz")
    assert code == 2
    assert err == (
        "leafreport: error: 'a' is bfloat16, which NumPy's files do not hold: they would give it back as bytes. "
        "Write .safetensors.\n"
    )
    assert not (tmp_path / "out.npz").exists()
    code, _, _ = command("@half", "@half", "--input", "2,4", "--convert", "out.safetensors")
    assert code == 0
    held = safetensors.load_file(tmp_path / "out.safetensors")
    assert held["a"].tobytes() == np.asarray(sys.modules["own_models"].half.params["a"]).tobytes()


def test_a_file_that_is_there_is_left_as_it_is(command, tmp_path):
    (tmp_path / "out.npz").write_bytes(b"mine")
    code, _, err = command("@left", "@right", "--input", "2,4", "--convert", "out.npz")
    assert code == 2
    assert "'out.npz' is there already, and is left as it is. Give another name." in err
    assert (tmp_path / "out.npz").read_bytes() == b"mine"


def test_a_mapping_is_saved_edited_and_used(command, tmp_path):
    code, out, _ = command("@both", "@both", "--input", "2,4", "--format", "json")
    assert code == 1  # two halves that nothing tells apart
    document = json.loads(out)
    for row in document["pairs"]:
        row["ambiguous"] = False
    (tmp_path / "map.json").write_text(json.dumps(document))
    code, out, _ = command("@both", "@both", "--input", "2,4", "--mapping", "map.json", "--verify")
    assert code == 0
    assert "aligned: 2 pairs (2 by mapping)" in out


def test_what_is_open_is_refused_until_it_is_chosen(command, tmp_path):
    code, _, err = command("@both", "@both", "--input", "2,4", "--convert", "out.npz")
    assert code == 2
    assert "a could be a, b" in err
    assert not (tmp_path / "out.npz").exists()
    code, _, _ = command("@both", "@both", "--input", "2,4", "--convert", "out.npz", "--choose", "listed")
    assert code == 1  # written, and still open
    assert (tmp_path / "out.npz").exists()


def test_several_inputs_and_inputs_of_another_layout(command):
    code, out, _ = command("@table", "@table", "--input", "6:int32", "--input", "6,4", "--verify")
    assert code == 0, out
    code, out, _ = command("@image", "@first", "--input", "2,6,7,2", "--input-right", "2,2,6,7", "--verify")
    assert code == 0, out


def test_saved_reports_and_trees_are_aligned_by_names(command, tmp_path):
    (tmp_path / "saved.json").write_text(report({"a": np.zeros((4, 8), np.float32)}).to_json())
    code, out, _ = command("@tree", "saved.json")
    assert code == 0
    assert out.splitlines()[-1].endswith("by names, shapes and layers alone: no program was read")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["@nope", "@right", "--input", "2,4"], "'own_models' has no 'nope'."),
        (["no_such:thing", "@right", "--input", "2,4"], "there is no module 'no_such'"),
        (["@boom", "@right", "--input", "2,4"], "calling 'own_models:boom' failed: RuntimeError: no luck"),
        (["@left", "@right", "--input", "2,5"], "the left model cannot be traced on float32[2,5]: TypeError"),
        (["@left", "@right", "--input", "2,x"], "--input '2,x' is no shape"),
        (["@left", "@right", "--input", "2,4:float99"], "--input '2,4:float99' is no shape"),
        (["@left", "@right", "--verify"], "--verify needs --input"),
        (["@left", "@right", "--input-right", "2,4"], "--input-right needs --input"),
        (["@left", "@right", "--input", "2,4", "--convert", "out.txt"], "what format is it to have?"),
        (
            ["@left", "@right", "--input", "2,4", "--convert", "no/such/out.npz"],
            "there is no folder 'no/such'",
        ),
        (["@right", "@right", "--input", "2,4", "--convert", "out.npz"], "there are no values to convert"),
        (["@left", "@right", "--input", "2,4", "--mapping", "none.json"], "'none.json' cannot be read"),
        (["@left", "@right", "--input", "2,4", "--format", "yaml"], "invalid choice: 'yaml'"),
        (["@left", "@right", "--input", "2,4", "--format", "text", "--depth", "1"], "--depth does nothing"),
        (["@left", "@right", "--input", "2,4", "--format", "json", "--depth", "1"], "--depth does nothing"),
        (["@left", "@right", "--input", "2,4", "--choose", "listed"], "--choose does nothing without"),
        (["-", "-", "--input", "2,4"], "both sides are -"),
        (["@left"], "the following arguments are required: RIGHT"),
    ],
)
def test_trouble_is_one_line_and_exits_with_2(command, arguments, said):
    code, out, err = command(*arguments)
    assert code == 2
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1
