"""What a graph is made of: nodes, and what each takes."""

from dataclasses import dataclass, field
from typing import Any

from leafreport._align._match._functions import Functions
from leafreport._align._match._pieces import Offsets

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


def by_node(term: Term) -> tuple[int, str, int]:
    """What terms are sorted by."""
    return term[1], term[0], term[2]


# What a node is told that takes arrays alone.
NO_SETTINGS = (None, None, None, None)
