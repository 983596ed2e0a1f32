"""Leaves that are used in several places, taken as one leaf for each.

Where one model uses a leaf twice and the other has two, their graphs differ in nothing else: taken apart,
they can be matched, and what is shared is said.
"""

from leafreport._align._match._graph import Graph
from leafreport._align._match._nodes import Node


def is_shared(graph: Graph) -> bool:
    """Whether a leaf's piece is taken by more than one node."""
    takers: dict[int, int] = {}
    for n, node in enumerate(graph.nodes):
        for taken in {taken for _, taken, _ in node.operands}:
            if graph.nodes[taken].kind == "leaf" and takers.setdefault(taken, n) != n:
                return True
    return False


def separate(graph: Graph) -> None:
    """Gives each taker of a leaf's piece a node of that leaf of its own."""
    taken_by: dict[int, int] = {}
    for n, node in enumerate(list(graph.nodes)):
        if node.kind == "gone":
            continue
        operands = []
        for label, taken, done in node.operands:
            own = taken
            if graph.nodes[taken].kind == "leaf" and taken_by.setdefault(taken, n) != n:
                own = graph.copies.setdefault((taken, n), len(graph.nodes))
                if own == len(graph.nodes):
                    source = graph.nodes[taken]
                    graph.nodes.append(Node("leaf", (), dict(source.info), source.made))
            operands.append((label, own, done))
        node.operands = tuple(operands)
