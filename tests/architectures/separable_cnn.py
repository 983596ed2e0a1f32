"""Grouped convolutions: depthwise and pointwise pairs, a channel multiplier, dilation, two groups; a head.

The kernel of a grouped convolution holds the input channels of one group; canonically it is height, width,
in, out. Nothing before an instance norm has a bias: the norm would take it away.

* Linen: `feature_group_count`, compact and numbered; `InstanceNorm`.
* NNX: the same settings with attributes; a norm is made before its convolution. `InstanceNorm` too.
* Equinox: `groups`, out, in, height, width, CHW example by example; an instance norm is a group norm of one
  channel a group.
* Haiku: `DepthwiseConv2D`, whose kernel is height, width, 1, channels * multiplier; `InstanceNorm` is a
  LayerNorm.
"""

from architectures import Built, nested, shape
from leafreport import adapter

HEIGHT, WIDTH, IN, STEM, FIRST, SECOND, THIRD, OUT, BATCH = 9, 11, 3, 6, 8, 10, 12, 5, 4
MULTIPLIER, GROUPS, EPS = 2, 2, 1e-5
X = shape(BATCH, HEIGHT, WIDTH, IN)

CONVS = {
    "stem": (3, 3, IN, STEM),
    "first.depthwise": (3, 3, 1, STEM),
    "first.pointwise": (1, 1, STEM, FIRST),
    "second.depthwise": (3, 3, 1, FIRST * MULTIPLIER),
    "second.pointwise": (1, 1, FIRST * MULTIPLIER, SECOND),
    "third": (3, 2, SECOND // GROUPS, THIRD),
}
BIASED = ("first.depthwise", "first.pointwise", "third")
NORMS = {"stem.norm": STEM, "first.norm": FIRST, "second.norm": SECOND}

SHAPES = {
    **{f"{name}.kernel": sizes for name, sizes in CONVS.items()},
    **{f"{name}.bias": CONVS[name][-1:] for name in BIASED},
    **{f"{name}.{leaf}": (size,) for name, size in NORMS.items() for leaf in ("scale", "bias")},
    "head.kernel": (THIRD, OUT),
    "head.bias": (OUT,),
}


def linen():
    import flax.linen as nn
    from flax.traverse_util import flatten_dict

    class SeparableCNN(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(STEM, (3, 3), strides=(2, 2), padding="SAME", use_bias=False)(x)
            x = nn.relu(nn.InstanceNorm(epsilon=EPS)(x))

            x = nn.Conv(STEM, (3, 3), feature_group_count=STEM)(x)
            x = nn.Conv(FIRST, (1, 1))(x)
            x = nn.relu(nn.GroupNorm(num_groups=GROUPS, epsilon=EPS)(x))

            depthwise = nn.Conv(
                FIRST * MULTIPLIER, (3, 3), kernel_dilation=2, feature_group_count=FIRST, use_bias=False
            )
            x = nn.Conv(SECOND, (1, 1), use_bias=False)(depthwise(x))
            x = nn.relu(nn.InstanceNorm(epsilon=EPS)(x))

            x = nn.relu(nn.Conv(THIRD, (3, 2), feature_group_count=GROUPS, padding="VALID")(x))
            return nn.Dense(OUT)(x.mean(axis=(1, 2)))

    modules = {name: f"Conv_{n}" for n, name in enumerate(CONVS)}
    modules |= {"stem.norm": "InstanceNorm_0", "first.norm": "GroupNorm_0", "second.norm": "InstanceNorm_1"}
    modules |= {"head": "Dense_0"}

    def path(label):
        name, _, leaf = label.rpartition(".")
        return f"params/{modules[name]}/{leaf}"

    def canonical(params):
        flat = flatten_dict(params, sep="/")
        return {label: flat[path(label)] for label in SHAPES}

    def build(values):
        return nested({path(label): value for label, value in values.items()})

    return Built(adapter("flax").model(SeparableCNN(), X), (X,), canonical, build)


def nnx():
    import jax
    import jax.numpy as jnp
    from flax import nnx

    class DepthwiseSeparable(nnx.Module):
        def __init__(self, before, after, norm, *, multiplier=1, dilation=1, use_bias=True, rngs):
            self.norm = norm
            self.pointwise = nnx.Conv(before * multiplier, after, (1, 1), use_bias=use_bias, rngs=rngs)
            self.depthwise = nnx.Conv(
                before,
                before * multiplier,
                (3, 3),
                kernel_dilation=dilation,
                feature_group_count=before,
                use_bias=use_bias,
                rngs=rngs,
            )

        def __call__(self, x):
            return nnx.relu(self.norm(self.pointwise(self.depthwise(x))))

    class SeparableCNN(nnx.Module):
        def __init__(self, *, rngs):
            self.norm = nnx.InstanceNorm(STEM, epsilon=EPS, rngs=rngs)
            self.stem = nnx.Conv(IN, STEM, (3, 3), strides=2, use_bias=False, rngs=rngs)
            self.block1 = DepthwiseSeparable(
                STEM, FIRST, nnx.GroupNorm(FIRST, num_groups=GROUPS, epsilon=EPS, rngs=rngs), rngs=rngs
            )
            self.block2 = DepthwiseSeparable(
                FIRST,
                SECOND,
                nnx.InstanceNorm(SECOND, epsilon=EPS, rngs=rngs),
                multiplier=MULTIPLIER,
                dilation=2,
                use_bias=False,
                rngs=rngs,
            )
            self.grouped = nnx.Conv(
                SECOND, THIRD, (3, 2), feature_group_count=GROUPS, padding="VALID", rngs=rngs
            )
            self.classifier = nnx.Linear(THIRD, OUT, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.norm(self.stem(x)))
            x = self.block2(self.block1(x))
            x = nnx.relu(self.grouped(x))
            return self.classifier(jnp.mean(x, axis=(1, 2)))

    model = adapter("nnx").model(lambda: SeparableCNN(rngs=nnx.Rngs(0)), X)
    modules = {
        "stem": "stem",
        "stem.norm": "norm",
        "first.depthwise": "block1/depthwise",
        "first.pointwise": "block1/pointwise",
        "first.norm": "block1/norm",
        "second.depthwise": "block2/depthwise",
        "second.pointwise": "block2/pointwise",
        "second.norm": "block2/norm",
        "third": "grouped",
        "head": "classifier",
    }

    def path(label):
        name, _, leaf = label.rpartition(".")
        return f"{modules[name]}/{leaf}"

    def canonical(params):
        flat = {"/".join(map(str, step)): variable[...] for step, variable in nnx.to_flat_state(params)}
        return {label: flat[path(label)] for label in SHAPES}

    def build(values):
        state = jax.tree.map(lambda leaf: leaf, model.params)
        nnx.replace_by_pure_dict(state, nested({path(label): value for label, value in values.items()}))
        return state

    return Built(model, (X,), canonical, build)


def equinox():
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    class SeparableCNN(eqx.Module):
        features: eqx.nn.Sequential
        head: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key, 7)
            conv, relu = eqx.nn.Conv2d, eqx.nn.Lambda(jax.nn.relu)
            wide = FIRST * MULTIPLIER
            self.features = eqx.nn.Sequential(
                [
                    conv(IN, STEM, 3, stride=2, padding=1, use_bias=False, key=keys[0]),
                    eqx.nn.GroupNorm(STEM, STEM, eps=EPS),
                    relu,
                    conv(STEM, STEM, 3, padding=1, groups=STEM, key=keys[1]),
                    conv(STEM, FIRST, 1, key=keys[2]),
                    eqx.nn.GroupNorm(GROUPS, FIRST, eps=EPS),
                    relu,
                    conv(FIRST, wide, 3, padding=2, dilation=2, groups=FIRST, use_bias=False, key=keys[3]),
                    conv(wide, SECOND, 1, use_bias=False, key=keys[4]),
                    eqx.nn.GroupNorm(SECOND, SECOND, eps=EPS),
                    relu,
                    conv(SECOND, THIRD, (3, 2), groups=GROUPS, key=keys[5]),
                    relu,
                ]
            )
            self.head = eqx.nn.Linear(THIRD, OUT, key=keys[6])

        def __call__(self, x):
            return self.head(jnp.mean(self.features(x), axis=(1, 2)))

    x = shape(BATCH, IN, HEIGHT, WIDTH)
    model = adapter("equinox").model(lambda: SeparableCNN(jax.random.PRNGKey(0)), x, batched=True)

    def leaves(module):
        layers = module.features.layers
        convs = dict(zip(CONVS, (layers[n] for n in (0, 3, 4, 7, 8, 11)), strict=True))
        norms = dict(zip(NORMS, (layers[n] for n in (1, 5, 9)), strict=True))
        found = {f"{name}.kernel": conv.weight for name, conv in convs.items()}
        found |= {f"{name}.bias": convs[name].bias for name in BIASED}
        found |= {f"{name}.scale": norm.weight for name, norm in norms.items()}
        found |= {f"{name}.bias": norm.bias for name, norm in norms.items()}
        return found | {"head.kernel": module.head.weight, "head.bias": module.head.bias}

    def canonical(params):
        values = {}
        for label, leaf in leaves(params).items():
            is_kernel, is_head = label.endswith("kernel"), label.startswith("head")
            values[label] = (
                leaf.T if is_head else leaf.transpose(2, 3, 1, 0) if is_kernel else leaf.reshape(-1)
            )
        return values

    def build(values):
        def native(label):
            value = values[label]
            if label.startswith("head"):
                return value.T
            if label.endswith("kernel"):
                return value.transpose(3, 2, 0, 1)
            return value if "norm" in label else value.reshape(-1, 1, 1)

        return eqx.tree_at(
            lambda module: list(leaves(module).values()),
            model.params,
            list(map(native, leaves(model.params))),
        )

    return Built(model, (x,), canonical, build, given=lambda x: (x.transpose(0, 3, 1, 2),))


def haiku():
    import haiku as hk
    import jax
    import jax.numpy as jnp

    class Separable(hk.Module):
        def __init__(self, channels, multiplier=1, rate=1, with_bias=True, name=None):
            super().__init__(name=name)
            self.depthwise = hk.DepthwiseConv2D(
                multiplier, 3, rate=rate, with_bias=with_bias, name="depthwise"
            )
            self.pointwise = hk.Conv2D(channels, 1, with_bias=with_bias, name="pointwise")

        def __call__(self, x):
            return self.pointwise(self.depthwise(x))

    def forward(x):
        layers = hk.Sequential(
            [
                hk.Conv2D(STEM, 3, stride=2, with_bias=False),
                hk.InstanceNorm(create_scale=True, create_offset=True, eps=EPS),
                jax.nn.relu,
                Separable(FIRST),
                hk.GroupNorm(GROUPS, eps=EPS),
                jax.nn.relu,
                Separable(SECOND, multiplier=MULTIPLIER, rate=2, with_bias=False),
                hk.InstanceNorm(create_scale=True, create_offset=True, eps=EPS),
                jax.nn.relu,
                hk.Conv2D(THIRD, (3, 2), feature_group_count=GROUPS, padding="VALID"),
                jax.nn.relu,
                lambda x: jnp.mean(x, axis=(-3, -2)),
                hk.Linear(OUT),
            ]
        )
        return layers(x)

    modules = {
        "stem": "conv2_d",
        "stem.norm": "instance_norm",
        "first.depthwise": "separable/~/depthwise",
        "first.pointwise": "separable/~/pointwise",
        "first.norm": "group_norm",
        "second.depthwise": "separable_1/~/depthwise",
        "second.pointwise": "separable_1/~/pointwise",
        "second.norm": "instance_norm_1",
        "third": "conv2_d_1",
        "head": "linear",
    }

    def place(label):
        name, _, leaf = label.rpartition(".")
        names = {"scale": "scale", "bias": "offset"} if "norm" in name else {"kernel": "w", "bias": "b"}
        return modules[name], names[leaf]

    def canonical(params):
        return {label: params[module][leaf] for label in SHAPES for module, leaf in [place(label)]}

    def build(values):
        params = {module: {} for module in modules.values()}
        for label, value in values.items():
            module, leaf = place(label)
            params[module][leaf] = value
        return params

    return Built(adapter("haiku").model(hk.transform(forward), X), (X,), canonical, build)


BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}
