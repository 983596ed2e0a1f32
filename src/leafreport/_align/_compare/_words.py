"""What is done to an array on the way from one place to another, in a practitioner's words.

A step is known by what it computes: `relu` is whatever gives what relu gives.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leafreport._align._match._functions import REDUCTIONS, Functions

_erf = np.vectorize(math.erf, otypes=[float])


def _sigmoid(x: np.ndarray) -> Any:
    return 1 / (1 + np.exp(-x))


_ALONE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "gelu": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,
    "gelu (tanh approximation)": lambda x: (
        x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    ),
    "gelu (sigmoid approximation)": lambda x: x * _sigmoid(1.702 * x),
    "silu": lambda x: x * _sigmoid(x),
    "softplus": lambda x: np.logaddexp(x, 0),
    "log_sigmoid": lambda x: -np.logaddexp(-x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hard_silu": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "soft_sign": lambda x: x / (1 + np.abs(x)),
    "mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "squared relu": lambda x: np.maximum(x, 0) ** 2,
    "square": np.square,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "sin": np.sin,
    "cos": np.cos,
    "reciprocal": lambda x: 1 / x,
    "reciprocal root": lambda x: 1 / np.sqrt(x),
    "1 minus sigmoid": lambda x: _sigmoid(-x),
}
_NOT_ACTIVATIONS = frozenset({"square", "exp", "log", "sqrt", "abs", "reciprocal", "reciprocal root"})


def _mean(x: np.ndarray, axes: tuple[int, ...]) -> Any:
    return x.mean(axis=axes, keepdims=True)


def _sum(x: np.ndarray, axes: tuple[int, ...], times: float) -> Any:
    return x.sum(axis=axes, keepdims=True) * times


def _shifted(x: np.ndarray, axes: tuple[int, ...]) -> Any:
    return x - x.max(axis=axes, keepdims=True)


# What takes numbers together along the axes given; a sum's samples stand for several numbers each.
_SUMS: dict[str, Callable[[np.ndarray, tuple[int, ...], float], Any]] = {
    "sum": _sum,
    "softmax": lambda x, axes, times: (
        np.exp(_shifted(x, axes)) / _sum(np.exp(_shifted(x, axes)), axes, times)
    ),
    "log_softmax": lambda x, axes, times: (
        _shifted(x, axes) - np.log(_sum(np.exp(_shifted(x, axes)), axes, times))
    ),
}
_TOGETHER: dict[str, Callable[[np.ndarray, tuple[int, ...]], Any]] = {
    "mean": _mean,
    "max": lambda x, axes: x.max(axis=axes, keepdims=True),
    "min": lambda x, axes: x.min(axis=axes, keepdims=True),
    "standardisation": lambda x, axes: (x - _mean(x, axes)) / x.std(axis=axes, keepdims=True),
}
_NORMS = frozenset({"softmax", "log_softmax", "standardisation"})
_WITH_EPSILON: dict[str, Callable[[np.ndarray, tuple[int, ...], float], Any]] = {
    "layer norm": lambda x, axes, e: (x - _mean(x, axes)) / np.sqrt(x.var(axis=axes, keepdims=True) + e),
    "rms norm": lambda x, axes, e: x / np.sqrt(_mean(x**2, axes) + e),
}
_ROOTS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "reciprocal root": lambda x, e: 1 / np.sqrt(x + e),
    "root": lambda x, e: np.sqrt(x + e),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done to an array.

    Attributes:
        what: `activation`, `norm`, `scale`, `constant`, `mask`, `dropout`, `window`, `reduction`, `function`.
        text: in words.
        epsilon: what it adds lest it divide by zero, where it does.
        size: how many numbers it takes together, where it does.
    """

    what: str
    text: str
    epsilon: float | None = None
    size: int | None = None

    def __str__(self) -> str:
        size = "" if self.size is None else f" over {self.size:,}"
        epsilon = "" if self.epsilon is None else f", epsilon {self.epsilon:g}"
        return f"{self.text}{size}{epsilon}"


def steps(functions: Functions, expression: int) -> list[Step]:
    """What an expression does, step by step; as few steps as have names."""
    chain = functions.chain(expression)
    found: list[Step] = []
    at = 0
    while at < len(chain):
        longest = None
        joined = Functions.X
        for stop in range(at, min(len(chain), at + _MOST_JOINED)):
            joined = functions.after(chain[stop], joined)
            known = _named(functions, joined)
            if known is not None:
                longest = stop, known
        if longest is None:
            found.append(_plain(functions, chain[at]))
            at += 1
        else:
            found.append(longest[1])
            at = longest[0] + 1
    return [step for step in found if step.text]


_MOST_JOINED = 24


def _named(functions: Functions, expression: int) -> Step | None:
    """A step that has a name; None where the expression is none."""
    if functions.constants_in(expression):
        return None
    affine = functions.affine(expression)
    if affine is not None:
        return _affine(*affine)
    x, axes = functions.variable(expression)
    if len(axes) > 1 or any(name not in REDUCTIONS for name, *_ in functions.reduced(expression)):
        return None
    told = [n for name, n in functions.numbers(expression) if name in ("add", "max", "clamp")]
    epsilons = sorted({float(f"{n:.6g}") for n in told if 0 < n < 0.1})
    values = functions.samples(expression)
    if axes:
        (size,) = axes.values()
        return _taken_together(x, values, epsilons, size)
    return _alone(x, values, epsilons)


def _gives(function: Callable[..., Any], values: np.ndarray, *given: Any) -> bool:
    """Whether a function gives these values."""
    with np.errstate(all="ignore"):
        wanted = np.broadcast_to(function(*given), values.shape)
    return bool(np.allclose(wanted, values, rtol=1e-6, atol=1e-7, equal_nan=True))


def _alone(x: np.ndarray, values: np.ndarray, epsilons: Sequence[float]) -> Step | None:
    """What is done to each number alone."""
    for name, function in _ALONE.items():
        if _gives(function, values, x):
            return Step("function" if name in _NOT_ACTIVATIONS else "activation", name)
    for epsilon in epsilons:
        for name, root in _ROOTS.items():
            if _gives(root, values, x, epsilon):
                return Step("norm", name, epsilon)
    return _leaky(x, values)


def _taken_together(x: np.ndarray, values: np.ndarray, epsilons: Sequence[float], size: int) -> Step | None:
    """What takes numbers together, along the first axis of the samples."""
    times = size / x.shape[0]  # samples of fewer numbers stand for all of them
    for name, sums in _SUMS.items():
        if _gives(sums, values, x, (0,), times):
            return Step("norm" if name in _NORMS else "reduction", name, size=size)
    for name, together in _TOGETHER.items():
        if _gives(together, values, x, (0,)):
            return Step("norm" if name in _NORMS else "reduction", name, size=size)
    for epsilon in epsilons:
        for name, normed in _WITH_EPSILON.items():
            if _gives(normed, values, x, (0,), epsilon):
                return Step("norm", name, epsilon, size)
        if _gives(_l2_norm, values, x, (0,), times, epsilon):
            return Step("norm", "l2 norm", epsilon, size)
    return None


def _l2_norm(x: np.ndarray, axes: tuple[int, ...], times: float, epsilon: float) -> Any:
    return x / np.sqrt(_sum(x**2, axes, times) + epsilon)


def _affine(scale: float, shift: float) -> Step:
    if scale == 1.0 and not shift:
        return Step("function", "")
    if not shift:
        return Step("scale", "negated" if scale == -1 else f"times {scale:.6g}")
    added = f"{'plus' if shift > 0 else 'minus'} {abs(shift):.6g}"
    if scale == 1.0:
        return Step("constant", added)
    if scale == -1.0 and shift > 0:
        return Step("constant", f"{shift:.6g} minus it")
    return Step("scale", f"times {scale:.6g}, {added}")


def _leaky(x: np.ndarray, values: np.ndarray) -> Step | None:
    below = x < 0
    with np.errstate(all="ignore"):
        slopes = values[below] / x[below]
    if np.allclose(values[~below], x[~below]) and slopes.size and np.allclose(slopes, slopes[0]):
        return Step("activation", f"leaky_relu (slope {slopes[0]:.6g})")
    return None


def _plain(functions: Functions, expression: int) -> Step:
    """A step that has no name: its operations, and the constants it takes."""
    name, settings, _ = functions.key(expression)
    constants = functions.constants_in(expression)
    random = functions.random(expression)
    if random:
        told = [functions.constants.random_words(number) for number in random]
        return Step("dropout", f"{_verb(name)} {' and '.join(told)}")
    if name == "masked":
        return Step("mask", f"{functions.constants.mask_words(settings)} mask")
    if name == "part":
        _, start, stop, size = settings
        return Step("function", f"places {start}:{stop} of {size}")
    if name.startswith("reduce_window") or name == "pad":
        return Step("window", f"{name.removeprefix('reduce_')} {_window_words(name, settings)}")
    told = [functions.constants.words(value) for kind, value in constants if kind == "k"]
    if told:
        return Step("constant", f"{_verb(name)} a constant {', '.join(told)}")
    reduced = functions.reduced(expression)
    if reduced:
        names = sorted({n.removeprefix("reduce_") for n, *_ in reduced})
        return Step("reduction", " and ".join(names), size=reduced[0][1])
    names = sorted(functions.names(expression))
    numbers = [f"{n:.6g}" for _, n in functions.numbers(expression)]
    if len(names) == 1:
        return Step("function", " ".join([_verb(names[0]), *numbers]))
    return Step("function", f"a function of {', '.join(names)}")


def _verb(name: str) -> str:
    return {"add": "plus", "sub": "minus", "mul": "times", "div": "divided by"}.get(name, name)


def _window_words(name: str, settings: Any) -> str:
    if name == "pad":
        value, rows = settings
        return f"{[tuple(row) for row in rows]} with {value}"
    told = []
    for size, stride, padding, *_ in settings or ():
        told.append(f"{size} by {stride}{'' if tuple(padding) == (0, 0) else f' padded {tuple(padding)}'}")
    return " x ".join(told)


def apart(left: Sequence[Step], right: Sequence[Step]) -> tuple[list[Step], list[Step]]:
    """What of two lists of steps is not the same, without what both begin and end with."""
    ours, theirs = list(left), list(right)
    while ours and theirs and ours[0] == theirs[0]:
        ours, theirs = ours[1:], theirs[1:]
    while ours and theirs and ours[-1] == theirs[-1]:
        ours, theirs = ours[:-1], theirs[:-1]
    return ours, theirs
