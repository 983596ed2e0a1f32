"""What a graph is made of: nodes, and what each takes."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from leafreport._align._match._functions import Functions
from leafreport._align._match._pieces import Offsets
from leafreport._align._trace._dims import Dim

# A node, and the expression of what was done to its array since.
Ref = tuple[int, int]
# A label, a node and an expression.
Term = tuple[str, int, int]
NOTHING = Functions.X


@dataclass(eq=False, slots=True)
class Node:
    """One node.

    Attributes:
        kind: `leaf`, `input`, `output`, `constant`, `dot`, `conv`, `lookup`, `sum`, `product`, `join`, or
            `loop`; `gone` for one that became a part of another.
        operands: the nodes it takes, each with a label and the expression of what was done to it on the way.
        info: what else there is to know.
        made: the number of the operation that made it and the piece of its result that it is.
    """

    kind: str
    operands: tuple[Term, ...]
    info: dict[str, Any] = field(default_factory=dict)
    made: tuple[int, Offsets] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Meeting:
    """A constant that a node's array meets.

    Attributes:
        ident: its number among the constants.
        values: what it holds, without repeats; of a mask what it lets through.
        axes: for each of its axes the dim, and whose it is where a product of two activations has both its
            axes of one dim: `ends` of the one that is summed over later, `stays` of the other one.
    """

    ident: int
    values: np.ndarray
    axes: tuple[tuple[Dim, str], ...]


def by_node(term: Term) -> tuple[int, str, int]:
    """What terms are sorted by."""
    return term[1], term[0], term[2]


# What a node is told that takes arrays alone.
NO_SETTINGS = (None, None, None, None)
