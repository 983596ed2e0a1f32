"""Expressions between two places of a program, told apart by what they compute."""

import numpy as np
import pytest

from leafreport._align._functions import Functions

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
        return made("div", [("e", made("reduce_sum", [("e", at)], 8)), ("c", 8.0)])

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


def test_what_cannot_be_computed_is_told_by_its_names(functions):
    masked = functions.made("select_n", [("c", None), ("e", X), ("c", -1e9)])
    assert not functions.computed(masked)
    assert functions.same(chain(functions, "tanh", start=masked), chain(functions, "tanh", start=masked))
    assert not functions.same(chain(functions, "tanh", start=masked), chain(functions, "sin", start=masked))
    assert not functions.computed(chain(functions, "cumsum"))


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
    assert functions.computed(at)


def test_reductions_over_two_sizes_are_not_sampled(functions):
    both = functions.made("reduce_sum", [("e", functions.made("reduce_sum", [("e", X)], 8))], 4)
    assert not functions.computed(both)


def test_samples_are_computed_without_a_warning(functions):
    with np.errstate(all="raise"):
        assert functions.computed(chain(functions, "log", "sqrt"))
