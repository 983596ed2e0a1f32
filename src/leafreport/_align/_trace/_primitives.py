"""JAX's primitives by what they do, as far as one word says it."""

from collections.abc import Sequence
from typing import Any

from leafreport._align._trace._program import Array

RANDOM = frozenset(
    [
        "random_seed",
        "random_wrap",
        "random_bits",
        "random_split",
        "random_fold_in",
        "random_unwrap",
        "random_clone",
        "random_gamma",
        "threefry2x32",
        "rng_bit_generator",
        "rng_uniform",
    ]
)


# Views that say how a leaf is stored, where they are of leaves alone.
STORAGE = frozenset(
    (
        *("reshape", "transpose", "squeeze", "broadcast_in_dim", "slice", "dynamic_slice", "split"),
        *("concatenate", "rev", "stack", "gather", "convert_element_type", "copy", "copy_p"),
        *("stop_gradient", "device_put", "sharding_constraint", "optimization_barrier", "name", "pvary"),
    )
)


# What is done along an axis, and leaves every axis what it is; and which parameter says along which.
ALONG = {
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), "axis"),
    "sort": "dimension",
}


ELEMENTWISE = frozenset(
    [
        "abs",
        "acos",
        "acosh",
        "add",
        "add_any",
        "and",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "bessel_i0e",
        "bessel_i1e",
        "cbrt",
        "ceil",
        "clamp",
        "clz",
        "complex",
        "conj",
        "cos",
        "cosh",
        "digamma",
        "div",
        "eq",
        "eq_to",
        "erf",
        "erf_inv",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "floor",
        "ge",
        "gt",
        "imag",
        "igamma",
        "igammac",
        "integer_pow",
        "is_finite",
        "le",
        "le_to",
        "lgamma",
        "log",
        "log1p",
        "logistic",
        "lt",
        "lt_to",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "nextafter",
        "not",
        "or",
        "polygamma",
        "population_count",
        "pow",
        "real",
        "regularized_incomplete_beta",
        "rem",
        "round",
        "rsqrt",
        "select_n",
        "shift_left",
        "shift_right_arithmetic",
        "shift_right_logical",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "sub",
        "tan",
        "tanh",
        "xor",
        "zeta",
    ]
)


# Calls of a program within: what they say is what it says.
CALLS = frozenset(
    {
        "jit",
        "pjit",
        "closed_call",
        "core_call",
        "xla_call",
        "remat",
        "remat2",
        "checkpoint",
        "custom_jvp_call",
    }
    | {"custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin", "core_closed_call", "run_state", "xla_pmap"}
)


def called(eqn: Any) -> Any:
    """The program within a call; None for what is no call."""
    if eqn.primitive.name in CALLS:
        for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
            if (inner := eqn.params.get(key)) is not None:
                return inner
    return None


def settings(eqn: Any, given: Sequence[Array]) -> str:
    """What an equation is told beside what it takes, and what constants it takes, as text."""
    constants = [repr(array.term) for array in given if array.constant]
    return parameters(eqn) + "".join(constants)


def parameters(eqn: Any, without: str = "") -> str:
    """What an equation is told beside what it takes, as text."""
    passing = {*_PASSING, without}
    told = ((key, repr(value)) for key, value in eqn.params.items() if key not in passing)
    return repr(sorted(told))


_PASSING = frozenset({"sharding", "mesh", "name", "accuracy"})
