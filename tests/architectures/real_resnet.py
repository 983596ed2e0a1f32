"""A narrow ResNet-18 (He et al. 2015) at inference: `hk.nets.ResNet`, and two written from the paper.

Stem: a 7x7 convolution with stride 2, norm, relu, a 3x3 max pool with stride 2. Four stages of two basic
blocks; a stage's first block halves the image, but for the first stage's, and has a 1x1 convolution with a
norm on its shortcut. A mean over the image, a linear head. No convolution has a bias. All padding is as
TensorFlow's "SAME": where an odd number of pixels is missing the end gets one more, which PyTorch's symmetric
padding would not do.

Linen: compact modules, NHWC, the shortcut's layers are made last. Equinox: one example, CHW, convolutions
OIHW, the norms' statistics in an `eqx.nn.State` (mode "ema": a mean, a variance and a flag that inference
does not read), the pool's padding by hand. Haiku: scale and offset (1, 1, 1, C), and statistics are
exponential moving averages whose `hidden` and `counter` inference does not read.
"""

import jax
import jax.numpy as jnp
import numpy as np

from architectures import Built, shape
from leafreport import adapter

BATCH, HEIGHT, WIDTH, COLORS, CLASSES = 2, 40, 48, 3, 5
CHANNELS = (4, 6, 8, 10)
BLOCKS = [(stage, block) for stage in range(4) for block in range(2)]


def units():
    """The shape of each convolution, by the label that it and the norm after it have."""
    found = {"stem": (7, 7, COLORS, CHANNELS[0])}
    for stage, block in BLOCKS:
        after = CHANNELS[stage]
        before = CHANNELS[stage - 1] if stage and not block else after
        found[f"stage{stage}/block{block}/first"] = (3, 3, before, after)
        found[f"stage{stage}/block{block}/second"] = (3, 3, after, after)
        if before != after:
            found[f"stage{stage}/block{block}/shortcut"] = (1, 1, before, after)
    return found


UNITS = units()
SHAPES = {"head/weight": (CHANNELS[-1], CLASSES), "head/bias": (CLASSES,)}
for unit, sizes in UNITS.items():
    SHAPES[f"{unit}/conv"] = sizes
    SHAPES |= {f"{unit}/norm/{name}": sizes[-1:] for name in ("scale", "bias", "mean", "var")}


def place(tree, path):
    """The dict at a path of `a/b/c`, made where it is not there."""
    for step in path.split("/"):
        tree = tree.setdefault(step, {})
    return tree


def linen_net():
    from functools import partial

    import flax.linen as nn

    class ResidualBlock(nn.Module):
        filters: int
        strides: tuple[int, int] = (1, 1)

        @nn.compact
        def __call__(self, x, *, train):
            norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5)
            conv = partial(nn.Conv, use_bias=False)
            y = conv(self.filters, (3, 3), self.strides)(x)
            y = nn.relu(norm()(y))
            y = conv(self.filters, (3, 3))(y)
            y = norm()(y)
            if x.shape != y.shape:
                x = conv(self.filters, (1, 1), self.strides, name="proj")(x)
                x = norm(name="norm_proj")(x)
            return nn.relu(x + y)

    class ResNet(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            x = nn.Conv(CHANNELS[0], (7, 7), (2, 2), use_bias=False, name="conv_init")(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="bn_init")(x)
            x = nn.max_pool(nn.relu(x), (3, 3), (2, 2), padding="SAME")
            for stage, filters in enumerate(CHANNELS):
                for block in range(2):
                    strides = (2, 2) if stage > 0 and block == 0 else (1, 1)
                    x = ResidualBlock(filters, strides)(x, train=train)
            return nn.Dense(CLASSES)(x.mean((1, 2)))

    return ResNet()


def linen():
    def paths(unit):
        if unit == "stem":
            return "conv_init", "bn_init"
        stage, block, layer = unit.split("/")
        above = f"ResidualBlock_{2 * int(stage[-1]) + int(block[-1])}"
        conv, norm = {
            "first": ("Conv_0", "BatchNorm_0"),
            "second": ("Conv_1", "BatchNorm_1"),
            "shortcut": ("proj", "norm_proj"),
        }[layer]
        return f"{above}/{conv}", f"{above}/{norm}"

    def canonical(variables):
        params, statistics = variables["params"], variables["batch_stats"]
        head = params["Dense_0"]
        found = {"head/weight": np.asarray(head["kernel"]), "head/bias": np.asarray(head["bias"])}
        for unit in UNITS:
            conv, norm = paths(unit)
            found[f"{unit}/conv"] = np.asarray(place(params, conv)["kernel"])
            for name in ("scale", "bias"):
                found[f"{unit}/norm/{name}"] = np.asarray(place(params, norm)[name])
            for name in ("mean", "var"):
                found[f"{unit}/norm/{name}"] = np.asarray(place(statistics, norm)[name])
        return found

    def build(values):
        params = {"Dense_0": {"kernel": values["head/weight"], "bias": values["head/bias"]}}
        statistics = {}
        for unit in UNITS:
            conv, norm = paths(unit)
            place(params, conv)["kernel"] = values[f"{unit}/conv"]
            place(params, norm).update({name: values[f"{unit}/norm/{name}"] for name in ("scale", "bias")})
            place(statistics, norm).update({name: values[f"{unit}/norm/{name}"] for name in ("mean", "var")})
        return {"params": params, "batch_stats": statistics}

    x = shape(BATCH, HEIGHT, WIDTH, COLORS)
    return Built(adapter("flax").model(linen_net(), x, train=False), (x,), canonical, build)


def equinox_net(key):
    """The network and its state."""
    import equinox as eqx

    def conv(before, after, size, stride, key):
        return eqx.nn.Conv2d(before, after, size, stride, padding="SAME", use_bias=False, key=key)

    def batch_norm(channels):
        return eqx.nn.BatchNorm(channels, axis_name="batch", eps=1e-5, momentum=0.9, mode="ema")

    class BasicBlock(eqx.Module):
        shortcut: tuple[eqx.nn.Conv2d, eqx.nn.BatchNorm] | None
        conv1: eqx.nn.Conv2d
        conv2: eqx.nn.Conv2d
        bn1: eqx.nn.BatchNorm
        bn2: eqx.nn.BatchNorm

        def __init__(self, before, after, stride, key):
            key1, key2, key3 = jax.random.split(key, 3)
            self.conv1 = conv(before, after, 3, stride, key1)
            self.bn1 = batch_norm(after)
            self.conv2 = conv(after, after, 3, 1, key2)
            self.bn2 = batch_norm(after)
            same = stride == 1 and before == after
            self.shortcut = None if same else (conv(before, after, 1, stride, key3), batch_norm(after))

        def __call__(self, x, state):
            identity = x
            if self.shortcut is not None:
                project, norm = self.shortcut
                identity, state = norm(project(x), state)
            y, state = self.bn1(self.conv1(x), state)
            y, state = self.bn2(self.conv2(jax.nn.relu(y)), state)
            return jax.nn.relu(y + identity), state

    class ResNet(eqx.Module):
        conv1: eqx.nn.Conv2d
        bn1: eqx.nn.BatchNorm
        pool: eqx.nn.MaxPool2d
        layers: list[list[BasicBlock]]
        fc: eqx.nn.Linear

        def __init__(self, key):
            stem_key, head_key, *keys = jax.random.split(key, 2 + len(BLOCKS))
            self.conv1 = conv(COLORS, CHANNELS[0], 7, 2, stem_key)
            self.bn1 = batch_norm(CHANNELS[0])
            self.pool = eqx.nn.MaxPool2d(3, stride=2, padding=((0, 1), (0, 1)))
            self.layers = []
            before = CHANNELS[0]
            for stage, after in enumerate(CHANNELS):
                first = BasicBlock(before, after, 2 if stage else 1, keys.pop())
                self.layers.append([first, BasicBlock(after, after, 1, keys.pop())])
                before = after
            self.fc = eqx.nn.Linear(before, CLASSES, key=head_key)

        def __call__(self, x, state):
            x, state = self.bn1(self.conv1(x), state)
            x = self.pool(jax.nn.relu(x))
            for layer in self.layers:
                for block in layer:
                    x, state = block(x, state)
            return self.fc(x.mean((1, 2))), state

    return eqx.nn.make_with_state(ResNet)(key)


def equinox():
    import equinox as eqx

    def make():
        return eqx.nn.inference_mode(equinox_net(jax.random.PRNGKey(0)))

    x = shape(BATCH, COLORS, HEIGHT, WIDTH)
    model = adapter("equinox").model(make, x, batched=True)

    def layers(net, unit):
        """A unit's convolution, norm, and the norm's path."""
        if unit == "stem":
            return net.conv1, net.bn1, "bn1"
        stage, block, layer = unit.split("/")
        s, b = int(stage[-1]), int(block[-1])
        held, above = net.layers[s][b], f"layers.{s}.{b}"
        if layer == "shortcut":
            return *held.shortcut, f"{above}.shortcut.1"
        if layer == "first":
            return held.conv1, held.bn1, f"{above}.bn1"
        return held.conv2, held.bn2, f"{above}.bn2"

    def leaves(net):
        found = [net.fc.weight, net.fc.bias]
        for unit in UNITS:
            conv, norm, _ = layers(net, unit)
            found += [conv.weight, norm.weight, norm.bias]
        return found

    def canonical(params):
        net, state = params["module"], params["state"]
        found = {"head/weight": np.asarray(net.fc.weight).T, "head/bias": np.asarray(net.fc.bias)}
        for unit in UNITS:
            conv, norm, path = layers(net, unit)
            mean, var = state[f"{path}.ema_state_index"]
            found[f"{unit}/conv"] = np.asarray(conv.weight).transpose(2, 3, 1, 0)
            found[f"{unit}/norm/scale"] = np.asarray(norm.weight)
            found[f"{unit}/norm/bias"] = np.asarray(norm.bias)
            found[f"{unit}/norm/mean"] = np.asarray(mean)
            found[f"{unit}/norm/var"] = np.asarray(var)
        return found

    def build(values):
        net = model.params["module"]
        made, state = [values["head/weight"].T, values["head/bias"]], {}
        for unit in UNITS:
            _, _, path = layers(net, unit)
            made.append(values[f"{unit}/conv"].transpose(3, 2, 0, 1))
            made += [values[f"{unit}/norm/scale"], values[f"{unit}/norm/bias"]]
            statistics = values[f"{unit}/norm/mean"], values[f"{unit}/norm/var"]
            state[f"{path}.ema_state_index"] = tuple(jnp.asarray(value) for value in statistics)
            state[f"{path}.ema_first_time_index"] = jnp.array(False)
        return {"module": eqx.tree_at(leaves, net, [jnp.asarray(value) for value in made]), "state": state}

    return Built(model, (x,), canonical, build, given=lambda x: (x.transpose(0, 3, 1, 2),))


def haiku():
    import haiku as hk

    def forward(x, is_training):
        net = hk.nets.ResNet(
            blocks_per_group=(2, 2, 2, 2),
            num_classes=CLASSES,
            bottleneck=False,
            channels_per_group=CHANNELS,
            use_projection=(False, True, True, True),
            initial_conv_config={"output_channels": CHANNELS[0]},
        )
        return net(x, is_training, test_local_stats=False)

    net = hk.without_apply_rng(hk.transform_with_state(forward))
    x = shape(BATCH, HEIGHT, WIDTH, COLORS)
    params, state = jax.eval_shape(lambda x: net.init(jax.random.PRNGKey(0), x, is_training=True), x)
    model = adapter("haiku").model(net, x, params={"params": params, "state": state}, is_training=False)

    def paths(unit):
        if unit == "stem":
            return "res_net/~/initial_conv", "res_net/~/initial_batchnorm"
        stage, block, layer = unit.split("/")
        above = f"res_net/~/block_group_{stage[-1]}/~/block_{block[-1]}/~"
        conv, norm = {
            "first": ("conv_0", "batchnorm_0"),
            "second": ("conv_1", "batchnorm_1"),
            "shortcut": ("shortcut_conv", "shortcut_batchnorm"),
        }[layer]
        return f"{above}/{conv}", f"{above}/{norm}"

    def canonical(variables):
        params, state = variables["params"], variables["state"]
        head = params["res_net/~/logits"]
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
        params = {"res_net/~/logits": {"w": values["head/weight"], "b": values["head/bias"]}}
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


BUILDS = {"linen": linen, "equinox": equinox, "haiku": haiku}
