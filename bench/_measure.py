"""How a claim is measured: in a fresh interpreter, both sides by turns, the median of the ratios."""

import argparse
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """One claim: `ours` takes at most `limit` of the time `theirs` does on what `make` gives.

    Attributes:
        make: builds the input; not measured.
        ours: what is claimed to be fast.
        theirs: the yardstick.
        limit: the largest ratio the claim allows.
        rounds: how many times both sides run, by turns.
        leaves: with it, `ours` also keeps its peak memory within `nbytes_per_leaf`.
        nbytes_per_leaf: bytes.
    """

    make: Callable[[], Any]
    ours: Callable[[Any], object]
    theirs: Callable[[Any], object]
    limit: float
    rounds: int = 7
    leaves: int = 0
    nbytes_per_leaf: int = 200


def seconds(function: Callable[[Any], object], given: Any) -> float:
    """The time of one call; freeing what it returns is no part of it, for either side."""
    start = time.perf_counter()
    result = function(given)
    stop = time.perf_counter()
    del result
    return stop - start


def measure(name: str, case: Case) -> bool:
    """Runs a case, prints its line, says whether the claim holds."""
    given = case.make()
    # Once unmeasured: imports and caches of both sides.
    seconds(case.ours, given), seconds(case.theirs, given)
    rounds = [(seconds(case.ours, given), seconds(case.theirs, given)) for _ in range(case.rounds)]
    ratios = sorted(ours / theirs for ours, theirs in rounds)
    ratio = statistics.median(ratios)
    held = ratio <= case.limit
    text = f"{ratio:.3g} (rounds {ratios[0]:.3g} to {ratios[-1]:.3g}; at most {case.limit:g})"
    times = [f"{statistics.median(side) * 1e3:,.0f} ms" for side in zip(*rounds, strict=True)]
    text += f", {times[0]} against {times[1]}"
    if case.leaves:
        tracemalloc.start()
        kept = case.ours(given)
        peak = tracemalloc.get_traced_memory()[1] / case.leaves
        tracemalloc.stop()
        del kept
        held &= peak <= case.nbytes_per_leaf
        text += f"; peak {peak:.0f} bytes a leaf (at most {case.nbytes_per_leaf})"
    print(f"{'holds ' if held else 'MISSED'} {name}: {text}", flush=True)
    return held


def main(cases: dict[str, Case]) -> None:
    """The script: every case in an interpreter of its own, or those named, or one here (`--here`)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", metavar="case", help=", ".join(cases))
    parser.add_argument("--here", action="store_true", help="in this interpreter, not in a fresh one each")
    arguments = parser.parse_args()
    names = arguments.names or list(cases)
    if arguments.here:
        held = [measure(name, cases[name]) for name in names]
        sys.exit(not all(held))
    # One heap must not slow the collector in another case: the collector's work grows with all that lives.
    runs = [subprocess.run([sys.executable, sys.argv[0], "--here", name], check=False) for name in names]
    sys.exit(any(run.returncode for run in runs))
