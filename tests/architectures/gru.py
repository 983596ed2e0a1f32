"""A one-layer GRU over a sequence, and a dense layer on its last hidden state.

r = sigmoid(x Wr + br + h Ur), z = sigmoid(x Wz + bz + h Uz), n = tanh(x Wn + bn + r * (h Un + cn)), and the
next h = (1 - z) * n + z * h. Linen's `nn.GRUCell` has a layer for each of the six products. Equinox's has one
weight for the input and one for the hidden state, gates in the order r, z, n (out, in), and cn by itself.
NNX's own cell lacks cn, so here one is written by hand: a fused layer of the input in the order z, r, n, and
two of the hidden state, one for both gates and one, with a bias, for n.

`OTHER` is Haiku's `hk.GRU` and `OTHER_NNX` is `nnx.GRUCell`: neither can compute this function. Haiku applies
the reset gate to h before the product, and NNX has no cn.
"""

import jax
import jax.numpy as jnp
import numpy as np

from architectures import Built, nested, shape
from leafreport import adapter

BATCH, LENGTH, IN, HIDDEN, OUT = 2, 7, 3, 5, 6
X = shape(BATCH, LENGTH, IN)

SHAPES = {
    **{f"{gate}.input": (IN, HIDDEN) for gate in "rzn"},
    **{f"{gate}.bias": (HIDDEN,) for gate in "rzn"},
    **{f"{gate}.hidden": (HIDDEN, HIDDEN) for gate in "rzn"},
    "n.hidden_bias": (HIDDEN,),
    "head.kernel": (HIDDEN, OUT),
    "head.bias": (OUT,),
}


def linen():
    import flax.linen as nn
    from flax.traverse_util import flatten_dict

    class Classifier(nn.Module):
        def setup(self):
            self.gru = nn.RNN(nn.GRUCell(HIDDEN), return_carry=True)
            self.head = nn.Dense(OUT)

        def __call__(self, x):
            last, _ = self.gru(x)
            return self.head(last)

    paths = {
        **{f"{gate}.input": f"params/gru/cell/i{gate}/kernel" for gate in "rzn"},
        **{f"{gate}.bias": f"params/gru/cell/i{gate}/bias" for gate in "rzn"},
        **{f"{gate}.hidden": f"params/gru/cell/h{gate}/kernel" for gate in "rzn"},
        "n.hidden_bias": "params/gru/cell/hn/bias",
        "head.kernel": "params/head/kernel",
        "head.bias": "params/head/bias",
    }

    def canonical(params):
        flat = flatten_dict(params, sep="/")
        return {label: flat[path] for label, path in paths.items()}

    def build(values):
        return nested({path: values[label] for label, path in paths.items()})

    return Built(adapter("flax").model(Classifier(), X), (X,), canonical, build)


def nnx():
    from flax import nnx

    class Cell(nnx.Module):
        def __init__(self, *, rngs):
            self.from_input = nnx.Linear(IN, 3 * HIDDEN, rngs=rngs)
            self.gates = nnx.Linear(HIDDEN, 2 * HIDDEN, use_bias=False, rngs=rngs)
            self.candidate = nnx.Linear(HIDDEN, HIDDEN, rngs=rngs)

        def __call__(self, h, x):
            x_gates, x_new = jnp.split(self.from_input(x), [2 * HIDDEN], axis=-1)
            z, r = jnp.split(nnx.sigmoid(x_gates + self.gates(h)), 2, axis=-1)
            new = jnp.tanh(x_new + r * self.candidate(h))
            return z * h + (1 - z) * new

    class Classifier(nnx.Module):
        def __init__(self, *, rngs):
            self.cell = Cell(rngs=rngs)
            self.head = nnx.Linear(HIDDEN, OUT, rngs=rngs)

        def __call__(self, x):
            @nnx.scan(in_axes=(None, nnx.Carry, 1), out_axes=nnx.Carry)
            def run(cell, h, x):
                return cell(h, x)

            return self.head(run(self.cell, jnp.zeros((x.shape[0], HIDDEN)), x))

    model = adapter("nnx").model(lambda: Classifier(rngs=nnx.Rngs(0)), X)

    def canonical(params):
        p = nnx.to_pure_dict(params)
        cell, head = p["cell"], p["head"]
        kernels = np.split(cell["from_input"]["kernel"], 3, 1)
        biases = np.split(cell["from_input"]["bias"], 3)
        z, r = np.split(cell["gates"]["kernel"], 2, 1)
        return {
            **{f"{gate}.input": kernel for gate, kernel in zip("zrn", kernels, strict=True)},
            **{f"{gate}.bias": bias for gate, bias in zip("zrn", biases, strict=True)},
            "r.hidden": r,
            "z.hidden": z,
            "n.hidden": cell["candidate"]["kernel"],
            "n.hidden_bias": cell["candidate"]["bias"],
            "head.kernel": head["kernel"],
            "head.bias": head["bias"],
        }

    def build(values):
        state = jax.tree.map(lambda leaf: leaf, model.params)
        cell = {
            "from_input": {
                "kernel": np.concatenate([values[f"{gate}.input"] for gate in "zrn"], 1),
                "bias": np.concatenate([values[f"{gate}.bias"] for gate in "zrn"]),
            },
            "gates": {"kernel": np.concatenate([values["z.hidden"], values["r.hidden"]], 1)},
            "candidate": {"kernel": values["n.hidden"], "bias": values["n.hidden_bias"]},
        }
        head = {"kernel": values["head.kernel"], "bias": values["head.bias"]}
        nnx.replace_by_pure_dict(state, {"cell": cell, "head": head})
        return state

    return Built(model, (X,), canonical, build)


def equinox():
    import equinox as eqx

    class Classifier(eqx.Module):
        cell: eqx.nn.GRUCell
        linear: eqx.nn.Linear

        def __init__(self, *, key):
            cell_key, linear_key = jax.random.split(key)
            self.cell = eqx.nn.GRUCell(IN, HIDDEN, key=cell_key)
            self.linear = eqx.nn.Linear(HIDDEN, OUT, key=linear_key)

        def __call__(self, x):
            hidden, _ = jax.lax.scan(lambda h, x: (self.cell(x, h), None), jnp.zeros(HIDDEN), x)
            return self.linear(hidden)

    model = adapter("equinox").model(lambda: Classifier(key=jax.random.PRNGKey(0)), X, batched=True)

    def where(m):
        cell, linear = m.cell, m.linear
        return cell.weight_ih, cell.weight_hh, cell.bias, cell.bias_n, linear.weight, linear.bias

    def canonical(params):
        weight_ih, weight_hh, bias, bias_n, weight, head_bias = where(params)
        found = {"n.hidden_bias": bias_n, "head.kernel": weight.T, "head.bias": head_bias}
        for place, gate in enumerate("rzn"):
            rows = slice(place * HIDDEN, (place + 1) * HIDDEN)
            found[f"{gate}.input"] = weight_ih[rows].T
            found[f"{gate}.hidden"] = weight_hh[rows].T
            found[f"{gate}.bias"] = bias[rows]
        return found

    def build(values):
        made = (
            np.concatenate([values[f"{gate}.input"].T for gate in "rzn"]),
            np.concatenate([values[f"{gate}.hidden"].T for gate in "rzn"]),
            np.concatenate([values[f"{gate}.bias"] for gate in "rzn"]),
            values["n.hidden_bias"],
            values["head.kernel"].T,
            values["head.bias"],
        )
        return eqx.tree_at(where, model.params, made)

    return Built(model, (X,), canonical, build)


def haiku_other_formula():
    """Haiku's own GRU, and its inputs: the reset gate comes before the product, and z is 1 - z."""
    import haiku as hk

    def classifier(x):
        core = hk.GRU(HIDDEN)
        _, last = hk.dynamic_unroll(core, x, core.initial_state(x.shape[0]), time_major=False)
        return hk.Linear(OUT)(last)

    return adapter("haiku").model(hk.transform(classifier), X), (X,)


def nnx_without_hidden_bias():
    """NNX's own GRU, and its inputs: it is this one only where the hidden bias of n is 0."""
    from flax import nnx

    class Classifier(nnx.Module):
        def __init__(self, *, rngs):
            self.gru = nnx.RNN(nnx.GRUCell(IN, HIDDEN, rngs=rngs))
            self.head = nnx.Linear(HIDDEN, OUT, rngs=rngs)

        def __call__(self, x):
            return self.head(self.gru(x)[:, -1])

    return adapter("nnx").model(lambda: Classifier(rngs=nnx.Rngs(0)), X), (X,)


BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox}
OTHER, OTHER_NNX = haiku_other_formula, nnx_without_hidden_bias
