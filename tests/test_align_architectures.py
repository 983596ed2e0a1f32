"""Every architecture in every framework against every other: who is whose, and the values carried over, by hand."""

import itertools

import jax
import numpy as np
import pytest
from architectures import drawn
from test_architectures import NAMES, PACKAGES, builds, module

from leafreport import align, report
from leafreport._align._carry._convert import moved

EVERY = [
    (name, one, other) for name in NAMES for (_, one), (_, other) in itertools.permutations(builds(name), 2)
]


def restated(name, *frameworks):
    return bool(getattr(module(name), "RESTATED", set()) & set(frameworks))


PAIRS = [case for case in EVERY if not restated(*case)]
RESTATED = [case for case in EVERY if restated(*case)]
_built = {}


def built(name, framework):
    pytest.importorskip(PACKAGES[framework.partition("_")[0]])
    if (name, framework) not in _built:
        _built[name, framework] = module(name).BUILDS[framework]()
    return _built[name, framework]


def plain(leaf):
    return np.asarray(
        jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    )


@pytest.mark.parametrize(("name", "one", "other"), PAIRS)
def test_values_carried_over_are_those_put_in_by_hand(name, one, other):
    left, right = built(name, one), built(name, other)
    values = drawn(module(name).SHAPES)
    found = align(left.model, right.model, left.inputs, x_right=right.inputs)
    assert found.ok, str(found)
    assert {pair.basis for pair in found.pairs} == {"dataflow"}
    assert found.opaque == ()
    params, wanted = left.build(values), right.build(values)
    made = found.convert(params)
    assert jax.tree.structure(made) == jax.tree.structure(wanted)
    computed = {pair.right_path for pair in found.pairs if not pair.move.exact}
    sides = zip(report(made).paths, jax.tree.leaves(made), jax.tree.leaves(wanted), strict=True)
    for path, ours, theirs in sides:
        if path in computed:  # a constant was added: values are rounded
            np.testing.assert_allclose(plain(ours), plain(theirs), rtol=1e-6, atol=1e-6, err_msg=str(path))
        elif path not in found.unused_right:
            np.testing.assert_array_equal(plain(ours), plain(theirs), err_msg=str(path))
    if one == next(iter(module(name).BUILDS)):  # of the others, test_architectures.py shows the outputs
        assert found.verify(params).max_rel_difference <= 1e-5


@pytest.mark.parametrize(("name", "one", "other"), RESTATED)
def test_what_is_paired_in_the_same_function_written_otherwise_is_right(name, one, other):
    left, right = built(name, one), built(name, other)
    values = drawn(module(name).SHAPES)
    found = align(left.model, right.model, left.inputs, x_right=right.inputs)
    assert not found.ok
    assert found.differences
    params, wanted = (
        {p: plain(v) for p, v in zip(report(t).paths, jax.tree.leaves(t), strict=True)}
        for t in (left.build(values), right.build(values))
    )
    for pair in found.pairs:
        if not pair.ambiguous:
            ours = moved(pair, params[pair.left_path]).reshape(pair.right.sizes)
            np.testing.assert_array_equal(ours, pair.right.of(wanted[pair.right_path]), err_msg=str(pair))
