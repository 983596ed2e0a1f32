"""A U-Net of two levels: down by a max pool and by a strided convolution, up by transposed convolutions.

What comes from the way down is concatenated to what comes from below; group norms throughout. A canonical
kernel after a concatenation takes the skipped channels first; a canonical transposed kernel is height, width,
in, out, not flipped.

* Linen: compact, numbered layers, transposed kernels as they are.
* NNX: `transpose_kernel=True`, so transposed kernels are (height, width, out, in), and flipped in height and
  width.
* Equinox: CHW example by example; transposed kernels are out, in, height, width, as those of convolutions
  are.
* Haiku: transposed kernels are (height, width, out, in), not flipped. Here the channels from below come first
  in a concatenation: the two parts of a kernel's input channels change places.
"""

import numpy as np

from architectures import Built, nested, shape
from leafreport import adapter

HEIGHT, WIDTH, IN, OUT, BATCH = 8, 12, 3, 2, 5
TOP, MIDDLE, BOTTOM = 4, 6, 10  # channels by level
UP_MIDDLE, UP_TOP = 8, 4  # channels that come from below
GROUPS, EPS = 2, 1e-5
X = shape(BATCH, HEIGHT, WIDTH, IN)

BLOCKS = {
    "encoder.top": (IN, TOP),
    "encoder.middle": (TOP, MIDDLE),
    "bottom": (BOTTOM, BOTTOM),
    "decoder.middle": (MIDDLE + UP_MIDDLE, MIDDLE),
    "decoder.top": (TOP + UP_TOP, TOP),
}
CONVS = {
    **{name: (3, 3, *sizes) for name, sizes in BLOCKS.items()},
    "down": (2, 2, MIDDLE, BOTTOM),
    "head": (1, 1, TOP, OUT),
}
UPS = {"up.middle": (2, 2, BOTTOM, UP_MIDDLE), "up.top": (3, 3, MIDDLE, UP_TOP)}

SHAPES = {
    **{f"{name}.kernel": sizes for name, sizes in (CONVS | UPS).items()},
    **{f"{name}.bias": sizes[-1:] for name, sizes in (CONVS | UPS).items()},
    **{f"{name}.norm.{leaf}": sizes[-1:] for name, sizes in BLOCKS.items() for leaf in ("scale", "bias")},
}


def linen():
    import flax.linen as nn
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict

    class Block(nn.Module):
        features: int

        @nn.compact
        def __call__(self, x):
            x = nn.Conv(self.features, kernel_size=(3, 3))(x)
            x = nn.GroupNorm(num_groups=GROUPS, epsilon=EPS)(x)
            return nn.silu(x)

    class UNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            top = Block(TOP)(x)
            x = nn.max_pool(top, (2, 2), strides=(2, 2))
            middle = Block(MIDDLE)(x)
            x = nn.silu(nn.Conv(BOTTOM, kernel_size=(2, 2), strides=(2, 2))(middle))
            x = Block(BOTTOM)(x)
            x = nn.ConvTranspose(UP_MIDDLE, kernel_size=(2, 2), strides=(2, 2))(x)
            x = Block(MIDDLE)(jnp.concatenate([middle, x], axis=-1))
            x = nn.ConvTranspose(UP_TOP, kernel_size=(3, 3), strides=(2, 2))(x)
            x = Block(TOP)(jnp.concatenate([top, x], axis=-1))
            return nn.Conv(OUT, kernel_size=(1, 1))(x)

    modules = {
        "down": "Conv_0",
        "head": "Conv_1",
        "up.middle": "ConvTranspose_0",
        "up.top": "ConvTranspose_1",
    }
    modules |= {name: f"Block_{n}/Conv_0" for n, name in enumerate(BLOCKS)}
    modules |= {f"{name}.norm": f"Block_{n}/GroupNorm_0" for n, name in enumerate(BLOCKS)}

    def path(label):
        name, _, leaf = label.rpartition(".")
        return f"params/{modules[name]}/{leaf}"

    def canonical(params):
        flat = flatten_dict(params, sep="/")
        return {label: flat[path(label)] for label in SHAPES}

    def build(values):
        return nested({path(label): value for label, value in values.items()})

    return Built(adapter("flax").model(UNet(), X), (X,), canonical, build)


def nnx_turned(label, value):
    """From NNX to canonical, and back: a transposed kernel flipped, its channels exchanged."""
    is_up = label in ("up.middle.kernel", "up.top.kernel")
    return value[::-1, ::-1].swapaxes(2, 3) if is_up else value


def nnx():
    import jax
    import jax.numpy as jnp
    from flax import nnx

    class ConvBlock(nnx.Module):
        """A convolution, its norm and its activation."""

        def __init__(self, before, after, rngs):
            self.norm = nnx.GroupNorm(after, num_groups=GROUPS, epsilon=EPS, rngs=rngs)
            self.conv = nnx.Conv(before, after, kernel_size=(3, 3), padding="SAME", rngs=rngs)

        def __call__(self, x):
            return jax.nn.silu(self.norm(self.conv(x)))

    def up(before, after, size, rngs):
        return nnx.ConvTranspose(
            before, after, kernel_size=(size, size), strides=(2, 2), transpose_kernel=True, rngs=rngs
        )

    class UNet(nnx.Module):
        def __init__(self, *, rngs):
            self.encoder = nnx.List([ConvBlock(IN, TOP, rngs), ConvBlock(TOP, MIDDLE, rngs)])
            self.decoder = nnx.List(
                [ConvBlock(MIDDLE + UP_MIDDLE, MIDDLE, rngs), ConvBlock(TOP + UP_TOP, TOP, rngs)]
            )
            self.ups = nnx.List([up(BOTTOM, UP_MIDDLE, 2, rngs), up(MIDDLE, UP_TOP, 3, rngs)])
            self.downsample = nnx.Conv(MIDDLE, BOTTOM, (2, 2), strides=2, padding="VALID", rngs=rngs)
            self.bottleneck = ConvBlock(BOTTOM, BOTTOM, rngs)
            self.final = nnx.Conv(TOP, OUT, kernel_size=(1, 1), rngs=rngs)

        def __call__(self, x):
            skips = []
            for n, encode in enumerate(self.encoder):
                if n > 0:
                    x = nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2))
                x = encode(x)
                skips.append(x)
            x = self.bottleneck(jax.nn.silu(self.downsample(x)))
            for up, decode in zip(self.ups, self.decoder, strict=True):
                x = decode(jnp.concatenate([skips.pop(), up(x)], axis=-1))
            return self.final(x)

    model = adapter("nnx").model(lambda: UNet(rngs=nnx.Rngs(0)), X)
    blocks = {
        "encoder.top": "encoder/0",
        "encoder.middle": "encoder/1",
        "bottom": "bottleneck",
        "decoder.middle": "decoder/0",
        "decoder.top": "decoder/1",
    }
    modules = {"down": "downsample", "head": "final", "up.middle": "ups/0", "up.top": "ups/1"}
    modules |= {name: f"{block}/conv" for name, block in blocks.items()}
    modules |= {f"{name}.norm": f"{block}/norm" for name, block in blocks.items()}

    def path(label):
        name, _, leaf = label.rpartition(".")
        return f"{modules[name]}/{leaf}"

    def canonical(params):
        flat = {"/".join(map(str, step)): variable[...] for step, variable in nnx.to_flat_state(params)}
        return {label: nnx_turned(label, flat[path(label)]) for label in SHAPES}

    def build(values):
        state = jax.tree.map(lambda leaf: leaf, model.params)
        named = {path(label): nnx_turned(label, value) for label, value in values.items()}
        nnx.replace_by_pure_dict(state, nested(named))
        return state

    return Built(model, (X,), canonical, build)


def equinox():
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    class Block(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.GroupNorm

        def __init__(self, before, after, key):
            self.conv = eqx.nn.Conv2d(before, after, kernel_size=3, padding=1, key=key)
            self.norm = eqx.nn.GroupNorm(GROUPS, after, eps=EPS)

        def __call__(self, x):
            return jax.nn.silu(self.norm(self.conv(x)))

    class UNet(eqx.Module):
        inc: Block
        pool: eqx.nn.MaxPool2d
        enc: Block
        down: eqx.nn.Conv2d
        bottom: Block
        up1: eqx.nn.ConvTranspose2d
        dec1: Block
        up2: eqx.nn.ConvTranspose2d
        dec2: Block
        out: eqx.nn.Conv2d

        def __init__(self, key):
            keys = iter(jax.random.split(key, 9))
            self.inc = Block(IN, TOP, next(keys))
            self.pool = eqx.nn.MaxPool2d(kernel_size=2, stride=2)
            self.enc = Block(TOP, MIDDLE, next(keys))
            self.down = eqx.nn.Conv2d(MIDDLE, BOTTOM, kernel_size=2, stride=2, key=next(keys))
            self.bottom = Block(BOTTOM, BOTTOM, next(keys))
            self.up1 = eqx.nn.ConvTranspose2d(BOTTOM, UP_MIDDLE, kernel_size=2, stride=2, key=next(keys))
            self.dec1 = Block(MIDDLE + UP_MIDDLE, MIDDLE, next(keys))
            self.up2 = eqx.nn.ConvTranspose2d(
                MIDDLE, UP_TOP, kernel_size=3, stride=2, padding="SAME", key=next(keys)
            )
            self.dec2 = Block(TOP + UP_TOP, TOP, next(keys))
            self.out = eqx.nn.Conv2d(TOP, OUT, kernel_size=1, key=next(keys))

        def __call__(self, x):
            x1 = self.inc(x)
            x2 = self.enc(self.pool(x1))
            x = self.bottom(jax.nn.silu(self.down(x2)))
            x = self.dec1(jnp.concatenate([x2, self.up1(x)]))
            x = self.dec2(jnp.concatenate([x1, self.up2(x)]))
            return self.out(x)

    x = shape(BATCH, IN, HEIGHT, WIDTH)
    model = adapter("equinox").model(lambda: UNet(jax.random.PRNGKey(0)), x, batched=True)

    def leaves(module):
        blocks = dict(
            zip(BLOCKS, (module.inc, module.enc, module.bottom, module.dec1, module.dec2), strict=True)
        )
        convs = {name: block.conv for name, block in blocks.items()}
        convs |= {"down": module.down, "head": module.out, "up.middle": module.up1, "up.top": module.up2}
        found = {f"{name}.kernel": conv.weight for name, conv in convs.items()}
        found |= {f"{name}.bias": conv.bias for name, conv in convs.items()}
        found |= {f"{name}.norm.scale": block.norm.weight for name, block in blocks.items()}
        return found | {f"{name}.norm.bias": block.norm.bias for name, block in blocks.items()}

    def canonical(params):
        return {
            label: leaf.transpose(2, 3, 1, 0) if label.endswith("kernel") else leaf.reshape(-1)
            for label, leaf in leaves(params).items()
        }

    def build(values):
        def native(label):
            if label.endswith("kernel"):
                return values[label].transpose(3, 2, 0, 1)
            return values[label] if "norm" in label else values[label].reshape(-1, 1, 1)

        return eqx.tree_at(
            lambda module: list(leaves(module).values()),
            model.params,
            list(map(native, leaves(model.params))),
        )

    return Built(
        model,
        (x,),
        canonical,
        build,
        given=lambda x: (x.transpose(0, 3, 1, 2),),
        result=lambda y: y.transpose(0, 2, 3, 1),
    )


def haiku_turned(label, value, middle, top):
    """Between Haiku and canonical: the first `middle` or `top` input channels go behind the others."""
    if label in ("up.middle.kernel", "up.top.kernel"):
        return value.swapaxes(2, 3)
    if label in ("decoder.middle.kernel", "decoder.top.kernel"):
        count = middle if label == "decoder.middle.kernel" else top
        return np.concatenate([value[:, :, count:], value[:, :, :count]], axis=2)
    return value


def haiku():
    import haiku as hk
    import jax
    import jax.numpy as jnp

    def block(x, channels):
        x = hk.Conv2D(channels, 3, padding="SAME")(x)
        return jax.nn.silu(hk.GroupNorm(GROUPS, eps=EPS)(x))

    class UNet(hk.Module):
        def __call__(self, x):
            fine = block(x, TOP)
            x = hk.max_pool(fine, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
            coarse = block(x, MIDDLE)
            x = jax.nn.silu(hk.Conv2D(BOTTOM, 2, stride=2, padding="VALID", name="down")(coarse))
            x = block(x, BOTTOM)
            x = hk.Conv2DTranspose(UP_MIDDLE, 2, stride=2)(x)
            x = block(jnp.concatenate([x, coarse], axis=-1), MIDDLE)
            x = hk.Conv2DTranspose(UP_TOP, 3, stride=2)(x)
            x = block(jnp.concatenate([x, fine], axis=-1), TOP)
            return hk.Conv2D(OUT, 1, name="to_out")(x)

    modules = {
        "down": "down",
        "head": "to_out",
        "up.middle": "conv2_d_transpose",
        "up.top": "conv2_d_transpose_1",
    }
    for n, name in enumerate(BLOCKS):
        suffix = f"_{n}" if n else ""
        modules |= {name: f"conv2_d{suffix}", f"{name}.norm": f"group_norm{suffix}"}

    def place(label):
        name, _, leaf = label.rpartition(".")
        names = {"scale": "scale", "bias": "offset"} if "norm" in name else {"kernel": "w", "bias": "b"}
        return f"u_net/{modules[name]}", names[leaf]

    def canonical(params):
        values = {}
        for label in SHAPES:
            module, leaf = place(label)
            values[label] = haiku_turned(label, params[module][leaf], UP_MIDDLE, UP_TOP)
        return values

    def build(values):
        params = {}
        for label, value in values.items():
            module, leaf = place(label)
            params.setdefault(module, {})[leaf] = haiku_turned(label, value, MIDDLE, TOP)
        return params

    network = hk.without_apply_rng(hk.transform(lambda x: UNet()(x)))
    return Built(adapter("haiku").model(network, X), (X,), canonical, build)


BUILDS = {"linen": linen, "nnx": nnx, "equinox": equinox, "haiku": haiku}
