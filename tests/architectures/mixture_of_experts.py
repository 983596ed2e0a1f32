"""A dense mixture of experts: a softmax gate over three MLPs, and the weighted sum of all outputs.

The gate has no bias. Linen has the experts as separate modules and adds them up one by one; an expert is
written as one nested call, in which the outer layer is made first, so `Dense_0` is the second to run. NNX
keeps one array for all experts' matrices (E, in, out) in an `nnx.Param` and multiplies them by einsum.
Equinox maps a stacked expert over the first axis of its leaves. In Haiku one wide `hk.Linear` makes all
experts' hidden units at once (the columns of an expert are neighbours), and the second matrices are one
parameter (E, hidden, out) that is contracted with the weights of the gate in a single einsum.
"""

import jax
import jax.numpy as jnp
import numpy as np

from architectures import Built, shape
from leafreport import adapter

EXPERTS, WIDTH, HIDDEN, OUTPUTS, BATCH, LENGTH = 3, 6, 10, 4, 2, 5

EXPERT = {
    "up/weight": (WIDTH, HIDDEN),
    "up/bias": (HIDDEN,),
    "down/weight": (HIDDEN, OUTPUTS),
    "down/bias": (OUTPUTS,),
}
SHAPES = {"gate": (WIDTH, EXPERTS)} | {
    f"expert{n}/{label}": sizes for n in range(EXPERTS) for label, sizes in EXPERT.items()
}


def stacked(values, label):
    """All experts' values of one label, the expert first."""
    return np.stack([values[f"expert{n}/{label}"] for n in range(EXPERTS)])


def experts(held):
    """The values by expert, of what all experts have by label."""
    return {f"expert{n}/{label}": np.asarray(held[label])[n] for n in range(EXPERTS) for label in EXPERT}


def linen():
    import flax.linen as nn

    class Expert(nn.Module):
        hidden: int
        features: int

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.features)(nn.silu(nn.Dense(self.hidden)(x)))

    class MixtureOfExperts(nn.Module):
        def setup(self):
            self.experts = [Expert(HIDDEN, OUTPUTS) for _ in range(EXPERTS)]
            self.router = nn.Dense(EXPERTS, use_bias=False)

        def __call__(self, x):
            weights = nn.softmax(self.router(x))
            y = 0.0
            for n, expert in enumerate(self.experts):
                y = y + weights[..., n, None] * expert(x)
            return y

    def canonical(params):
        held = params["params"]
        found = {"gate": np.asarray(held["router"]["kernel"])}
        for n in range(EXPERTS):
            up, down = (held[f"experts_{n}"][layer] for layer in ("Dense_1", "Dense_0"))
            found[f"expert{n}/up/weight"] = np.asarray(up["kernel"])
            found[f"expert{n}/up/bias"] = np.asarray(up["bias"])
            found[f"expert{n}/down/weight"] = np.asarray(down["kernel"])
            found[f"expert{n}/down/bias"] = np.asarray(down["bias"])
        return found

    def build(values):
        made = {"router": {"kernel": values["gate"]}}
        for n in range(EXPERTS):
            made[f"experts_{n}"] = {
                layer: {
                    "kernel": values[f"expert{n}/{name}/weight"],
                    "bias": values[f"expert{n}/{name}/bias"],
                }
                for layer, name in (("Dense_1", "up"), ("Dense_0", "down"))
            }
        return {"params": made}

    x = shape(BATCH, LENGTH, WIDTH)
    return Built(adapter("flax").model(MixtureOfExperts(), x), (x,), canonical, build)


def nnx():
    from flax import nnx

    class MixtureOfExperts(nnx.Module):
        def __init__(self, rngs):
            init = nnx.initializers.lecun_normal()
            self.w_in = nnx.Param(init(rngs.params(), (EXPERTS, WIDTH, HIDDEN)))
            self.b_in = nnx.Param(jnp.zeros((EXPERTS, HIDDEN)))
            self.w_out = nnx.Param(init(rngs.params(), (EXPERTS, HIDDEN, OUTPUTS)))
            self.b_out = nnx.Param(jnp.zeros((EXPERTS, OUTPUTS)))
            self.gate = nnx.Linear(WIDTH, EXPERTS, use_bias=False, rngs=rngs)

        def __call__(self, x):
            gates = nnx.softmax(self.gate(x), axis=-1)
            h = nnx.silu(jnp.einsum("btd,edh->bteh", x, self.w_in[...]) + self.b_in[...])
            y = jnp.einsum("bteh,eho->bteo", h, self.w_out[...]) + self.b_out[...]
            return jnp.einsum("bte,bteo->bto", gates, y)

    x = shape(BATCH, LENGTH, WIDTH)
    model = adapter("nnx").model(lambda: MixtureOfExperts(nnx.Rngs(0)), x)
    leaves = {"up/weight": "w_in", "up/bias": "b_in", "down/weight": "w_out", "down/bias": "b_out"}

    def canonical(params):
        held = nnx.to_pure_dict(params)
        found = experts({label: held[leaf] for label, leaf in leaves.items()})
        return found | {"gate": np.asarray(held["gate"]["kernel"])}

    def build(values):
        made = {leaf: stacked(values, label) for label, leaf in leaves.items()}
        state = jax.tree.map(lambda leaf: leaf, model.params)
        nnx.replace_by_pure_dict(state, made | {"gate": {"kernel": values["gate"]}})
        return state

    return Built(model, (x,), canonical, build)


def equinox():
    import equinox as eqx

    class Expert(eqx.Module):
        up: eqx.nn.Linear
        down: eqx.nn.Linear

        def __init__(self, key):
            first, second = jax.random.split(key)
            self.up = eqx.nn.Linear(WIDTH, HIDDEN, key=first)
            self.down = eqx.nn.Linear(HIDDEN, OUTPUTS, key=second)

        def __call__(self, x):
            return self.down(jax.nn.silu(self.up(x)))

    class MixtureOfExperts(eqx.Module):
        gate: eqx.nn.Linear
        experts: Expert

        def __init__(self, key):
            gate_key, *keys = jax.random.split(key, 1 + EXPERTS)
            self.gate = eqx.nn.Linear(WIDTH, EXPERTS, use_bias=False, key=gate_key)
            self.experts = eqx.filter_vmap(Expert)(jnp.stack(keys))

        def token(self, x):
            y = eqx.filter_vmap(lambda expert, x: expert(x), in_axes=(eqx.if_array(0), None))(self.experts, x)
            return jax.nn.softmax(self.gate(x)) @ y

        def __call__(self, x):
            return jax.vmap(self.token)(x)

    x = shape(BATCH, LENGTH, WIDTH)
    model = adapter("equinox").model(lambda: MixtureOfExperts(jax.random.PRNGKey(0)), x, batched=True)

    def leaves(module):
        up, down = module.experts.up, module.experts.down
        return [module.gate.weight, up.weight, up.bias, down.weight, down.bias]

    def canonical(params):
        gate, up, up_bias, down, down_bias = map(np.asarray, leaves(params))
        found = experts(
            {
                "up/weight": up.transpose(0, 2, 1),
                "up/bias": up_bias,
                "down/weight": down.transpose(0, 2, 1),
                "down/bias": down_bias,
            }
        )
        return found | {"gate": gate.T}

    def build(values):
        made = [
            values["gate"].T,
            stacked(values, "up/weight").transpose(0, 2, 1),
            stacked(values, "up/bias"),
            stacked(values, "down/weight").transpose(0, 2, 1),
            stacked(values, "down/bias"),
        ]
        return eqx.tree_at(leaves, model.params, [jnp.asarray(value) for value in made])

    return Built(model, (x,), canonical, build)


def haiku():
    import haiku as hk

    class MixtureOfExperts(hk.Module):
        def __call__(self, x):
            gates = jax.nn.softmax(hk.Linear(EXPERTS, with_bias=False, name="gate")(x))
            h = jax.nn.silu(hk.Linear(EXPERTS * HIDDEN, name="expand")(x))
            h = hk.Reshape((EXPERTS, HIDDEN), preserve_dims=2)(h)
            init = hk.initializers.VarianceScaling()
            w = hk.get_parameter("w_out", (EXPERTS, HIDDEN, OUTPUTS), init=init)
            b = hk.get_parameter("b_out", (EXPERTS, OUTPUTS), init=jnp.zeros)
            return jnp.einsum("bte,bteh,eho->bto", gates, h, w) + gates @ b

    x = shape(BATCH, LENGTH, WIDTH)
    net = hk.without_apply_rng(hk.transform(lambda x: MixtureOfExperts(name="moe")(x)))

    def canonical(params):
        wide = params["moe/expand"]
        found = experts(
            {
                "up/weight": np.asarray(wide["w"]).reshape(WIDTH, EXPERTS, HIDDEN).swapaxes(0, 1),
                "up/bias": np.asarray(wide["b"]).reshape(EXPERTS, HIDDEN),
                "down/weight": params["moe"]["w_out"],
                "down/bias": params["moe"]["b_out"],
            }
        )
        return found | {"gate": np.asarray(params["moe/gate"]["w"])}

    def build(values):
        return {
            "moe/gate": {"w": values["gate"]},
            "moe/expand": {
                "w": stacked(values, "up/weight").swapaxes(0, 1).reshape(WIDTH, EXPERTS * HIDDEN),
                "b": stacked(values, "up/bias").reshape(EXPERTS * HIDDEN),
            },
            "moe": {"w_out": stacked(values, "down/weight"), "b_out": stacked(values, "down/bias")},
        }

    return Built(adapter("haiku").model(net, x), (x,), canonical, build)


# In Haiku the second biases meet the gate in a product of their own: by algebra alone it is the same.
RESTATED = {"haiku"}
BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}
