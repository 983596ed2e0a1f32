"""The Flax adapter: Linen, the reference path. Flax is imported when it is used, not before.

Linen modules hold no arrays: `init` makes a tree of collections (`params`, `batch_stats`, ...), and that tree
is a model's `params` here. Which layer holds a leaf is seen by tracing `init` with every call intercepted.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leafreport import LeafFacts, Model, ModelError, Role, adapting

if TYPE_CHECKING:
    import flax.linen as nn

_ROLES: dict[str, Role] = {"params": "params", "batch_stats": "statistics"}
_SPATIAL = ("depth", "height", "width")


class FlaxAdapter:
    """Builds with `flax.linen`."""

    name = "flax"

    def dense_stack(self, seed: int, x: Any, num_layers: int, *, abstract: bool = False) -> Model:
        """`nn.Dense(D)` repeated, D = `x.shape[-1]`; params as `module.init` gives them.

        Args:
            seed: for `jax.random.PRNGKey`.
            x: f[N, D], concrete or abstract; only its shape and dtype are used.
            num_layers: 0 or more.
            abstract: trace the init with `jax.eval_shape`: no array is made. About 1.5 ms a layer.
        """
        _linen()
        import jax
        import jax.numpy as jnp

        module = _stack(int(x.shape[-1]), num_layers)
        sample = jax.ShapeDtypeStruct(x.shape, x.dtype)
        if abstract:
            key = jax.eval_shape(lambda: jax.random.PRNGKey(seed))
            params = jax.eval_shape(module.init, key, sample)
        else:
            params = module.init(jax.random.PRNGKey(seed), jnp.zeros(sample.shape, sample.dtype))
        axes = {"bias": ("out",), "kernel": ("in", "out")}
        facts = [
            LeafFacts("params", "Dense", axes[leaf], module=(layer,), order=int(layer.removeprefix("Dense_")))
            for _, layer, leaf in adapting.paths(params)
        ]
        return Model(params, module.apply, facts)

    def model(
        self, obj: Any, *example_inputs: Any, params: Any = None, seed: int = 0, **options: Any
    ) -> Model:
        """A model of a Linen module: its variables, and its call as a function of them.

        Where the call draws random numbers (dropout that is left on), it draws them from one fixed key; what
        it writes to collections other than `params` is dropped.

        Args:
            obj: a `flax.linen.Module`, bound or not.
            example_inputs: what the call takes. Where one is abstract (`jax.ShapeDtypeStruct`) the variables
                are traced and stay abstract. Python values (`True`, None) stay as they are.
            params: the variables, where they are there already; as `module.init` gives them.
            seed: for `jax.random.PRNGKey`, where variables are made.
            options: the call's keyword arguments, such as `train=False`; they stay as they are. `method`
                names another method than `__call__`.

        Raises:
            ModelError: `obj` is no Linen module, or it cannot be traced on these inputs and params.
        """
        nn = _linen()
        import jax
        from flax.core import DenyList

        if isinstance(obj, type) or not isinstance(obj, nn.Module):
            found = f"the class {obj.__name__}" if isinstance(obj, type) else f"a {type(obj).__name__}"
            raise ModelError(f"the flax adapter takes a Linen module, such as nn.Dense(8); this is {found}.")
        if obj.scope is not None:
            obj, bound = obj.unbind()
            if params is None and jax.tree_util.tree_leaves(bound):
                params = bound
        seen = _Seen()

        def init(rng: Any, *inputs: Any) -> Any:
            with nn.intercept_methods(seen.watch):
                return obj.init(rng, *inputs, **options)

        def apply(params: Any, *inputs: Any) -> Any:
            rngs = {"params": jax.random.PRNGKey(0)}
            y, _ = obj.apply(params, *inputs, rngs=rngs, mutable=DenyList("params"), **options)
            return y

        def fits(*given: Any) -> None:
            with nn.intercept_methods(seen.watch):
                apply(*given)

        key = jax.eval_shape(lambda: jax.random.PRNGKey(seed))
        try:
            if params is None:
                variables = adapting.shapes(init, key, *example_inputs)
            else:
                with contextlib.suppress(Exception):  # what the call does not use is seen here alone
                    adapting.shapes(init, key, *example_inputs)
                adapting.shapes(fits, params, *example_inputs)
        except Exception as error:
            raise adapting.untraced(obj, example_inputs, error) from error
        if params is None:
            leaves = jax.tree_util.tree_leaves(example_inputs)
            abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
            made = None if abstract else obj.init(jax.random.PRNGKey(seed), *example_inputs, **options)
            params = variables if abstract else made
        return Model(params, apply, seen.facts(params, collections=True))

    def recognizes(self, obj: Any) -> bool:
        """Whether it is a Linen module, a `FrozenDict`, or one of Flax's own training states."""
        nn = _linen()
        from flax.core import FrozenDict

        return isinstance(obj, nn.Module | FrozenDict) or any(
            kind.__module__.startswith("flax.training.") for kind in type(obj).__mro__
        )

    def describe(self, tree: Any) -> Sequence[LeafFacts]:
        """Roles by collection, or by the field of a `TrainState`; no tree of arrays tells a layer's class."""
        return _Seen().facts(
            tree, collections=any(path[0] == "params" for path in adapting.paths(tree) if path)
        )


class _Seen:
    """What a trace shows of each layer: the module, its arrays as it sees them, when it was first called."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, ...], int] = {}
        self._arrays: dict[tuple[str, ...], tuple[Any, tuple[int, ...]]] = {}

    def watch(self, call: Callable[..., Any], args: Any, options: Any, context: Any) -> Any:
        """A Linen interceptor. A layer within a scan or a vmap sees one layer's arrays, not the stack."""
        module = context.module
        if context.method_name != "setup":
            self._calls.setdefault(module.path, len(self._calls))
        out = call(*args, **options)
        if module.scope is not None:
            for collection, held in module.variables.items():
                for name, value in held.items():
                    if not isinstance(value, Mapping):
                        self._note((collection, *module.path, name), module, value)
        return out

    def _note(self, path: tuple[str, ...], module: Any, value: Any) -> None:
        """The first one done is the innermost: what `nn.vmap` puts around a layer has the layer's path."""
        import jax

        leaves = jax.tree_util.tree_leaves(value)  # within its box, such as nn.Partitioned
        if len(leaves) == 1 and adapting.is_array(leaves[0]):
            self._arrays.setdefault(path, (module, leaves[0].shape))

    def facts(self, tree: Any, *, collections: bool) -> Sequence[LeafFacts]:
        """One fact a leaf; `collections` says that the first step of a path tells the role."""
        import jax

        leaves = jax.tree_util.tree_leaves(tree)
        return [
            self._fact(path, leaf, _role(path, leaf, collections))
            for path, leaf in zip(adapting.paths(tree), leaves, strict=True)
        ]

    def _fact(self, path: tuple[str, ...], leaf: Any, role: Role | None) -> LeafFacts:
        cut = next((n for n in range(len(path), 1, -1) if path[:n] in self._arrays), None)
        if cut is None:
            return LeafFacts(role)
        place, (module, shape) = path[1 : cut - 1], self._arrays[path[:cut]]
        held = adapting.layers_held(shape, leaf.shape)  # None where it is stored otherwise than it is used
        return LeafFacts(
            role,
            type(module).__name__,
            None if held is None else _axes(module, path[cut - 1], len(shape)),
            stacked=held if len(leaf.shape) > len(shape) else None,
            module=place,
            order=self._calls.get(place),
        )


def _role(path: tuple[str, ...], leaf: Any, collections: bool) -> Role | None:
    told = _ROLES.get(path[0] if path else "", "other") if collections else None
    return adapting.plain_role(leaf) or told


def _axes(module: Any, leaf: str, rank: int) -> tuple[str, ...] | None:
    """What each axis of a layer's array is, by the layer's class; None for a class that is not Linen's."""
    kind = next(iter(adapting.of_framework(module, "flax")), "")
    axes: tuple[str, ...] | None = None
    match kind, leaf:
        case "Dense", "kernel":
            axes = ("in", "out")
        case "DenseGeneral", _ if module.batch_dims:
            axes = None
        case "DenseGeneral", "kernel":
            outs = len(module.features) if isinstance(module.features, Sequence) else 1
            axes = ("in",) * (rank - outs) + ("out",) * outs
        case "Conv" | "ConvTranspose", "kernel" if 0 < rank - 2 <= len(_SPATIAL):
            swapped = getattr(module, "transpose_kernel", False)
            axes = (*_SPATIAL[2 - rank :], *(("out", "in") if swapped else ("in", "out")))
        case "Dense" | "DenseGeneral" | "Conv" | "ConvTranspose", "bias":
            axes = ("out",) * rank
        case "Embed", "embedding":
            axes = ("vocabulary", "features")
        case str(), "scale" | "bias" | "mean" | "var" if kind.endswith("Norm"):
            axes = ("features",) * rank
    return axes if axes is not None and len(axes) == rank else None


def _linen() -> Any:
    try:
        import flax.linen
    except Exception as error:  # one that is too old for this JAX fails in any way
        raise adapting.framework_missing("flax", error) from error
    return flax.linen


def _stack(width: int, num_layers: int) -> "nn.Module":
    import flax.linen as nn

    class Stack(nn.Module):
        """One instance a layer: a list holding one Dense N times is a single layer, with 2 leaves."""

        @nn.compact
        def __call__(self, y: Any) -> Any:
            for _ in range(num_layers):
                y = nn.Dense(width)(y)
            return y

    return Stack()


adapter = FlaxAdapter()
