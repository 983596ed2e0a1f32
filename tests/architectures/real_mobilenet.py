"""A short MobileNet v1 (Howard et al. 2017) at inference: `hk.nets.MobileNetV1`, and three by hand.

Stem: a 3x3 convolution with stride 2 and no padding (Haiku gives it 32 channels, whatever one asks for). Two
blocks of a depthwise 3x3 convolution and a pointwise 1x1 one, each with a norm and a relu. A mean over the
image, a linear head. No convolution has a bias; the second pointwise kernel is square.

A depthwise convolution is a grouped one in Linen, NNX and Equinox, and a `hk.DepthwiseConv2D` in Haiku; its
kernel is (3, 3, 1, C) everywhere, but for Equinox's (C, 1, 3, 3). Linen and NNX put the layers in other
trees: pairs of modules in Linen, one long list in NNX. Equinox's norms are in mode "batch": at inference the
statistics are divided by `1 - momentum ** counter` unless the counter is zero, so the counter is read, though
it has no label. `build` sets it so high that nothing is divided. Haiku's moving averages keep `hidden` and
`counter` beside the average that is read. All epsilons are 1e-5.
"""

import jax
import jax.numpy as jnp
import numpy as np

from architectures import Built, nested, shape
from leafreport import adapter

BATCH, HEIGHT, WIDTH, COLORS, CLASSES = 2, 13, 17, 3, 5
STEM = 32
STRIDES = (1, 2)
CHANNELS = (12, 12)
MOMENTUM = 0.99

UNITS = {"stem": (3, 3, COLORS, STEM)}
for n, (before, after) in enumerate(zip((STEM, *CHANNELS), CHANNELS, strict=False)):
    UNITS |= {f"block{n}/depthwise": (3, 3, 1, before), f"block{n}/pointwise": (1, 1, before, after)}

SHAPES = {"head/weight": (CHANNELS[-1], CLASSES), "head/bias": (CLASSES,)}
for unit, sizes in UNITS.items():
    SHAPES[f"{unit}/conv"] = sizes
    SHAPES |= {f"{unit}/norm/{name}": sizes[-1:] for name in ("scale", "bias", "mean", "var")}


def linen_net():
    import flax.linen as nn

    class ConvNorm(nn.Module):
        features: int
        kernel: int
        stride: int = 1
        groups: int = 1
        padding: int = 0

        @nn.compact
        def __call__(self, x, train):
            x = nn.Conv(
                self.features,
                (self.kernel, self.kernel),
                self.stride,
                padding=self.padding,
                feature_group_count=self.groups,
                use_bias=False,
            )(x)
            return nn.relu(nn.BatchNorm(use_running_average=not train, epsilon=1e-5)(x))

    class MobileNet(nn.Module):
        def setup(self):
            self.stem = ConvNorm(STEM, kernel=3, stride=2)
            blocks, before = [], STEM
            for stride, after in zip(STRIDES, CHANNELS, strict=True):
                depthwise = ConvNorm(before, kernel=3, stride=stride, groups=before, padding=1)
                blocks.append((depthwise, ConvNorm(after, kernel=1)))
                before = after
            self.blocks = blocks
            self.head = nn.Dense(CLASSES)

        def __call__(self, x, train=False):
            x = self.stem(x, train)
            for depthwise, pointwise in self.blocks:
                x = pointwise(depthwise(x, train), train)
            return self.head(jnp.mean(x, axis=(1, 2)))

    return MobileNet()


def linen():
    def path(unit):
        if unit == "stem":
            return "stem"
        block, kind = unit.split("/")
        return f"blocks_{block.removeprefix('block')}_{0 if kind == 'depthwise' else 1}"

    def canonical(variables):
        params, statistics = variables["params"], variables["batch_stats"]
        found = {
            "head/weight": np.asarray(params["head"]["kernel"]),
            "head/bias": np.asarray(params["head"]["bias"]),
        }
        for unit in UNITS:
            held, means = params[path(unit)], statistics[path(unit)]["BatchNorm_0"]
            found[f"{unit}/conv"] = np.asarray(held["Conv_0"]["kernel"])
            found[f"{unit}/norm/scale"] = np.asarray(held["BatchNorm_0"]["scale"])
            found[f"{unit}/norm/bias"] = np.asarray(held["BatchNorm_0"]["bias"])
            found[f"{unit}/norm/mean"] = np.asarray(means["mean"])
            found[f"{unit}/norm/var"] = np.asarray(means["var"])
        return found

    def build(values):
        flat = {"params/head/kernel": values["head/weight"], "params/head/bias": values["head/bias"]}
        for unit in UNITS:
            flat[f"params/{path(unit)}/Conv_0/kernel"] = values[f"{unit}/conv"]
            for name in ("scale", "bias"):
                flat[f"params/{path(unit)}/BatchNorm_0/{name}"] = values[f"{unit}/norm/{name}"]
            for name in ("mean", "var"):
                flat[f"batch_stats/{path(unit)}/BatchNorm_0/{name}"] = values[f"{unit}/norm/{name}"]
        return nested(flat)

    x = shape(BATCH, HEIGHT, WIDTH, COLORS)
    return Built(adapter("flax").model(linen_net(), x), (x,), canonical, build)


def nnx():
    from flax import nnx

    class MobileNet(nnx.Module):
        def __init__(self, rngs):
            def conv(before, after, size, stride=1, **options):
                return nnx.Conv(before, after, (size, size), stride, use_bias=False, rngs=rngs, **options)

            def norm(channels):
                return nnx.BatchNorm(channels, epsilon=1e-5, use_running_average=True, rngs=rngs)

            layers = [conv(COLORS, STEM, 3, 2, padding="VALID"), norm(STEM), nnx.relu]
            before = STEM
            for stride, after in zip(STRIDES, CHANNELS, strict=True):
                layers += [
                    conv(before, before, 3, stride, padding=1, feature_group_count=before),
                    norm(before),
                    nnx.relu,
                    conv(before, after, 1),
                    norm(after),
                    nnx.relu,
                ]
                before = after
            self.features = nnx.Sequential(*layers)
            self.classifier = nnx.Linear(before, CLASSES, rngs=rngs)

        def __call__(self, x):
            return self.classifier(self.features(x).mean(axis=(1, 2)))

    x = shape(BATCH, HEIGHT, WIDTH, COLORS)
    model = adapter("nnx").model(lambda: MobileNet(nnx.Rngs(0)), x)

    def canonical(params):
        held = nnx.to_pure_dict(params)
        layers, head = held["features"]["layers"], held["classifier"]
        found = {"head/weight": np.asarray(head["kernel"]), "head/bias": np.asarray(head["bias"])}
        for n, unit in enumerate(UNITS):
            found[f"{unit}/conv"] = np.asarray(layers[3 * n]["kernel"])
            for name in ("scale", "bias", "mean", "var"):
                found[f"{unit}/norm/{name}"] = np.asarray(layers[3 * n + 1][name])
        return found

    def build(values):
        layers = {}
        for n, unit in enumerate(UNITS):
            layers[3 * n] = {"kernel": values[f"{unit}/conv"]}
            layers[3 * n + 1] = {
                name: values[f"{unit}/norm/{name}"] for name in ("scale", "bias", "mean", "var")
            }
        head = {"kernel": values["head/weight"], "bias": values["head/bias"]}
        state = jax.tree.map(lambda leaf: leaf, model.params)
        nnx.replace_by_pure_dict(state, {"features": {"layers": layers}, "classifier": head})
        return state

    return Built(model, (x,), canonical, build)


def equinox_net(key):
    """The network and its state."""
    import equinox as eqx

    class ConvNorm(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.BatchNorm

        def __init__(self, before, after, size, stride=1, padding=0, groups=1, *, key):
            self.conv = eqx.nn.Conv2d(
                before, after, size, stride, padding, groups=groups, use_bias=False, key=key
            )
            self.norm = eqx.nn.BatchNorm(after, axis_name="batch", momentum=MOMENTUM, mode="batch")

        def __call__(self, x, state):
            x, state = self.norm(self.conv(x), state)
            return jax.nn.relu(x), state

    class Block(eqx.Module):
        depthwise: ConvNorm
        pointwise: ConvNorm

        def __init__(self, before, after, stride, key):
            key1, key2 = jax.random.split(key)
            self.depthwise = ConvNorm(before, before, 3, stride, padding=1, groups=before, key=key1)
            self.pointwise = ConvNorm(before, after, 1, key=key2)

        def __call__(self, x, state):
            x, state = self.depthwise(x, state)
            return self.pointwise(x, state)

    class MobileNet(eqx.Module):
        stem: ConvNorm
        blocks: list[Block]
        head: eqx.nn.Linear

        def __init__(self, key):
            stem_key, head_key, *keys = jax.random.split(key, 2 + len(CHANNELS))
            self.stem = ConvNorm(COLORS, STEM, 3, stride=2, key=stem_key)
            before = (STEM, *CHANNELS)
            self.blocks = [Block(before[n], after, STRIDES[n], keys[n]) for n, after in enumerate(CHANNELS)]
            self.head = eqx.nn.Linear(CHANNELS[-1], CLASSES, key=head_key)

        def __call__(self, x, state):
            x, state = self.stem(x, state)
            for block in self.blocks:
                x, state = block(x, state)
            return self.head(jnp.mean(x, axis=(1, 2))), state

    return eqx.nn.make_with_state(MobileNet)(key)


def equinox():
    import equinox as eqx

    def make():
        return eqx.nn.inference_mode(equinox_net(jax.random.PRNGKey(0)))

    x = shape(BATCH, COLORS, HEIGHT, WIDTH)
    model = adapter("equinox").model(make, x, batched=True)

    def layer(net, unit):
        """A unit's module, and its path."""
        if unit == "stem":
            return net.stem, "stem"
        block, kind = unit.split("/")
        n = int(block.removeprefix("block"))
        return getattr(net.blocks[n], kind), f"blocks.{n}.{kind}"

    def leaves(net):
        found = [net.head.weight, net.head.bias]
        for unit in UNITS:
            held, _ = layer(net, unit)
            found += [held.conv.weight, held.norm.weight, held.norm.bias]
        return found

    def canonical(params):
        net, state = params["module"], params["state"]
        found = {"head/weight": np.asarray(net.head.weight).T, "head/bias": np.asarray(net.head.bias)}
        for unit in UNITS:
            held, path = layer(net, unit)
            counter = int(state[f"{path}.norm.batch_counter"])
            divisor = np.float32(1 - MOMENTUM**counter if counter else 1)
            mean, var = state[f"{path}.norm.batch_state_index"]
            found[f"{unit}/conv"] = np.asarray(held.conv.weight).transpose(2, 3, 1, 0)
            found[f"{unit}/norm/scale"] = np.asarray(held.norm.weight)
            found[f"{unit}/norm/bias"] = np.asarray(held.norm.bias)
            found[f"{unit}/norm/mean"] = np.asarray(mean) / divisor
            found[f"{unit}/norm/var"] = np.asarray(var) / divisor
        return found

    def build(values):
        net = model.params["module"]
        made, state = [values["head/weight"].T, values["head/bias"]], {}
        for unit in UNITS:
            _, path = layer(net, unit)
            made.append(values[f"{unit}/conv"].transpose(3, 2, 0, 1))
            made += [values[f"{unit}/norm/scale"], values[f"{unit}/norm/bias"]]
            statistics = values[f"{unit}/norm/mean"], values[f"{unit}/norm/var"]
            state[f"{path}.norm.batch_state_index"] = tuple(jnp.asarray(value) for value in statistics)
            state[f"{path}.norm.batch_counter"] = jnp.array(100_000, jnp.int32)
        return {"module": eqx.tree_at(leaves, net, [jnp.asarray(value) for value in made]), "state": state}

    return Built(model, (x,), canonical, build, given=lambda x: (x.transpose(0, 3, 1, 2),))


def haiku():
    import haiku as hk

    def forward(x, is_training):
        return hk.nets.MobileNetV1(strides=STRIDES, channels=CHANNELS, num_classes=CLASSES)(x, is_training)

    net = hk.without_apply_rng(hk.transform_with_state(forward))
    x = shape(BATCH, HEIGHT, WIDTH, COLORS)
    params, state = jax.eval_shape(lambda x: net.init(jax.random.PRNGKey(0), x, is_training=True), x)
    model = adapter("haiku").model(net, x, params={"params": params, "state": state}, is_training=False)

    def paths(unit):
        """A unit's convolution and norm: the first of a name has no number."""
        if unit == "stem":
            return "mobile_net_v1/conv2_d", "mobile_net_v1/batch_norm"
        block, kind = unit.split("/")
        n = int(block.removeprefix("block"))
        above = "mobile_net_v1/mobile_net_v1_block" + (f"_{n}" if n else "")
        return f"{above}/{kind}_conv", f"{above}/batch_norm" + ("_1" if kind == "pointwise" else "")

    def canonical(variables):
        params, state = variables["params"], variables["state"]
        head = params["mobile_net_v1/logits"]
        found = {"head/weight": np.asarray(head["w"]), "head/bias": np.asarray(head["b"])}
        for unit in UNITS:
            conv, norm = paths(unit)
            found[f"{unit}/conv"] = np.asarray(params[conv]["w"])
            found[f"{unit}/norm/scale"] = np.asarray(params[norm]["scale"]).reshape(-1)
            found[f"{unit}/norm/bias"] = np.asarray(params[norm]["offset"]).reshape(-1)
            found[f"{unit}/norm/mean"] = np.asarray(state[f"{norm}/~/mean_ema"]["average"]).reshape(-1)
            found[f"{unit}/norm/var"] = np.asarray(state[f"{norm}/~/var_ema"]["average"]).reshape(-1)
        return found

    def build(values):
        params = {"mobile_net_v1/logits": {"w": values["head/weight"], "b": values["head/bias"]}}
        state = {}
        for unit in UNITS:
            conv, norm = paths(unit)
            wide = {
                name: values[f"{unit}/norm/{name}"].reshape(1, 1, 1, -1)
                for name in ("scale", "bias", "mean", "var")
            }
            params[conv] = {"w": values[f"{unit}/conv"]}
            params[norm] = {"scale": wide["scale"], "offset": wide["bias"]}
            for name in ("mean", "var"):
                made = {"average": wide[name], "hidden": wide[name] * 2, "counter": np.array(7, np.int32)}
                state[f"{norm}/~/{name}_ema"] = made
        return {"params": params, "state": state}

    return Built(model, (x,), canonical, build)


# In Equinox the counters are read, which no other build has.
RESTATED = {"equinox"}
BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}
