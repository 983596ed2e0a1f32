"""`Model`: what an adapter builds, and `LeafFacts`: what it knows of each leaf."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["params", "statistics", "rng", "static", "other"]
ROLES: tuple[Role, ...] = ("params", "statistics", "rng", "static", "other")


@dataclass(frozen=True, slots=True)
class LeafFacts:
    """What a framework knows of a leaf beyond the leaf itself. What is not known is None.

    Attributes:
        role: `params` (what is trained), `statistics` (running means, a layer's state), `rng` (keys and
            counts of random streams), `static` (no array: a function, a string, a Python number) or `other`.
        owner: the class of the layer that holds it: `Dense`, `Conv`, `LayerNorm`.
        axes: what each axis of one layer's array is, such as `("in", "out")`. Of a stacked leaf the axes that
            stack are left out.
        stacked: how many layers the leaf holds, where it holds several.
        module: where that layer stands in the model, as the framework names it.
        order: the place of the layer's first call when the model is run, from 0; known only where the model
            was traced with its layers in sight.
    """

    role: Role | None = None
    owner: str | None = None
    axes: tuple[str, ...] | None = None
    stacked: int | None = None
    module: tuple[str, ...] | None = None
    order: int | None = None

    def __post_init__(self) -> None:
        for name in ("axes", "module"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))


@dataclass(frozen=True, slots=True)
class Model:
    """A model as what every framework can give: its arrays and a function of them.

    Attributes:
        params: a pytree of arrays, concrete or abstract (`jax.ShapeDtypeStruct` leaves): everything the
            function needs, statistics and random streams too.
        apply: a pure function of arrays, `apply(params, *inputs) -> y`.
        facts: one for each leaf of `params`, in JAX's flatten order; None where the adapter knows none.
    """

    params: Any
    apply: Callable[..., Any]
    facts: Sequence[LeafFacts] | None = None
