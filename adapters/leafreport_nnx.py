"""The Flax NNX adapter. Flax is imported when it is used, not before.

An NNX module holds its arrays in variables: a model's `params` is the module's `nnx.State`, split off by
`nnx.split`, so that each leaf's path ends in `value` and a variable that two layers share is there once.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leafreport import LeafFacts, Model, ModelError, Role, adapting

_SPATIAL = ("depth", "height", "width")


class NnxAdapter:
    """Builds with `flax.nnx`."""

    name = "nnx"

    def dense_stack(self, seed: int, x: Any, num_layers: int, *, abstract: bool = False) -> Model:
        """`nnx.Linear(D, D)` repeated in a `nnx.Sequential`, D = `x.shape[-1]`; params is its `nnx.State`.

        Args:
            seed: for `jax.random.PRNGKey`, of which `nnx.Rngs` is made.
            x: f[N, D], concrete or abstract; only its shape is used.
            num_layers: 0 or more.
            abstract: trace layer by layer, about 3 ms each: of a whole stack the time would grow with the
                square of its layers. No array is made.
        """
        nnx = _nnx()
        import jax

        width = int(x.shape[-1])
        if abstract:
            layers = [
                nnx.eval_shape(lambda: nnx.Linear(width, width, rngs=nnx.Rngs(0))) for _ in range(num_layers)
            ]
        else:
            rngs = nnx.Rngs(jax.random.PRNGKey(seed))
            layers = [nnx.Linear(width, width, rngs=rngs) for _ in range(num_layers)]
        return self.model(nnx.Sequential(*layers))

    def model(self, obj: Any, *example_inputs: Any, **options: Any) -> Model:
        """A model of an NNX module: its state, and its call as a function of it.

        The call runs on a copy, so what it updates (statistics, the counts of random streams) is dropped.

        Args:
            obj: an `nnx.Module`, concrete or abstract; or a function without arguments that makes one, which
                is traced, so that no array is made and no mesh is needed.
            example_inputs: what the call takes, concrete or abstract; with any, the call is traced once, so
                that what does not fit is found here.
            options: the call's keyword arguments; they stay as they are.

        Raises:
            ModelError: `obj` is no NNX module, cannot be made, or cannot be traced on these inputs.
        """
        nnx = _nnx()
        if not isinstance(obj, nnx.Module):
            obj = _made(obj)
        graph, held = nnx.split(obj)
        state = _own(held)

        def apply(params: Any, *inputs: Any) -> Any:
            return nnx.merge(graph, _own(params))(*inputs, **options)

        def fits(*given: Any) -> None:
            apply(*given)

        if example_inputs:
            try:
                adapting.shapes(fits, state, *example_inputs)
            except Exception as error:
                raise adapting.untraced(obj, example_inputs, error) from error
        return Model(state, apply, list(_facts(state, _Layers(obj))))

    def recognizes(self, obj: Any) -> bool:
        """Whether it is an NNX module, a state or a variable."""
        nnx = _nnx()
        return isinstance(obj, nnx.Module | nnx.State | nnx.Variable)

    def describe(self, tree: Any) -> Sequence[LeafFacts]:
        """Roles by the class of variable; owners where the tree holds the module, not only its state."""
        _nnx()
        return list(_facts(tree, _Layers(tree)))


def _own(state: Any) -> Any:
    """A state of variables of its own: `nnx.split` and `nnx.merge` pass on the variables they are given."""
    import jax

    return jax.tree_util.tree_map(lambda leaf: leaf, state)


def _made(factory: Any) -> Any:
    """The module that a function makes, abstract."""
    nnx = _nnx()
    found = f"the class {factory.__name__}" if isinstance(factory, type) else f"a {type(factory).__name__}"
    if isinstance(factory, type) or not callable(factory):
        raise ModelError(
            f"the nnx adapter takes an nnx.Module, such as nnx.Linear(2, 2, rngs=nnx.Rngs(0)), or a function "
            f"that makes one; this is {found}."
        )
    try:
        # Variables that name mesh axes would ask for the mesh as soon as they are made, even abstractly.
        with nnx.use_eager_sharding(False):
            made = nnx.eval_shape(factory)
    except Exception as error:
        raise adapting.untraced(factory, (), error) from error
    if not isinstance(made, nnx.Module):
        raise ModelError(f"the function gave a {type(made).__name__}, and no nnx.Module.")
    return made


class _Layers:
    """The layers of a module, by path, and of each variable that several hold, who they are."""

    def __init__(self, tree: Any) -> None:
        nnx = _nnx()
        self._tree = tree
        self._paths: dict[int, list[tuple[str, ...]]] = {}
        # A module may hold itself: it is a graph, which JAX would follow without end.
        found = _graph_variables(tree) if isinstance(tree, nnx.Module) else _tree_variables(tree)
        for path, variable in found:
            self._paths.setdefault(id(variable), []).append(path)

    def holder(self, path: tuple[str, ...]) -> tuple[tuple[str, ...], Any, str] | None:
        """Path, module and attribute of the layer that holds a variable; a known layer before others."""
        nnx = _nnx()
        variable = _at(self._tree, path)
        found = [self._above(other) for other in self._paths.get(id(variable), [path])]
        holders = [holder for holder in found if holder is not None and isinstance(holder[1], nnx.Module)]
        return next((h for h in holders if _layer(h[1], h[2])), holders[0] if holders else None)

    def _above(self, path: tuple[str, ...]) -> tuple[tuple[str, ...], Any, str] | None:
        """The innermost module on the way to a variable."""
        nnx = _nnx()
        node, found = self._tree, None
        for depth, step in enumerate(path):
            if isinstance(node, nnx.Module):
                found = path[:depth], node, step if depth == len(path) - 1 else ""
            node = _child(node, step)
        return found


def _graph_variables(module: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The variables that a module's layers hold, each as often as it is held."""
    nnx = _nnx()
    for path, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Module):
            for name, value in vars(node).items():
                if isinstance(value, nnx.Variable):
                    yield (*map(str, path), str(name)), value


def _tree_variables(tree: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The variables in a tree, each as often as it is there."""
    nnx = _nnx()
    import jax

    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: isinstance(node, nnx.Variable))
    for keys, leaf in flat:
        if isinstance(leaf, nnx.Variable):
            yield adapting.steps(keys), leaf


def _at(tree: Any, path: Sequence[str]) -> Any:
    for step in path:
        tree = _child(tree, step)
    return tree


def _child(node: Any, step: str) -> Any:
    """What is at a step of a path, which is text: an attribute, a key or an index; None where nothing is."""
    try:
        if isinstance(node, Mapping):
            return node.get(step, node.get(int(step)) if step.isdecimal() else None)
        if step.isdecimal() and hasattr(node, "__getitem__"):
            return node[int(step)]
        return getattr(node, step, None)
    except Exception:  # noqa: BLE001  # a container's own code, which may keep its children elsewhere
        return None


def _facts(tree: Any, layers: _Layers) -> Iterator[LeafFacts]:
    """One fact a leaf, in flatten order; a variable may hold several leaves."""
    nnx = _nnx()
    import jax

    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: isinstance(node, nnx.Variable))
    for keys, node in flat:
        path = adapting.steps(keys)
        holder = layers.holder(path)
        known = _layer(holder[1], holder[2]) if holder else None
        for leaf in jax.tree_util.tree_leaves(node):
            axes, stacked = adapting.fitted(known, leaf)
            yield LeafFacts(
                _role(node, leaf),
                type(holder[1]).__name__ if holder else None,
                axes,
                stacked,
                module=holder[0] if holder else None,
            )


def _role(node: Any, leaf: Any) -> Role:
    nnx = _nnx()
    if told := adapting.plain_role(leaf):
        return told
    if isinstance(node, nnx.RngState):
        return "rng"
    if isinstance(node, nnx.BatchStat):
        return "statistics"
    return "params" if isinstance(node, nnx.Param) else "other"


_Axes = Sequence[tuple[str, int]]


def _layer(module: Any, leaf: str) -> _Axes | None:
    """Name and size of each axis that a layer of this class gives its array; None for one not NNX's."""
    kinds = adapting.of_framework(module, "flax")
    try:
        return next(filter(None, (_axes(kind, module, leaf) for kind in kinds)), None)
    except (AttributeError, TypeError):  # a version that names its settings otherwise
        return None


def _axes(kind: str, module: Any, leaf: str) -> _Axes | None:
    found: _Axes | None = None
    match kind, leaf:
        case "Linear", "kernel":
            found = [("in", module.in_features), ("out", module.out_features)]
        case "LinearGeneral", "kernel":
            found = _sizes("in", module.in_features) + _sizes("out", module.out_features)
        case "Linear" | "LinearGeneral", "bias":
            found = _sizes("out", module.out_features)
        case "Conv" | "ConvTranspose", "kernel":
            *spatial, first, second = module.kernel_shape
            swapped = getattr(module, "transpose_kernel", False)
            names = ("out", "in") if swapped else ("in", "out")
            if len(spatial) <= len(_SPATIAL):
                named = zip(_SPATIAL[len(_SPATIAL) - len(spatial) :], spatial, strict=True)
                found = [*named, (names[0], first), (names[1], second)]
        case "Conv" | "ConvTranspose", "bias":
            found = [("out", module.out_features)]
        case "Embed", "embedding":
            found = [("vocabulary", module.num_embeddings), ("features", module.features)]
        case "GroupNorm", "scale" | "bias":
            found = [("features", module.num_groups * module.group_size)]
        case str(), "scale" | "bias" | "mean" | "var" if kind.endswith("Norm"):
            found = _sizes("features", module.num_features)
    return found


def _sizes(name: str, sizes: int | Sequence[int]) -> list[tuple[str, int]]:
    return [(name, size) for size in ((sizes,) if isinstance(sizes, int) else tuple(sizes))]


def _nnx() -> Any:
    try:
        from flax import nnx
    except Exception as error:  # one that is too old for this JAX fails in any way
        raise adapting.framework_missing("nnx", error) from error
    return nnx


adapter = NnxAdapter()
