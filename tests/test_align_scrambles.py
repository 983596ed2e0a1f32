"""Models against themselves, stored in another way at random: the truth is known, and must be found every time."""

import jax
import numpy as np
import pytest
from aligned import twice
from plain_models import MODELS
from scrambles import numbered, scrambled

from leafreport import align

SEEDS = range(60)


@pytest.mark.parametrize("join", [True, False], ids=["joined", "flipped"])
@pytest.mark.parametrize("name", MODELS)
def test_every_element_is_found_again(name, join):
    model, inputs = MODELS[name]()
    numbers = numbered(model)  # every element has a number of its own
    params = jax.tree.structure(model.params).unflatten(numbers)
    for seed in SEEDS:
        other = scrambled(model, seed, join=join)
        found = align(model, other.model, inputs)
        assert found.ok, (seed, str(found))
        assert {pair.basis for pair in found.pairs} == {"dataflow"}, seed
        assert twice(found) == [], seed
        made, wanted = found.convert(params), other.store(numbers)
        sides = zip(found.right.report.paths, jax.tree.leaves(made), jax.tree.leaves(wanted), strict=True)
        for path, ours, truth in sides:
            if path not in found.unused_right:
                np.testing.assert_array_equal(ours, truth, err_msg=f"{seed} {path}")


@pytest.mark.parametrize("name", MODELS)
def test_and_back_again(name):
    """From one scramble to another one, neither of which is stored as it is used."""
    model, inputs = MODELS[name]()
    numbers = numbered(model)
    for seed in range(15):
        one, other = scrambled(model, seed), scrambled(model, seed + 1000)
        found = align(one.model, other.model, inputs)
        assert found.ok, (seed, str(found))
        made = found.convert(one.store(numbers))
        for path, ours, truth in zip(
            found.right.report.paths,
            jax.tree.leaves(made),
            jax.tree.leaves(other.store(numbers)),
            strict=True,
        ):
            if path not in found.unused_right:
                np.testing.assert_array_equal(ours, truth, err_msg=f"{seed} {path}")
