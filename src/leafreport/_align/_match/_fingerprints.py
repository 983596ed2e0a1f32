"""Constant arrays, told apart by what they hold, however their axes are laid out."""

import math

import numpy as np


class Constants:
    """Constant arrays, told apart by what they hold, however their axes are laid out.

    Two arrays are one where size, moments, quantiles and the course along each axis agree.
    """

    def __init__(self) -> None:
        self._known: list[tuple[np.ndarray, np.ndarray]] = []
        self._by_shape: dict[tuple[int, ...], list[int]] = {}
        # Random numbers by what they may be: nothing is known of the first.
        self._random: list[np.ndarray] = [np.zeros(0)]

    def ident(self, array: np.ndarray) -> int:
        """The number of a constant array without repeats."""
        key = tuple(sorted(size for size in array.shape if size > 1))
        told = _fingerprint(_real(array))
        for number in self._by_shape.setdefault(key, []):
            if close(self._known[number][0], told, 1e-5):
                return number
        number = len(self._known)
        self._known.append((told, array))
        self._by_shape[key].append(number)
        return number

    def drawn(self, number: int, shape: tuple[int, ...]) -> np.ndarray:
        """Some of its values, always the same: what stands for it in a sample."""
        values = _real(self._known[number][1]).reshape(-1)
        finite = np.sort(values[np.isfinite(values)])
        if not finite.size:
            return np.zeros(shape)
        return finite[np.random.default_rng(number).integers(0, finite.size, shape)]

    def drawn_ident(self, values: np.ndarray | None) -> int:
        """The number of random numbers, told apart by how they are distributed; 0 where that is not known.

        Args:
            values: some of them.
        """
        if values is None:
            return 0
        own = np.sort(np.asarray(values, np.float64))
        for number, known in enumerate(self._random):
            if known.size == own.size and np.allclose(known, own, rtol=1e-3, atol=1e-3 * np.abs(own).max()):
                return number
        self._random.append(own)
        return len(self._random) - 1

    def random(self, number: int, shape: tuple[int, ...]) -> np.ndarray:
        """Random numbers of a kind, always the same: of those that are true or false the rarer come first."""
        own = self._random[number]
        if not own.size:
            return np.full(shape, 0.5)
        count = math.prod(shape)
        at = (np.random.default_rng(1).permutation(count) + 0.5) / count
        if own.mean() <= 0.5 and not np.setdiff1d(own, [0.0, 1.0]).size:
            own = own[::-1]
        found: np.ndarray = own[(at * own.size).astype(int)].reshape(shape)
        return found

    def random_words(self, number: int) -> str:
        """How random numbers are distributed."""
        own = self._random[number]
        if not own.size:
            return "random numbers"
        if not np.setdiff1d(own, [0.0, 1.0]).size:
            return f"random numbers, {own.mean():.3g} of them true"
        return f"random numbers from {own.min():.3g} to {own.max():.3g}"

    def words(self, number: int) -> str:
        """An array's shape, mean and extremes."""
        array = self._known[number][1]
        shape = ",".join(str(size) for size in array.shape if size > 1)
        values = _real(array)
        return (
            f"{array.dtype}[{shape}] from {values.min():.6g} to {values.max():.6g}, mean {values.mean():.6g}"
        )

    def mask_words(self, number: int) -> str:
        """What a mask lets through."""
        kept = np.asarray(self._known[number][1], bool)
        square = kept.reshape([size for size in kept.shape if size > 1] or [1])
        if square.ndim == 2 and square.shape[0] == square.shape[1]:
            lower = np.tril(np.ones_like(square))
            if (square == lower).all() or (square == lower.T).all():
                return "causal"
        return f"lets {int(kept.sum()):,} of {kept.size:,} through"


def _real(array: np.ndarray) -> np.ndarray:
    """The values as real numbers; of complex ones both parts, along an axis of their own."""
    if array.dtype.kind == "c":
        return np.stack([array.real, array.imag], -1).astype(np.float64)
    return np.asarray(array, np.float64)


def _fingerprint(values: np.ndarray) -> np.ndarray:
    finite = np.where(np.isfinite(values), values, np.sign(values) * 1e30)
    flat = np.sort(finite.reshape(-1))
    quantiles = flat[np.linspace(0, flat.size - 1, 9).astype(int)]
    courses = []
    for axis, size in enumerate(finite.shape):
        if size > 1:
            means = finite.mean(axis=tuple(n for n in range(finite.ndim) if n != axis))
            steps = np.abs(np.diff(finite, axis=axis)).mean()
            courses.append((float(means.std()), float(steps)))
    moments = [flat.mean(), np.sqrt((flat**2).mean())]
    told = np.array([*moments, *quantiles, *(n for course in sorted(courses) for n in course)])
    scale = max(float(np.abs(told).max()), 1e-300)
    return np.array([*(told / scale), scale])


def close(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    """Whether arrays are the same up to a tolerance, relative and absolute; NaNs are."""
    if a.shape != b.shape:
        return False
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))
