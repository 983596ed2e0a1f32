"""leafreport's adapter for toynet. toynet is imported when it is used, not before."""

from collections.abc import Sequence
from typing import Any

from leafreport import LeafFacts, Model, ModelError, adapting

_AXES = {"weight": ("in", "out"), "offset": ("out",)}


class ToyAdapter:
    """Builds with `toynet`."""

    name = "toy"

    def dense_stack(self, seed: int, x: Any, num_layers: int, *, abstract: bool = False) -> Model:
        """`toynet.Layer(D, D)` repeated in a `toynet.Net`, D = `x.shape[-1]`; params is that net."""
        toynet = _toynet()
        import jax

        sizes = [int(x.shape[-1])] * (num_layers + 1)

        def make() -> Any:
            return toynet.make_net(jax.random.PRNGKey(seed), sizes)

        net = jax.eval_shape(make) if abstract else make()
        return Model(net, _call, self.describe(net))

    def model(self, obj: Any, *example_inputs: Any) -> Model:
        """A model of a net, which holds its arrays already; the inputs show that it can be called."""
        if not self.recognizes(obj):
            raise ModelError(f"the toy adapter takes a toynet.Net or Layer; this is a {type(obj).__name__}.")
        if example_inputs:
            try:
                adapting.shapes(_call, obj, *example_inputs)
            except Exception as error:
                raise adapting.untraced(obj, example_inputs, error) from error
        return Model(obj, _call, self.describe(obj))

    def recognizes(self, obj: Any) -> bool:
        """Whether it is a net or a layer."""
        toynet = _toynet()
        return isinstance(obj, toynet.Net | toynet.Layer)

    def describe(self, tree: Any) -> Sequence[LeafFacts]:
        """What is known of each leaf of any tree, such as a net, or a dict of nets and other things."""
        toynet = _toynet()
        import jax

        nodes, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda n: isinstance(n, toynet.Layer))
        facts: list[LeafFacts] = []
        for number, (keys, node) in enumerate(nodes):
            if not isinstance(node, toynet.Layer):
                facts.append(LeafFacts())
                continue
            place = adapting.steps(keys)
            # Only of a net itself is it known that its layers are called one after the other.
            order = number if isinstance(tree, toynet.Net) else None
            for inner, leaf in jax.tree_util.tree_leaves_with_path(node):
                axes = _AXES[adapting.steps(inner)[0]]
                # Something else may stand in a layer's place: an optimizer's state has any leaves there.
                known = axes if len(getattr(leaf, "shape", ())) == len(axes) else None
                facts.append(LeafFacts("params", "Layer", known, module=place, order=order))
        return facts


def _call(net: Any, x: Any) -> Any:
    return net(x)


def _toynet() -> Any:
    try:
        import toynet
    except ImportError as error:
        raise adapting.framework_missing("toy", error) from error
    return toynet


adapter = ToyAdapter()
