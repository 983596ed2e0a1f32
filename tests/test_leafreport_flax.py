import gc
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leafreport import Model, adapter, assert_same, diff, report

nn = pytest.importorskip("flax.linen")


def build(layers, *, seed=0, width=8, rows=4, abstract=False, dtype=np.float32):
    sample = jax.ShapeDtypeStruct((rows, width), dtype)
    return adapter("flax").dense_stack(seed, sample, layers, abstract=abstract)


class ByHand(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x)
        x = nn.Dense(8)(x)
        return nn.Dense(8)(x)


@pytest.mark.parametrize("seed", [0, 1, 7, 2**32 - 1])
def test_params_equal_those_of_a_module_written_by_hand(seed):
    by_hand = ByHand().init(jax.random.PRNGKey(seed), jnp.ones((4, 8)))
    built = build(3, seed=seed)
    assert isinstance(built, Model)
    assert jax.tree.structure(built.params) == jax.tree.structure(by_hand)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), built.params, by_hand))


def test_seeds_give_different_params():
    kernels = [build(1, seed=seed).params["params"]["Dense_0"]["kernel"] for seed in (0, 1)]
    assert not (kernels[0] == kernels[1]).all()


def test_apply_equals_a_forward_pass_written_by_hand():
    built = build(3, seed=5)
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    y = x.astype(np.float64)
    for n in range(3):
        layer = built.params["params"][f"Dense_{n}"]
        y = y @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)
    np.testing.assert_allclose(built.apply(built.params, x), y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jax.jit(built.apply)(built.params, x), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [0, 1, 2, 11])
def test_names_shapes_and_dtypes(layers):
    r = report(build(layers, width=5))
    assert sorted(r.names) == sorted(
        f"params/Dense_{n}/{leaf}" for n in range(layers) for leaf in ("bias", "kernel")
    )
    assert {leaf.dtype for leaf in r} <= {"float32"}
    assert all(leaf.shape == ((5,) if leaf.path[-1] == "bias" else (5, 5)) for leaf in r)
    assert r.param_count == layers * (5 * 5 + 5)
    assert r.nbytes == 4 * r.param_count


@pytest.mark.parametrize("layers", [0, 1, 3, 12])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int32])
def test_abstract_equals_concrete(layers, dtype):
    concrete, abstract = build(layers, dtype=dtype), build(layers, dtype=dtype, abstract=True)
    assert jax.tree.structure(concrete.params) == jax.tree.structure(abstract.params)
    assert_same(concrete, abstract)
    assert not diff(concrete, abstract).by_save
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(abstract.params))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(concrete.params))


def test_zero_layers_are_the_identity():
    built = build(0)
    assert built.params == {}
    x = jnp.arange(32.0).reshape(4, 8)
    assert (built.apply(built.params, x) == x).all()


def live(make):
    """How many more arrays live once something is made, and is still held."""
    gc.collect()  # what other tests left must not go meanwhile
    before = len(jax.live_arrays())
    held = make()
    return len(jax.live_arrays()) - before, held


def test_abstract_makes_no_array_and_concrete_does():
    assert live(lambda: build(3, abstract=True))[0] == 0
    assert live(lambda: build(3))[0] == 6


# 300 layers of width 8,192: 75 GiB of parameters. What a process needs at most, from its start, is what Linux says of
# its memory map; getrusage would begin with what the process that started it had needed.
MEMORY = """
import jax, numpy, leafreport

def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024

x = jax.ShapeDtypeStruct((4, {width}), numpy.float32)
leafreport.leaf_count(0, jax.ShapeDtypeStruct((4, 8), numpy.float32), 1)
before = peak()
model = leafreport.adapter("flax").dense_stack(0, x, {layers}, abstract={abstract})
r = leafreport.report(model)
print(r.leaf_count, r.nbytes, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
def test_abstract_stack_of_75_gib_takes_mib_and_a_concrete_one_what_it_is():
    def run(layers, width, abstract):
        code = MEMORY.format(layers=layers, width=width, abstract=abstract)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return tuple(map(int, done.stdout.split()))

    leaves, nbytes, grown = run(300, 8192, abstract=True)
    assert (leaves, nbytes) == (600, 300 * 4 * (8192 * 8192 + 8192))
    assert nbytes > 74 * 2**30
    assert grown < 200 * 2**20
    leaves, nbytes, grown = run(2, 4096, abstract=False)
    assert nbytes == 2 * 4 * (4096 * 4096 + 4096)
    assert grown > nbytes // 2  # some of it takes the room that the import had left


def test_one_instance_in_a_list_is_one_layer():
    """The trap on the way: a list of one Dense, N times, is a single layer with two leaves."""
    shared = nn.Sequential([nn.Dense(8)] * 5).init(jax.random.PRNGKey(0), jnp.ones((4, 8)))
    assert report(shared).leaf_count == len(jax.tree.leaves(shared)) == 2
    apart = nn.Sequential([nn.Dense(8) for _ in range(5)]).init(jax.random.PRNGKey(0), jnp.ones((4, 8)))
    assert report(apart).leaf_count == len(jax.tree.leaves(apart)) == 10
    assert report(build(5)).leaf_count == 10
