"""`Model`: what an adapter builds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Model:
    """A model as two things every framework can give.

    Attributes:
        params: a pytree of arrays, concrete or abstract (`jax.ShapeDtypeStruct` leaves).
        apply: a pure function of arrays, `apply(params, x) -> y`.
    """

    params: Any
    apply: Callable[[Any, Any], Any]
