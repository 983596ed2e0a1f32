"""Trees as layers, and which layer of one is which of another: by names, numbers in names, and shapes."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from leafreport._align._alignment import End
from leafreport._align._records import Basis
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
class Layer:
    """Leaves that have all but the last step of their paths in common, or a leaf that goes with no other.

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


def is_array(leaf: Leaf) -> bool:
    return leaf.kind == "array" and leaf.role not in ("rng", "static")


def layers(end: End, gone: set[Path]) -> list[Layer]:
    """The layers of a tree, in the order in which they are called where that is known, else by name."""
    orders: dict[Path, int | None] = {}
    if end.model is not None and end.model.facts is not None:
        orders = {path: fact.order for path, fact in zip(end.report.paths, end.model.facts, strict=True)}
    found: dict[Path, Layer] = {}
    for leaf in end.report:
        if leaf.path in gone or not is_array(leaf):
            continue
        *above, last = _plain(leaf.path) or ("",)
        kind = _kind(last, leaf)
        key = tuple(above)
        layer = found.get(key)
        if layer is None or kind in layer.leaves:
            key = (*above, last) if layer is not None else key
            layer = found[key] = Layer(key, (), (), order=orders.get(leaf.path))
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
    return tuple(s for n, s in enumerate(steps) if s not in _WRAPPERS or (s == "value" and 0 < n < last))


def _name(layers: Sequence[Layer]) -> None:
    """Words and numbers of each layer: numbers that tell siblings apart, of which the first may lack one."""
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
    if kind == "weight" and ("Norm" in owner or (owner == "" and len(leaf.shape or ()) == 1)):
        return "scale"
    if kind == "weight" and owner in ("Embedding", "Embed"):
        return "table"
    return kind


def _signature(layer: Layer) -> object:
    """What a layer's leaves are, whatever the order of their axes."""
    return tuple(sorted((kind, _sizes(leaf)) for kind, leaf in layer.leaves.items()))


def _main(layer: Layer) -> object:
    """The largest of a layer's leaves."""
    kind, leaf = max(layer.leaves.items(), key=lambda item: (item[1].size or 0, item[0]))
    return kind, _sizes(leaf)


def _sizes(leaf: Leaf) -> tuple[int, ...]:
    sizes = tuple(sorted(n for n in leaf.shape or () if n != 1))
    return (math.prod(sizes),) if leaf.axes is not None and len(sizes) > 2 else sizes


_Paired = tuple[Layer, Layer, Basis, tuple[Layer, ...]]


def paired(ours: Iterable[Layer], theirs: Iterable[Layer]) -> list[_Paired]:
    """Which layer is which, what told, and what would do as well. Cost: some passes over all of them."""
    out: list[_Paired] = []
    left, right = dict.fromkeys(ours), dict.fromkeys(theirs)

    def keep(own: Layer, other: Layer, basis: Basis, rivals: Sequence[Layer]) -> None:
        out.append((own, other, basis, tuple(rivals)))
        del left[own]
        del right[other]

    for told in _KINDS:
        for key in _KEYS:
            for some, others in _grouped(left, right, lambda layer, k=key, t=told: (k(layer), t(layer))):  # type: ignore[misc]
                for a, b in _by_number(some, others):
                    keep(a, b, "name", ())
    for some, others in _grouped(left, right, lambda layer: (layer.words, layer.numbers)):
        if len(some) == len(others) == 1 and _in_common(some[0], others[0]):
            keep(some[0], others[0], "name", ())
    for told in _KINDS:
        for some, others in _grouped(left, right, told):
            for block in _in_blocks(some, others):
                for a, b in zip(*block, strict=False):
                    keep(a, b, "order", others)
    return out


def _in_common(a: Layer, b: Layer) -> bool:
    """Whether two layers of one name have a leaf in common, whatever else either has."""
    return any(kind in b.leaves and _sizes(leaf) == _sizes(b.leaves[kind]) for kind, leaf in a.leaves.items())


def _in_blocks(ours: list[Layer], theirs: list[Layer]) -> list[tuple[list[Layer], list[Layer]]]:
    """Layers of one kind by the block they are in, where both sides have equally many in each; all else."""
    groups = _grouped(ours, theirs, lambda layer: layer.numbers[:1])
    even = all(len(some) == len(others) for some, others in groups)
    if even and sum(len(some) for some, _ in groups) == len(ours) == len(theirs):
        return groups
    return [(ours, theirs)]


# What may tell a layer beside its numbers, the most telling first.
_KEYS: tuple[Callable[[Layer], object], ...] = (
    lambda layer: (layer.path,),
    lambda layer: layer.words,
    lambda layer: layer.words[-2:],
    lambda layer: layer.words[-1:],
    lambda _: (),
)


def _by_number(ours: Sequence[Layer], theirs: Sequence[Layer]) -> list[tuple[Layer, Layer]]:
    """Layers of one kind, paired by number where both sides count alike: from one on, without a gap."""
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


def _element_count(layer: Layer) -> object:
    """How many elements a layer's leaves have, for one whose axes are divided otherwise."""
    return tuple(sorted((kind, leaf.size) for kind, leaf in layer.leaves.items()))


def _shapes(layer: Layer) -> object:
    """The sizes of a layer's leaves, whatever each is called."""
    return tuple(sorted(_sizes(leaf) for leaf in layer.leaves.values()))


_KINDS = (_signature, _element_count, _main, _shapes)


def _grouped(
    left: Iterable[Layer], right: Iterable[Layer], key: Callable[[Layer], object]
) -> list[tuple[list[Layer], list[Layer]]]:
    groups: dict[object, tuple[list[Layer], list[Layer]]] = {}
    for which, side in enumerate((left, right)):
        for layer in side:
            groups.setdefault(key(layer), ([], []))[which].append(layer)
    return [group for group in groups.values() if group[0] and group[1]]
