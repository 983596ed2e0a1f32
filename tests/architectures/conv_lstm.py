"""A convolutional LSTM (Shi et al. 2015) over a film, its hidden states read out by a 1x1 convolution.

All add 1 to the forget gate before the sigmoid, and have a bias in both convolutions. Kernels are 3 by 2,
padding is "SAME": an even kernel is padded at the end. `nn.ConvLSTMCell` and `hk.Conv2DLSTM` have one
convolution for the input and one for the hidden state, with gates in the order i, g, f, o. Equinox has none:
its cell is written by hand in the same way, with PyTorch's order i, f, g, o, for one example in CHW. The NNX
cell has a pair of convolutions for each gate. Linen reads out by `nn.Dense`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from architectures import Built, shape
from leafreport import adapter

BATCH, LENGTH, HEIGHT, WIDTH, CHANNELS, HIDDEN = 2, 4, 5, 6, 3, 7
KERNEL = (3, 2)

SHAPES = {"readout/kernel": (HIDDEN, CHANNELS), "readout/bias": (CHANNELS,)}
for gate in "ifgo":
    SHAPES |= {
        f"input/{gate}/kernel": (*KERNEL, CHANNELS, HIDDEN),
        f"input/{gate}/bias": (HIDDEN,),
        f"hidden/{gate}/kernel": (*KERNEL, HIDDEN, HIDDEN),
        f"hidden/{gate}/bias": (HIDDEN,),
    }


def joined(values, source, leaf, order):
    """All gates' values side by side."""
    return np.concatenate([values[f"{source}/{gate}/{leaf}"] for gate in order], axis=-1)


def parted(value, source, leaf, order):
    parts = np.split(np.asarray(value), 4, axis=-1)
    return {f"{source}/{gate}/{leaf}": part for gate, part in zip(order, parts, strict=True)}


def linen():
    import flax.linen as nn

    class FilmModel(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.RNN(nn.ConvLSTMCell(HIDDEN, kernel_size=KERNEL), name="lstm")(x)
            return nn.Dense(CHANNELS, name="readout")(y)

    x = shape(BATCH, LENGTH, HEIGHT, WIDTH, CHANNELS)
    model = adapter("flax").model(FilmModel(), x)
    layers = {"input": "ih", "hidden": "hh"}

    def canonical(params):
        cell, readout = params["params"]["ConvLSTMCell_0"], params["params"]["readout"]
        found = {f"readout/{leaf}": np.asarray(readout[leaf]) for leaf in ("kernel", "bias")}
        for source, layer in layers.items():
            for leaf in ("kernel", "bias"):
                found |= parted(cell[layer][leaf], source, leaf, "igfo")
        return found

    def build(values):
        cell = {
            layer: {leaf: joined(values, source, leaf, "igfo") for leaf in ("kernel", "bias")}
            for source, layer in layers.items()
        }
        readout = {leaf: values[f"readout/{leaf}"] for leaf in ("kernel", "bias")}
        return {"params": {"ConvLSTMCell_0": cell, "readout": readout}}

    return Built(model, (x,), canonical, build)


def nnx():
    from flax import nnx

    class ConvLSTMCell(nnx.RNNCellBase):
        def __init__(self, before, hidden, rngs):
            self.hidden = hidden
            for gate in "ifgo":
                setattr(self, f"x{gate}", nnx.Conv(before, hidden, KERNEL, rngs=rngs))
                setattr(self, f"h{gate}", nnx.Conv(hidden, hidden, KERNEL, rngs=rngs))

        def __call__(self, carry, x):
            c, h = carry
            i = nnx.sigmoid(self.xi(x) + self.hi(h))
            f = nnx.sigmoid(self.xf(x) + self.hf(h) + 1)
            g = nnx.tanh(self.xg(x) + self.hg(h))
            o = nnx.sigmoid(self.xo(x) + self.ho(h))
            c = f * c + i * g
            h = o * nnx.tanh(c)
            return (c, h), h

        def initialize_carry(self, input_shape, rngs=None, carry_init=None):  # noqa: ARG002  # nnx.RNN's call
            zeros = jnp.zeros((*input_shape[:-1], self.hidden))
            return zeros, zeros

        @property
        def num_feature_axes(self):
            return 3

    class FilmModel(nnx.Module):
        def __init__(self, rngs):
            self.rnn = nnx.RNN(ConvLSTMCell(CHANNELS, HIDDEN, rngs), rngs=False)
            self.readout = nnx.Conv(HIDDEN, CHANNELS, (1, 1), rngs=rngs)

        def __call__(self, x):
            return self.readout(self.rnn(x))

    x = shape(BATCH, LENGTH, HEIGHT, WIDTH, CHANNELS)
    model = adapter("nnx").model(lambda: FilmModel(nnx.Rngs(0)), x)

    def canonical(params):
        held = nnx.to_pure_dict(params)
        cell, readout = held["rnn"]["cell"], held["readout"]
        found = {
            "readout/kernel": np.asarray(readout["kernel"]).reshape(HIDDEN, CHANNELS),
            "readout/bias": np.asarray(readout["bias"]),
        }
        for gate in "ifgo":
            for leaf in ("kernel", "bias"):
                found[f"input/{gate}/{leaf}"] = np.asarray(cell[f"x{gate}"][leaf])
                found[f"hidden/{gate}/{leaf}"] = np.asarray(cell[f"h{gate}"][leaf])
        return found

    def build(values):
        cell = {
            f"{source[0].replace('i', 'x')}{gate}": {
                leaf: values[f"{source}/{gate}/{leaf}"] for leaf in ("kernel", "bias")
            }
            for source in ("input", "hidden")
            for gate in "ifgo"
        }
        kernel = values["readout/kernel"].reshape(1, 1, HIDDEN, CHANNELS)
        readout = {"kernel": kernel, "bias": values["readout/bias"]}
        state = jax.tree.map(lambda leaf: leaf, model.params)
        nnx.replace_by_pure_dict(state, {"rnn": {"cell": cell}, "readout": readout})
        return state

    return Built(model, (x,), canonical, build)


def equinox():
    import equinox as eqx

    class ConvLSTMCell(eqx.Module):
        conv_x: eqx.nn.Conv2d
        conv_h: eqx.nn.Conv2d
        hidden: int = eqx.field(static=True)

        def __init__(self, before, hidden, key):
            key1, key2 = jax.random.split(key)
            self.hidden = hidden
            self.conv_x = eqx.nn.Conv2d(before, 4 * hidden, KERNEL, padding="SAME", key=key1)
            self.conv_h = eqx.nn.Conv2d(hidden, 4 * hidden, KERNEL, padding="SAME", key=key2)

        def __call__(self, state, x):
            h, c = state
            gates = self.conv_x(x) + self.conv_h(h)
            i, f, g, o = jnp.split(gates, 4, axis=0)
            c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

    class FilmModel(eqx.Module):
        cell: ConvLSTMCell
        readout: eqx.nn.Conv2d

        def __init__(self, key):
            key1, key2 = jax.random.split(key)
            self.cell = ConvLSTMCell(CHANNELS, HIDDEN, key1)
            self.readout = eqx.nn.Conv2d(HIDDEN, CHANNELS, 1, key=key2)

        def __call__(self, xs):
            zeros = jnp.zeros((self.cell.hidden, *xs.shape[2:]))
            _, hs = jax.lax.scan(lambda state, x: self.cell(state, x), (zeros, zeros), xs)
            return jax.vmap(self.readout)(hs)

    x = shape(BATCH, LENGTH, CHANNELS, HEIGHT, WIDTH)
    model = adapter("equinox").model(lambda: FilmModel(jax.random.PRNGKey(0)), x, batched=True)

    def leaves(net):
        layers = net.cell.conv_x, net.cell.conv_h, net.readout
        return [leaf for layer in layers for leaf in (layer.weight, layer.bias)]

    def canonical(params):
        input_w, input_b, hidden_w, hidden_b, readout_w, readout_b = map(np.asarray, leaves(params))
        return (
            parted(input_w.transpose(2, 3, 1, 0), "input", "kernel", "ifgo")
            | parted(input_b[:, 0, 0], "input", "bias", "ifgo")
            | parted(hidden_w.transpose(2, 3, 1, 0), "hidden", "kernel", "ifgo")
            | parted(hidden_b[:, 0, 0], "hidden", "bias", "ifgo")
            | {"readout/kernel": readout_w[:, :, 0, 0].T, "readout/bias": readout_b[:, 0, 0]}
        )

    def build(values):
        made = []
        for source in ("input", "hidden"):
            made.append(joined(values, source, "kernel", "ifgo").transpose(3, 2, 0, 1))
            made.append(joined(values, source, "bias", "ifgo")[:, None, None])
        made += [values["readout/kernel"].T[:, :, None, None], values["readout/bias"][:, None, None]]
        return eqx.tree_at(leaves, model.params, [jnp.asarray(value) for value in made])

    return Built(
        model,
        (x,),
        canonical,
        build,
        given=lambda x: (x.transpose(0, 1, 4, 2, 3),),
        result=lambda y: y.transpose(0, 1, 3, 4, 2),
    )


def haiku():
    import haiku as hk

    def forward(x):
        core = hk.Conv2DLSTM((HEIGHT, WIDTH), HIDDEN, KERNEL)
        y, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[0]), time_major=False)
        return hk.BatchApply(hk.Conv2D(CHANNELS, 1, name="readout"))(y)

    x = shape(BATCH, LENGTH, HEIGHT, WIDTH, CHANNELS)
    model = adapter("haiku").model(hk.without_apply_rng(hk.transform(forward)), x)

    def canonical(params):
        readout = params["readout"]
        found = {
            "readout/kernel": np.asarray(readout["w"]).reshape(HIDDEN, CHANNELS),
            "readout/bias": np.asarray(readout["b"]),
        }
        for source in ("input", "hidden"):
            layer = params[f"conv2_dlstm/{source}_to_hidden"]
            found |= parted(layer["w"], source, "kernel", "igfo") | parted(layer["b"], source, "bias", "igfo")
        return found

    def build(values):
        made = {
            f"conv2_dlstm/{source}_to_hidden": {
                "w": joined(values, source, "kernel", "igfo"),
                "b": joined(values, source, "bias", "igfo"),
            }
            for source in ("input", "hidden")
        }
        kernel = values["readout/kernel"].reshape(1, 1, HIDDEN, CHANNELS)
        return made | {"readout": {"w": kernel, "b": values["readout/bias"]}}

    return Built(model, (x,), canonical, build)


BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}
