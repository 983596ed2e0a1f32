"""The hand-made truth about architectures in several frameworks: one function, and who is whose."""

import importlib
import pkgutil

import architectures
import jax
import numpy as np
import pytest
from architectures import drawn

NAMES = sorted(module.name for module in pkgutil.iter_modules(architectures.__path__))
PACKAGES = {"linen": "flax", "nnx": "flax", "equinox": "equinox", "haiku": "haiku"}


def module(name):
    return importlib.import_module(f"architectures.{name}")


def builds(name):
    return [(name, framework) for framework in module(name).BUILDS]


CASES = [case for name in NAMES for case in builds(name)]


def built(name, framework):
    pytest.importorskip(PACKAGES[framework.partition("_")[0]])
    return module(name).BUILDS[framework]()


def sample(inputs, seed=1):
    """Random inputs in the layout of the first build."""
    rng = np.random.default_rng(seed)
    return tuple(
        rng.normal(size=x.shape).astype(x.dtype)
        if jax.numpy.issubdtype(x.dtype, jax.numpy.floating)
        else rng.integers(0, 5, size=x.shape).astype(x.dtype)
        for x in inputs
    )


def run(one, values, inputs):
    with jax.default_matmul_precision("highest"):
        return np.asarray(one.result(one.model.apply(one.build(values), *one.given(*inputs))))


@pytest.mark.parametrize(("name", "framework"), CASES)
def test_values_fit_the_params_and_come_out_again(name, framework):
    one, values = built(name, framework), drawn(module(name).SHAPES)
    params = one.build(values)
    assert jax.tree.structure(params) == jax.tree.structure(one.model.params)
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(one.model.params), strict=True):
        assert (np.shape(ours), ours.dtype) == (theirs.shape, theirs.dtype)
    again = one.canonical(params)
    assert again.keys() == values.keys()
    for label, value in values.items():
        np.testing.assert_array_equal(again[label], value, err_msg=label)


@pytest.mark.parametrize(("name", "framework"), CASES)
def test_every_framework_computes_the_same(name, framework):
    first, other = built(name, next(iter(module(name).BUILDS))), built(name, framework)
    values, inputs = drawn(module(name).SHAPES), sample(first.inputs)
    for given, wanted in zip(other.given(*inputs), other.inputs, strict=True):
        assert given.shape == wanted.shape
    one, two = run(first, values, inputs), run(other, values, inputs)
    assert one.shape == two.shape
    assert np.abs(one - two).max() <= 1e-5 * np.abs(one).max()


@pytest.mark.parametrize("name", NAMES)
def test_every_value_matters(name):
    first = built(name, next(iter(module(name).BUILDS)))
    values, inputs = drawn(module(name).SHAPES), sample(first.inputs)
    before = run(first, values, inputs)
    silent = getattr(module(name), "SILENT", set())
    for label in values.keys() - silent:
        moved = values | {label: values[label] * 1.3 + 0.2}
        assert np.abs(run(first, moved, inputs) - before).max() > 1e-6, label
