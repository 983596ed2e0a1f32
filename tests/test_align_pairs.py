"""Leaves of two models paired by what they do: proved by carrying random values over and running both."""

import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aligned import proved, rows, twice
from plain_models import WIDTH, attention, block, lstm, norm, shape, split_heads, transformer

from leafreport import Model, adapter, align

# --- Dense stacks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["nnx", "equinox", "haiku"])
def test_square_dense_stack(other):
    for module in ("flax", other.replace("nnx", "flax")):
        pytest.importorskip(module)
    x = shape(4, WIDTH)
    left, right = (adapter(name).dense_stack(0, x, 12, abstract=True) for name in ("flax", other))
    found = proved(left, right, x)
    weight = {"nnx": "layers/{}/kernel/value", "equinox": "layers/{}/weight", "haiku": "linear{}/w"}[other]
    for n in range(12):
        suffix = n if other != "haiku" else f"_{n}" if n else ""
        layout = "transpose" if other == "equinox" else "identity"
        assert (f"params/Dense_{n}/kernel", weight.format(suffix), layout) in rows(found)


# --- Models written in plain JAX ----------------------------------------------------------------------------


def test_fused_projections_against_separate_ones():
    (left, inputs), (right, _) = transformer(3), transformer(3, fused=True)
    found = rows(proved(left, right, *inputs))
    for i, n in enumerate("qkv"):
        part = f"[{i * WIDTH}:{(i + 1) * WIDTH}"
        assert (f"blocks/1/{n}", f"blocks/1/qkv{part}, :]", f"transpose, concat {part}, :]") in found
        assert (f"blocks/1/{n}b", f"blocks/1/qkvb{part}]", f"concat {part}]") in found


def test_stacked_layers_against_separate_ones():
    left, inputs = transformer(4)
    stacked = jax.tree.map(lambda leaf: shape(4, *leaf.shape), block(fused=False))

    def scanned(p, x):
        def step(x, layer):
            h = norm(x, layer["s1"], layer["t1"])
            q, k, v = (split_heads(h @ layer[n] + layer[f"{n}b"]) for n in "qkv")
            x = x + attention(q, k, v) @ layer["o"] + layer["ob"]
            h = norm(x, layer["s2"], layer["t2"])
            return x + jax.nn.gelu(h @ layer["u"] + layer["ub"]) @ layer["d"] + layer["db"], None

        x, _ = jax.lax.scan(step, x, p["blocks"])
        return norm(x, p["s"], p["t"])

    right = Model({"blocks": stacked, "s": shape(WIDTH), "t": shape(WIDTH)}, scanned)
    found = proved(left, right, *inputs)
    assert len(found.pairs) == 4 * 16 + 2
    assert ("blocks/2/o", "blocks/o[2, :, :]", "concat [2, :, :]") in rows(found)


def test_leaves_no_result_depends_on_are_no_part_of_it():
    x = shape(4, WIDTH)
    left = Model({"w": shape(WIDTH, WIDTH), "old": shape(3)}, lambda p, x: x @ p["w"])
    right = Model({"w": shape(WIDTH, WIDTH)}, lambda p, x: x @ p["w"].T)
    found = proved(left, right, x)
    assert rows(found) == {("w", "w", "transpose")}
    assert (found.unused_left, found.unused_right) == ((("old",),), ())


def test_up_and_down_are_not_taken_for_each_other():
    """The shapes of the one's up are those of the other's down."""
    x = shape(4, WIDTH)
    up, down = shape(WIDTH, 3 * WIDTH), shape(3 * WIDTH, WIDTH)
    left = Model({"a": up, "b": down}, lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"])
    right = Model({"a": up, "b": down}, lambda p, x: jnp.tanh(x @ p["b"].T) @ p["a"].T)
    assert rows(proved(left, right, x)) == {("a", "b", "transpose"), ("b", "a", "transpose")}


def test_gates_in_another_order():
    (left, inputs), (right, _) = lstm("ifgo"), lstm("igfo")
    found = proved(left, right, *inputs)
    shifts = {p.left.where: p.right.where for p in found.pairs if p.left_path == ("b",)}
    assert shifts == {"[0:4]": "[0:4]", "[4:8]": "[8:12]", "[8:12]": "[4:8]", "[12:16]": "[12:16]"}


# --- Models that differ -------------------------------------------------------------------------------------


def test_dropped_residual_leaves_the_rest_matched():
    def run(p, x, *, drop):
        for n, (w, b) in enumerate(zip(p["w"], p["b"], strict=True)):
            y = jnp.tanh(x @ w + b)
            x = y if n == drop else x + y
        return x

    params = {"w": [shape(WIDTH, WIDTH)] * 6, "b": [shape(WIDTH)] * 6}
    left = Model(params, lambda p, x: run(p, x, drop=-1))
    right = Model(params, lambda p, x: run(p, x, drop=3))
    found = align(left, right, shape(4, WIDTH))
    assert (found.only_left, found.only_right) == ((), ())
    assert {(p.left_path, p.right_path) for p in found.pairs} == {
        ((name, str(n)), (name, str(n))) for name in "wb" for n in range(6)
    }
    assert [difference.what for difference in found.differences] == ["term"]
    assert not found.ambiguous


def test_extra_layer_stays_alone():
    def run(p, x):
        for w in p:
            x = jnp.tanh(x @ w)
        return x

    left = Model([shape(WIDTH, WIDTH)] * 4, run)
    right = Model([shape(WIDTH, WIDTH)] * 5, run)
    found = align(left, right, shape(4, WIDTH))
    assert not found.ok
    assert (
        len({p.right_path for p in found.pairs})
        == len({p.left_path for p in found.pairs})
        == len(found.pairs)
    )
    assert len(found.pairs) + len(found.only_right) == 5
    assert len(found.pairs) + len(found.only_left) == 4
    assert found.ambiguous  # which of the five is the one more, no program tells
    assert twice(found) == []


def test_a_leaf_of_another_width_is_no_partner():
    def call(p, x):
        return jnp.tanh(x @ p["a"]) @ p["b"]

    left = Model({"a": shape(WIDTH, 16), "b": shape(16, WIDTH)}, call)
    right = Model({"a": shape(WIDTH, 12), "b": shape(12, WIDTH)}, call)
    found = align(left, right, shape(4, WIDTH))
    assert (found.pairs, found.only_left, found.only_right) == ((), (("a",), ("b",)), (("a",), ("b",)))
    assert {d.what for d in found.differences} == {"shape"}


# --- Leaves that are used twice -----------------------------------------------------------------------------


def tied(p, ids):
    return jnp.tanh(p["e"][ids] @ p["w"]) @ p["e"].T


def untied(p, ids):
    return jnp.tanh(p["e"][ids] @ p["w"]) @ p["h"]


TIED = Model({"e": shape(11, WIDTH), "w": shape(WIDTH, WIDTH)}, tied)
UNTIED = Model({"e": shape(11, WIDTH), "h": shape(WIDTH, 11), "w": shape(WIDTH, WIDTH)}, untied)
IDS = shape(2, 3, dtype=jnp.int32)


def test_a_tied_table_is_copied_to_where_the_other_model_has_one_more():
    found = align(TIED, UNTIED, IDS)
    assert rows(found) == {("e", "e", "identity"), ("w", "w", "identity")}
    assert [(str(c.left), str(c.right), c.layout) for c in found.copies] == [("e", "h", "transpose")]
    assert [(d.what, d.left, d.right) for d in found.differences] == [
        ("sharing", "e is used here and elsewhere", "h is used here alone")
    ]
    assert (found.only_left, found.only_right, found.kept) == ((), (), ())
    assert not found.ok
    assert found.verify().ok


def test_of_two_tables_one_alone_becomes_a_tied_one():
    found = align(UNTIED, TIED, IDS)
    assert rows(found) == {("e", "e", "identity"), ("w", "w", "identity")}
    assert (found.copies, found.only_left, found.only_right) == ((), (("h",),), ())
    assert [d.what for d in found.differences] == ["sharing"]


def test_a_shared_layer_becomes_two():
    def call(p, x):
        return jnp.tanh(jnp.tanh(x @ p["w"] + p["b"]) @ p.get("w2", p["w"]) + p.get("b2", p["b"]))

    one = {"w": shape(WIDTH, WIDTH), "b": shape(WIDTH)}
    found = align(Model(one, call), Model(one | {"w2": one["w"], "b2": one["b"]}, call), shape(4, WIDTH))
    assert rows(found) == {("w", "w", "identity"), ("b", "b", "identity")}
    assert {(c.left_path, c.right_path) for c in found.copies} == {(("w",), ("w2",)), (("b",), ("b2",))}
    assert not found.ambiguous
    assert found.verify().ok


def test_a_leaf_seen_whole_and_in_part_is_in_one_row():
    def call(p, x):
        return jnp.tanh(x @ p["w"]) @ p["w"][:, :4]

    def apart(p, x):
        return jnp.tanh(x @ p["w"]) @ p["v"]

    left = Model({"w": shape(WIDTH, WIDTH)}, call)
    right = Model({"w": shape(WIDTH, WIDTH), "v": shape(WIDTH, 4)}, apart)
    x = shape(4, WIDTH)
    assert rows(proved(left, left, x)) == {("w", "w", "identity")}
    found = align(left, right, x)
    assert rows(found) == {("w", "w", "identity")}
    assert [str(c) for c in found.copies] == ["w[:, 0:4] -> v  slice [:, 0:4], weight"]
    back = align(right, left, x)
    assert (rows(back), back.only_left) == ({("w", "w", "identity")}, (("v",),))
    assert twice(found) == twice(back) == []


def test_parts_that_overlap_are_in_one_row_each_element():
    def call(p, x):
        return jnp.tanh(x @ p["w"][:, :6]) @ p["w"][:6, 2:]

    left = Model({"w": shape(WIDTH, WIDTH)}, call)
    found = proved(left, left, shape(4, WIDTH))
    assert sum(pair.left.of(np.ones((WIDTH, WIDTH))).size for pair in found.pairs) == 8 * 6 + 6 * 2


# --- Inputs and outputs -------------------------------------------------------------------------------------


def test_several_inputs_and_outputs_as_trees():
    params = {"a": shape(3, 4), "b": shape(5, 4)}

    def left(p, x):
        y = x["u"] @ p["a"] + x["v"] @ p["b"]
        return {"sum": y, "pair": (jnp.tanh(y), y.mean(0))}

    def right(p, given):
        u, v = given
        y = v @ p["one"].T + u @ p["other"].T
        return jnp.tanh(y), y.mean(0), y

    found = align(
        Model(params, left),
        Model({"one": shape(4, 5), "other": shape(4, 3)}, right),
        {"u": shape(2, 3), "v": shape(2, 5)},
        x_right=([shape(2, 3), shape(2, 5)],),
    )
    assert rows(found) == {("a", "other", "transpose"), ("b", "one", "transpose")}
    assert found.ok
    assert found.verify().ok


def test_images_in_another_layout():
    def call(layout):
        def run(p, x):
            y = jax.lax.conv_general_dilated(x, p["k"], (1, 1), "SAME", dimension_numbers=layout)
            return jax.nn.relu(y)

        return run

    left = Model({"k": shape(3, 3, 4, 6)}, call(("NHWC", "HWIO", "NHWC")))
    right = Model({"k": shape(6, 4, 3, 3)}, call(("NCHW", "OIHW", "NCHW")))
    found = proved(left, right, shape(2, 9, 8, 4), x_right=(shape(2, 4, 9, 8),))
    assert rows(found) == {("k", "k", "reshape (9, 4, 6), transpose (2, 1, 0), reshape (6, 4, 3, 3)")}


def test_what_is_not_understood_is_said():
    def call(p, x):
        return jnp.fft.rfft(x @ p["w"]).real @ p["v"]

    model = Model({"w": shape(WIDTH, WIDTH), "v": shape(5, 3)}, call)
    found = align(model, model, shape(4, WIDTH))
    assert found.opaque == ("fft",)
    assert "not understood: fft" in found.summary()
    assert {(p.left_path, p.right_path) for p in found.pairs} == {(("w",), ("w",)), (("v",), ("v",))}


def test_a_symmetric_pair_is_ambiguous_and_both_candidates_are_listed():
    model = Model(
        {"a": shape(WIDTH, WIDTH), "b": shape(WIDTH, WIDTH)},
        lambda p, x: jnp.tanh(x @ p["a"]) + jnp.tanh(x @ p["b"]),
    )
    found = align(model, model, shape(4, WIDTH))
    assert not found.ok
    assert [(p.basis, p.ambiguous, list(map(str, p.candidates))) for p in found.pairs] == [
        ("order", True, ["a", "b"])
    ] * 2


# --- What it costs ------------------------------------------------------------------------------------------


def test_a_model_of_fifty_gibibytes_is_aligned_without_its_memory():
    def call(p, x):
        for w in p:
            x = jnp.tanh(x @ w)
        return x

    def stacked(p, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(w @ x), None), x.T, p)[0].T

    wide, layers = 16_384, 50
    left = Model([shape(wide, wide)] * layers, call)
    right = Model(shape(layers, wide, wide), stacked)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = align(left, right, shape(1, wide))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert found.ok
    assert len(found.pairs) == layers
    assert str(found.pairs[7]) == "7 -> (root)[7, :, :]  transpose, concat [7, :, :], weight"
    assert sum(leaf.nbytes for leaf in found.left.report) == 50 * 2**30
    assert grown < 2**20  # KiB, where the leaves have 50 times as much
