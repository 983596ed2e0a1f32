"""Both models run on one input: how far apart the outputs are, and where they part."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from leafreport._align._carry._convert import moved
from leafreport._align._compare._places import Places
from leafreport._align._match._functions import Functions
from leafreport._align._match._graph import Graph
from leafreport._align._match._matching import matched
from leafreport._align._records import LeafPair, Place
from leafreport._align._trace._call import Traced, traced
from leafreport._align._trace._program import Array
from leafreport._align._trace._tracer import program
from leafreport._leaf import Leaf, Path
from leafreport._model import Model

# Of an intermediate array these many quantiles are compared: no layout changes them.
_QUANTILES = 257
# What share of the outputs' difference an intermediate array must show to be where they part.
_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Run:
    """A model, values for its params, and what its call takes."""

    model: Model
    params: Any
    inputs: tuple[Any, ...]

    def outputs(self) -> list[np.ndarray]:
        """The leaves of what the call gives, computed with the highest precision of products."""
        leaves, structure = jax.tree_util.tree_flatten(self.inputs)
        arrays = {n: leaf for n, leaf in enumerate(leaves) if hasattr(leaf, "shape")}

        def call(params: Any, arrays: dict[int, Any]) -> Any:
            given = [arrays.get(n, leaf) for n, leaf in enumerate(leaves)]
            return self.model.apply(params, *jax.tree_util.tree_unflatten(structure, given))

        with jax.default_matmul_precision("highest"):
            made = jax.jit(call)(self.params, arrays)
        return [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(made) if hasattr(leaf, "shape")]

    def traced(self) -> Traced:
        """The call as JAX traces it on these values."""
        with jax.default_matmul_precision("highest"):
            return traced(self.model.apply, self.params, self.inputs)


def laid_out(
    pairs: Sequence[LeafPair], left: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]]
) -> list[np.ndarray] | None:
    """Left arrays as the right side lays them out; None where the pairs do not say it all.

    Args:
        pairs: pairs of parts of inputs or of outputs; their paths are the arrays' numbers.
        left: the left arrays.
        shapes: the shapes of the right ones.
    """
    if all(pair.layout == "identity" for pair in pairs) and len({p.left_path for p in pairs}) == len(
        left
    ) == len(shapes):
        order = {int(pair.right_path[0]): int(pair.left_path[0]) for pair in pairs}
        return [left[order[n]] for n in range(len(shapes))]
    made: list[np.ndarray] = []
    for n, shape in enumerate(shapes):
        own = [pair for pair in pairs if pair.right_path == (str(n),)]
        if any(pair.open_layout for pair in own) or sum(math.prod(p.right.sizes) for p in own) != math.prod(
            shape
        ):
            return None
        target: np.ndarray | None = None
        for pair in own:
            source = np.ascontiguousarray(left[int(pair.left_path[0])])
            if source.shape != pair.left.leaf_shape:
                return None
            target = np.empty(shape, source.dtype) if target is None else target
            into = pair.right.of(target)
            into[...] = moved(pair, source).reshape(into.shape)
        made.append(np.empty(shape) if target is None else target)
    return made


def distance(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> tuple[float, float]:
    """The largest difference of two lists of arrays, and the same to the largest left magnitude."""
    largest = apart = 0.0
    for a, b in zip(left, right, strict=False):
        if a.shape != b.shape:
            return math.inf, math.inf
        one, other = _wide(a), _wide(b)
        if not one.size:
            continue
        with np.errstate(all="ignore"):
            difference = np.abs(one - other)
        difference[(one == other) | (np.isnan(one) & np.isnan(other))] = 0
        difference[np.isnan(difference)] = math.inf
        apart = max(apart, float(difference.max()))
        finite = np.abs(one[np.isfinite(one)])
        largest = max(largest, float(finite.max(initial=0.0)))
    if len(left) != len(right):
        return math.inf, math.inf
    return apart, apart / largest if largest else math.inf if apart else 0.0


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def drawn_params(
    params: Any, leaves: Sequence[Leaf], roles: dict[Path, str], rng: np.random.Generator
) -> Any:
    """Params with values where there are none: weights small enough for deep models, variances positive."""
    given, structure = jax.tree_util.tree_flatten(params)
    made = [
        _drawn(value, roles.get(leaf.path, ""), rng) if isinstance(value, jax.ShapeDtypeStruct) else value
        for value, leaf in zip(given, leaves, strict=True)
    ]
    return jax.tree_util.tree_unflatten(structure, made)


def _drawn(leaf: Any, role: str, rng: np.random.Generator) -> Any:
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), leaf.shape) if leaf.shape else jax.random.key(0)
    dtype = np.dtype(leaf.dtype)
    if not jax.numpy.issubdtype(dtype, np.inexact):
        return np.zeros(leaf.shape, dtype)
    normal = rng.normal(size=leaf.shape)
    match role:
        case "weight":
            normal = normal * max(math.prod(leaf.shape), 1) ** -0.25
        case "scale":
            normal = 1 + 0.3 * normal
        case "variance":
            normal = 0.5 + np.abs(normal)
        case _:
            normal = 0.3 * normal
    return normal.astype(dtype)


def drawn_inputs(inputs: Any, call: Traced, rng: np.random.Generator) -> Any:
    """Inputs at random where they are abstract: normal floats, integers among the rows they index."""
    leaves, structure = jax.tree_util.tree_flatten(inputs)
    arrays = [n for n, leaf in enumerate(leaves) if hasattr(leaf, "shape")]
    rows = Graph(program(call), Functions()).rows()
    for place, n in enumerate(arrays):
        leaf = leaves[n]
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            continue
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaves[n] = _drawn(leaf, "", rng)
        elif np.dtype(leaf.dtype).kind == "b":
            leaves[n] = rng.integers(0, 2, size=leaf.shape).astype(bool)
        elif np.dtype(leaf.dtype).kind in "iu":
            leaves[n] = rng.integers(0, rows.get(place, 2), size=leaf.shape).astype(leaf.dtype)
        else:
            leaves[n] = rng.normal(size=leaf.shape).astype(leaf.dtype)
    return jax.tree_util.tree_unflatten(structure, leaves)


def first_parting(
    runs: tuple[Run, Run], paths: tuple[Sequence[Path], Sequence[Path]], relative: float, rtol: float
) -> tuple[Place, Place] | None:
    """The first matched place, in the left program's order, at which what both computed differs.

    Cost: both models once more, operation by operation.

    Args:
        runs: both models with values.
        paths: the paths of the leaves of each side.
        relative: how far the outputs are apart.
        rtol: up to which difference two arrays are the same.
    """
    calls = runs[0].traced(), runs[1].traced()
    sides, found = matched(calls)
    graphs = sides[0].graph, sides[1].graph
    watched = [
        {(made[0], made[1]) for n in nodes if (made := graph.nodes[n].made) is not None}
        for graph, nodes in zip(graphs, (found.nodes, found.nodes.values()), strict=True)
    ]
    seen = [
        _watched(run, call, graph, wanted)
        for run, call, graph, wanted in zip(runs, calls, graphs, watched, strict=True)
    ]
    threshold = max(rtol, min(relative, 1.0) * _SHARE)
    for a in sorted(found.nodes, key=sides[0].rank.__getitem__):
        b = found.nodes[a]
        one, other = (s.get(g.nodes[n].made) for s, g, n in zip(seen, graphs, (a, b), strict=True))  # type: ignore[arg-type]
        if one is None or other is None:
            continue
        scale = max(float(np.abs(one).max()), 1e-30)
        if not float(np.abs(one - other).max()) <= threshold * scale:
            return Places(sides[0], paths[0]).of(a), Places(sides[1], paths[1]).of(b)
    return None


_Made = tuple[int, tuple[int, ...]]


def _watched(run: Run, call: Traced, graph: Graph, wanted: set[_Made]) -> dict[_Made, np.ndarray]:
    """The quantiles of pieces of what a program's operations make of values."""
    found: dict[_Made, np.ndarray] = {}
    pieces: dict[int, list[_Made]] = {}
    for made in wanted:
        pieces.setdefault(made[0], []).append(made)

    def watch(number: int, value: Any) -> None:
        for made in pieces.get(number, ()):
            output: Array = graph.program.ops[number].output
            found[made] = _quantiles(graph.pieces.taken(output, made[1], np.asarray(value)))

    distinct: dict[int, Any] = {}
    for place, leaf in zip(call.places, jax.tree_util.tree_leaves(run.params), strict=True):
        distinct.setdefault(place, leaf)
    given = [leaf for leaf in jax.tree_util.tree_leaves(run.inputs) if hasattr(leaf, "shape")]
    with jax.default_matmul_precision("highest"):
        program(call, held=[*(distinct[n] for n in range(len(distinct))), *given], watch=watch)
    return found


def _quantiles(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "biufc" and not jax.numpy.issubdtype(values.dtype, np.inexact):
        return np.zeros(1)
    wide = np.abs(values).astype(np.float64) if values.dtype.kind == "c" else values.astype(np.float64)
    flat = np.sort(np.nan_to_num(wide.reshape(-1), nan=1e300, posinf=1e300, neginf=-1e300))
    return flat[np.linspace(0, flat.size - 1, _QUANTILES).astype(int)] if flat.size else np.zeros(1)
