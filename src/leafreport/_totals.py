"""Sums over a report's leaves: exact at any size, each distinct array once."""

import operator
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from leafreport._columns import Columns
from leafreport._model import ROLES, Role


class Sums(NamedTuple):
    """What a set of leaves adds up to; of several leaves that are one array only the first counts."""

    leaf_count: int
    param_count: int
    nbytes: int
    repeated_nbytes: int


class Totals:
    """Sums over the whole tree and over any subtree, the latter in constant time after one pass."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    @cached_property
    def distinct(self) -> np.ndarray:
        """bool[leaves]: false for a leaf that is the same object as an earlier one."""
        first = self._columns.first
        if first is None:
            return np.ones(len(self._columns.leaf_code), np.bool_)
        heads: npt.NDArray[np.bool_] = first == np.arange(len(first))
        return heads

    def counted(self, *, repeats: bool = False) -> list[int]:
        """How many leaves have each spec: the distinct ones, or the repeats."""
        chosen = self._columns.leaf_code[~self.distinct if repeats else self.distinct]
        counted: list[int] = np.bincount(chosen, minlength=len(self._columns.specs)).tolist()
        return counted

    @cached_property
    def whole(self) -> Sums:
        """The sums over every leaf."""
        specs = self._columns.specs
        counted = list(zip(self.counted(), specs, strict=True))
        repeats = zip(self.counted(repeats=True), specs, strict=True)
        return Sums(
            len(self._columns.leaf_code),
            sum(n * (spec.size or 0) for n, spec in counted if spec.kind == "array"),
            sum(n * (spec.nbytes or 0) for n, spec in counted),
            sum(n * (spec.nbytes or 0) for n, spec in repeats),
        )

    @cached_property
    def logical(self) -> int:
        """How many leaves there would be if each that holds several layers were one a layer."""
        leaves = np.bincount(self._columns.leaf_code, minlength=len(self._columns.specs)).tolist()
        return sum(
            n * (1 if spec.stacked is None else spec.stacked)
            for n, spec in zip(leaves, self._columns.specs, strict=True)
        )

    @cached_property
    def roles(self) -> dict[Role, Sums]:
        """The sums over the leaves of each role that there is, where an adapter told."""
        counted, repeats = self.counted(), self.counted(repeats=True)
        found: dict[Role, list[int]] = {}
        for n, again, spec in zip(counted, repeats, self._columns.specs, strict=True):
            if spec.role is not None and n + again:
                sums = found.setdefault(spec.role, [0, 0, 0, 0])
                sums[0] += n + again
                sums[1] += n * (spec.size or 0) if spec.kind == "array" else 0
                sums[2] += n * (spec.nbytes or 0)
                sums[3] += again * (spec.nbytes or 0)
        return {role: Sums(*found[role]) for role in ROLES if role in found}

    @cached_property
    def stored_nbytes(self) -> int | None:
        """Bytes on disk of the leaves' values; None where no leaf's are known."""
        stored = self._columns.stored
        # Summed as Python's integers: a saved report may claim what 64 bits do not hold.
        return None if stored is None else sum(n for n in stored.tolist() if n >= 0)

    def device_nbytes(self) -> dict[int, int]:
        """Bytes on each device, by device id; devices of an abstract mesh are numbered from 0."""
        out: dict[int, int] = {}
        unnamed: dict[int, int] = {}  # by how many devices an abstract mesh has
        for n, spec in zip(self.counted(), self._columns.specs, strict=True):
            if n and spec.devices and spec.device_nbytes is not None:
                if not spec.device_ids:
                    unnamed[spec.devices] = unnamed.get(spec.devices, 0) + n * spec.device_nbytes
                for device in spec.device_ids or ():
                    out[device] = out.get(device, 0) + n * spec.device_nbytes
        running = 0
        for device in reversed(range(max(unnamed, default=0))):
            running += unnamed.get(device + 1, 0)
            out[device] = out.get(device, 0) + running
        return dict(sorted(out.items()))

    def replicated_nbytes(self) -> int:
        """Bytes on all devices beyond one copy of each array."""
        return sum(
            n * (spec.devices * spec.device_nbytes - spec.nbytes)
            for n, spec in zip(self.counted(), self._columns.specs, strict=True)
            if spec.devices and spec.device_nbytes is not None and spec.nbytes is not None
        )

    def within(self, entry: int) -> Sums:
        """The sums over one entry's subtree."""
        start = self._columns.leaf_start
        low, high = int(start[entry]), int(start[self._columns.end[entry]])
        params, nbytes, repeated = self._running
        return Sums(
            high - low,
            int(params[high]) - int(params[low]),
            int(nbytes[high]) - int(nbytes[low]),
            int(repeated[high]) - int(repeated[low]),
        )

    @cached_property
    def _running(self) -> tuple["np.ndarray | list[int]", ...]:
        specs = self._columns.specs
        params = [spec.size or 0 if spec.kind == "array" else 0 for spec in specs]
        nbytes = [spec.nbytes or 0 for spec in specs]
        return (
            self._sum(params, self.distinct),
            self._sum(nbytes, self.distinct),
            self._sum(nbytes, ~self.distinct),
        )

    def _sum(self, amounts: list[int], chosen: np.ndarray) -> "np.ndarray | list[int]":
        # NumPy where the sum cannot pass 64 bits; Python's integers where an abstract tree is that large.
        counts = np.bincount(self._columns.leaf_code, minlength=len(amounts)).tolist()
        if sum(map(operator.mul, counts, amounts)) < 2**62:
            per_leaf = (
                np.array(amounts, np.int64)[self._columns.leaf_code] if amounts else np.zeros(0, np.int64)
            )
            return np.concatenate([np.zeros(1, np.int64), np.cumsum(per_leaf * chosen)])
        rows = zip(self._columns.leaf_code.tolist(), chosen.tolist(), strict=True)
        return list(accumulate((amounts[code] if keep else 0 for code, keep in rows), initial=0))
