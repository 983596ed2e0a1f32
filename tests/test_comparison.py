import json
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import install

from leafreport import AdapterError, AdapterWarning, StackError, adapters, compare_stacks

X = np.ones((4, 8), np.float32)

# Two backends that build the same stack in two layouts, and one that leaves the biases out.
BUILDER = """
import leafreport
from leafreport import LeafFacts

class Builder:
    name = "{name}"

    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        import jax

        width = x.shape[-1]
        leaves = {{"kernel": (width, width), "bias": (width,)}}
        params = {{
            f"dense_{{n}}": {{name: jax.ShapeDtypeStruct(leaves[name], "{dtype}") for name in {names!r}}}
            for n in range(num_layers)
        }}
        facts = [
            LeafFacts("params", "Dense", {axes!r}[: len(leaves[name])], module=(layer,), order=int(layer[6:]))
            for layer in sorted(params)
            for name in sorted(params[layer])
        ]
        return leafreport.Model(params, lambda params, x: x, facts if {told} else None)

adapter = Builder()
"""


@pytest.fixture
def builder(tmp_path, monkeypatch):
    """Installs a backend that builds without a framework."""

    def make(name, *, axes=("in", "out"), names=("kernel", "bias"), dtype="float32", told=True):
        code = BUILDER.format(name=name, axes=axes, names=names, dtype=dtype, told=told)
        module = f"comparison_{name}"
        install(tmp_path / name, f"dist-{name}", {name: f"{module}:adapter"}, modules={module: code})
        monkeypatch.syspath_prepend(tmp_path / name)
        return name

    return make


def test_two_backends_side_by_side(builder):
    names = [builder("left"), builder("right", axes=("out", "in"))]
    found = compare_stacks(0, X, 2, backends=names)
    assert found.agree
    assert found.to_text() == textwrap.dedent("""\
        layer   left                        right
        0       dense_0                     dense_0
                  kernel  (8,8)  (in, out)    kernel  (8,8)  (out, in)
                  bias  (8,)  (in)            bias  (8,)  (out)
        1       dense_1                     dense_1
                  kernel  (8,8)  (in, out)    kernel  (8,8)  (out, in)
                  bias  (8,)  (in)            bias  (8,)  (out)
        count   [4.]                        [4.]
        params  144                         144
        bytes   576 B                       576 B
        agree: left and right have 2 layers, 4 leaves, 144 params, 576 B
        2-D leaves  (in, out): left kernel; (out, in): right kernel; for the same weight, one is laid out as the other's transpose
        1-D leaves  (in): left bias; (out): right bias
        Nothing was run: equal counts and shapes are not yet equal functions, and one seed gives each framework values of its own.
    """)
    assert str(found) == found.to_text().rstrip("\n")


def test_layers_stand_in_order_and_fold(builder):
    found = compare_stacks(0, X, 12, backends=[builder("many")])
    assert [layer.path for layer in found.columns[0].layers] == [(f"dense_{n}",) for n in range(12)]
    assert found.columns[0].order == "execution"
    lines = found.to_text(fold=True).splitlines()
    assert lines[1:4] == [
        "0..11   dense_{0..11}",
        "          kernel  (8,8)  (in, out)",
        "          bias  (8,)  (in)",
    ]
    assert "order  tree_leaves gives many's layers as dense_0, dense_1, dense_10, dense_11, ..." in lines
    assert found.to_text(max_rows=2).count("kernel  (8,8)") == 2
    assert "... 10 more rows not shown; the totals have all" in found.to_text(max_rows=2)


def test_layers_nobody_told_of_are_the_paths_in_natural_order(builder):
    found = compare_stacks(0, X, 12, backends=[builder("untold", told=False)])
    assert [layer.path for layer in found.columns[0].layers] == [(f"dense_{n}",) for n in range(12)]
    assert found.columns[0].order == "path"
    assert "axes not told: untold kernel" in found.to_text()


def test_what_differs_is_said(builder):
    names = [builder("whole"), builder("bare", names=("kernel",)), builder("half", dtype="bfloat16")]
    found = compare_stacks(0, X, 3, backends=names)
    assert not found.agree
    lines = found.to_text().splitlines()
    assert [line for line in lines if line.startswith("count")] == [
        "count   [6.]                        [3.]                        [6.]"
    ]
    assert (
        "differ: whole 3 layers, 6 leaves, 216 params, 864 B; bare 3 layers, 3 leaves, 192 params, 768 B; "
        "half 3 layers, 6 leaves, 216 params, 432 B"
    ) in lines
    assert "dtypes  float32: whole, bare; bfloat16: half" in lines


def test_zero_layers(builder):
    found = compare_stacks(0, X, 0, backends=[builder("none"), builder("nil")])
    assert found.agree
    assert [column.count for column in found.columns] == ["[0.]", "[0.]"]
    assert found.to_text(fold=True).splitlines()[1] == "count   [0.]  [0.]"
    assert found.to_csv() == "layer,backend,path,shape,dtype,axes\n"


def test_csv_and_json_hold_every_leaf(builder):
    found = compare_stacks(0, X, 1, backends=[builder("one"), builder("two", axes=("out", "in"))])
    assert found.to_csv() == (
        "layer,backend,path,shape,dtype,axes\n"
        '0,one,dense_0/kernel,"(8,8)",float32,"(in, out)"\n'
        '0,one,dense_0/bias,"(8,)",float32,(in)\n'
        '0,two,dense_0/kernel,"(8,8)",float32,"(out, in)"\n'
        '0,two,dense_0/bias,"(8,)",float32,(out)\n'
    )
    document = json.loads(found.to_json())
    assert (document["schema"], document["num_layers"], document["agree"]) == ("leafreport-stacks/1", 1, True)
    first = document["backends"][0]
    assert {key: first[key] for key in ("backend", "count", "param_count", "nbytes", "order")} == {
        "backend": "one",
        "count": [2.0],
        "param_count": 72,
        "nbytes": 288,
        "order": "execution",
    }
    assert first["layers"][0]["leaves"][0] == {
        "path": ["dense_0", "kernel"],
        "shape": [8, 8],
        "dtype": "float32",
        "axes": ["in", "out"],
    }
    assert found.to_markdown().startswith("| layer | one | two |\n")
    assert found._repr_markdown_() == found.to_markdown(fold=True)


def test_backend_asked_for_by_name_must_be_there(builder):
    with pytest.raises(AdapterError, match=r"^no backend is called 'nowhere'\."):
        compare_stacks(0, X, 2, backends=[builder("here"), "nowhere"])


@pytest.mark.parametrize(
    ("seed", "x", "layers"), [(-1, X, 2), (0, np.ones(3), 2), (0, X, -1), (0, X, float("nan"))]
)
def test_bad_arguments_are_refused_as_for_one_stack(seed, x, layers):
    with pytest.raises(StackError):
        compare_stacks(seed, x, layers)


def test_broken_adapter_has_a_column_that_says_why(builder, tmp_path, monkeypatch):
    builder("sound")
    code = "raise RuntimeError('boom')"
    install(tmp_path / "x", "dist-broken", {"broken": "cmp_broken:a"}, modules={"cmp_broken": code})
    monkeypatch.syspath_prepend(tmp_path / "x")
    with pytest.warns(AdapterWarning, match="^an adapter of dist-broken is broken: .*boom") as caught:
        found = compare_stacks(0, X, 2)
    assert len(caught) == 1
    (broken,) = [column for column in found.columns if column.backend == "broken"]
    assert (broken.report, broken.count) == (None, "")
    assert "RuntimeError: boom" in broken.trouble
    assert "sound" in [column.backend for column in found.built]
    assert any(
        line.startswith("broken: the adapter 'broken' of dist-broken ") for line in str(found).splitlines()
    )


def test_missing_framework_has_a_column_with_the_line_that_installs_it(tmp_path, monkeypatch):
    requires = ("no-such-dist; extra == 'lacking'",)
    install(tmp_path, "dist-lacking", {"lacking": "absent:adapter"}, requires=requires)
    monkeypatch.syspath_prepend(tmp_path)
    found = compare_stacks(0, jax.ShapeDtypeStruct((4, 8), jnp.float32), 2)
    (lacking,) = [column for column in found.columns if column.backend == "lacking"]
    assert lacking.trouble == "no-such-dist is not installed: pip install 'dist-lacking[lacking]'"
    assert lacking not in found.built


def test_every_framework_agrees():
    for module in ("flax", "equinox", "haiku"):
        pytest.importorskip(module)
    found = compare_stacks(0, X, 12, backends=["flax", "nnx", "equinox", "haiku"])
    assert found.agree
    assert [column.count for column in found.columns] == ["[24.]"] * 4
    assert [len(column.layers) for column in found.columns] == [12] * 4
    assert [column.layers[10].path for column in found.columns] == [
        ("params", "Dense_10"),
        ("layers", "10"),
        ("layers", "10"),
        ("linear_10",),
    ]
    weights = [column.layers[3].leaves[0] for column in found.columns]
    assert [(leaf.path[3 - len(leaf.path) :] and leaf.shape, leaf.axes) for leaf in weights] == [
        ((8, 8), ("in", "out")),
        ((8, 8), ("in", "out")),
        ((8, 8), ("out", "in")),
        ((8, 8), ("in", "out")),
    ]
    text = found.to_text()
    assert "agree: flax, nnx, equinox and haiku have 12 layers, 24 leaves, 864 params, 3,456 B\n" in text
    assert (
        "2-D leaves  (in, out): flax kernel, nnx kernel/value, haiku w; (out, in): equinox weight; "
        "for the same weight, one is laid out as the other's transpose\n"
    ) in text


def test_all_of_the_installed_ones_by_default():
    found = compare_stacks(0, X, 1)
    assert {column.backend for column in found.columns} == {record.name for record in adapters()}
    assert found.columns[0].backend == "flax"  # the reference stands first
