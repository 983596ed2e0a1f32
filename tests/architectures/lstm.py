"""A one-layer LSTM over a sequence, and a dense layer on its last hidden state.

Every gate is there by itself: input, forget, cell and output. Linen's `nn.OptimizedLSTMCell` has a kernel for
each, and the biases with the hidden state's. NNX's `nnx.LSTMCell` has the same layers, but calls one `if_`;
its `nnx.RNN` has a random stream too. Equinox has one weight for the input and one for the hidden state,
gates in the order i, f, g, o (out, in), in a scan over one example. Haiku's `hk.LSTM` has one kernel for
both, input first, gates in the order i, g, f, o, and adds 1 to the forget gate: its bias there is the
canonical one minus 1.
"""

import jax
import jax.numpy as jnp
import numpy as np

from architectures import Built, nested, shape
from leafreport import adapter

BATCH, LENGTH, IN, HIDDEN, OUT = 2, 7, 3, 5, 6
X = shape(BATCH, LENGTH, IN)

# Called a variance so that it is drawn at 0.5 or more: there, taking 1 off and putting it on again is exact.
FORGET_BIAS = "f.bias_var"
BIASES = {"i": "i.bias", "f": FORGET_BIAS, "g": "g.bias", "o": "o.bias"}
SHAPES = {
    **{f"{gate}.input": (IN, HIDDEN) for gate in "ifgo"},
    **{f"{gate}.hidden": (HIDDEN, HIDDEN) for gate in "ifgo"},
    **dict.fromkeys(BIASES.values(), (HIDDEN,)),
    "head.kernel": (HIDDEN, OUT),
    "head.bias": (OUT,),
}


def linen():
    import flax.linen as nn
    from flax.traverse_util import flatten_dict

    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.RNN(nn.OptimizedLSTMCell(HIDDEN))(x)
            return nn.Dense(OUT)(y[:, -1])

    paths = {
        **{f"{gate}.input": f"params/OptimizedLSTMCell_0/i{gate}/kernel" for gate in "ifgo"},
        **{f"{gate}.hidden": f"params/OptimizedLSTMCell_0/h{gate}/kernel" for gate in "ifgo"},
        **{bias: f"params/OptimizedLSTMCell_0/h{gate}/bias" for gate, bias in BIASES.items()},
        "head.kernel": "params/Dense_0/kernel",
        "head.bias": "params/Dense_0/bias",
    }

    def canonical(params):
        flat = flatten_dict(params, sep="/")
        return {label: flat[path] for label, path in paths.items()}

    def build(values):
        return nested({path: values[label] for label, path in paths.items()})

    return Built(adapter("flax").model(Classifier(), X), (X,), canonical, build)


def nnx():
    from flax import nnx

    class Classifier(nnx.Module):
        def __init__(self, *, rngs):
            self.lstm = nnx.RNN(nnx.LSTMCell(IN, HIDDEN, rngs=rngs), return_carry=True)
            self.fc = nnx.Linear(HIDDEN, OUT, rngs=rngs)

        def __call__(self, x):
            (_, hidden), _ = self.lstm(x)
            return self.fc(hidden)

    model = adapter("nnx").model(lambda: Classifier(rngs=nnx.Rngs(0)), X)
    inputs = {"i": "ii", "f": "if_", "g": "ig", "o": "io"}
    paths = {
        **{f"{gate}.input": f"lstm/cell/{layer}/kernel" for gate, layer in inputs.items()},
        **{f"{gate}.hidden": f"lstm/cell/h{gate}/kernel" for gate in "ifgo"},
        **{bias: f"lstm/cell/h{gate}/bias" for gate, bias in BIASES.items()},
        "head.kernel": "fc/kernel",
        "head.bias": "fc/bias",
    }

    def canonical(params):
        flat = {"/".join(path): variable[...] for path, variable in nnx.to_flat_state(params)}
        return {label: flat[path] for label, path in paths.items()}

    def build(values):
        state = jax.tree.map(lambda leaf: leaf, model.params)
        stream = {"lstm/rngs/key": jax.random.key(0), "lstm/rngs/count": jnp.uint32(0)}
        made = {path: values[label] for label, path in paths.items()}
        nnx.replace_by_pure_dict(state, nested(made | stream))
        return state

    return Built(model, (X,), canonical, build)


def equinox():
    import equinox as eqx

    class Classifier(eqx.Module):
        cell: eqx.nn.LSTMCell
        linear: eqx.nn.Linear

        def __init__(self, *, key):
            cell_key, linear_key = jax.random.split(key)
            self.cell = eqx.nn.LSTMCell(IN, HIDDEN, key=cell_key)
            self.linear = eqx.nn.Linear(HIDDEN, OUT, key=linear_key)

        def __call__(self, x):
            start = jnp.zeros(HIDDEN), jnp.zeros(HIDDEN)
            (hidden, _), _ = jax.lax.scan(lambda carry, x: (self.cell(x, carry), None), start, x)
            return self.linear(hidden)

    model = adapter("equinox").model(lambda: Classifier(key=jax.random.PRNGKey(0)), X, batched=True)

    def canonical(params):
        cell, linear = params.cell, params.linear
        found = {"head.kernel": linear.weight.T, "head.bias": linear.bias}
        for place, gate in enumerate("ifgo"):
            rows = slice(place * HIDDEN, (place + 1) * HIDDEN)
            found[f"{gate}.input"] = cell.weight_ih[rows].T
            found[f"{gate}.hidden"] = cell.weight_hh[rows].T
            found[BIASES[gate]] = cell.bias[rows]
        return found

    def build(values):
        made = (
            np.concatenate([values[f"{gate}.input"].T for gate in "ifgo"]),
            np.concatenate([values[f"{gate}.hidden"].T for gate in "ifgo"]),
            np.concatenate([values[BIASES[gate]] for gate in "ifgo"]),
            values["head.kernel"].T,
            values["head.bias"],
        )
        return eqx.tree_at(
            lambda m: (m.cell.weight_ih, m.cell.weight_hh, m.cell.bias, m.linear.weight, m.linear.bias),
            model.params,
            made,
        )

    return Built(model, (X,), canonical, build)


def haiku():
    import haiku as hk

    def classifier(x):
        core = hk.LSTM(HIDDEN)
        outputs, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[0]), time_major=False)
        return hk.Linear(OUT)(outputs[:, -1])

    def canonical(params):
        kernel, bias = params["lstm/linear"]["w"], params["lstm/linear"]["b"]
        found = {"head.kernel": params["linear"]["w"], "head.bias": params["linear"]["b"]}
        for place, gate in enumerate("igfo"):
            columns = slice(place * HIDDEN, (place + 1) * HIDDEN)
            found[f"{gate}.input"] = kernel[:IN, columns]
            found[f"{gate}.hidden"] = kernel[IN:, columns]
            found[BIASES[gate]] = bias[columns] + np.float32(gate == "f")
        return found

    def build(values):
        kernel = np.block([[values[f"{gate}.{side}"] for gate in "igfo"] for side in ("input", "hidden")])
        bias = np.concatenate([values[BIASES[gate]] - np.float32(gate == "f") for gate in "igfo"])
        return {
            "lstm/linear": {"w": kernel, "b": bias},
            "linear": {"w": values["head.kernel"], "b": values["head.bias"]},
        }

    return Built(adapter("haiku").model(hk.transform(classifier), X), (X,), canonical, build)


BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}
