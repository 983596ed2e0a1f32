"""The Haiku adapter. Haiku is imported when it is used, not before.

A transformed function makes its arrays in `init`: a dict by module name, in which a nested module's name is
one key with slashes. Which layer holds a leaf is seen by tracing `init` and watching what makes each array.
"""

import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from leafreport import LeafFacts, Model, ModelError, Role, adapting

_ROLES: dict[str, Role] = {"params": "params", "state": "statistics"}
_SPATIAL = ("depth", "height", "width")


class HaikuAdapter:
    """Builds with `haiku`."""

    name = "haiku"

    def dense_stack(self, seed: int, x: Any, num_layers: int, *, abstract: bool = False) -> Model:
        """`hk.Linear(D)` repeated in a transformed function, D = `x.shape[-1]`; params as `init` gives them.

        Args:
            seed: for `jax.random.PRNGKey`.
            x: f[N, D], concrete or abstract; only its shape and dtype are used. Haiku makes parameters in the
                dtype of what comes in; where that is none of floats, it is taken as float32.
            num_layers: 0 or more.
            abstract: trace the init with `jax.eval_shape`: no array is made. About 3 ms a layer.
        """
        hk = _haiku()
        import jax
        import jax.numpy as jnp

        width = int(x.shape[-1])

        def run(y: Any) -> Any:
            y = y if jnp.issubdtype(y.dtype, jnp.inexact) else y.astype(jnp.float32)
            for _ in range(num_layers):
                y = hk.Linear(width)(y)
            return y

        transformed = hk.without_apply_rng(hk.transform(run))
        sample = jax.ShapeDtypeStruct(x.shape, x.dtype)
        if abstract:
            key = jax.eval_shape(lambda: jax.random.PRNGKey(seed))
            params = jax.eval_shape(transformed.init, key, sample)
        else:
            params = transformed.init(jax.random.PRNGKey(seed), jnp.zeros(sample.shape, sample.dtype))
        axes = {"b": ("out",), "w": ("in", "out")}
        facts = [
            LeafFacts("params", "Linear", axes[leaf], module=(layer,), order=_number(layer))
            for layer, leaf in adapting.paths(params)
        ]
        return Model(params, transformed.apply, facts)

    def model(
        self, obj: Any, *example_inputs: Any, params: Any = None, seed: int = 0, **options: Any
    ) -> Model:
        """A model of a transformed function: what its `init` makes, and its `apply` as a function of it.

        With a state, `params` is `{"params": ..., "state": ...}`, and the call's new state is dropped. Where
        the call draws random numbers, it draws them from one fixed key.

        Args:
            obj: a `hk.Transformed` or a `hk.TransformedWithState`.
            example_inputs: what the function takes. Where one is abstract (`jax.ShapeDtypeStruct`) the
                parameters are traced and stay abstract. Python values (`True`, None) stay as they are.
            params: the parameters, where they are there already; with a state, the dict of both. Needed where
                `init` takes other options than the call: a new BatchNorm cannot begin with
                `is_training=False`.
            seed: for `jax.random.PRNGKey`, where parameters are made.
            options: the function's keyword arguments, such as `is_training=False`; they stay as they are.

        Raises:
            ModelError: `obj` is no transformed function, or it cannot be traced on these inputs and params.
        """
        hk = _haiku()
        import jax

        if not isinstance(obj, hk.Transformed | hk.TransformedWithState):
            found = f"the class {obj.__name__}" if isinstance(obj, type) else f"a {type(obj).__name__}"
            raise ModelError(
                "the haiku adapter takes what hk.transform or hk.transform_with_state gives; "
                f"this is {found}."
            )
        with_state = isinstance(obj, hk.TransformedWithState)
        seen = _Seen()

        draws = "rng" in inspect.signature(obj.apply).parameters  # hk.without_apply_rng leaves it out

        def init(rng: Any, *inputs: Any) -> Any:
            return seen.watch(lambda: obj.init(rng, *inputs, **options))

        def apply(params: Any, *inputs: Any) -> Any:
            rng = (jax.random.PRNGKey(0),) if draws else ()
            if with_state:
                return obj.apply(params["params"], params["state"], *rng, *inputs, **options)[0]
            return obj.apply(params, *rng, *inputs, **options)

        def fits(*given: Any) -> None:
            seen.watch(lambda: apply(*given))

        key = jax.eval_shape(lambda: jax.random.PRNGKey(seed))
        try:
            if params is None:
                made = adapting.shapes(init, key, *example_inputs)
            else:
                with contextlib.suppress(Exception):  # what the call does not make again is seen here alone
                    adapting.shapes(init, key, *example_inputs)
                adapting.shapes(fits, params, *example_inputs)
        except Exception as error:
            raise adapting.untraced(obj, example_inputs, error) from error
        if params is None:
            leaves = jax.tree_util.tree_leaves(example_inputs)
            if not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
                made = obj.init(jax.random.PRNGKey(seed), *example_inputs, **options)
            params = {"params": made[0], "state": made[1]} if with_state else made
        return Model(params, apply, seen.facts(params, with_state=with_state))

    def recognizes(self, obj: Any) -> bool:
        """Whether it is what `hk.transform` or `hk.transform_with_state` gives."""
        hk = _haiku()
        return isinstance(obj, hk.Transformed | hk.TransformedWithState)

    def describe(self, tree: Any) -> Sequence[LeafFacts]:
        """Roles where the tree names its parts `params` and `state`; arrays alone tell no layer's class."""
        _haiku()
        import jax

        paths = adapting.paths(tree)
        named = any(path[:1] == ("params",) for path in paths)
        return [
            LeafFacts(_role(path, leaf, named))
            for path, leaf in zip(paths, jax.tree_util.tree_leaves(tree), strict=True)
        ]


class _Seen:
    """What a trace shows of each module: itself, its arrays as it sees them, and when it first got one."""

    def __init__(self) -> None:
        self._modules: dict[str, Any] = {}
        self._order: dict[str, int] = {}
        self._shapes: dict[tuple[str, str], tuple[int, ...]] = {}

    def watch(self, call: Callable[[], Any]) -> Any:
        """Calls an `init` or an `apply` and watches. A module in a layer stack sees one layer's arrays."""
        hk = _haiku()

        def watched() -> Any:
            with hk.custom_getter(self._get, params=True, state=True):
                return call()

        # Haiku lets one watch only from within a transformed function: this one has nothing of its own.
        return hk.transform(watched).apply({}, None)

    def _get(self, get: Callable[..., Any], value: Any, context: Any) -> Any:
        # A function that was transformed on its own and lifted in knows its modules by their own names only.
        full_name = f"{context.lifted_prefix_name or ''}{context.full_name}"
        module, _, name = full_name.rpartition("/")
        self._order.setdefault(module, len(self._order))
        if adapting.is_array(value):
            self._shapes.setdefault((module, name), tuple(value.shape))
        if context.module is not None:
            self._modules.setdefault(module, context.module)
        return get(value)

    def facts(self, params: Any, *, with_state: bool) -> Sequence[LeafFacts]:
        """One fact a leaf, in flatten order."""
        import jax

        leaves = jax.tree_util.tree_leaves(params)
        return [
            self._fact(path[1:] if with_state else path, leaf, _role(path, leaf, with_state) or "params")
            for path, leaf in zip(adapting.paths(params), leaves, strict=True)
        ]

    def _fact(self, path: tuple[str, ...], leaf: Any, role: Role) -> LeafFacts:
        if len(path) < 2:
            return LeafFacts(role)
        name, attribute = path[0], path[1]
        module, shape = self._modules.get(name), self._shapes.get((name, attribute))
        owner = None if module is None else type(module).__name__
        place, order = tuple(name.split("/")), self._order.get(name)
        if shape is None:
            return LeafFacts(role, owner, module=place, order=order)
        held = adapting.layers_held(shape, leaf.shape)  # None where it is stored otherwise than it is used
        return LeafFacts(
            role,
            owner,
            None if held is None else _axes(module, attribute, len(shape)),
            stacked=held if len(leaf.shape) > len(shape) else None,
            module=place,
            order=order,
        )


def _number(layer: str) -> int:
    """Which of the modules of one name it is: Haiku leaves the first one's number out."""
    return int(layer.partition("_")[2] or 0)


def _role(path: tuple[str, ...], leaf: Any, named: bool) -> Role | None:
    told = _ROLES.get(path[0], "other") if named and path else None
    return adapting.plain_role(leaf) or told


def _axes(module: Any, leaf: str, rank: int) -> tuple[str, ...] | None:
    """What each axis of a module's array is, by the module's class; None for a class that is not Haiku's."""
    kind = next(iter(adapting.of_framework(module, "haiku")), "")
    axes: tuple[str, ...] | None = None
    match kind, leaf:
        case "Linear", "w":
            axes = ("in", "out")
        case str(), "w" if kind.startswith("Conv") and 0 < rank - 2 <= len(_SPATIAL):
            axes = (*_SPATIAL[2 - rank :], *(("out", "in") if "Transpose" in kind else ("in", "out")))
        case "Linear", "b":
            axes = ("out",)
        case str(), "b" if kind.startswith("Conv"):
            axes = ("out",) * rank
        case "Embed", "embeddings":
            axes = ("vocabulary", "features")
        case str(), "scale" | "offset" if kind.endswith("Norm"):
            axes = ("features",) * rank
    return axes if axes is not None and len(axes) == rank else None


def _haiku() -> Any:
    try:
        import haiku
    except Exception as error:  # one that is too old for this JAX fails in any way
        raise adapting.framework_missing("haiku", error) from error
    return haiku


adapter = HaikuAdapter()
