"""Two trees aligned without a program: by names, shapes, and what adapters told of layers. Every pair says
so.

Leaves are taken layer by layer: a kernel goes with its bias. Layers are paired where they are the only ones
of their kind with a name, with numbers in the name, or with shapes; what is left of one kind is paired in
order, and is ambiguous. A layout is taken from the axes that adapters told, or from shapes where these
leave no choice.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from leafreport._align._alignment import Alignment, End
from leafreport._align._dims import NotAligned
from leafreport._align._layout import refined
from leafreport._align._mapping import Said
from leafreport._align._parts import Move, simplified, whole
from leafreport._align._records import Basis, Difference, LeafPair, Place
from leafreport._errors import AlignmentError
from leafreport._leaf import Leaf, Path, natural_key

# Steps of a path that say nothing of a layer.
_WRAPPERS = frozenset({"params", "batch_stats", "state", "module", "value", "~", "", "average"})
# Words for one thing in several frameworks.
_LEAVES = {
    **dict.fromkeys(("kernel", "weight", "w", "weights"), "weight"),
    **dict.fromkeys(("bias", "b", "offset", "beta", "shift"), "bias"),
    **dict.fromkeys(("scale", "gamma", "gain", "g"), "scale"),
    **dict.fromkeys(("embedding", "embeddings", "table"), "table"),
    **dict.fromkeys(("mean", "running_mean", "mean_ema", "moving_mean"), "mean"),
    **dict.fromkeys(("var", "variance", "running_var", "var_ema", "moving_variance"), "variance"),
}
_LAYERS = {
    **dict.fromkeys(("q", "query", "q_proj", "query_proj", "wq"), "query"),
    **dict.fromkeys(("k", "key", "k_proj", "key_proj", "wk"), "key"),
    **dict.fromkeys(("v", "value", "v_proj", "value_proj", "wv"), "value"),
    **dict.fromkeys(("o", "out", "o_proj", "out_proj", "output_proj", "wo"), "out"),
    **dict.fromkeys(("up", "up_proj", "w_up", "fc1", "fc_in", "c_fc", "wi"), "up"),
    **dict.fromkeys(("down", "down_proj", "w_down", "fc2", "fc_out"), "down"),
    **dict.fromkeys(("gate", "gate_proj", "w_gate"), "gate"),
    **dict.fromkeys(("dense", "linear", "layer", "layers", "fc"), "dense"),
}
_NUMBERED = re.compile(r"(.*?)_?([0-9]+)$", re.DOTALL)


@dataclass(eq=False, slots=True)
class _Layer:
    """Leaves that have all but the last step of their paths in common, or one leaf of several that do not
    go together.

    Attributes:
        path: what their paths have in common.
        words: the steps of that, without numbers and wrappers, in one word for all frameworks.
        numbers: the numbers in them.
        leaves: the leaves by what each is.
        order: when the layer is first called, where that is known.
    """

    path: Path
    words: tuple[str, ...]
    numbers: tuple[int, ...]
    leaves: dict[str, Leaf] = field(default_factory=dict)
    order: int | None = None


def by_names(left: End, right: End, said: Sequence[Said]) -> Alignment:
    """The alignment of two trees of which no program was read."""
    rows: list[LeafPair] = [_as_said(one, left, right) for one in said]
    taken = {row.left_path for row in rows}, {row.right_path for row in rows}
    sides = [_layers(end, gone) for end, gone in zip((left, right), taken, strict=True)]
    for ours, theirs, basis, rivals in _paired(*sides):
        only = len(ours.leaves) == len(theirs.leaves) == 1
        for kind, leaf in ours.leaves.items():
            other = next(iter(theirs.leaves.values())) if only else theirs.leaves.get(kind)
            options = () if other is None else _moves(leaf, other)
            if other is not None and options:
                candidates = tuple(
                    whole(r.leaves[kind].path, r.leaves[kind].shape or ()) for r in rivals if kind in r.leaves
                )
                rows.append(
                    LeafPair(
                        whole(leaf.path, leaf.shape or ()),
                        whole(other.path, other.shape or ()),
                        options[0],
                        kind if kind in _ROLES else "",
                        basis,
                        candidates,
                        len(options) > 1,
                    )
                )
    found = {row.left_path for row in rows}, {row.right_path for row in rows}
    ends = [
        End(
            end.report,
            end.model,
            end.params,
            end.inputs,
            tuple(
                whole(leaf.path, leaf.shape or ())
                for leaf in end.report
                if _is_array(leaf) and leaf.path not in own
            ),
            tuple(leaf.path for leaf in end.report if not _is_array(leaf)),
        )
        for end, own in zip((left, right), found, strict=True)
    ]
    number = {path: n for n, path in enumerate(left.report.paths)}
    rows.sort(key=lambda row: number[row.left_path])
    return Alignment(tuple(rows), tuple(dtypes(rows, left, right)), False, ends[0], ends[1])


_ROLES = frozenset({"weight", "table", "scale", "mean", "variance"})


def dtypes(rows: Iterable[LeafPair], left: End, right: End) -> list[Difference]:
    """Pairs of leaves that have other dtypes."""
    known = [{leaf.path: leaf.dtype for leaf in end.report} for end in (left, right)]
    out: dict[tuple[Path, Path], Difference] = {}
    for row in rows:
        a, b = known[0][row.left_path], known[1][row.right_path]
        if a != b:
            places = Place(row.left_path, row.left_path), Place(row.right_path, row.right_path)
            out.setdefault((row.left_path, row.right_path), Difference("dtype", a, b, *places))
    return list(out.values())


def _as_said(one: Said, left: End, right: End) -> LeafPair:
    """A row of a mapping as a pair; how the left part is turned is found out where the row does not say."""
    options: Sequence[Move] = (one.move,) if one.move is not None else ()
    if one.move is None:
        leaves = left.report[one.left.path], right.report[one.right.path]
        if one.left.whole and one.right.whole:
            options = _moves(*leaves)
        else:
            options = _by_shape(one.left.sizes, one.right.sizes)
    if not options:
        raise AlignmentError(
            f"the mapping has {one.left} of shape {one.left.sizes} as {one.right} of shape {one.right.sizes}: no "
            "order of axes makes one the other. Say 'axes' and 'order', or take the row out."
        )
    return LeafPair(one.left, one.right, options[0], one.role, "mapping", (), len(options) > 1)


# --- Layers -------------------------------------------------------------------------------------------------


def _is_array(leaf: Leaf) -> bool:
    return leaf.kind == "array" and leaf.role not in ("rng", "static")


def _layers(end: End, gone: set[Path]) -> list[_Layer]:
    """The layers of a tree, in the order in which they are called where that is known, in natural order else."""
    orders: dict[Path, int | None] = {}
    if end.model is not None and end.model.facts is not None:
        orders = {path: fact.order for path, fact in zip(end.report.paths, end.model.facts, strict=True)}
    found: dict[Path, _Layer] = {}
    for leaf in end.report:
        if leaf.path in gone or not _is_array(leaf):
            continue
        *above, last = _plain(leaf.path) or ("",)
        kind = _kind(last, leaf)
        key = tuple(above)
        layer = found.get(key)
        if layer is None or kind in layer.leaves:
            key = (*above, last) if layer is not None else key
            layer = found[key] = _Layer(key, (), (), order=orders.get(leaf.path))
        layer.leaves[kind] = leaf
    layers = list(found.values())
    _name(layers)
    if all(layer.order is not None for layer in layers):
        return sorted(layers, key=lambda layer: layer.order or 0)
    return sorted(layers, key=lambda layer: [natural_key(step) for step in layer.path])


def _plain(path: Path) -> Path:
    """The steps of a path that say something."""
    steps = [step for whole_step in path for step in whole_step.split("/")]
    last = len(steps) - 1
    return tuple(s for n, s in enumerate(steps) if s not in _WRAPPERS or s == "value" and 0 < n < last)


def _name(layers: Sequence[_Layer]) -> None:
    """Words and numbers of each layer: a number counts where it tells siblings apart, and the first may lack it."""
    siblings: dict[tuple[Path, str], set[str]] = {}
    for layer in layers:
        for n, step in enumerate(layer.path):
            siblings.setdefault((layer.path[:n], _split(step)[0]), set()).add(step)
    for layer in layers:
        words: list[str] = []
        numbers: list[int] = []
        for n, step in enumerate(layer.path):
            word, number = _split(step)
            if len(siblings[layer.path[:n], word]) > 1:
                numbers.append(number or 0)
            if word:
                words.append(_LAYERS.get(word, word))
        layer.words, layer.numbers = tuple(words), tuple(numbers)


def _split(step: str) -> tuple[str, int | None]:
    """A step's word and its number."""
    match = _NUMBERED.match(step)
    if match is None or len(match[2]) > 9:
        return step.lower(), None
    return match[1].lower(), int(match[2])


def _kind(name: str, leaf: Leaf) -> str:
    """What a leaf is to its layer, in one word for all frameworks."""
    kind = _LEAVES.get(name, name)
    owner = leaf.owner or ""
    if kind == "weight" and ("Norm" in owner or owner == "" and len(leaf.shape or ()) == 1):
        return "scale"
    if kind == "weight" and owner in ("Embedding", "Embed"):
        return "table"
    return kind


def _signature(layer: _Layer) -> object:
    """What a layer's leaves are, whatever the order of their axes."""
    return tuple(sorted((kind, _sizes(leaf)) for kind, leaf in layer.leaves.items()))


def _main(layer: _Layer) -> object:
    """The largest of a layer's leaves."""
    kind, leaf = max(layer.leaves.items(), key=lambda item: (item[1].size or 0, item[0]))
    return kind, _sizes(leaf)


def _sizes(leaf: Leaf) -> tuple[int, ...]:
    sizes = tuple(sorted(n for n in leaf.shape or () if n != 1))
    return (math.prod(sizes),) if leaf.axes is not None and len(sizes) > 2 else sizes


_Paired = tuple[_Layer, _Layer, Basis, tuple[_Layer, ...]]


def _paired(ours: Iterable[_Layer], theirs: Iterable[_Layer]) -> list[_Paired]:
    """Which layer is which, what told, and what would do as well. Cost: some passes over all of them."""
    out: list[_Paired] = []
    left, right = dict.fromkeys(ours), dict.fromkeys(theirs)

    def keep(own: _Layer, other: _Layer, basis: Basis, rivals: Sequence[_Layer]) -> None:
        out.append((own, other, basis, tuple(rivals)))
        del left[own]
        del right[other]

    for told in _KINDS:
        for key in _KEYS:
            for some, others in _grouped(left, right, lambda layer, k=key, t=told: (k(layer), t(layer))):  # type: ignore[misc]
                for a, b in _by_number(some, others):
                    keep(a, b, "name", ())
    for told in _KINDS:
        for some, others in _grouped(left, right, told):
            for block in _in_blocks(some, others):
                for a, b in zip(*block, strict=False):
                    keep(a, b, "order", others)
    return out


def _in_blocks(ours: list[_Layer], theirs: list[_Layer]) -> list[tuple[list[_Layer], list[_Layer]]]:
    """Layers of one kind by the block they are in, where both sides have equally many in each; all else."""
    groups = _grouped(ours, theirs, lambda layer: layer.numbers[:1])
    even = all(len(some) == len(others) for some, others in groups)
    if even and sum(len(some) for some, _ in groups) == len(ours) == len(theirs):
        return groups
    return [(ours, theirs)]


# What may tell a layer beside its numbers, the most telling first.
_KEYS: tuple[Callable[[_Layer], object], ...] = (
    lambda layer: (layer.path,),
    lambda layer: layer.words,
    lambda layer: layer.words[-2:],
    lambda layer: layer.words[-1:],
    lambda _: (),
)


def _by_number(ours: Sequence[_Layer], theirs: Sequence[_Layer]) -> list[tuple[_Layer, _Layer]]:
    """Layers of one kind, paired by their numbers where both sides count alike: from one on, without a gap."""
    numbered = [{layer.numbers: layer for layer in side} for side in (ours, theirs)]
    if any(len(found) != len(side) for found, side in zip(numbered, (ours, theirs), strict=True)):
        return []
    if len(ours) == len(theirs) == 1:
        return [(ours[0], theirs[0])]
    left, right = (sorted(found) for found in numbered)
    if left != right and not _counted(left, right):
        return []
    return [(numbered[0][n], numbered[1][n]) for n in left if n in numbered[1]]


def _counted(left: Sequence[tuple[int, ...]], right: Sequence[tuple[int, ...]]) -> bool:
    """Whether both are single numbers that follow each other, from the same one on."""
    both = [[n for (n,) in side] for side in (left, right) if all(len(n) == 1 for n in side)]
    return (
        len(both) == 2
        and both[0][0] == both[1][0]
        and all(side == list(range(side[0], side[0] + len(side))) for side in both)
    )


def _element_count(layer: _Layer) -> object:
    """How many elements a layer's leaves have, for one whose axes are divided otherwise."""
    return tuple(sorted((kind, leaf.size) for kind, leaf in layer.leaves.items()))


def _shapes(layer: _Layer) -> object:
    """The sizes of a layer's leaves, whatever each is called."""
    return tuple(sorted(_sizes(leaf) for leaf in layer.leaves.values()))


_KINDS = (_signature, _element_count, _main, _shapes)


def _grouped(
    left: Iterable[_Layer], right: Iterable[_Layer], key: Callable[[_Layer], object]
) -> list[tuple[list[_Layer], list[_Layer]]]:
    groups: dict[object, tuple[list[_Layer], list[_Layer]]] = {}
    for which, side in enumerate((left, right)):
        for layer in side:
            groups.setdefault(key(layer), ([], []))[which].append(layer)
    return [group for group in groups.values() if group[0] and group[1]]


# --- Layouts ------------------------------------------------------------------------------------------------


def _moves(left: Leaf, right: Leaf) -> Sequence[Move]:
    """The ways in which one leaf can be the other; one where nothing is left open, none where it cannot be."""
    a, b = left.shape or (), right.shape or ()
    if left.axes is not None and right.axes is not None:
        known = _by_axes((a, left.axes), (b, right.axes))
        if known is not None:
            return (known,)
    return _by_shape(a, b)


_Told = tuple[tuple[int, ...], tuple[str, ...]]


def _by_axes(left: _Told, right: _Told) -> Move | None:
    """How one leaf becomes the other by what each axis is; None where that does not fit."""
    groups: list[dict[str, list[int]]] = [{}, {}]
    for found, (shape, axes) in zip(groups, (left, right), strict=True):
        if len(axes) != len(shape):
            return None
        for n, name in enumerate(axes):
            if shape[n] != 1:
                found.setdefault(name, []).append(n)
    if groups[0].keys() != groups[1].keys():
        return None
    order = [n for name in groups[1] for n in groups[0][name]]
    sizes = [(groups[1][name], [left[0][n] for n in groups[0][name]]) for name in groups[1]]
    turned = sorted(sizes, key=lambda item: item[0])
    if any(ns != list(range(ns[0], ns[0] + len(ns))) for ns, _ in turned):
        return None
    try:
        for ns, own in turned:
            refined(own, [right[0][n] for n in ns])
    except NotAligned:
        return None
    order = [n for name in sorted(groups[1], key=lambda name: groups[1][name]) for n in groups[0][name]]
    return _move(left[0], order)


def _by_shape(a: tuple[int, ...], b: tuple[int, ...]) -> Sequence[Move]:
    """The ways in which a shape can become another one by turning and reshaping; no more than two are told."""
    if math.prod(a) != math.prod(b):
        return ()
    ours, theirs = ([n for n, size in enumerate(shape) if size != 1] for shape in (a, b))
    if len(ours) > _MOST_AXES or len(theirs) > _MOST_AXES:
        return (_move(a, range(len(a))),) if a == b else ()
    found: dict[Move, None] = {}
    if len(ours) <= len(theirs):  # the left axes are turned, then divided
        for order in itertools.permutations(ours):
            if _fits([a[n] for n in order], [b[n] for n in theirs]):
                found[_move(a, order)] = None
    else:  # groups of left axes, in some order, are the right ones
        for order in itertools.permutations(theirs):
            if _fits([b[n] for n in order], [a[n] for n in ours]):
                found[_move(a, _undone([b[n] for n in order], order, [a[n] for n in ours], ours))] = None
    same = simplified(Move(a, tuple(range(len(a)))))
    return sorted(found, key=lambda move: move != same)[:2]


_MOST_AXES = 5


def _fits(coarse: Sequence[int], fine: Sequence[int]) -> bool:
    """Whether each of some axes is a product of neighbours among others."""
    rest = list(fine)
    for size in coarse:
        while size > 1 and rest and size % rest[0] == 0:
            size //= rest.pop(0)
        if size != 1:
            return False
    return not rest


def _undone(
    coarse: Sequence[int], order: Sequence[int], fine: Sequence[int], places: Sequence[int]
) -> list[int]:
    """Which of the finer axes each of the coarser ones is made of, in the coarser ones' own order."""
    groups: dict[int, list[int]] = {}
    at = 0
    for size, place in zip(coarse, order, strict=True):
        own: list[int] = []
        while size > 1:
            size //= fine[at]
            own.append(places[at])
            at += 1
        groups[place] = own
    return [n for place in sorted(groups) for n in groups[place]]


def _move(shape: Sequence[int], order: Iterable[int]) -> Move:
    """A turn of the axes of more than one index."""
    own = [n for n, size in enumerate(shape) if size != 1]
    place = {n: k for k, n in enumerate(own)}
    turned = tuple(place[n] for n in order if n in place)
    return simplified(Move(tuple(shape[n] for n in own), turned))
