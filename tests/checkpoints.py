"""Trees of every kind that Orbax saves, and every way it saves them in."""

from collections import OrderedDict, defaultdict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

ocp = pytest.importorskip("orbax.checkpoint")
v1 = pytest.importorskip("orbax.checkpoint.experimental.v1")


class Pair(NamedTuple):
    first: Any
    second: Any


DTYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128", "bfloat16", "int2", "int4"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz", "float8_e4m3fnuz", "float8_e5m2fnuz"),
    "float4_e2m1fn",
]


def numpy_dtype(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def dtypes():
    """Every dtype that can be saved: as NumPy's array, and as JAX's where it has it without 64 bits."""
    tree = {}
    for name in DTYPES:
        array = np.zeros((3, 2), numpy_dtype(name))
        tree[name] = {"numpy": array}
        if array.dtype.itemsize < 8:
            tree[name]["jax"] = jnp.asarray(array)
    return tree


def containers():
    """Every container, empty ones too, and keys of every kind."""
    x = np.zeros((2, 3), np.float32)
    return {
        "dict": {"b": x, "a": {"z": x, "y": {}}},
        "list": [x, [x, []], {"k": x}],
        "tuple": (x, (x, ()), None),
        "named": Pair(x, Pair(x, None)),
        "ordered": OrderedDict([("z", x), ("a", x)]),
        "default": defaultdict(list, {"q": x}),
        "long list": [x + i for i in range(12)],
        "int keys": {2: x, 10: x, 1: x},
        "names": {"a.b": x, "ключ": x, "~": x, " ": x, "a'b\"c": x, "n" * 120: x},
        "nothing": None,
    }


def optimizer():
    """What training keeps: parameters, Adam's state, a step."""
    optax = pytest.importorskip("optax")
    params = {f"Dense_{i}": {"kernel": jnp.zeros((4, 8)), "bias": jnp.zeros(8)} for i in range(3)}
    return {"params": params, "opt_state": optax.adam(1e-3).init(params), "step": 3}


def scalars():
    """Python's numbers and arrays without dimensions."""
    return {"i": 3, "f": 2.5, "b": True, "big": 2**40, "np": np.array(1, np.int16), "jax": jnp.array(1.5)}


def keys():
    """Typed PRNG keys of every implementation, and raw ones."""
    return {
        "fry": jax.random.key(0),
        "rbg": jax.random.key(0, impl="rbg"),
        "urbg": jax.random.key(0, impl="unsafe_rbg"),
        "batch": jax.random.split(jax.random.key(1), (4, 2)),
        "raw": jax.random.PRNGKey(0),
        "looks raw": jnp.zeros(2, jnp.uint32),
    }


def sharded():
    """Arrays on eight devices, split in every way, and on one."""
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    tree = {"one": jax.device_put(np.zeros((4, 4)), SingleDeviceSharding(jax.devices()[5]))}
    for spec in (
        P(),
        P("data"),
        P(None, "model"),
        P("data", "model"),
        P(("data", "model")),
        P("model", "data"),
    ):
        array = np.arange(64 * 32, dtype=np.float32).reshape(64, 32)
        tree[str(spec)] = jax.device_put(array, NamedSharding(mesh, spec))
    tree["vector"] = jax.device_put(np.zeros(16, np.int8), NamedSharding(mesh, P("data")))
    tree["keys"] = jax.device_put(jax.random.split(jax.random.key(0), 8), NamedSharding(mesh, P("data")))
    return tree


TREES = {make.__name__: make for make in (dtypes, containers, optimizer, scalars, keys, sharded)}


def _pytree(**options):
    def save(path, tree):
        with ocp.PyTreeCheckpointer(**options) as checkpointer:
            checkpointer.save(path, tree)

    return save


def _standard(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)


def _v1(**options):
    def save(path, tree):
        context = v1.Context()
        for name, value in options.items():
            setattr(context.array.saving, name, value)
        with context:
            v1.save(path, tree)

    return save


SAVES = {
    "ocdbt-zarr2": _pytree(),
    "ocdbt-zarr3": _pytree(use_zarr3=True),
    "flat-zarr2": _pytree(use_ocdbt=False),
    "flat-zarr3": _pytree(use_ocdbt=False, use_zarr3=True),
    "standard": _standard,
    "v1": _v1(),
    "v1-zarr2": _v1(use_zarr3=False),
    "v1-flat": _v1(use_ocdbt=False),
    "v1-flat-zarr2": _v1(use_ocdbt=False, use_zarr3=False),
}


def manager(root, steps, tree, **items):
    """A root of a `CheckpointManager`: one tree a step, or with items several."""
    with ocp.CheckpointManager(root) as saving:
        for step in steps:
            args = ocp.args.StandardSave(tree)
            if items:
                args = ocp.args.Composite(state=args, **items)
            saving.save(step, args=args)
        saving.wait_until_finished()
