"""`align`: two models, or two trees, to an `Alignment`."""

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from leafreport._adapter import adapter_of, model
from leafreport._align._alignment import Alignment, End, as_inputs
from leafreport._align._compare._differences import differences
from leafreport._align._layout._axes import both_axes
from leafreport._align._layout._pair import Pair, Piece
from leafreport._align._layout._pairs import around, pairs
from leafreport._align._layout._storing import pieces
from leafreport._align._mapping import Said, read
from leafreport._align._match._match import Side, Sides, unmatched
from leafreport._align._match._matching import matched
from leafreport._align._named._naming import by_names
from leafreport._align._parts import Part, part, whole
from leafreport._align._records import Difference, LeafPair, Place, dtype_differences
from leafreport._align._saying import honoured
from leafreport._align._trace._call import Traced, traced
from leafreport._errors import AlignmentError, LeafReportError, ModelError
from leafreport._flatten import report
from leafreport._leaf import Path
from leafreport._model import Model
from leafreport._report import LeafReport


def align(left: Any, right: Any, x: Any = None, *, x_right: Any = None, mapping: Any = None) -> Alignment:
    """Which leaf of one model is which of another: told by what each does in the traced programs.

    Both calls are traced on abstract values; no value is read and nothing is computed. Paths and names are
    not looked at: a leaf is known by where it stands in its program. The alignment says how each left leaf,
    or part of one, becomes the right one; which leaves have no partner; what the two models do differently
    though no leaf holds it. Its `convert` carries values over, its `verify` runs both.

    Without an input, or where one side is a bare tree or a report, names, shapes and layers alone tell, and
    every pair says so.

    Cost: that of tracing both calls, and between half as much again (a framework's modules) and three times
    as much (plain JAX, whose calls are traced quickly); linear in their equations.

    Args:
        left: a `Model`; a framework's own model object, of which its adapter makes one; a tree or a report.
        right: the same.
        x: what both calls take after the params: an array, concrete or abstract; a tuple of several.
        x_right: what the right call takes, where that is laid out otherwise.
        mapping: pairs the caller is sure of, for what the programs do not determine: what
            `Alignment.to_json` gave, edited or not (text, a file or its document), or a dict of left paths to
            right paths.

    Raises:
        AlignmentError: a call cannot be traced on the input, or the mapping cannot be read.
        FlattenError: a tree cannot be flattened.
        ModelError: an adapter cannot make a model of an object on the input.

    Example:
        >>> import jax, numpy as np
        >>> from leafreport import Model
        >>> w = np.arange(6.0).reshape(2, 3)
        >>> left = Model({"kernel": w, "bias": np.ones(3)}, lambda p, x: x @ p["kernel"] + p["bias"])
        >>> right = Model({"a": np.zeros(3), "b": np.zeros((3, 2))}, lambda p, x: x @ p["b"].T + p["a"])
        >>> found = align(left, right, jax.ShapeDtypeStruct((4, 2), "float64"))
        >>> print(found)
        = bias -> a  identity, shift
        = kernel -> b  transpose, weight
        aligned: 2 pairs (2 by dataflow)
    """
    inputs = as_inputs(x)
    inputs_right = inputs if x_right is None else as_inputs(x_right)
    ends = _end(left, inputs, "left"), _end(right, inputs_right, "right")
    said = () if mapping is None else tuple(read(mapping, (ends[0].report, ends[1].report)))
    if (x is None and x_right is None) or not all(end.model is not None for end in ends):
        return by_names(*ends, said)
    calls = _call(ends[0], "left"), _call(ends[1], "right")
    with _uncollected():
        return _by_dataflow(ends, calls, said)


def _end(target: Any, inputs: tuple[Any, ...], name: str) -> End:
    """What is aligned, whatever it is given as."""
    if isinstance(target, LeafReport):
        return End(target)
    if isinstance(target, Model):
        return End(report(target), target, target.params, inputs)
    adapter = adapter_of(target)
    found = report(target) if adapter is None else None
    if found is not None and not (found.paths == ((),) and found.leaves[0].kind == "object"):
        return End(found, params=target)
    if adapter is None:
        raise AlignmentError(
            f"the {name} side is a {type(target).__name__}: give a model, a tree or a report."
        )
    if inputs and _is_model(target) and callable(getattr(adapter, "model", None)):
        try:
            made = model(adapter, target, inputs)
        except ModelError as error:
            if name == "left":
                raise
            raise ModelError(f"{error} Its own input, where that is another one, is x_right.") from error
        return End(report(made), made, made.params, inputs)
    described = report(target, adapter=adapter)
    if (described.paths == ((),) and described.leaves[0].kind == "object") or callable(
        getattr(target, "init", None)
    ):
        raise AlignmentError(
            f"the {name} side is a {type(target).__name__}, which has no params yet: give the input its call "
            "takes, or its params."
        )
    return End(described, params=target)


def _is_model(target: Any) -> bool:
    """Whether one of a framework's own objects has a call, and is no tree of its arrays alone."""
    first = target[0] if type(target) is tuple and target else target  # a model and its state
    return callable(first) or hasattr(first, "apply")


def _call(end: End, name: str) -> Traced:
    try:
        return traced(end.called.apply, end.called.params, end.inputs)
    except LeafReportError:
        raise
    except Exception as error:
        shown = ", ".join(_shown(x) for x in end.inputs)
        said = " ".join(str(error).split())
        said = f"{said[:400]}..." if len(said) > 400 else said
        hint = " Give the right model's own input as x_right." if name == "right" else ""
        raise AlignmentError(
            f"the {name} model cannot be traced on {shown}: {type(error).__name__}: {said}{hint}"
        ) from error


def _shown(x: Any) -> str:
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{x.dtype}[{','.join(map(str, x.shape))}]"
    return type(x).__name__


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keeps the garbage collector from looking through what all lives to the end.

    Of two models of 1,000 layers it took a third of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _by_dataflow(ends: tuple[End, End], calls: tuple[Traced, Traced], said: Sequence[Said]) -> Alignment:
    sides, found = matched(calls, lambda sides: _chosen(sides, ends, said))
    axes = both_axes(sides, found)
    compared = differences(sides, found, axes, (ends[0].report.paths, ends[1].report.paths))
    paired = pairs(sides, found, axes, compared.moves)
    listed: dict[int, tuple[Part, ...]] = {}  # pairs that are tied have one list of candidates
    rows, copies, right_again = (
        [_leaf_pair(pair, ends, listed) for pair in own]
        for own in (paired.rows, paired.left_again, paired.right_again)
    )
    made = []
    for which, (end, call, taken) in enumerate(
        zip(ends, calls, (found.nodes, found.nodes.values()), strict=True)
    ):
        side = sides[which]
        alone = [*unmatched(side, taken), *(nodes[which] for nodes in paired.unsaid)]
        lone = [_part(end, one) for n in alone for one in pieces(side.graph, n)]
        lone += [copy.left for copy in right_again] if which == 0 else []
        made.append(
            replace(
                end,
                alone=tuple(lone),
                unused=_unused(side, end, call),
                opaque=tuple(sorted(side.graph.program.unknown)),
                places=call.places,
            )
        )
    rows, extra, both = honoured(rows, said, (made[0], made[1]))
    extra += dtype_differences([*rows, *copies], ends[0].dtypes, ends[1].dtypes)
    open_rows = any(pair.ambiguous for pair in rows)
    if not (found.whole or compared.differences or extra or open_rows or any(own.alone for own in both)):
        told = [f"arrays meet in {sum(side.used):,} places" for side in sides]
        extra.append(Difference("structure", told[0], told[1], Place(), Place()))
    extra += [_sharing(pair, "left") for pair in copies]
    extra += [_sharing(pair, "right") for pair in right_again]
    inputs, outputs = (
        tuple(_around(pair, sides, kind) for pair in around(sides, found, axes, kind))
        for kind in ("input", "output")
    )
    return Alignment(
        tuple(rows), (*compared.differences, *extra), True, *both, tuple(copies), inputs, outputs
    )


def _sharing(pair: LeafPair, side: str) -> Difference:
    """One model uses a leaf in two places, the other one has a leaf for each."""
    told = f"{pair.left} is used here and elsewhere", f"{pair.right} is used here alone"
    if side == "right":
        told = f"{pair.left} is used here alone", f"{pair.right} is used here and elsewhere"
    places = Place(pair.left_path, pair.left_path), Place(pair.right_path, pair.right_path)
    return Difference("sharing", *told, *places)


def _chosen(sides: Sides, ends: tuple[End, End], said: Sequence[Said]) -> list[tuple[int, int]]:
    """The nodes that a mapping's rows are about."""
    if not said:
        return []
    held: list[dict[tuple[int, int], int]] = []
    for side in sides:
        own: dict[tuple[int, int], int] = {}
        for n in {n for numbers in side.siblings.values() for n in numbers}:
            for one in pieces(side.graph, n)[:1]:
                own[one.array, one.start] = n
        held.append(own)
    found = []
    for row in said:
        nodes = [
            own.get((end.numbers[one.path], _first(one)))
            for own, end, one in zip(held, ends, (row.left, row.right), strict=True)
        ]
        if nodes[0] is not None and nodes[1] is not None:
            found.append((nodes[0], nodes[1]))
    return found


def _first(own: Part) -> int:
    """Where a part begins in the flattened leaf."""
    place = 0
    for (start, _), size in zip(own.slices, own.shape, strict=True):
        place = place * size + start
    return place


def _part(end: End, one: Piece) -> Part:
    leaf = end.report.leaves[one.array]
    if math.prod(one.sizes) == leaf.size:  # whatever its use divides it into
        return whole(leaf.path, leaf.shape or ())
    return part(leaf.path, leaf.shape or (), one.start, one.sizes, one.strides)


def _leaf_pair(pair: Pair, ends: tuple[End, End], listed: dict[int, tuple[Part, ...]]) -> LeafPair:
    left, right = _part(ends[0], pair.left), _part(ends[1], pair.right)
    if id(pair.rivals) not in listed:
        listed[id(pair.rivals)] = tuple(_part(ends[1], one) for one in pair.rivals)
    candidates = listed[id(pair.rivals)]
    return LeafPair(left, right, pair.moved(), pair.role, pair.basis, candidates, not pair.sure)


def _around(pair: Pair, sides: Sides, kind: str) -> LeafPair:
    """A pair of parts of inputs or outputs, which have numbers for paths."""
    arrays = [getattr(side.graph.program, f"{kind}s") for side in sides]
    left, right = (
        part((str(one.array),), known[one.array].shape, one.start, one.sizes, one.strides)
        for one, known in zip((pair.left, pair.right), arrays, strict=True)
    )
    return LeafPair(left, right, pair.moved(), "", pair.basis, open_layout=not pair.sure)


def _unused(side: Side, end: End, call: Traced) -> tuple[Path, ...]:
    """The leaves of which nothing leads to a result."""
    nodes = side.graph.nodes
    used = {
        call.places[number]
        for n in side.live
        if nodes[n].kind == "leaf" and side.used[n]
        for number in nodes[n].info["leaves"]
    }
    return tuple(path for path, place in zip(end.report.paths, call.places, strict=True) if place not in used)
