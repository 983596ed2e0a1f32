"""The N-Dense stack: the reference job, through whichever adapter is asked for."""

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp

from leafreport._adapter import build_stack
from leafreport._errors import StackError
from leafreport._flatten import report
from leafreport._model import Model
from leafreport._report import LeafReport


def leaf_count(seed: float, x: Any, num_layers: float, *, backend: str = "flax") -> jax.Array:
    """How many leaves a stack of Dense layers has, counted in the params that were built.

    Builds `Dense(D)` repeated `num_layers` times, D = `x.shape[-1]`, abstractly: no parameter is allocated.

    Args:
        seed: for `jax.random.PRNGKey`; cast to int.
        x: a sample input of shape (N, D), concrete or abstract; only its shape and dtype are used.
        num_layers: cast to int; 0 or more.
        backend: the framework to build with, a name from `adapters()`.

    Returns:
        f32[1], the count as a float: `[2 * num_layers]`, a kernel and a bias each.

    Raises:
        StackError: `num_layers` or `seed` is not finite or out of range, or `x` is not (N, D) with D > 0.
        AdapterError: no backend has the name.
        FrameworkMissingError: the framework is not installed.

    Example:
        >>> import numpy as np
        >>> leaf_count(0.0, np.ones((4, 8)), 3.0)
        Array([6.], dtype=float32)
    """
    model = stack(seed, x, num_layers, backend=backend, abstract=True)
    return count_array(report(model))


def count_array(counted: LeafReport) -> jax.Array:
    """A report's leaf count in the form the reference job asks for: f32[1]."""
    return jnp.array([float(counted.leaf_count)], jnp.float32)


def stack(seed: float, x: Any, num_layers: float, *, backend: str, abstract: bool) -> Model:
    """The stack, its arguments checked and cast first; raises as `leaf_count` does."""
    number, sample, layers = checked(seed, x, num_layers)
    return build_stack(backend, number, sample, layers, abstract=abstract)


def checked(seed: float, x: Any, num_layers: float) -> tuple[int, jax.ShapeDtypeStruct, int]:
    """What a stack is built from, checked and cast: the seed, the sample's shape and dtype, the layers."""
    shape, dtype = _sample(x)
    layers = _integer(num_layers, "num_layers")
    if layers < 0:
        raise StackError(f"num_layers is {layers}: a stack has 0 layers or more.")
    number = _integer(seed, "seed")
    most = 2**63 if jax.dtypes.canonicalize_dtype("int64").itemsize == 8 else 2**32
    if not 0 <= number < most:
        raise StackError(
            f"seed is {number}: jax.random.PRNGKey would wrap it to another seed without a word. "
            f"Give one from 0 to {most - 1}."
        )
    return number, jax.ShapeDtypeStruct(shape, dtype), layers


def _integer(value: Any, name: str) -> int:
    refusal = StackError(f"{name} is a {type(value).__name__}: give a number, which is cast to int.")
    if isinstance(value, str | bytes | bytearray):  # float() would read them
        raise refusal
    try:
        return operator.index(value)
    except TypeError:
        try:
            as_float = float(value)
        except (TypeError, ValueError, OverflowError):
            raise refusal from None
    if not math.isfinite(as_float):
        raise StackError(f"{name} is {as_float}: it must be a finite number.")
    return int(as_float)


def _sample(x: Any) -> tuple[tuple[int, ...], Any]:
    shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
    if not isinstance(shape, tuple) or dtype is None:
        raise StackError(
            f"x is a {type(x).__name__}: give an array of shape (N, D), or a jax.ShapeDtypeStruct."
        )
    if len(shape) != 2:
        raise StackError(
            f"x has shape {shape}, of rank {len(shape)}: a sample is 2-D, (N, D), one row an example."
        )
    if shape[1] == 0:
        raise StackError(f"x has shape {shape}: D = x.shape[-1] is the layers' width and must be above 0.")
    return tuple(map(operator.index, shape)), dtype
