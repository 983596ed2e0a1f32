"""Models whose leaves are stored in another way, at random, with a call that undoes it; and the truth about them."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from architectures import nested

from leafreport import Model

Arrays = list[Any]
# What is done to a list of arrays, with NumPy, and what undoes it, in a traced call.
Step = tuple[Callable[[Arrays], Arrays], Callable[[Arrays], Arrays]]


@dataclass(frozen=True)
class Scrambled:
    """A model of the same function as another one.

    Attributes:
        model: the model; its params are abstract.
        store: the other one's leaves, in flatten order, as this one's params.
    """

    model: Model
    store: Callable[[Arrays], Any]


def scrambled(model, seed, *, join=True):
    """The same function of leaves that are renamed, reordered, turned, reshaped, flipped, fused, split and stacked.

    Args:
        model: what is scrambled; its params are abstract.
        seed: for every choice.
        join: fuse, split and stack leaves; otherwise flip some.
    """
    rng = random.Random(seed)
    leaves, structure = jax.tree.flatten(model.params)
    steps: list[Step] = []
    shapes = [leaf.shape for leaf in leaves]
    for _ in range(rng.randint(1, 4)):
        for n in range(len(shapes)):
            if rng.random() < 0.5:
                steps.append(at(n, *_turn(shapes[n], rng, flip=not join)))
                shapes[n] = steps[-1][0]([np.empty(s) for s in shapes])[n].shape
        if join and rng.random() < 0.7 and (step := _join(shapes, rng)) is not None:
            steps.append(step)
            shapes = [a.shape for a in step[0]([np.empty(s) for s in shapes])]
    order = rng.sample(range(len(shapes)), len(shapes))
    numbers = rng.sample(range(1000), len(shapes))
    names = [f"{rng.choice(('', 'a/', 'b/c/'))}{rng.choice('xyz')}{n}" for n in numbers]

    def store(originals):
        arrays = list(originals)
        for forth, _ in steps:
            arrays = forth(arrays)
        return nested({names[place]: arrays[n] for place, n in enumerate(order)})

    def apply(params, *inputs):
        arrays = [None] * len(order)
        for place, n in enumerate(order):
            node = params
            for step in names[place].split("/"):
                node = node[step]
            arrays[n] = node
        for _, back in reversed(steps):
            arrays = back(arrays)
        return model.apply(structure.unflatten(arrays), *inputs)

    empty = store([np.zeros(leaf.shape, leaf.dtype) for leaf in leaves])
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), empty)
    return Scrambled(Model(abstract, apply), store)


def at(n, forth, back):
    """A step on one array of several."""
    return (
        lambda arrays: [*arrays[:n], forth(arrays[n]), *arrays[n + 1 :]],
        lambda arrays: [*arrays[:n], back(arrays[n]), *arrays[n + 1 :]],
    )


def _turn(shape, rng, *, flip):
    """A turn, a reshape or, where asked for, a flip of one array."""
    match rng.choice(("turn", "turn", "divide", "flatten", "flip", "unit")):
        case "turn" if len(shape) > 1:
            axes = rng.sample(range(len(shape)), len(shape))
            back = [axes.index(n) for n in range(len(shape))]
            return (lambda a: a.transpose(axes)), (lambda a: a.transpose(back))
        case "divide":
            other = _divided(shape, rng)
            return (lambda a: a.reshape(other)), (lambda a: a.reshape(shape))
        case "flatten":
            return (lambda a: a.reshape(-1)), (lambda a: a.reshape(shape))
        case "flip" if flip and shape:
            axis = rng.randrange(len(shape))
            return (lambda a: np.flip(a, axis)), (lambda a: jnp.flip(a, axis))
        case _:
            place = rng.randint(0, len(shape))
            return (lambda a: np.expand_dims(a, place)), (lambda a: a.squeeze(place))


def _divided(shape, rng):
    """One axis as two, or two neighbours as one."""
    wide = [n for n, size in enumerate(shape) if any(size % k == 0 for k in range(2, size))]
    if wide and (len(shape) < 2 or rng.random() < 0.5):
        axis = rng.choice(wide)
        first = rng.choice([k for k in range(2, shape[axis]) if shape[axis] % k == 0])
        return (*shape[:axis], first, shape[axis] // first, *shape[axis + 1 :])
    if len(shape) < 2:
        return shape
    axis = rng.randrange(len(shape) - 1)
    return (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])


def _join(shapes, rng):
    """Two arrays as one, or one as two; None where the arrays drawn allow none of it."""
    n = rng.randrange(len(shapes))
    shape = shapes[n]
    match rng.choice(("fuse", "split", "stack")):
        case "split" if shape and max(shape) > 1:
            axis = rng.choice([k for k, size in enumerate(shape) if size > 1])
            cut = rng.randint(1, shape[axis] - 1)
            return (
                lambda arrays: [*arrays[:n], *np.split(arrays[n], [cut], axis), *arrays[n + 1 :]],
                lambda arrays: [*arrays[:n], jnp.concatenate(arrays[n : n + 2], axis), *arrays[n + 2 :]],
            )
        case kind:
            for m in rng.sample(range(len(shapes)), len(shapes)):
                other = shapes[m]
                same = [
                    k for k in range(len(shape)) if shape[:k] + shape[k + 1 :] == other[:k] + other[k + 1 :]
                ]
                if (
                    m == n
                    or len(other) != len(shape)
                    or (kind == "stack" and other != shape)
                    or not (same or not shape)
                ):
                    continue
                a, b = sorted((n, m))
                if kind == "stack":
                    place = rng.randint(0, len(shape))
                    return _stacking(a, b, place)
                if same:
                    axis = rng.choice(same)
                    size = shapes[a][axis]
                    return _joining(a, b, axis, size)
    return None


def _stacking(a, b, place):
    return (
        lambda arrays: _merged(arrays, a, b, lambda x, y: np.stack([x, y], place)),
        lambda arrays: _parted(arrays, a, b, lambda x: (x.take(0, place), x.take(1, place))),
    )


def _joining(a, b, axis, size):
    return (
        lambda arrays: _merged(arrays, a, b, lambda x, y: np.concatenate([x, y], axis)),
        lambda arrays: _parted(arrays, a, b, lambda x: tuple(jnp.split(x, [size], axis))),
    )


def _merged(arrays, a, b, join):
    made = [*arrays[:a], join(arrays[a], arrays[b]), *arrays[a + 1 :]]
    return [*made[:b], *made[b + 1 :]]


def _parted(arrays, a, b, part):
    first, second = part(arrays[a])
    made = [*arrays[:a], first, *arrays[a + 1 :]]
    return [*made[:b], second, *made[b:]]


def numbered(model, start=1):
    """Leaves in which every element of the model has a number of its own."""
    out = []
    for leaf in jax.tree.leaves(model.params):
        size = math.prod(leaf.shape)
        out.append(np.arange(start, start + size, dtype=np.float32).reshape(leaf.shape))
        start += size
    return out
