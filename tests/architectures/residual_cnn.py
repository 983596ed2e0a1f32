"""A small residual network at inference: batch norms with running statistics, strides, a projection shortcut.

All paddings are explicit, (1, 1) around each 3 x 3 convolution: "SAME" would pad a strided one by (0, 1).
Statistics are values too, labelled `mean` and `var`.

* Linen: compact blocks after Flax's own ImageNet example, numbered within a block; statistics in
  `batch_stats`.
* NNX: attributes, the shortcut an `nnx.Sequential`; `eval()` turns the norms to their running averages.
* Equinox: CHW example by example, kernels out, in, height, width. The norms are of mode "ema": their state is
  the mean and the variance as they are. (In mode "batch" it is both times 1 - momentum ** counter.) Pools
  adaptively.
* Haiku: scale, offset and statistics of a norm are (1, 1, 1, C); the state holds each average twice, and
  inference reads the one called `average`. The parameters of a new norm come from an `init` that trains.
"""

import numpy as np

from architectures import Built, nested, shape
from leafreport import adapter

HEIGHT, WIDTH, IN, FIRST, SECOND, OUT, BATCH = 8, 12, 3, 6, 10, 7, 2
EPS, MOMENTUM = 1e-5, 0.9
X = shape(BATCH, HEIGHT, WIDTH, IN)

CONVS = {
    "stem": (3, 3, IN, FIRST),
    "same.one": (3, 3, FIRST, FIRST),
    "same.two": (3, 3, FIRST, FIRST),
    "down.one": (3, 3, FIRST, SECOND),
    "down.two": (3, 3, SECOND, SECOND),
    "down.shortcut": (1, 1, FIRST, SECOND),
}
NORM = ("scale", "bias", "mean", "var")

SHAPES = {
    **{f"{name}.kernel": sizes for name, sizes in CONVS.items()},
    **{f"{name}.{leaf}": sizes[-1:] for name, sizes in CONVS.items() for leaf in NORM},
    "head.kernel": (SECOND, OUT),
    "head.bias": (OUT,),
}


def linen():
    from functools import partial
    from typing import Any

    import flax.linen as nn
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict

    class ResNetBlock(nn.Module):
        filters: int
        strides: tuple[int, int]
        conv: Any
        norm: Any

        @nn.compact
        def __call__(self, x):
            residual = x
            y = self.conv(self.filters, (3, 3), self.strides, padding=((1, 1), (1, 1)))(x)
            y = self.norm()(y)
            y = nn.relu(y)
            y = self.conv(self.filters, (3, 3), padding=((1, 1), (1, 1)))(y)
            y = self.norm()(y)
            if residual.shape != y.shape:
                residual = self.conv(self.filters, (1, 1), self.strides, padding="VALID", name="conv_proj")(
                    residual
                )
                residual = self.norm(name="norm_proj")(residual)
            return nn.relu(residual + y)

    class ResNet(nn.Module):
        @nn.compact
        def __call__(self, x, train=True):
            conv = partial(nn.Conv, use_bias=False)
            norm = partial(nn.BatchNorm, use_running_average=not train, momentum=MOMENTUM, epsilon=EPS)
            x = conv(FIRST, (3, 3), padding=((1, 1), (1, 1)), name="conv_init")(x)
            x = nn.relu(norm(name="bn_init")(x))
            for filters, stride in ((FIRST, 1), (SECOND, 2)):
                x = ResNetBlock(filters, (stride, stride), conv, norm)(x)
            return nn.Dense(OUT)(jnp.mean(x, axis=(1, 2)))

    modules = {
        "stem": ("conv_init", "bn_init"),
        "same.one": ("ResNetBlock_0/Conv_0", "ResNetBlock_0/BatchNorm_0"),
        "same.two": ("ResNetBlock_0/Conv_1", "ResNetBlock_0/BatchNorm_1"),
        "down.one": ("ResNetBlock_1/Conv_0", "ResNetBlock_1/BatchNorm_0"),
        "down.two": ("ResNetBlock_1/Conv_1", "ResNetBlock_1/BatchNorm_1"),
        "down.shortcut": ("ResNetBlock_1/conv_proj", "ResNetBlock_1/norm_proj"),
    }
    paths = {"head.kernel": "params/Dense_0/kernel", "head.bias": "params/Dense_0/bias"}
    for name, (conv, norm) in modules.items():
        paths[f"{name}.kernel"] = f"params/{conv}/kernel"
        paths |= {f"{name}.{leaf}": f"params/{norm}/{leaf}" for leaf in ("scale", "bias")}
        paths |= {f"{name}.{leaf}": f"batch_stats/{norm}/{leaf}" for leaf in ("mean", "var")}

    def canonical(params):
        flat = flatten_dict(params, sep="/")
        return {label: flat[path] for label, path in paths.items()}

    def build(values):
        return nested({path: values[label] for label, path in paths.items()})

    return Built(adapter("flax").model(ResNet(), X, train=False), (X,), canonical, build)


def nnx():
    import jax
    from flax import nnx

    def conv3x3(before, after, stride=1, *, rngs):
        return nnx.Conv(before, after, (3, 3), strides=stride, padding=1, use_bias=False, rngs=rngs)

    def norm(features, *, rngs):
        return nnx.BatchNorm(features, momentum=MOMENTUM, epsilon=EPS, rngs=rngs)

    def projection(before, after, stride, *, rngs):
        return nnx.Sequential(
            nnx.Conv(before, after, (1, 1), strides=stride, padding=0, use_bias=False, rngs=rngs),
            norm(after, rngs=rngs),
        )

    class BasicBlock(nnx.Module):
        def __init__(self, before, after, stride, *, rngs):
            self.shortcut = None if stride == 1 else projection(before, after, stride, rngs=rngs)
            self.conv1 = conv3x3(before, after, stride, rngs=rngs)
            self.bn1 = norm(after, rngs=rngs)
            self.conv2 = conv3x3(after, after, rngs=rngs)
            self.bn2 = norm(after, rngs=rngs)

        def __call__(self, x):
            identity = x if self.shortcut is None else self.shortcut(x)
            x = nnx.relu(self.bn1(self.conv1(x)))
            x = self.bn2(self.conv2(x))
            return nnx.relu(x + identity)

    class ResNet(nnx.Module):
        def __init__(self, *, rngs):
            self.conv1 = conv3x3(IN, FIRST, rngs=rngs)
            self.bn1 = norm(FIRST, rngs=rngs)
            self.layer1 = BasicBlock(FIRST, FIRST, 1, rngs=rngs)
            self.layer2 = BasicBlock(FIRST, SECOND, 2, rngs=rngs)
            self.fc = nnx.Linear(SECOND, OUT, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.bn1(self.conv1(x)))
            x = self.layer2(self.layer1(x))
            x = nnx.avg_pool(x, window_shape=x.shape[1:3])
            return self.fc(x.reshape(x.shape[0], -1))

    def make():
        model = ResNet(rngs=nnx.Rngs(0))
        model.eval()
        return model

    model = adapter("nnx").model(make, X)
    modules = {
        "stem": ("conv1", "bn1"),
        "same.one": ("layer1/conv1", "layer1/bn1"),
        "same.two": ("layer1/conv2", "layer1/bn2"),
        "down.one": ("layer2/conv1", "layer2/bn1"),
        "down.two": ("layer2/conv2", "layer2/bn2"),
        "down.shortcut": ("layer2/shortcut/layers/0", "layer2/shortcut/layers/1"),
    }
    paths = {"head.kernel": "fc/kernel", "head.bias": "fc/bias"}
    for name, (conv, bn) in modules.items():
        paths |= {f"{name}.kernel": f"{conv}/kernel", **{f"{name}.{leaf}": f"{bn}/{leaf}" for leaf in NORM}}

    def canonical(params):
        flat = {"/".join(map(str, path)): variable[...] for path, variable in nnx.to_flat_state(params)}
        return {label: flat[path] for label, path in paths.items()}

    def build(values):
        state = jax.tree.map(lambda leaf: leaf, model.params)
        nnx.replace_by_pure_dict(state, nested({path: values[label] for label, path in paths.items()}))
        return state

    return Built(model, (X,), canonical, build)


def equinox_resnet():
    import equinox as eqx
    import jax

    class ConvNorm(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.BatchNorm

        def __init__(self, before, after, size, stride, padding, *, key):
            self.conv = eqx.nn.Conv2d(before, after, size, stride, padding, use_bias=False, key=key)
            self.norm = eqx.nn.BatchNorm(after, axis_name="batch", eps=EPS, momentum=MOMENTUM, mode="ema")

        def __call__(self, x, state):
            return self.norm(self.conv(x), state)

    class Block(eqx.Module):
        one: ConvNorm
        two: ConvNorm
        projection: ConvNorm | None

        def __init__(self, before, after, stride, *, key):
            keys = jax.random.split(key, 3)
            self.one = ConvNorm(before, after, 3, stride, 1, key=keys[0])
            self.two = ConvNorm(after, after, 3, 1, 1, key=keys[1])
            self.projection = None if stride == 1 else ConvNorm(before, after, 1, stride, 0, key=keys[2])

        def __call__(self, x, state):
            y, state = self.one(x, state)
            y, state = self.two(jax.nn.relu(y), state)
            if self.projection is not None:
                x, state = self.projection(x, state)
            return jax.nn.relu(y + x), state

    class ResNet(eqx.Module):
        stem: ConvNorm
        blocks: list[Block]
        pool: eqx.nn.AdaptiveAvgPool2d
        head: eqx.nn.Linear

        def __init__(self, *, key):
            keys = jax.random.split(key, 4)
            self.stem = ConvNorm(IN, FIRST, 3, 1, 1, key=keys[0])
            self.blocks = [Block(FIRST, FIRST, 1, key=keys[1]), Block(FIRST, SECOND, 2, key=keys[2])]
            self.pool = eqx.nn.AdaptiveAvgPool2d(1)
            self.head = eqx.nn.Linear(SECOND, OUT, key=keys[3])

        def __call__(self, x, state):
            x, state = self.stem(x, state)
            x = jax.nn.relu(x)
            for block in self.blocks:
                x, state = block(x, state)
            return self.head(self.pool(x).ravel()), state

    return ResNet


def equinox():
    import equinox as eqx
    import jax

    def make():
        model, state = eqx.nn.make_with_state(equinox_resnet())(key=jax.random.PRNGKey(0))
        return eqx.nn.inference_mode(model), state

    x = shape(BATCH, IN, HEIGHT, WIDTH)
    model = adapter("equinox").model(make, x, batched=True)
    places = {
        "stem": "stem",
        "same.one": "blocks.0.one",
        "same.two": "blocks.0.two",
        "down.one": "blocks.1.one",
        "down.two": "blocks.1.two",
        "down.shortcut": "blocks.1.projection",
    }

    def layers(module):
        same, down = module.blocks
        return dict(
            zip(CONVS, (module.stem, same.one, same.two, down.one, down.two, down.projection), strict=True)
        )

    def canonical(params):
        module, state = params["module"], params["state"]
        values = {"head.kernel": module.head.weight.T, "head.bias": module.head.bias}
        for name, layer in layers(module).items():
            mean, var = state[f"{places[name]}.norm.ema_state_index"]
            values[f"{name}.kernel"] = layer.conv.weight.transpose(2, 3, 1, 0)
            values |= {f"{name}.scale": layer.norm.weight, f"{name}.bias": layer.norm.bias}
            values |= {f"{name}.mean": mean, f"{name}.var": var}
        return values

    def build(values):
        def where(module):
            each = [
                (layer.conv.weight, layer.norm.weight, layer.norm.bias) for layer in layers(module).values()
            ]
            return [*(leaf for leaves in each for leaf in leaves), module.head.weight, module.head.bias]

        leaves = []
        for name in CONVS:
            leaves.append(values[f"{name}.kernel"].transpose(3, 2, 0, 1))
            leaves += [values[f"{name}.scale"], values[f"{name}.bias"]]
        leaves += [values["head.kernel"].T, values["head.bias"]]
        module = eqx.tree_at(where, model.params["module"], leaves)
        state = {}
        for name, place in places.items():
            state[f"{place}.norm.ema_first_time_index"] = np.array(False)
            state[f"{place}.norm.ema_state_index"] = (values[f"{name}.mean"], values[f"{name}.var"])
        return {"module": module, "state": state}

    return Built(model, (x,), canonical, build, given=lambda x: (x.transpose(0, 3, 1, 2),))


def haiku():
    import haiku as hk
    import jax
    import jax.numpy as jnp

    def conv_norm(x, channels, size, stride, is_training, name):
        pad = (size // 2, size // 2)
        x = hk.Conv2D(channels, size, stride, padding=(pad, pad), with_bias=False, name=f"{name}_conv")(x)
        norm = hk.BatchNorm(True, True, decay_rate=MOMENTUM, eps=EPS, name=f"{name}_batchnorm")
        return norm(x, is_training)

    class Block(hk.Module):
        def __init__(self, channels, stride, name):
            super().__init__(name=name)
            self.channels, self.stride = channels, stride

        def __call__(self, x, is_training):
            shortcut = x
            if self.stride > 1:
                shortcut = conv_norm(x, self.channels, 1, self.stride, is_training, "shortcut")
            x = jax.nn.relu(conv_norm(x, self.channels, 3, self.stride, is_training, "first"))
            x = conv_norm(x, self.channels, 3, 1, is_training, "second")
            return jax.nn.relu(x + shortcut)

    def forward(x, is_training):
        x = jax.nn.relu(conv_norm(x, FIRST, 3, 1, is_training, "initial"))
        x = Block(FIRST, 1, name="block_group_0")(x, is_training)
        x = Block(SECOND, 2, name="block_group_1")(x, is_training)
        return hk.Linear(OUT, name="logits")(jnp.mean(x, axis=(1, 2)))

    network = hk.transform_with_state(forward)
    made = jax.eval_shape(lambda key, x: network.init(key, x, is_training=True), jax.random.PRNGKey(0), X)
    model = adapter("haiku").model(
        network, X, params=dict(zip(("params", "state"), made, strict=True)), is_training=False
    )
    modules = {
        "stem": "initial",
        "same.one": "block_group_0/first",
        "same.two": "block_group_0/second",
        "down.one": "block_group_1/first",
        "down.two": "block_group_1/second",
        "down.shortcut": "block_group_1/shortcut",
    }

    def canonical(params):
        params, state = params["params"], params["state"]
        values = {"head.kernel": params["logits"]["w"], "head.bias": params["logits"]["b"]}
        for name, module in modules.items():
            norm = params[f"{module}_batchnorm"]
            values[f"{name}.kernel"] = params[f"{module}_conv"]["w"]
            values |= {f"{name}.scale": norm["scale"].reshape(-1), f"{name}.bias": norm["offset"].reshape(-1)}
            for leaf in ("mean", "var"):
                values[f"{name}.{leaf}"] = state[f"{module}_batchnorm/~/{leaf}_ema"]["average"].reshape(-1)
        return values

    def build(values):
        params = {"logits": {"w": values["head.kernel"], "b": values["head.bias"]}}
        state = {}
        for name, module in modules.items():
            scale, offset, *averages = (values[f"{name}.{leaf}"].reshape(1, 1, 1, -1) for leaf in NORM)
            params[f"{module}_conv"] = {"w": values[f"{name}.kernel"]}
            params[f"{module}_batchnorm"] = {"scale": scale, "offset": offset}
            for leaf, average in zip(("mean", "var"), averages, strict=True):
                own = {"average": average, "hidden": np.zeros_like(average), "counter": np.int32(0)}
                state[f"{module}_batchnorm/~/{leaf}_ema"] = own
        return {"params": params, "state": state}

    return Built(model, (X,), canonical, build)


BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}
