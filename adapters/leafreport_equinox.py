"""The Equinox adapter. Equinox is imported when it is used, not before.

An Equinox module is itself a pytree, whose leaves may be functions, strings and Python numbers too: a model's
`params` is the module with its arrays alone. Layers are the `eqx.Module`s on the way to a leaf.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from leafreport import LeafFacts, Model, ModelError, Role, adapting

_SPATIAL = ("depth", "height", "width")


class EquinoxAdapter:
    """Builds with `equinox`."""

    name = "equinox"

    def dense_stack(self, seed: int, x: Any, num_layers: int, *, abstract: bool = False) -> Model:
        """`eqx.nn.Linear(D, D)` repeated in an `eqx.nn.Sequential`, D = `x.shape[-1]`; params is that module.

        Args:
            seed: for `jax.random.PRNGKey`, split once for each layer.
            x: f[N, D], concrete or abstract; only its shape is used. The call takes it example by example.
            num_layers: 0 or more.
            abstract: trace with `eqx.filter_eval_shape`: no array is made. About 1 ms a layer.
        """
        eqx = _equinox()
        import jax

        width = int(x.shape[-1])

        def make() -> Any:
            keys = jax.random.split(jax.random.PRNGKey(seed), num_layers)
            return eqx.nn.Sequential([eqx.nn.Linear(width, width, key=keys[n]) for n in range(num_layers)])

        module = eqx.filter_eval_shape(make) if abstract else make()
        params, rest = eqx.partition(module, adapting.is_array)

        def apply(params: Any, x: Any) -> Any:
            return jax.vmap(eqx.combine(params, rest))(x)

        return Model(params, apply, _tree_facts(params))

    def model(self, obj: Any, *example_inputs: Any, batched: bool | None = None, **options: Any) -> Model:
        """A model of an Equinox module: its arrays, and its call as a function of them.

        Equinox layers take one example. Inputs that have a batch axis in front are mapped over: where the
        module cannot be traced on the inputs as they are, or where `batched` says so.

        With a state, `params` is `{"module": arrays, "state": values}`, the values named by the layers that
        hold them. The call's new state is dropped. Where the call needs a `key`, it gets one fixed key.

        Args:
            obj: an `eqx.Module`, concrete or abstract; the pair of a module and its `eqx.nn.State`, as
                `eqx.nn.make_with_state` gives it; or a function without arguments that makes either, which is
                traced, so that no array is made.
            example_inputs: what the call takes beside a state, concrete or abstract.
            batched: whether all arrays among the inputs have a batch axis in front. When not given it is
                found out by tracing; where both can be meant, it has to be said.
            options: the call's keyword arguments, such as `inference=True`; they stay as they are.

        Raises:
            ModelError: `obj` is no Equinox module, or it cannot be traced on these inputs.
        """
        eqx = _equinox()
        module, state = _parts(obj)
        arrays, rest = eqx.partition(module, adapting.is_array)
        if state is None:
            params, facts = arrays, _tree_facts(arrays)
        else:
            values, state_facts = _named_state(module, state)
            params = {"module": arrays, "state": values}
            facts = [*_tree_facts(arrays), *state_facts]

        def call(params: Any, *inputs: Any, **extra: Any) -> Any:
            if state is None:
                return eqx.combine(params, rest)(*inputs, **extra, **options)
            own = _native_state(module, state, params["state"])
            return eqx.combine(params["module"], rest)(*inputs, own, **extra, **options)

        def apply(params: Any, *inputs: Any) -> Any:
            y = chosen(params, *inputs)
            return y if state is None else y[0]

        ways = _ways(call, module)
        chosen = _chosen(ways, module, params, example_inputs, batched) if example_inputs else ways[0]
        return Model(params, apply, facts)

    def recognizes(self, obj: Any) -> bool:
        """Whether it is an Equinox module, a state, or the pair of both."""
        eqx = _equinox()
        if type(obj) is tuple and len(obj) == 2:
            return isinstance(obj[0], eqx.Module) and isinstance(obj[1], eqx.nn.State)
        return isinstance(obj, eqx.Module | eqx.nn.State)

    def describe(self, tree: Any) -> Sequence[LeafFacts]:
        """Roles by what a leaf is: a function, a string or a number is `static`; owners by its modules."""
        _equinox()
        return _tree_facts(tree)


def _parts(obj: Any) -> tuple[Any, Any]:
    """A module and its state, or None; of a function that makes them, made abstractly."""
    eqx = _equinox()
    is_pair = isinstance(obj, tuple) and len(obj) == 2
    if not isinstance(obj, eqx.Module) and not is_pair and callable(obj) and not isinstance(obj, type):
        try:
            obj = eqx.filter_eval_shape(obj)
        except Exception as error:
            raise adapting.untraced(obj, (), error) from error
    module, state = obj if isinstance(obj, tuple) and len(obj) == 2 else (obj, None)
    if not isinstance(module, eqx.Module) or not (state is None or isinstance(state, eqx.nn.State)):
        found = f"the class {obj.__name__}" if isinstance(obj, type) else f"a {type(obj).__name__}"
        raise ModelError(
            "the equinox adapter takes an eqx.Module, the pair of one and its eqx.nn.State, or a function "
            f"that makes them; this is {found}."
        )
    import jax

    # A state that was set can be read no more: the model has its own, whatever becomes of the one given.
    return module, jax.tree_util.tree_map(lambda leaf: leaf, state)


# --- Calls --------------------------------------------------------------------------------------------------

_Call = Callable[..., Any]


def _ways(call: _Call, module: Any) -> list[_Call]:
    """How the module may be called: as it is, and with a key."""
    import jax

    ways = [call]
    if "key" in inspect.signature(type(module).__call__).parameters:
        ways.append(lambda params, *inputs: call(params, *inputs, key=jax.random.PRNGKey(0)))
    return ways


def _mapped(call: _Call, module: Any) -> _Call:
    """A call over a batch: arrays are mapped over their first axis, Python values are the same for all."""
    import jax

    def over_batch(params: Any, *inputs: Any) -> Any:
        leaves, structure = jax.tree_util.tree_flatten(inputs)
        places = [place for place, leaf in enumerate(leaves) if adapting.is_array(leaf)]

        def one(*arrays: Any) -> Any:
            own = list(leaves)
            for place, array in zip(places, arrays, strict=True):
                own[place] = array
            return call(params, *jax.tree_util.tree_unflatten(structure, own))

        return jax.vmap(one, axis_name=_axis_name(module))(*(leaves[place] for place in places))

    return over_batch


def _axis_name(module: Any) -> Any:
    """The name of the batch axis that some layer of a module asks for, as BatchNorm does, or None."""
    eqx = _equinox()
    todo = [module]
    while todo:
        node = todo.pop()
        if isinstance(node, eqx.Module):
            name = getattr(node, "axis_name", None)
            if name is not None:
                return name[0] if isinstance(name, tuple | list) else name
            todo += vars(node).values()
        elif isinstance(node, Mapping):
            todo += node.values()
        elif isinstance(node, tuple | list):
            todo += node
    return None


_Traced = tuple[_Call, Any] | Exception


def _first_traced(ways: Sequence[_Call], params: Any, inputs: Sequence[Any]) -> _Traced:
    """The first way that can be traced and the shapes it gives; or why the first of all cannot be."""
    errors: list[Exception] = []
    for way in ways:
        try:
            return way, adapting.shapes(lambda *given, way=way: _arrays(way(*given)), params, *inputs)
        except Exception as error:  # noqa: BLE001  # a module's own code; the first error is what is told
            errors.append(error)
    return errors[0]


def _chosen(
    ways: Sequence[_Call], module: Any, params: Any, inputs: Sequence[Any], batched: bool | None
) -> _Call:
    """How the module is called on these inputs: as they are, or example by example."""
    as_is = None if batched is True else _first_traced(ways, params, inputs)
    mapped = [_mapped(way, module) for way in ways]
    by_example = None if batched is False else _first_traced(mapped, params, inputs)
    found = [way for way in (as_is, by_example) if isinstance(way, tuple)]
    alike = len(found) == 2 and _shapes(found[0][1]) == _shapes(found[1][1])
    if alike and _mixes(lambda *given: _arrays(found[0][0](*given)), params, *inputs):
        raise ModelError(
            f"{type(module).__name__} can be called on these inputs as they are, and on each example of a "
            "batch: the results have one shape and other values. Say batched=False or batched=True."
        )
    if found:
        return found[0][0]
    error = next(why for why in (as_is, by_example) if isinstance(why, Exception))
    raise adapting.untraced(module, inputs, error) from error


def _shapes(y: Any) -> Any:
    import jax

    leaves, structure = jax.tree_util.tree_flatten(y)
    return structure, [leaf.shape for leaf in leaves]


# Primitives that compute each number of their result from one number of each operand.
_ALONE = frozenset(
    {"abs", "add", "sub", "mul", "div", "neg", "max", "min", "exp", "log", "tanh", "logistic", "erf", "sin"}
    | {"cos", "sqrt", "rsqrt", "pow", "integer_pow", "square", "sign", "ge", "gt", "le", "lt", "eq", "ne"}
    | {"select_n", "convert_element_type", "broadcast_in_dim", "stop_gradient", "copy", "log1p", "expm1"}
)


def _mixes(call: _Call, *given: Any) -> bool:
    """Whether a call does anything but compute each number of its result from one number of each input."""
    import jax

    traced: list[Any] = []
    adapting.shapes(lambda *given: traced.append(jax.make_jaxpr(call)(*given).jaxpr), *given)
    while traced:
        for equation in traced.pop().eqns:
            inner = [value.jaxpr for value in equation.params.values() if hasattr(value, "jaxpr")]
            if not inner and equation.primitive.name not in _ALONE:
                return True
            traced += inner
    return False


def _arrays(y: Any) -> Any:
    return _equinox().filter(y, adapting.is_array)


# --- State --------------------------------------------------------------------------------------------------


def _indices(module: Any) -> dict[str, tuple[Any, LeafFacts]]:
    """Every `eqx.nn.StateIndex` of a module by its path, joined by ".", and whose it is.

    A layer that is there twice has one state: it is named by the first path.
    """
    eqx = _equinox()
    found: dict[str, tuple[Any, LeafFacts]] = {}
    markers: list[Any] = []
    flat, modules, _ = _flat(module, eqx.nn.StateIndex)
    for path, node in flat:
        if isinstance(node, eqx.nn.StateIndex) and node.marker not in markers:
            markers.append(node.marker)
            place, owner, _ = _owner(modules, path)
            kind = None if owner is None else type(owner).__name__
            name = ".".join(path) or "state"
            found[name] = node, LeafFacts("statistics", kind, module=place)
    return found


def _named_state(module: Any, state: Any) -> tuple[dict[str, Any], list[LeafFacts]]:
    """A state's values by the layers and attributes that hold them, and the facts of their leaves."""
    import jax

    indices = _indices(module)
    values = {name: state.get(index) for name, (index, _) in indices.items()}
    facts = [indices[name][1] for name in sorted(values) for _ in jax.tree_util.tree_leaves(values[name])]
    return values, facts


def _native_state(module: Any, state: Any, values: Mapping[str, Any]) -> Any:
    """An `eqx.nn.State` of named values, made anew: `State.set` would spend the state that is given."""
    import jax

    leaves, structure = jax.tree_util.tree_flatten(state)
    places = jax.tree_util.tree_unflatten(structure, range(len(leaves)))
    for name, (index, _) in _indices(module).items():
        given = jax.tree_util.tree_leaves(values[name])
        for place, value in zip(jax.tree_util.tree_leaves(places.get(index)), given, strict=True):
            leaves[place] = value
    return jax.tree_util.tree_unflatten(structure, leaves)


# --- Facts --------------------------------------------------------------------------------------------------


_PLAIN = (dict, list, tuple, type(None))
_Path = tuple[str, ...]
_Modules = dict[_Path, Any]


def _tree_facts(tree: Any) -> list[LeafFacts]:
    """One fact a leaf, in flatten order. What a bare `eqx.nn.State` holds has no names, so no owners."""
    eqx = _equinox()
    import jax

    flat, modules, strangers = _flat(tree, eqx.nn.State)
    facts: list[LeafFacts] = []
    for path, node in flat:
        if isinstance(node, eqx.nn.State):
            facts += [LeafFacts("statistics")] * len(jax.tree_util.tree_leaves(node))
        elif any(path[:depth] in strangers for depth in range(len(path))):
            # A module within an optimizer's state or the like holds what was made of the params.
            role = _role(node)
            facts.append(LeafFacts("other" if role == "params" else role))
        else:
            facts.append(_fact(modules, path, node))
    return facts


def _flat(tree: Any, whole: type) -> tuple[list[tuple[_Path, Any]], _Modules, set[_Path]]:
    """The leaves of a tree by path, and its modules; and where containers of other libraries stand.

    What is of the class `whole` is left whole.
    """
    eqx = _equinox()
    import jax

    modules: _Modules = {}
    strangers: set[_Path] = set()

    def note(keys: Sequence[Any], node: Any) -> bool:
        if isinstance(node, eqx.Module):
            modules[adapting.steps(keys)] = node
        elif type(node) not in _PLAIN and not jax.tree_util.all_leaves([node]):
            strangers.add(adapting.steps(keys))
        return isinstance(node, whole)

    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=note, is_leaf_takes_path=True)
    return [(adapting.steps(keys), node) for keys, node in flat], modules, strangers


def _fact(modules: _Modules, path: _Path, leaf: Any) -> LeafFacts:
    place, owner, attribute = _owner(modules, path)
    if owner is None:
        return LeafFacts(_role(leaf))
    axes, stacked = adapting.fitted(_layer(owner, attribute), leaf)
    return LeafFacts(_role(leaf), type(owner).__name__, axes, stacked, module=place)


def _role(leaf: Any) -> Role:
    import jax

    told = adapting.plain_role(leaf)
    return told or ("params" if jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact) else "other")


def _owner(modules: _Modules, path: _Path) -> tuple[_Path, Any, str]:
    """The innermost module on the way to a leaf: its path, itself, and the attribute that is the leaf."""
    depth = next((n for n in reversed(range(len(path))) if path[:n] in modules), None)
    if depth is None:
        return (), None, ""
    return path[:depth], modules[path[:depth]], path[-1] if depth == len(path) - 1 else ""


_Axes = Sequence[tuple[str, int]]


def _layer(module: Any, leaf: str) -> _Axes | None:
    """Name and size of each axis that a layer of this class gives its array; None for one not Equinox's."""
    kind = next(iter(adapting.of_framework(module, "equinox")), "")
    try:
        return _axes(kind, module, leaf)
    except (AttributeError, TypeError):  # a version that names its settings otherwise
        return None


def _axes(kind: str, module: Any, leaf: str) -> _Axes | None:
    found: _Axes | None = None
    match kind, leaf:
        case "Linear", "weight" | "bias":
            out, inputs = (
                1 if size == "scalar" else size for size in (module.out_features, module.in_features)
            )
            found = [("out", out), ("in", inputs)][: 2 if leaf == "weight" else 1]
        case str(), "weight" | "bias" if kind.startswith("Conv") and module.num_spatial_dims <= len(_SPATIAL):
            spatial = _SPATIAL[len(_SPATIAL) - module.num_spatial_dims :]
            if leaf == "bias":
                found = [("out", module.out_channels), *((name, 1) for name in spatial)]
            else:
                found = [
                    ("out", module.out_channels),
                    ("in", module.in_channels // module.groups),
                    *zip(spatial, module.kernel_size, strict=True),
                ]
        case "Embedding", "weight":
            found = [("vocabulary", module.num_embeddings), ("features", module.embedding_size)]
        case "LayerNorm" | "RMSNorm", "weight" | "bias":
            found = [("features", size) for size in module.shape]
        case "GroupNorm", "weight" | "bias":
            found = [("features", module.channels)]
        case "BatchNorm", "weight" | "bias":
            found = [("features", module.input_size)]
        case "GRUCell" | "LSTMCell", _:
            rows = module.hidden_size * (3 if kind == "GRUCell" else 4)
            found = {
                "weight_ih": [("gates", rows), ("in", module.input_size)],
                "weight_hh": [("gates", rows), ("hidden", module.hidden_size)],
                "bias": [("gates", rows)],
                "bias_n": [("hidden", module.hidden_size)],
            }.get(leaf)
    return found


def _equinox() -> Any:
    try:
        import equinox
    except Exception as error:  # one that is too old for this JAX fails in any way
        raise adapting.framework_missing("equinox", error) from error
    return equinox


adapter = EquinoxAdapter()
