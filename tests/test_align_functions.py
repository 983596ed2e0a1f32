"""Expressions between two places of a program, told apart by what they compute."""

import numpy as np
import pytest

from leafreport._align._match._functions import Functions

X = Functions.X


@pytest.fixture
def functions():
    return Functions()


def chain(functions, *steps, start=X):
    """An expression of steps: a name alone, or a name and a number on the right."""
    at = start
    for step in steps:
        if isinstance(step, str):
            at = functions.made(step, [("e", at)])
        else:
            name, number = step
            at = functions.made(name, [("e", at), ("c", number)])
    return at


def layer_norm(functions, epsilon, *, fast):
    """Two ways of writing one normalisation over 8 numbers."""
    made = functions.made

    def mean(at):
        return made("reduce_mean", [("e", at)], (("axis", 8),))

    centred = made("sub", [("e", X), ("e", mean(X))])
    if fast:
        square = made("square", [("e", mean(X))])
        variance = made("sub", [("e", mean(made("square", [("e", X)]))), ("e", square)])
        scale = made("rsqrt", [("e", made("add", [("e", variance), ("c", epsilon)]))])
        return made("mul", [("e", centred), ("e", scale)])
    variance = mean(made("mul", [("e", centred), ("e", centred)]))
    root = made("sqrt", [("e", made("add", [("c", epsilon), ("e", variance)]))])
    return made("div", [("e", centred), ("e", root)])


def test_one_expression_is_kept_once(functions):
    assert chain(functions, "tanh", "exp") == chain(functions, "tanh", "exp")
    assert chain(functions, "tanh", "exp") != chain(functions, "exp", "tanh")
    assert functions.made("copy", [("e", X)]) == X


def test_two_ways_of_writing_one_function_are_the_same(functions):
    assert functions.same(layer_norm(functions, 1e-6, fast=True), layer_norm(functions, 1e-6, fast=False))
    silu = functions.made("mul", [("e", X), ("e", chain(functions, "logistic"))])
    by_hand = functions.made("div", [("e", X), ("e", chain(functions, "neg", "exp", ("add", 1.0)))])
    assert functions.same(silu, by_hand)
    assert functions.same(chain(functions, ("mul", 0.125)), chain(functions, ("div", 8.0)))


def test_epsilon_makes_another_function_of_the_same_kind(functions):
    near, far = layer_norm(functions, 1e-6, fast=True), layer_norm(functions, 1e-5, fast=False)
    assert not functions.same(near, far)
    assert functions.kind(near) == functions.kind(far)
    assert ("add", 1e-5) in functions.numbers(far)


@pytest.mark.parametrize("other", ["logistic", "sin", "exp", "erf", "square", "neg"])
def test_other_functions_are_not_the_same(functions, other):
    assert not functions.same(chain(functions, "tanh"), chain(functions, other))
    assert functions.kind(chain(functions, "tanh")) != functions.kind(chain(functions, other))


def test_relu_in_two_ways(functions):
    relu = functions.made("max", [("e", X), ("c", 0.0)])
    above = functions.made("gt", [("e", X), ("c", 0.0)])
    selected = functions.made("select_n", [("e", above), ("c", 0.0), ("e", X)])
    assert functions.same(relu, selected)


def test_what_cannot_be_computed_stands_for_itself(functions):
    pooled = functions.made("reduce_window_max", [("e", X)], ((2, 2, (0, 0), 1, 1),))
    other = functions.made("reduce_window_max", [("e", X)], ((3, 2, (0, 0), 1, 1),))
    assert functions.same(chain(functions, "tanh", start=pooled), chain(functions, "tanh", start=pooled))
    assert not functions.same(chain(functions, "tanh", start=pooled), chain(functions, "sin", start=pooled))
    assert not functions.same(pooled, other)
    relu = functions.made("max", [("e", pooled), ("c", 0.0)])
    above = functions.made("gt", [("e", pooled), ("c", 0.0)])
    assert functions.same(relu, functions.made("select_n", [("e", above), ("c", 0.0), ("e", pooled)]))


def test_constant_arrays_are_told_apart_by_what_they_hold(functions):
    ident = functions.constants.ident
    table = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    assert ident(table) == ident(table.T) == ident(table * np.float32(1 + 1e-7))
    assert ident(table) != ident(table + 1e-3)
    assert ident(table) != ident(table[::-1].cumsum(0))
    plus, minus = (
        functions.made(name, [("e", X), ("k", (ident(table), frozenset()))]) for name in ("add", "sub")
    )
    assert not functions.same(plus, minus)
    assert not functions.same(plus, functions.made("add", [("e", X), ("k", (ident(table + 1), frozenset()))]))


def test_random_numbers_make_another_function(functions):
    dropped = functions.made("select_n", [("r", 0), ("c", 0.0), ("e", X)])
    assert functions.random(dropped)
    assert not functions.same(dropped, X)


def test_scale_is_taken_off_the_outside(functions):
    inner = chain(functions, "tanh")
    scaled = chain(functions, ("mul", 3.0), ("div", 2.0), "neg", start=inner)
    assert functions.unscaled(scaled) == (inner, -1.5)
    assert functions.unscaled(functions.scaled(inner, -1.5)) == (inner, -1.5)
    assert functions.unscaled(chain(functions, ("mul", 0.0))) == (chain(functions, ("mul", 0.0)), 1.0)
    assert functions.scaled(inner, 1.0) == inner


def test_expression_after_another(functions):
    outer, inner = chain(functions, "tanh", ("mul", 2.0)), chain(functions, ("add", 1.0))
    assert functions.after(outer, inner) == chain(functions, ("add", 1.0), "tanh", ("mul", 2.0))
    assert functions.after(outer, X) == outer
    assert functions.after(X, inner) == inner


def test_long_expressions_need_no_recursion(functions):
    at = X
    for n in range(5000):
        at = functions.made("add", [("e", at), ("c", float(n % 3) - 1)])
    assert functions.names(at) == {"add"}
    assert functions.same(at, functions.made("add", [("e", X), ("c", -1.0)]))


def test_reductions_over_two_axes(functions):
    def largest(at, axis, size):
        return functions.made("reduce_max", [("e", at)], ((axis, size),))

    both = largest(largest(X, "a", 8), "b", 4)
    assert functions.same(both, largest(largest(X, "b", 4), "a", 8))
    assert not functions.same(both, largest(X, "a", 32))
    assert not functions.same(largest(X, "a", 100), largest(X, "a", 101))
    together = functions.made("reduce_max", [("e", X)], (("a", 8), ("b", 4)))
    assert functions.reduced(together) == [("reduce_max", 32, (("a", 8), ("b", 4)))]


def test_mean_over_more_numbers_than_are_sampled(functions):
    mean = functions.made("reduce_mean", [("e", X)], (("a", 5000),))
    ours = functions.made("sub", [("e", X), ("e", mean)])
    theirs = functions.made("add", [("e", X), ("e", functions.made("neg", [("e", mean)]))])
    assert functions.same(ours, theirs)
    assert np.abs(functions.samples(ours).mean(0)).max() < 1e-12


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ((("mul", 2.0), ("add", 1.0)), (2.0, 1.0)),
        (("neg", ("sub", 1.0), ("div", 4.0)), (-0.25, -0.25)),
        (("tanh",), None),
        ((("mul", 0.0),), None),
        ((), (1.0, 0.0)),
    ],
)
def test_affine_expressions(functions, steps, found):
    assert functions.affine(chain(functions, *steps)) == found


def test_what_is_done_first(functions):
    assert functions.first_step(chain(functions, ("add", 1.0), "logistic")) == ("add", 1.0)
    assert functions.first_step(chain(functions, ("div", 4.0), "logistic")) == ("mul", 0.25)
    assert functions.first_step(chain(functions, "logistic", ("add", 1.0))) is None
    silu = functions.made("mul", [("e", X), ("e", chain(functions, "logistic"))])
    assert functions.first_step(silu) is None


def test_chain_is_what_is_done_one_after_the_other(functions):
    silu = functions.made("mul", [("e", X), ("e", chain(functions, "logistic"))])
    whole = functions.after(chain(functions, "tanh", ("add", 1.0)), silu)
    found = functions.chain(whole)
    assert found == [silu, chain(functions, "tanh"), chain(functions, ("add", 1.0))]
    assert functions.chain(X) == []


def test_samples_are_computed_without_a_warning(functions):
    with np.errstate(all="raise"):
        assert functions.samples(chain(functions, "log", "sqrt")).shape == (24,)
