"""Two tanh recurrent layers, the first in both directions, the second forward; a dense layer on all steps.

h' = tanh(x W + h U + b); the second layer takes the first's forward and backward states, in this order. All
cells are written by hand. Linen lifts one with `nn.scan`, backward with its `reverse`. NNX multiplies the
whole sequence by W before its scan, which has U alone, and flips the sequence around for the backward cell.
Equinox has plain arrays (out, in) and `jax.lax.scan` with `reverse`, on one example. Haiku has one kernel for
[h, x], the state first, and `hk.dynamic_unroll`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from architectures import Built, nested, shape
from leafreport import adapter

BATCH, LENGTH, IN, FIRST, SECOND, OUT = 2, 7, 3, 5, 6, 4
X = shape(BATCH, LENGTH, IN)

SIZES = {"forward": (IN, FIRST), "backward": (IN, FIRST), "top": (2 * FIRST, SECOND)}
SHAPES = {
    **{f"{cell}.input": sizes for cell, sizes in SIZES.items()},
    **{f"{cell}.hidden": (hidden, hidden) for cell, (_, hidden) in SIZES.items()},
    **{f"{cell}.bias": (hidden,) for cell, (_, hidden) in SIZES.items()},
    "head.kernel": (SECOND, OUT),
    "head.bias": (OUT,),
}


def linen():
    import flax.linen as nn
    from flax.traverse_util import flatten_dict

    class Cell(nn.Module):
        hidden: int

        @nn.compact
        def __call__(self, h, x):
            h = nn.tanh(nn.Dense(self.hidden)(x) + nn.Dense(self.hidden, use_bias=False)(h))
            return h, h

    def unrolled(hidden, name, x, *, reverse=False):
        layer = nn.scan(
            Cell,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
            reverse=reverse,
        )
        _, states = layer(hidden, name=name)(jnp.zeros((x.shape[0], hidden)), x)
        return states

    class Tagger(nn.Module):
        @nn.compact
        def __call__(self, x):
            forward = unrolled(FIRST, "fwd", x)
            backward = unrolled(FIRST, "bwd", x, reverse=True)
            x = jnp.concatenate([forward, backward], axis=-1)
            return nn.Dense(OUT)(unrolled(SECOND, "second", x))

    cells = {"forward": "fwd", "backward": "bwd", "top": "second"}
    paths = {
        **{f"{cell}.input": f"params/{name}/Dense_0/kernel" for cell, name in cells.items()},
        **{f"{cell}.hidden": f"params/{name}/Dense_1/kernel" for cell, name in cells.items()},
        **{f"{cell}.bias": f"params/{name}/Dense_0/bias" for cell, name in cells.items()},
        "head.kernel": "params/Dense_0/kernel",
        "head.bias": "params/Dense_0/bias",
    }

    def canonical(params):
        flat = flatten_dict(params, sep="/")
        return {label: flat[path] for label, path in paths.items()}

    def build(values):
        return nested({path: values[label] for label, path in paths.items()})

    return Built(adapter("flax").model(Tagger(), X), (X,), canonical, build)


def nnx():
    from flax import nnx

    class Recurrent(nnx.Module):
        def __init__(self, features, hidden, *, rngs):
            self.recurrence = nnx.Param(nnx.initializers.orthogonal()(rngs.params(), (hidden, hidden)))
            self.projection = nnx.Linear(features, hidden, rngs=rngs)

        def __call__(self, x):
            projected = self.projection(x).swapaxes(0, 1)

            def step(h, projected):
                h = jnp.tanh(projected + h @ self.recurrence[...])
                return h, h

            _, states = jax.lax.scan(step, jnp.zeros_like(projected[0]), projected)
            return states.swapaxes(0, 1)

    class Tagger(nnx.Module):
        def __init__(self, *, rngs):
            self.backward_layer = Recurrent(IN, FIRST, rngs=rngs)
            self.forward_layer = Recurrent(IN, FIRST, rngs=rngs)
            self.second_layer = Recurrent(2 * FIRST, SECOND, rngs=rngs)
            self.classifier = nnx.Linear(SECOND, OUT, rngs=rngs)

        def __call__(self, x):
            backward = self.backward_layer(x[:, ::-1])[:, ::-1]
            x = jnp.concatenate([self.forward_layer(x), backward], axis=-1)
            return self.classifier(self.second_layer(x))

    model = adapter("nnx").model(lambda: Tagger(rngs=nnx.Rngs(0)), X)
    cells = {"forward": "forward_layer", "backward": "backward_layer", "top": "second_layer"}
    paths = {
        **{f"{cell}.input": f"{name}/projection/kernel" for cell, name in cells.items()},
        **{f"{cell}.hidden": f"{name}/recurrence" for cell, name in cells.items()},
        **{f"{cell}.bias": f"{name}/projection/bias" for cell, name in cells.items()},
        "head.kernel": "classifier/kernel",
        "head.bias": "classifier/bias",
    }

    def canonical(params):
        flat = {"/".join(path): variable[...] for path, variable in nnx.to_flat_state(params)}
        return {label: flat[path] for label, path in paths.items()}

    def build(values):
        state = jax.tree.map(lambda leaf: leaf, model.params)
        nnx.replace_by_pure_dict(state, nested({path: values[label] for label, path in paths.items()}))
        return state

    return Built(model, (X,), canonical, build)


def equinox():
    import equinox as eqx

    class Cell(eqx.Module):
        weight_ih: jax.Array
        weight_hh: jax.Array
        bias: jax.Array

        def __init__(self, features, hidden, *, key):
            keys = jax.random.split(key, 3)
            limit = hidden**-0.5
            self.weight_ih = jax.random.uniform(keys[0], (hidden, features), minval=-limit, maxval=limit)
            self.weight_hh = jax.random.uniform(keys[1], (hidden, hidden), minval=-limit, maxval=limit)
            self.bias = jax.random.uniform(keys[2], (hidden,), minval=-limit, maxval=limit)

        def run(self, xs, *, reverse=False):
            def step(h, x):
                h = jnp.tanh(self.weight_ih @ x + self.weight_hh @ h + self.bias)
                return h, h

            _, states = jax.lax.scan(step, jnp.zeros(self.bias.shape), xs, reverse=reverse)
            return states

    class Tagger(eqx.Module):
        forward: Cell
        backward: Cell
        upper: Cell
        output: eqx.nn.Linear

        def __init__(self, *, key):
            keys = jax.random.split(key, 4)
            self.forward = Cell(IN, FIRST, key=keys[0])
            self.backward = Cell(IN, FIRST, key=keys[1])
            self.upper = Cell(2 * FIRST, SECOND, key=keys[2])
            self.output = eqx.nn.Linear(SECOND, OUT, key=keys[3])

        def __call__(self, x):
            forward = self.forward.run(x)
            backward = self.backward.run(x, reverse=True)
            states = self.upper.run(jnp.hstack([forward, backward]))
            return jax.vmap(self.output)(states)

    model = adapter("equinox").model(lambda: Tagger(key=jax.random.PRNGKey(0)), X, batched=True)

    def where(module):
        """In the order of `SHAPES`."""
        cells = module.forward, module.backward, module.upper
        found = [cell.weight_ih for cell in cells] + [cell.weight_hh for cell in cells]
        return [*found, *(cell.bias for cell in cells), module.output.weight, module.output.bias]

    def canonical(params):
        return {label: leaf.T for label, leaf in zip(SHAPES, where(params), strict=True)}

    def build(values):
        return eqx.tree_at(where, model.params, [values[label].T for label in SHAPES])

    return Built(model, (X,), canonical, build)


def haiku():
    import haiku as hk

    class Core(hk.RNNCore):
        def __init__(self, hidden, name=None):
            super().__init__(name=name)
            self.hidden = hidden

        def __call__(self, inputs, prev_state):
            joined = jnp.concatenate([prev_state, inputs], axis=-1)
            state = jnp.tanh(hk.Linear(self.hidden)(joined))
            return state, state

        def initial_state(self, batch_size):
            return jnp.zeros((batch_size, self.hidden))

    def tagger(x):
        x = x.swapaxes(0, 1)
        batch = x.shape[1]
        below, above = [Core(FIRST, "left_to_right"), Core(FIRST, "right_to_left")], Core(SECOND)
        outputs = [
            hk.dynamic_unroll(core, x, core.initial_state(batch), reverse=core is below[1])[0]
            for core in below
        ]
        x, _ = hk.dynamic_unroll(above, jnp.concatenate(outputs, -1), above.initial_state(batch))
        return hk.BatchApply(hk.Linear(OUT))(x).swapaxes(0, 1)

    cells = {"forward": "left_to_right/linear", "backward": "right_to_left/linear", "top": "core/linear"}

    def canonical(params):
        found = {"head.kernel": params["linear"]["w"], "head.bias": params["linear"]["b"]}
        for cell, name in cells.items():
            _, hidden = SIZES[cell]
            found[f"{cell}.hidden"], found[f"{cell}.input"] = np.split(params[name]["w"], [hidden])
            found[f"{cell}.bias"] = params[name]["b"]
        return found

    def build(values):
        made = {"linear": {"w": values["head.kernel"], "b": values["head.bias"]}}
        for cell, name in cells.items():
            kernel = np.concatenate([values[f"{cell}.hidden"], values[f"{cell}.input"]])
            made[name] = {"w": kernel, "b": values[f"{cell}.bias"]}
        return made

    return Built(adapter("haiku").model(hk.transform(tagger), X), (X,), canonical, build)


BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}
