"""What is done to one array between two places: small expressions, told apart by what they compute.

Two frameworks write one normalisation or one activation function in different primitives. So an expression
is compared by its values on sample numbers. What NumPy cannot compute here (a pooling window, a sort)
stands for some function of its name and settings: equal ones give equal values, and what is around them is
still computed.
"""

import math
import zlib
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np

from leafreport._align._match._fingerprints import Constants, close
from leafreport._align._trace._constants import COMPUTED

# "e" an expression, "c" a number, "k" a known constant array (its number, and the axes along which it
# varies), "u" one not known, "r" random numbers (the number of their kind).
Argument = tuple[Literal["e", "c", "k", "u", "r"], Any]
# An expression: what is computed, settings, and what it is computed from.
Key = tuple[str, Any, tuple[Argument, ...]]

# Samples along an axis that is reduced: for one that is longer they stand for more numbers each.
_MOST_ROWS = 64
_COLUMNS = 24


class Functions:
    """Expressions of one variable, each kept once. The variable itself is number 0."""

    X = 0

    def __init__(self) -> None:
        self._keys: list[Key] = [("x", None, ())]
        self._numbers: dict[Key, int] = {self._keys[0]: 0}
        self._sampled: dict[int, np.ndarray] = {}
        self._names: dict[int, frozenset[str]] = {0: frozenset()}
        self._constants_in: dict[int, tuple[tuple[str, Any], ...]] = {0: ()}
        self._kinds: dict[int, int] = {}
        self._heads: list[tuple[float, int]] = []
        self.constants = Constants()

    # --- Making

    def made(self, name: str, arguments: Sequence[Argument], settings: Any = None) -> int:
        """The expression of an operation on expressions and constants."""
        if name in _UNCHANGED and arguments[0][0] == "e":
            return int(arguments[0][1])
        if name in _NEUTRAL and len(arguments) == 2:
            first, second = arguments
            if second == _NEUTRAL[name] and first[0] == "e":
                return int(first[1])
            if first == _NEUTRAL[name] and second[0] == "e" and name in ("add", "add_any", "mul"):
                return int(second[1])
        if name == "rev" and self._keys[arguments[0][1]][:2] == (name, settings):  # there and back
            return int(self._keys[arguments[0][1]][2][0][1])
        return self._kept((name, settings, tuple(arguments)))

    def _kept(self, key: Key) -> int:
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
        return self._replaced(outer, {self.X: inner})

    def _replaced(self, expression: int, done: dict[int, int]) -> int:
        """An expression in which others stand in the place of some."""
        for part in self.parts(expression):
            if part not in done:
                name, settings, arguments = self._keys[part]
                done[part] = (
                    part
                    if not arguments
                    else self.made(
                        name,
                        [(kind, done[v]) if kind == "e" else (kind, v) for kind, v in arguments],
                        settings,
                    )
                )
        return done[expression]

    def parts(self, expression: int) -> list[int]:
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

    def scaled(self, expression: int, factor: float) -> int:
        """An expression times a number."""
        return expression if factor == 1.0 else self.made("mul", [("e", expression), ("c", factor)])

    # --- Looking into

    def names(self, expression: int) -> frozenset[str]:
        """The operations in an expression."""
        if expression not in self._names:
            found = {self._keys[part][0] for part in self.parts(expression)}
            self._names[expression] = frozenset(found) - {"x"}
        return self._names[expression]

    def numbers(self, expression: int) -> list[tuple[str, float]]:
        """The known numbers in an expression, each with the operation that takes it."""
        return sorted(
            (self._keys[part][0], value)
            for part in self.parts(expression)
            for kind, value in self._keys[part][2]
            if kind == "c"
        )

    def constants_in(self, expression: int) -> tuple[tuple[str, Any], ...]:
        """The constant arrays and masks in an expression, and whether random numbers are in it."""
        if expression not in self._constants_in:
            found: list[tuple[str, Any]] = []
            for part in self.parts(expression):
                name, settings, arguments = self._keys[part]
                found += [(kind, value) for kind, value in arguments if kind == "u"]
                found += [(kind, 0) for kind, _ in arguments if kind == "r"]
                found += [(kind, value[0]) for kind, value in arguments if kind == "k"]
                if name == "masked":
                    found.append(("mask", settings))
            self._constants_in[expression] = tuple(sorted(set(found), key=repr))
        return self._constants_in[expression]

    def random(self, expression: int) -> list[int]:
        """The kinds of random numbers in it."""
        arguments = (own for part in self.parts(expression) for own in self._keys[part][2])
        return sorted({value for kind, value in arguments if kind == "r"})

    def reduced(self, expression: int) -> list[tuple[str, int, Any]]:
        """The reductions in an expression: name, how many numbers become one, and over what."""
        found = []
        for part in self.parts(expression):
            name, settings, _ = self._keys[part]
            if name in REDUCTIONS:
                found.append((name, math.prod(size for _, size in settings), settings))
        return found

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
                (within,) = [v for kind, v in arguments if kind == "e"]
                if not value or not math.isfinite(value) or self._together(within):
                    return expression, factor
                factor *= value
                (expression,) = [v for kind, v in arguments if kind == "e"]
            elif name == "div" and kinds == ["e", "c"] and arguments[1][1] and math.isfinite(arguments[1][1]):
                if self._together(arguments[0][1]):
                    return expression, factor
                factor /= arguments[1][1]
                expression = arguments[0][1]
            else:
                return expression, factor

    def _together(self, expression: int) -> bool:
        """Whether a factor stays with an expression: that of dropout, and of what is multiplied by itself.

        An activation function has a factor within or at its end, as it is written.
        """
        name, _, arguments = self._keys[expression]
        kinds = [kind for kind, _ in arguments]
        return "r" in kinds or (name in ("mul", "div") and kinds == ["e", "e"])

    def affine(self, expression: int) -> tuple[float, float] | None:
        """Factor and summand of an expression that is `factor * x + summand`; None for any other."""
        scale, shift = 1.0, 0.0
        order = self.parts(expression)
        for place, part in enumerate(order):
            name, _, arguments = self._keys[part]
            if part == self.X:
                if place:
                    return None
                continue
            kinds = "".join(kind for kind, _ in arguments)
            if kinds.count("e") != 1 or kinds.strip("ec"):
                return None
            if next(v for kind, v in arguments if kind == "e") != order[place - 1]:
                return None
            number = next((float(v) for kind, v in arguments if kind == "c"), 0.0)
            match name, kinds:
                case "add" | "add_any", _:
                    shift += number
                case "sub", "ec":
                    shift -= number
                case "sub", "ce":
                    scale, shift = -scale, number - shift
                case "mul", _:
                    scale, shift = scale * number, shift * number
                case "div", "ec" if number:
                    scale, shift = scale / number, shift / number
                case "neg", _:
                    scale, shift = -scale, -shift
                case _:
                    return None
        return (scale, shift) if math.isfinite(scale) and scale and math.isfinite(shift) else None

    def chain(self, expression: int) -> list[int]:
        """An expression as expressions one after the other, each of what the last one gave."""
        order = self.parts(expression)
        place = {part: n for n, part in enumerate(order)}
        last = [0] * len(order)
        for n, part in enumerate(order):
            for kind, value in self._keys[part][2]:
                if kind == "e":
                    last[place[value]] = n
        found: list[int] = []
        past, reach = self.X, 0
        for n, part in enumerate(order):
            if reach <= n and part != self.X:
                found.append(self._replaced(part, {past: self.X}))
                past = part
            reach = max(reach, last[n])
        return found

    def first_step(self, expression: int) -> tuple[str, float] | None:
        """What is done first to the variable wherever it is used: `add` or `mul` of a number; None else."""
        users = [p for p in self.parts(expression) if ("e", self.X) in self._keys[p][2]]
        if len(users) != 1:
            return None
        name, _, arguments = self._keys[users[0]]
        numbers = [float(v) for kind, v in arguments if kind == "c"]
        if len(arguments) != 2 or len(numbers) != 1:
            return None
        (number,) = numbers
        match name:
            case "add" | "add_any":
                return "add", number
            case "sub" if arguments[0][0] == "e":
                return "add", -number
            case "mul":
                return "mul", number
            case "div" if arguments[0][0] == "e" and number:
                return "mul", 1 / number
        return None

    # --- Comparing

    def same_index(self, a: int, b: int, rows: int) -> bool:
        """Whether two expressions take the same rows of a table for every index that is in bounds."""
        if any(self.reduced(expression) or self.constants_in(expression) for expression in (a, b)):
            return self.same(a, b)
        x = np.unique(np.linspace(0, max(rows - 1, 0), min(rows, _MOST_ROWS)).astype(int)).tolist()
        return close(self.on(a, x), self.on(b, x), 1e-6)

    def same(self, a: int, b: int, *, tolerance: float = 1e-6) -> bool:
        """Whether two expressions compute the same, as far as samples tell."""
        if a == b:
            return True
        if self.constants_in(a) != self.constants_in(b) or self._sizes(a) != self._sizes(b):
            return False
        if self._standing_in(a) != self._standing_in(b):
            return False
        return close(self.samples(a), self.samples(b), tolerance)

    def on(self, expression: int, values: Sequence[float]) -> np.ndarray:
        """The values of an expression on given numbers, each alone."""
        x = np.asarray(values, np.float64)
        return np.broadcast_to(self._held(expression, x, {}), x.shape)

    def _standing_in(self, expression: int) -> set[tuple[str, str]]:
        """The operations that samples only stand in for."""
        return {
            (name, repr(settings))
            for name, settings, arguments in map(self.key, self.parts(expression))
            if arguments and name not in COMPUTED and name not in REDUCTIONS and name != "masked"
        }

    def _sizes(self, expression: int) -> set[int]:
        """How many numbers become one in an expression's reductions."""
        return {size for _, size, _ in self.reduced(expression)} - {1}

    def kind(self, expression: int) -> int:
        """A number that expressions of nearly one function share, whatever their epsilons."""
        if expression not in self._kinds:
            own = self._coarse(expression)
            place = float(np.mean(np.tanh(np.nan_to_num(own))))
            at = bisect_left(self._heads, (place - 0.01, -1))
            while at < len(self._heads) and self._heads[at][0] <= place + 0.01:
                head = self._heads[at][1]
                if close(self._coarse(head), own, 3e-3):
                    self._kinds[expression] = head
                    break
                at += 1
            else:
                insort(self._heads, (place, expression))
                self._kinds[expression] = expression
        return self._kinds[expression]

    def _coarse(self, expression: int) -> np.ndarray:
        """Samples without those of the smallest numbers, where an epsilon is most of what there is."""
        found = self.samples(expression)
        return found[..., [n for n in range(_COLUMNS) if n % 4 != 3]]

    def samples(self, expression: int) -> np.ndarray:
        """Values of an expression: one axis for each group of axes that is reduced, and one of examples."""
        found = self._sampled.get(expression)
        if found is None:
            found = self._sampled[expression] = self._sample(expression)
        return found

    def variable(self, expression: int) -> tuple[np.ndarray, dict[frozenset[Any], int]]:
        """The samples an expression is computed on, and what each of their axes but the last stands for."""
        axes = _axes([self._keys[part] for part in self.parts(expression)])
        rows = [min(max(size, 1), _MOST_ROWS) for size in axes.values()]
        while math.prod(rows) > 4 * _MOST_ROWS * _MOST_ROWS:
            rows = [max(1, size // 2) for size in rows]
        drawn = np.random.default_rng(0).normal(size=(math.prod(rows), _COLUMNS)).reshape(*rows, _COLUMNS)
        # Large and small numbers: functions that are alike near zero part there, and epsilons show.
        x = drawn * np.resize([1.0, 3.0, 0.3, 0.01], _COLUMNS) + np.resize([0.0, 0.5, 0.0, 0.0], _COLUMNS)
        return x, axes

    def _sample(self, expression: int) -> np.ndarray:
        x, axes = self.variable(expression)
        return np.broadcast_to(self._held(expression, x, axes), x.shape)

    def _held(self, expression: int, x: np.ndarray, axes: dict[frozenset[Any], int]) -> np.ndarray:
        """The values of an expression on some of its variable."""
        held: dict[int, np.ndarray] = {self.X: x}
        with np.errstate(all="ignore"):
            for part in self.parts(expression):
                if part == self.X:
                    continue
                name, settings, arguments = self._keys[part]
                given = [self._argument(kind, value, held, axes) for kind, value in arguments]
                held[part] = self._computed(name, settings, given, axes, x)
        return held[expression]

    def _argument(
        self, kind: str, value: Any, held: dict[int, np.ndarray], axes: dict[frozenset[Any], int]
    ) -> np.ndarray:
        if kind == "e":
            return held[value]
        if kind == "c":
            return np.float64(value)  # type: ignore[return-value]
        if kind == "k":
            ident, varies = value
            shape = held[self.X].shape[:-1]
            own = [size if group & varies else 1 for group, size in zip(axes, shape, strict=True)]
            return self.constants.drawn(ident, (*own, _COLUMNS))
        if kind == "r":
            return self.constants.random(value, held[self.X].shape)
        return np.float64(_told(kind, value))  # type: ignore[return-value]

    def _computed(
        self, name: str, settings: Any, given: list[np.ndarray], axes: dict[Any, int], x: np.ndarray
    ) -> np.ndarray:
        if name == "masked":
            return given[0]
        if name == "not":  # of numbers too: what is not zero says yes
            return np.asarray(given[0] == 0, np.float64)
        if name in REDUCTIONS:
            own = tuple(n for n, group in enumerate(axes) if group & {axis for axis, _ in settings})
            return np.asarray(REDUCTIONS[name](np.broadcast_to(given[0], x.shape), own))
        rule = COMPUTED.get(name)
        if rule is not None:
            try:
                return np.asarray(rule(*given), np.float64)
            except (TypeError, ValueError, OverflowError):
                pass
        mark = _told(name, settings)
        return np.sin(1.3 * sum((n + 1) * arg for n, arg in enumerate(given)) + mark) + mark


def _axes(keys: Iterable[Key]) -> dict[frozenset[Any], int]:
    """The axes that are reduced, those that always are together as one: the smallest first."""
    seen: dict[Any, list[int]] = {}
    sizes: dict[Any, int] = {}
    for place, (name, settings, _) in enumerate(keys):
        if name in REDUCTIONS:
            for axis, size in settings:
                seen.setdefault(axis, []).append(place)
                sizes[axis] = size
    groups: dict[tuple[int, ...], list[Any]] = {}
    for axis, places in seen.items():
        groups.setdefault(tuple(places), []).append(axis)
    found = [(frozenset(group), math.prod(sizes[axis] for axis in group)) for group in groups.values()]
    return dict(sorted(found, key=lambda item: item[1]))


def _told(*what: object) -> float:
    """A number between 0 and 1 that stands for a name and settings; the same in every process."""
    return zlib.crc32(repr(what).encode()) / 2**32


# What changes nothing: nought that is added, one that is multiplied by.
_NEUTRAL: dict[str, Argument] = {
    **dict.fromkeys(("add", "add_any", "sub"), ("c", 0.0)),
    **dict.fromkeys(("mul", "div"), ("c", 1.0)),
}
_UNCHANGED = frozenset({"copy", "each", "stack", "convert_element_type"})


def _over(function: Callable[..., Any]) -> Callable[[np.ndarray, tuple[int, ...]], np.ndarray]:
    return lambda x, axes: np.asarray(function(x, axis=axes, keepdims=True)) if axes else x


REDUCTIONS: dict[str, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]] = {
    "reduce_mean": _over(np.mean),
    "reduce_max": _over(np.max),
    "reduce_min": _over(np.min),
    "reduce_prod": _over(np.prod),
    "reduce_and": _over(np.all),
    "reduce_or": _over(np.any),
}
