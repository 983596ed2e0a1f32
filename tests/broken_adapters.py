"""Adapters for the conformance kit: a healthy one, and many that break one promise each."""

# ruff: noqa: ARG002  # they take what the contract gives, and some break it by not using it

import os
import sys

import jax
import jax.numpy as jnp
import numpy as np

from leafreport import LeafFacts, Model, ModelError


class Net:
    """What the adapters below take for a model object."""

    def __init__(self):
        self.weights = [jnp.ones((8, 8)), jnp.zeros(8)]
        self.inner = {"calls": [0]}


class Healthy:
    """An adapter without a framework, that keeps its promises; each one below breaks one of them."""

    name = "healthy"

    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        def make():
            return self.params(jax.random.PRNGKey(seed), x.shape[-1], num_layers)

        params = jax.eval_shape(make) if abstract else make()
        return Model(params, self.apply, self.describe(params))

    def params(self, key, width, num_layers):
        keys = jax.random.split(key, max(num_layers, 1))
        return {"layers": [self.layer(keys[n], width) for n in range(num_layers)]}

    def layer(self, key, width):
        return {"bias": jnp.zeros(width), "kernel": jax.random.normal(key, (width, width)) / width**0.5}

    def apply(self, params, x):
        for layer in params["layers"]:
            x = x @ layer["kernel"] + layer["bias"]
        return x

    def describe(self, tree):
        return [
            LeafFacts("params", "Dense", ("in", "out")[2 - len(leaf.shape) :])
            for leaf in jax.tree_util.tree_leaves(tree)
        ]

    def model(self, obj, *example_inputs):
        if not isinstance(obj, Net):
            raise ModelError(f"the adapter takes a Net; this is a {type(obj).__name__}.")
        return Model(obj.weights, lambda weights, x: x @ weights[0] + weights[1])

    def recognizes(self, obj):
        return isinstance(obj, Net)


# --- Broken, each in one way --------------------------------------------------------------------------------


class SharedLayer(Healthy):
    def params(self, key, width, num_layers):
        return {"layers": [self.layer(key, width)] * min(num_layers, 1)}


class MissingBias(Healthy):
    def layer(self, key, width):
        return {"kernel": jax.random.normal(key, (width, width))}

    def apply(self, params, x):
        for layer in params["layers"]:
            x = x @ layer["kernel"]
        return x


class AbstractOfAnotherCount(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        return super().dense_stack(seed, x, num_layers + abstract, abstract=abstract)


class AbstractOfAnotherDtype(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        made = super().dense_stack(seed, x, num_layers, abstract=abstract)
        if not abstract:
            return made
        shapes = jax.tree_util.tree_map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16), made.params)
        return Model(shapes, made.apply, made.facts)


class AbstractOfAnotherTree(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        made = super().dense_stack(seed, x, num_layers, abstract=abstract)
        return Model({"layers": tuple(made.params["layers"])}, made.apply, made.facts) if abstract else made


class AbstractThatIsConcrete(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        return super().dense_stack(seed, x, num_layers)


class AbstractThatAllocates(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        made = super().dense_stack(seed, x, num_layers)
        if not abstract:
            return made
        return Model(jax.eval_shape(lambda: made.params), made.apply, made.facts)


class AbstractThatAllocatesInNumPy(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        if abstract:
            np.zeros((x.shape[-1], x.shape[-1]))
        return super().dense_stack(seed, x, num_layers, abstract=abstract)


class AbstractBiasAlone(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        if abstract:
            jnp.zeros(x.shape[-1])
        return super().dense_stack(seed, x, num_layers, abstract=abstract)


class AbstractByDefault(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=True):
        return super().dense_stack(seed, x, num_layers, abstract=abstract)


class SeedIgnored(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        return super().dense_stack(0, x, num_layers, abstract=abstract)


class OneKeyForAllLayers(Healthy):
    def params(self, key, width, num_layers):
        return {"layers": [self.layer(key, width) for _ in range(num_layers)]}


class NotDeterministic(Healthy):
    calls = 0

    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        type(self).calls += 1
        return super().dense_stack(seed + 7 * self.calls, x, num_layers, abstract=abstract)


class LargeSeeds(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        return super().dense_stack(int(np.int32(seed)), x, num_layers, abstract=abstract)


class ValuesOfX(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        if isinstance(x, np.ndarray):
            seed = seed + int(abs(x).sum())
        return super().dense_stack(seed, x, num_layers, abstract=abstract)


class ValuesOfXNeeded(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        x = x + 0
        return super().dense_stack(seed, x, num_layers, abstract=abstract)


class XChangedWhenBuilding(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        if isinstance(x, np.ndarray):
            x[0] = 0
        return super().dense_stack(seed, x, num_layers, abstract=abstract)


class WidthOfTheWrongAxis(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        turned = jax.ShapeDtypeStruct(x.shape[::-1], x.dtype)
        return super().dense_stack(seed, turned, num_layers, abstract=abstract)


class WidthAlwaysEight(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        wide = max(8, x.shape[-1])
        return super().dense_stack(
            seed, jax.ShapeDtypeStruct((4, wide), x.dtype), num_layers, abstract=abstract
        )


class FloatsOnly(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError("floats only")
        return super().dense_stack(seed, x, num_layers, abstract=abstract)


class NoLayersRefused(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        if num_layers == 0:
            raise IndexError("no layers")
        return super().dense_stack(seed, x, num_layers, abstract=abstract)


class CountsCalls(Healthy):
    calls = 0

    def apply(self, params, x):
        type(self).calls += 1
        return super().apply(params, x) + self.calls


class ThroughFloat(Healthy):
    def apply(self, params, x):
        return super().apply(params, x) * (1 if float(x.sum()) > -1e9 else 2)


class ThroughNumPy(Healthy):
    def apply(self, params, x):
        for layer in params["layers"]:
            x = np.asarray(x) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        return x


class OtherUnderJit(Healthy):
    def apply(self, params, x):
        return super().apply(params, x) + isinstance(x, jax.core.Tracer)


class BiasIgnored(Healthy):
    def apply(self, params, x):
        for number, layer in enumerate(params["layers"]):
            x = x @ layer["kernel"] + (layer["bias"] if number != 1 else 0)
        return x


class ParamsChanged(Healthy):
    def apply(self, params, x):
        y = super().apply(params, x)
        for layer in params["layers"]:
            layer["bias"] = layer["bias"] + 1
        return y


class XChanged(Healthy):
    def apply(self, params, x):
        y = super().apply(params, x)
        if isinstance(x, np.ndarray):
            x[0] = 0
        return y


class ReluBetween(Healthy):
    def apply(self, params, x):
        for layer in params["layers"]:
            x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
        return x


class RowsMixed(Healthy):
    def apply(self, params, x):
        y = super().apply(params, x)
        return y + y.mean(0) if params["layers"] else y


class FirstRowOnly(Healthy):
    def apply(self, params, x):
        return super().apply(params, x[:1]) if params["layers"] else x


class ZeroLayersOfSomething(Healthy):
    def apply(self, params, x):
        return super().apply(params, x) if params["layers"] else x * 0


class ApplyRaises(Healthy):
    def apply(self, params, x):
        raise RuntimeError("boom")


@jax.tree_util.register_pytree_with_keys_class
class Twins:
    """A node whose children have one name."""

    def __init__(self, *children):
        self.children = children

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.GetAttrKey(self.key(n)), child) for n, child in enumerate(self.children)], None

    def key(self, number):
        return "twin"

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


class WithNode(Healthy):
    node = Twins

    def layer(self, key, width):
        made = super().layer(key, width)
        return self.node(made["kernel"], made["bias"])

    def apply(self, params, x):
        for layer in params["layers"]:
            x = x @ layer.children[0] + layer.children[1]
        return x


@jax.tree_util.register_pytree_with_keys_class
class Addressed(Twins):
    class Key:
        pass

    def __init__(self, *children):
        super().__init__(*children)
        self.keys = [self.Key() for _ in children]

    def tree_flatten_with_keys(self):
        return [*zip(map(jax.tree_util.DictKey, self.keys), self.children, strict=True)], None


class PathOfAnAddress(WithNode):
    node = Addressed


class PathWithASurrogate(Healthy):
    def params(self, key, width, num_layers):
        return {
            f"\udc80{n}": layer for n, layer in enumerate(super().params(key, width, num_layers)["layers"])
        }

    def apply(self, params, x):
        return super().apply({"layers": [params[name] for name in sorted(params)]}, x)


@jax.tree_util.register_pytree_with_keys_class
class Numbered(Twins):
    made = 0

    def __init__(self, *children):
        super().__init__(*children)
        Numbered.made += 1
        self.number = Numbered.made

    def key(self, number):
        return f"node_{self.number}_{number}"


class PathsCountedOn(WithNode):
    node = Numbered


class PythonNumber(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        made = super().dense_stack(seed, x, num_layers, abstract=abstract)
        layers = [{**layer, "bias": 0.5} for layer in made.params["layers"]]
        return Model({"layers": layers}, made.apply)

    def describe(self, tree):
        return [LeafFacts("params")] * len(jax.tree_util.tree_leaves(tree))


class Integers(Healthy):
    def layer(self, key, width):
        return {n: leaf.astype(jnp.int32) for n, leaf in super().layer(key, width).items()}


class NotFinite(Healthy):
    def layer(self, key, width):
        return {**super().layer(key, width), "bias": jnp.full(width, jnp.nan)}


class FactsTooFew(Healthy):
    def describe(self, tree):
        return super().describe(tree)[1:]


class FactsOfNoRole(Healthy):
    def describe(self, tree):
        return [LeafFacts("weights") for _ in jax.tree_util.tree_leaves(tree)]


class FactsOfWrongAxes(Healthy):
    def describe(self, tree):
        return [LeafFacts(axes=("in", "out")) for _ in jax.tree_util.tree_leaves(tree)]


class FactsAsDicts(Healthy):
    def describe(self, tree):
        return [{"role": "params"} for _ in jax.tree_util.tree_leaves(tree)]


class DescribeRaises(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        return Healthy().dense_stack(seed, x, num_layers, abstract=abstract)

    def describe(self, tree):
        raise RuntimeError("boom")


class FactsAsGenerator(DescribeRaises):
    def describe(self, tree):
        return (LeafFacts() for _ in jax.tree_util.tree_leaves(tree))


class OtherFactsWhenAbstract(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        made = super().dense_stack(seed, x, num_layers, abstract=abstract)
        return Model(made.params, made.apply) if abstract else made


class FactsWithAModuleAsText(Healthy):
    def describe(self, tree):
        return [LeafFacts(module="Dense_0") for _ in jax.tree_util.tree_leaves(tree)]


class ModelChangesTheObject(Healthy):
    def model(self, obj, *example_inputs):
        made = super().model(obj, *example_inputs)
        obj.inner["calls"][0] += 1
        return made


class ModelReplacesWeights(Healthy):
    def model(self, obj, *example_inputs):
        made = super().model(obj, *example_inputs)
        obj.weights = [leaf + 0 for leaf in obj.weights]
        return made


class ModelOfAnything(Healthy):
    def model(self, obj, *example_inputs):
        return super().model(obj if isinstance(obj, Net) else Net())


class ModelRaisesAnything(Healthy):
    def model(self, obj, *example_inputs):
        return Model(obj.weights, lambda weights, x: x @ weights[0] + weights[1])


class ModelOfOtherLeaves(Healthy):
    def model(self, obj, *example_inputs):
        return Model([*super().model(obj).params, "relu"], lambda weights, x: x @ weights[0])


class ModelThatCannotBeTraced(Healthy):
    def model(self, obj, *example_inputs):
        return Model(super().model(obj).params, lambda weights, x: x @ weights[0] * float(x.sum()))


class ModelThatIsNone(Healthy):
    def model(self, obj, *example_inputs):
        super().model(obj)


class ModelRaises(Healthy):
    def model(self, obj, *example_inputs):
        super().model(obj)
        raise RuntimeError("boom")


class Promise:
    """A model object without arrays: they are made from the inputs."""


class ModelThatMakesArrays(Healthy):
    def model(self, obj, *example_inputs):
        if isinstance(obj, Promise):
            return Model([jnp.ones((8, 8))], lambda weights, x: x @ weights[0])
        return super().model(obj)

    def recognizes(self, obj):
        return isinstance(obj, Net | Promise)


class RecognizesAll(Healthy):
    def recognizes(self, obj):
        return True


class RecognizesNone(Healthy):
    def recognizes(self, obj):
        return None if isinstance(obj, Net) else False


class RecognizesRaises(Healthy):
    def recognizes(self, obj):
        return obj.is_mine


class NoModel:
    name = "healthy"
    dense_stack = Healthy.dense_stack
    params, layer, apply, describe = Healthy.params, Healthy.layer, Healthy.apply, Healthy.describe


class ChangesJaxConfig(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        jax.config.update("jax_debug_nans", True)
        return super().dense_stack(seed, x, num_layers, abstract=abstract)


class SeedsNumPy(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        np.random.seed(seed)
        return super().dense_stack(seed, x, num_layers, abstract=abstract)


class ChangesEnvironment(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        os.environ["LEAFREPORT_TESTING"] = "1"
        return super().dense_stack(seed, x, num_layers, abstract=abstract)


class PatchesJax(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        jax.nn.relu6 = lambda x: x
        return super().dense_stack(seed, x, num_layers, abstract=abstract)


class NoName(Healthy):
    name = ""


class OtherSignature(Healthy):
    def dense_stack(self, seed, x, num_layers):
        return super().dense_stack(seed, x, num_layers)


class NoDenseStack:
    name = "healthy"


class DescribeIsNoMethod(Healthy):
    describe = ()


class NoModelGiven(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        return super().dense_stack(seed, x, num_layers, abstract=abstract).params


class RaisesAlways(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        raise RuntimeError("boom")


class AbstractRefused(Healthy):
    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        if abstract:
            raise NotImplementedError("no abstract stacks")
        return super().dense_stack(seed, x, num_layers)


class RaisesOnce(Healthy):
    """Fails where the kit watches: in the call that is profiled."""

    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        if sys.getprofile() is not None:
            raise RuntimeError("boom")
        return super().dense_stack(seed, x, num_layers, abstract=abstract)


# The check that names the breach, and its words.
BROKEN = {
    NoName: ("contract", "its name is '', and no string that says something"),
    OtherSignature: (
        "contract",
        "dense_stack cannot be called as dense_stack(seed, x, num_layers, abstract=True): ",
    ),
    NoDenseStack: ("contract", "it has no dense_stack(seed, x, num_layers, *, abstract=False)"),
    DescribeIsNoMethod: ("contract", "its describe is a tuple, and no method"),
    NoModelGiven: (
        "builds",
        "dense_stack(0, abstract float32[4, 8], 1, abstract=False) gives a dict, and no leafreport.Model",
    ),
    RaisesAlways: (
        "builds",
        "dense_stack(0, abstract float32[4, 8], 1, abstract=False) raises RuntimeError: boom",
    ),
    ValuesOfXNeeded: (
        "builds",
        "dense_stack(0, abstract float32[4, 8], 1, abstract=False) raises TypeError: unsupported",
    ),
    SharedLayer: (
        "counts",
        "a stack of 2 layers has 2 leaves, and not 4: a kernel and a bias for each layer, each layer with its own",
    ),
    MissingBias: ("counts", "a stack of 1 layer has 1 leaf, and not 2: "),
    AbstractOfAnotherCount: ("counts", "an abstract stack of 0 layers has 2 leaves, and not 0: "),
    AbstractRefused: (
        "counts",
        "dense_stack(0, abstract float32[4, 8], 0, abstract=True) raises NotImplementedError: ",
    ),
    NoLayersRefused: (
        "counts",
        "dense_stack(0, abstract float32[4, 8], 0, abstract=False) raises IndexError: no layers",
    ),
    PythonNumber: (
        "leaves",
        "layers/0/bias, layers/1/bias, layers/2/bias: a float, where the leaves of params are arrays",
    ),
    WidthOfTheWrongAxis: ("leaves", "layers/0/bias (4,), layers/0/kernel (4, 4), "),
    Integers: ("leaves", "layers/2/kernel: of dtype int32, where a layer has floats"),
    NotFinite: ("leaves", "layers/0/bias, layers/1/bias, layers/2/bias: holds values that are not finite"),
    WithNode: ("paths", "layers/9/twin and 2 more: the path of two leaves: paths are unique"),
    PathWithASurrogate: ("paths", "\\udc800/bias, \\udc800/kernel, "),
    PathOfAnAddress: ("paths", "more: an address in memory, which is another one each time"),
    PathsCountedOn: ("paths", "more: another path when the same stack is built again"),
    AbstractOfAnotherDtype: (
        "abstract",
        "the abstract stack of 1 layer is not the concrete one: ~ layers/0/bias dtype float32 -> bfloat16;",
    ),
    AbstractOfAnotherTree: ("abstract", "layers container list -> tuple"),
    AbstractThatIsConcrete: (
        "abstract",
        "layers/1/kernel: in an abstract stack, and no jax.ShapeDtypeStruct",
    ),
    AbstractThatAllocates: ("abstract", "an abstract stack makes arrays on the way: float32[37] by jax."),
    AbstractThatAllocatesInNumPy: (
        "abstract",
        "makes arrays on the way: one of width 16,777,216 takes none, but dense_stack(",
    ),
    AbstractBiasAlone: ("abstract", "an abstract stack makes arrays on the way: float32[37] by jax."),
    AbstractByDefault: (
        "abstract",
        "a stack is abstract where abstract is not given: the default is abstract=False",
    ),
    SeedIgnored: ("seeds", "seeds 0 and 1 give the same values: the seed is not used"),
    OneKeyForAllLayers: (
        "seeds",
        "layers/0/kernel and layers/1/kernel hold the same values: each layer draws its own",
    ),
    NotDeterministic: (
        "seeds",
        "layers/2/kernel: other values when built again from the same seed, so not deterministic",
    ),
    LargeSeeds: (
        "seeds",
        "dense_stack(4294967295, abstract float32[4, 8], 1, abstract=False) raises OverflowError: ",
    ),
    ValuesOfX: (
        "input",
        "the params depend on x beyond its width and dtype: a NumPy array of other values gives others",
    ),
    XChangedWhenBuilding: ("input", "dense_stack changes the values of the x that it is given"),
    WidthAlwaysEight: (
        "input",
        "the width is not x.shape[-1]: for x of shape (2, 3) the leaves have the shapes [(8,), (8, 8)]",
    ),
    FloatsOnly: (
        "input",
        "dense_stack(0, abstract int32[2, 3], 1, abstract=True) raises TypeError: floats only",
    ),
    CountsCalls: ("apply", "apply is not pure: called again on the same arrays it gives other values"),
    ThroughFloat: ("apply", "apply fails under jax.jit: ConcretizationTypeError: "),
    ThroughNumPy: ("apply", "apply fails under jax.jit: TracerArrayConversionError: "),
    OtherUnderJit: ("apply", "apply gives other values under jax.jit than without: "),
    BiasIgnored: (
        "apply",
        "apply does not use layers/1/bias: with other values there its result is the same",
    ),
    ParamsChanged: ("apply", "apply changes the params that it is given"),
    XChanged: ("apply", "apply changes the values of the x that it is given"),
    ReluBetween: ("apply", "apply is not affine in x: a stack of Dense layers has nothing between them"),
    RowsMixed: (
        "apply",
        "apply gives a row other values when it stands alone: each row is an example of its own",
    ),
    FirstRowOnly: ("apply", "apply gives float32[1, 8], and not floats of the shape of x, [4, 8]"),
    ZeroLayersOfSomething: ("apply", "a stack of 0 layers does not give x back"),
    ApplyRaises: ("apply", "apply(params, f32[4,8]) raises RuntimeError: boom"),
    FactsTooFew: ("facts", "dense_stack tells 3 facts of 4 leaves: one for each, in flatten order"),
    FactsOfNoRole: (
        "facts",
        "layers/1/kernel the role 'weights': roles are params, statistics, rng, static, other",
    ),
    FactsOfWrongAxes: (
        "facts",
        "dense_stack tells of layers/0/bias, layers/1/bias the axes ('in', 'out'), where it has 1",
    ),
    FactsAsDicts: ("facts", "layers/1/kernel a dict, and no leafreport.LeafFacts"),
    FactsWithAModuleAsText: ("facts", "layers/1/kernel module='Dense_0', where it is a tuple of strings"),
    FactsAsGenerator: (
        "facts",
        "describe(params) tells a generator, and no sequence of leafreport.LeafFacts",
    ),
    DescribeRaises: ("facts", "describe(params) raises RuntimeError: boom"),
    OtherFactsWhenAbstract: (
        "facts",
        "dense_stack tells other facts of an abstract stack than of the concrete one",
    ),
    NoModel: ("models", "it has no model(obj, *example_inputs), and models were given to check"),
    ModelOfAnything: (
        "models",
        "model(object(), x) gives a Model: an object that is no model is a ModelError",
    ),
    ModelRaisesAnything: ("models", "model(object(), x) raises AttributeError: "),
    ModelRaises: ("models", "model(Net, ...) raises RuntimeError: boom"),
    ModelThatIsNone: ("models", "model(Net, ...) gives a NoneType, and no leafreport.Model"),
    ModelOfOtherLeaves: ("models", "model(Net, ...) has leaves in params that are no arrays: 2"),
    ModelThatCannotBeTraced: (
        "models",
        "the apply of model(Net, ...) cannot be traced on its inputs: ConcretizationTypeError: ",
    ),
    ModelThatMakesArrays: ("models", "model(Promise, ...) makes arrays from abstract inputs: 0"),
    ModelChangesTheObject: ("models", "model changes the Net that it is given: inner.calls.0"),
    ModelReplacesWeights: ("models", "model changes the Net that it is given: weights, weights.0, weights.1"),
    RecognizesAll: ("models", "recognizes(object()) gives True, and not False"),
    RecognizesNone: ("models", "recognizes(Net) gives None, and not True"),
    RecognizesRaises: ("models", "recognizes(object()) raises AttributeError: "),
    ChangesJaxConfig: ("mutation", "jax.config is changed: jax_debug_nans"),
    ChangesEnvironment: ("mutation", "os.environ is changed: LEAFREPORT_TESTING"),
    SeedsNumPy: ("mutation", "NumPy's global random state is changed"),
    PatchesJax: ("mutation", "jax.nn.relu6 replaced: functions and classes of others are not touched"),
}
