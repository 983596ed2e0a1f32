"""What a report must say, computed without leafreport: from `jax.tree_util` and each leaf's own attributes."""

import math
import random
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import tree_util


class Sums(NamedTuple):
    leaf_count: int
    param_count: int
    nbytes: int
    repeated_nbytes: int


def step(entry):
    """A path entry as a string, read from the entry's own attribute."""
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            value = getattr(entry, attribute)
            return "".join(value) if isinstance(value, str) else str(value)
    return str(entry)


def paths(tree):
    return tuple(tuple(map(step, path)) for path, _ in tree_util.tree_flatten_with_path(tree)[0])


def is_key(leaf):
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def is_array(leaf):
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def kind(leaf):
    if is_array(leaf):
        return "key" if is_key(leaf) else "array"
    return "scalar" if isinstance(leaf, int | float | complex) else "object"


def size(leaf):
    return math.prod(leaf.shape) if is_array(leaf) else 0


def nbytes(leaf):
    if not is_array(leaf):
        return 0
    if is_key(leaf):
        return size(leaf) * leaf.dtype.itemsize
    return size(leaf) * np.dtype(leaf.dtype).itemsize


def sums(leaves):
    """Sums over leaves; an array with storage that is the same object as an earlier one is a repeat."""
    seen, params, once, again = [], 0, 0, 0
    ids = set()
    for leaf in leaves:
        stored = is_array(leaf) and not isinstance(leaf, jax.ShapeDtypeStruct)
        if stored and id(leaf) in ids:
            again += nbytes(leaf)
            continue
        ids.add(id(leaf))
        seen.append(leaf)
        params += size(leaf) if kind(leaf) == "array" else 0
        once += nbytes(leaf)
    return Sums(len(leaves), params, once, again)


def sums_of(report):
    return Sums(report.leaf_count, report.param_count, report.nbytes, report.repeated_nbytes)


def agree(report, tree):
    """Asserts that a report and `jax.tree_util` say the same about a tree."""
    leaves = tree_util.tree_leaves(tree)
    assert report.leaf_count == len(report) == len(leaves)
    assert report.paths == paths(tree)
    assert [leaf.kind for leaf in report] == list(map(kind, leaves))
    assert [leaf.shape for leaf in report] == [tuple(x.shape) if is_array(x) else None for x in leaves]
    assert [leaf.nbytes for leaf in report] == [nbytes(x) if is_array(x) else None for x in leaves]
    assert sums_of(report) == sums(leaves)


def nested(levels, bottom=1, wrap=lambda tree: [tree]):
    """A tree that many containers deep."""
    for _ in range(levels):
        bottom = wrap(bottom)
    return bottom


DTYPES = (np.float32, np.float16, jnp.bfloat16, np.int8, np.bool_, np.complex64, np.float64)


def random_tree(seed, depth=4):
    """Any of JAX's own containers and any kind of leaf, some of them shared."""
    rng = random.Random(seed)
    pool = [np.zeros((rng.randrange(4), 2), rng.choice(DTYPES)) for _ in range(3)]
    names = ["a", "b", "Dense_2", "Dense_10", "x/y", "", "0", "\n", "é", "kernel", "\ud800"]

    def leaf():
        match rng.randrange(8):
            case 0:
                return rng.choice([1, 2.5, True, 3j, 2**70])
            case 1:
                return rng.choice(["text", len, np.float32, object])
            case 2:
                return np.float32(1.5)
            case 3 | 4:
                shape = tuple(rng.choice([0, 1, 2, 3, 2**40]) for _ in range(rng.randrange(4)))
                return jax.ShapeDtypeStruct(shape, rng.choice(DTYPES))
            case _:
                return rng.choice(pool)

    def node(depth):
        if depth == 0 or rng.random() < 0.25:
            return leaf()
        width = rng.randrange(5)
        match rng.randrange(7):
            case 0:
                return [node(depth - 1) for _ in range(width)]
            case 1:
                return tuple(node(depth - 1) for _ in range(width))
            case 2:
                return {i * 7 % 11: node(depth - 1) for i in range(width)}
            case 3:
                return None
            case _:
                return {name: node(depth - 1) for name in rng.sample(names, width)}

    return node(depth)
