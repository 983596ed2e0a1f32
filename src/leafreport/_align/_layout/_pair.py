"""Parts of leaves that do the same, by numbers alone: before they have names."""

from dataclasses import dataclass, field, replace

from leafreport._align._parts import Move, simplified
from leafreport._align._records import Basis


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an array: a box along axes that the array's axes may be made of.

    Attributes:
        array: the array's number: of a leaf in flatten order, of an input or an output in its own.
        start: where it begins in the flattened array.
        sizes: its axes, those of one index left out, in the array's order.
        strides: how far apart neighbours along each axis are in the flattened array.
    """

    array: int
    start: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A piece on the left and the piece on the right that does the same.

    Attributes:
        left: the left piece.
        right: the right piece.
        order: for each axis of the right piece, which axis of the left one it is.
        basis: what told them apart.
        role: what the leaf does: `weight`, `table`, `shift`, `scale`, ...
        flip: axes of the left piece whose indices run backwards on the right.
        rivals: right pieces that would do as well.
        sure: whether the order of the axes is determined.
        move: factor and summand that make a left value the right one.
        turns: how the whole left leaf becomes the whole right one, where that is no single turn of axes.
    """

    left: Piece
    right: Piece
    order: tuple[int, ...]
    basis: Basis
    role: str
    flip: tuple[int, ...] = ()
    rivals: tuple[Piece, ...] = ()
    sure: bool = True
    move: tuple[float, float] = (1.0, 0.0)
    turns: tuple[Move, ...] = ()

    def moved(self) -> Move:
        """How the left part becomes the right one."""
        if self.turns:
            found: Move | None = None
            for turn in reversed(self.turns):
                found = replace(turn, then=found)
            if found is not None:
                return replace(found, scale=self.move[0], offset=self.move[1])
        return simplified(Move(self.left.sizes, self.order, self.flip, *self.move))


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of pieces, and the matched nodes between which no layout was found.

    Attributes:
        rows: the pairs, in the order of the left pieces; no element is in two.
        left_again: pairs of left pieces that have another partner already.
        right_again: pairs of right pieces that have.
        unsaid: left and right nodes.
    """

    rows: list[Pair]
    left_again: list[Pair] = field(default_factory=list)
    right_again: list[Pair] = field(default_factory=list)
    unsaid: list[tuple[int, int]] = field(default_factory=list)
