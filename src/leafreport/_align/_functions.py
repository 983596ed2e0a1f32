"""What is done to one array between two places: small expressions, told apart by what they compute.

Two frameworks write one normalisation or one activation function in different primitives. So an expression is
compared by its values on a few sample numbers, and by the names in it only where it cannot be computed: where
it holds a constant array, or an operation along an axis that is no plain reduction.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# An expression: what is computed, settings, and the expressions or numbers it is computed from.
Key = tuple[str, Any, tuple[Any, ...]]
_MOST = 1 << 20


class Functions:
    """Expressions of one variable, each kept once. The variable itself is number 0."""

    X = 0

    def __init__(self) -> None:
        self._keys: list[Key] = [("x", None, ())]
        self._numbers: dict[Key, int] = {self._keys[0]: 0}
        self._names: dict[int, frozenset[str]] = {0: frozenset()}
        self._sampled: dict[int, Any] = {}
        self._kinds: dict[int, int] = {}
        self._heads: list[int] = []

    def made(self, name: str, arguments: Sequence[Any], settings: Any = None) -> int:
        """The expression of an operation; arguments are ("e", expression) or ("c", number or None)."""
        if name in _UNCHANGED and arguments[0][0] == "e":
            return int(arguments[0][1])
        key = name, settings, tuple(arguments)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._keys)
            self._keys.append(key)
        return number

    def key(self, expression: int) -> Key:
        """What an expression is made of."""
        return self._keys[expression]

    def after(self, outer: int, inner: int) -> int:
        """An expression of what another one gives."""
        if outer == self.X or inner == self.X:
            return inner if outer == self.X else outer
        done: dict[int, int] = {self.X: inner}
        for part in self._parts(outer):
            if part != self.X:
                name, settings, arguments = self._keys[part]
                done[part] = self.made(
                    name, [("e", done[v]) if kind == "e" else (kind, v) for kind, v in arguments], settings
                )
        return done[outer]

    def _parts(self, expression: int) -> list[int]:
        """An expression and all within it, each after what it is made of."""
        order: list[int] = []
        seen: set[int] = set()
        todo = [(expression, False)]
        while todo:
            at, ready = todo.pop()
            if ready:
                order.append(at)
            elif at not in seen:
                seen.add(at)
                todo.append((at, True))
                todo += [(v, False) for kind, v in self._keys[at][2] if kind == "e"]
        return order

    def names(self, expression: int) -> frozenset[str]:
        """The operations in an expression."""
        if expression not in self._names:
            self._names[expression] = frozenset(self._keys[part][0] for part in self._parts(expression)) - {
                "x"
            }
        return self._names[expression]

    def numbers(self, expression: int) -> list[tuple[str, float]]:
        """The known constants in an expression, each with the operation that takes it."""
        return sorted(
            (self._keys[part][0], value)
            for part in self._parts(expression)
            for kind, value in self._keys[part][2]
            if kind == "c" and value is not None
        )

    def unscaled(self, expression: int) -> tuple[int, float]:
        """An expression without the known numbers it is multiplied by last, and their product."""
        factor = 1.0
        while True:
            name, _, arguments = self._keys[expression]
            kinds = [kind for kind, _ in arguments]
            if name == "neg":
                factor, expression = -factor, arguments[0][1]
            elif name == "mul" and sorted(kinds) == ["c", "e"]:
                (value,) = [v for kind, v in arguments if kind == "c"]
                if not value:
                    return expression, factor
                factor *= value
                (expression,) = [v for kind, v in arguments if kind == "e"]
            elif name == "div" and kinds == ["e", "c"] and arguments[1][1]:
                factor /= arguments[1][1]
                expression = arguments[0][1]
            else:
                return expression, factor

    def scaled(self, expression: int, factor: float) -> int:
        """An expression times a number."""
        return expression if factor == 1.0 else self.made("mul", [("e", expression), ("c", factor)])

    def same(self, a: int, b: int, *, tolerance: float = 3e-7) -> bool:
        """Whether two expressions compute the same, as far as samples or names tell."""
        if a == b:
            return True
        left, right = self._samples(a), self._samples(b)
        if left is None or right is None:
            return bool(self._told(a) == self._told(b))
        return all(
            x.shape == y.shape and np.allclose(x, y, rtol=tolerance, atol=tolerance / 10, equal_nan=True)
            for x, y in zip(left, right, strict=True)
        )

    def kind(self, expression: int) -> int:
        """A number that expressions of nearly one function share, whatever their epsilons."""
        if expression not in self._kinds:
            alike = next((k for k in self._heads if self.same(k, expression, tolerance=1e-3)), None)
            if alike is None:
                self._heads.append(expression)
            self._kinds[expression] = expression if alike is None else alike
        return self._kinds[expression]

    def computed(self, expression: int) -> bool:
        """Whether an expression can be computed on samples."""
        return self._samples(expression) is not None

    def _told(self, expression: int) -> Any:
        return self.names(expression) - _COMMON

    def _samples(self, expression: int) -> list[np.ndarray] | None:
        if expression not in self._sampled:
            self._sampled[expression] = self._sample(expression)
        found: list[np.ndarray] | None = self._sampled[expression]
        return found

    def _sample(self, expression: int) -> list[np.ndarray] | None:
        parts = self._parts(expression)
        sizes = {self._keys[p][1] for p in parts if self._keys[p][0] in _REDUCTIONS}
        if len(sizes) > 1 or any(not isinstance(size, int) or size > _MOST for size in sizes):
            return None
        size = sizes.pop() if sizes else 16
        random = np.random.default_rng(0)
        out = []
        for scale, shift in ((1.0, 0.0), (3.0, 0.5)):
            x = random.normal(size=max(size, 1)) * scale + shift
            values: dict[int, np.ndarray] = {}
            for part in parts:
                name, _, arguments = self._keys[part]
                if part == self.X:
                    values[part] = x
                    continue
                rule = _RULES.get(name)
                if rule is None or any(kind == "c" and v is None for kind, v in arguments):
                    return None
                given = [values[v] if kind == "e" else np.float64(v) for kind, v in arguments]
                try:
                    with np.errstate(all="ignore"):
                        values[part] = np.asarray(rule(*given), np.float64)
                except (TypeError, ValueError, OverflowError):
                    return None
            out.append(np.broadcast_to(values[expression], x.shape))
        return out


def _power(n: int) -> Callable[[Any], Any]:
    return lambda x: x**n


_erf = np.vectorize(math.erf, otypes=[float])
_UNCHANGED = frozenset({"copy", "each", "stack", "convert_element_type"})
# What tells nothing of an expression that cannot be computed: some ways of writing it have it, others not.
_COMMON = frozenset({"add", "sub", "mul", "div", "neg", "reduce_sum", "square", "max", "select_n", "convert"})
_REDUCTIONS = frozenset({"reduce_sum", "reduce_max", "reduce_min", "reduce_prod"})
_RULES: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
    "neg": np.negative,
    "abs": np.abs,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "cbrt": np.cbrt,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "erf": _erf,
    "erfc": lambda x: 1 - _erf(x),
    "square": np.square,
    "sign": np.sign,
    "floor": np.floor,
    "round": np.round,
    "clamp": lambda low, x, high: np.clip(x, low, high),
    "gt": np.greater,
    "ge": np.greater_equal,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "select_n": lambda which, *cases: np.choose(
        np.asarray(which, int), [np.broadcast_to(c, np.shape(which)) for c in cases]
    ),
    "reduce_sum": np.sum,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    **{f"integer_pow_{n}": _power(n) for n in range(-4, 9)},
}
