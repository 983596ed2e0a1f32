"""What an alignment says: pairs of parts, differences and where they are. Plain records, without JAX."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from leafreport._align._parts import Move, Part, layout
from leafreport._leaf import Path, display_path, escape

Basis = Literal["dataflow", "order", "name", "mapping"]
BASES: tuple[Basis, ...] = ("dataflow", "order", "name", "mapping")


@dataclass(frozen=True)
class LeafPair:
    """A part of a left leaf and the part of a right leaf that does the same.

    Attributes:
        left: the left part.
        right: the right part.
        move: how the left part becomes the right one.
        role: what it does: `weight`, `table`, `shift`, `scale`, `mean`, `variance`; the empty string where
            nothing tells.
        basis: what told that they are one: `dataflow` (where each stands in the traced program), `order` (the
            order in which the programs come to them, where nothing else tells them apart), `name` (paths,
            shapes and layers, where there is no program) or `mapping` (the caller said so).
        candidates: where nothing determines the pair, every right part that would do as well.
        open_layout: whether its axes could be in another order too.
    """

    left: Part
    right: Part
    move: Move
    role: str
    basis: Basis
    candidates: tuple[Part, ...] = ()
    open_layout: bool = False

    @property
    def left_path(self) -> Path:
        """The left leaf's path."""
        return self.left.path

    @property
    def right_path(self) -> Path:
        """The right leaf's path."""
        return self.right.path

    @property
    def ambiguous(self) -> bool:
        """Whether nothing determines it: other leaves, or another order of axes, would do as well."""
        return bool(self.candidates) or self.open_layout

    @cached_property
    def layout(self) -> str:
        """What is done to the left part so that it is the right one, in words.

        `identity`, or steps of `slice`, `reshape`, `flip`, `transpose`, `times`, `plus`, `minus` and
        `concat`, as NumPy would take them.
        """
        return layout(self.left, self.move, self.right)

    def __str__(self) -> str:
        notes = [self.layout, self.role]
        if self.open_layout:
            notes.append("the order of its axes is open")
        if self.candidates:
            notes.append(f"ambiguous among {len(self.candidates)}, by {self.basis}")
        elif self.basis != "dataflow":
            notes.append(f"by {self.basis}")
        return f"{self.left} -> {self.right}  {', '.join(filter(None, notes))}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a model something is done.

    Attributes:
        after: the path of the leaf that was used last before it; None at the beginning.
        before: the path of the leaf that is used next; None at the end. The same as `after` where it is done
            to that leaf, or with it.
        scope: the names of the modules it is in, as the framework tells JAX; may be empty.
        code: file, line and function; may be empty.
    """

    after: Path | None = None
    before: Path | None = None
    scope: str = ""
    code: str = ""

    def __str__(self) -> str:
        if self.after is not None and self.after == self.before:
            where = f"at {display_path(self.after)}"
        else:
            told = [f"after {display_path(self.after)}" if self.after is not None else ""]
            told.append(f"before {display_path(self.before)}" if self.before is not None else "")
            where = ", ".join(filter(None, told)) or "with no leaf near"
        return f"{where} ({escape(self.code)})" if self.code else where


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not the same at two places that are matched, and that no leaf holds.

    Attributes:
        what: `epsilon`, `activation`, `norm`, `scale`, `constant`, `mask`, `dropout`, `padding`, `strides`,
            `dilation`, `groups`, `window`, `steps` (of a loop), `dtype`, `accumulation`, `axes` (along which
            something is done), `term` (an extra or a missing summand, as a residual), `factor`, `input`,
            `results` (how many there are, or their shapes), `sharing` (one leaf where the other model has
            two), `shape`, `function`, `structure` or `mapping`.
        left: what the left model does, in words.
        right: what the right model does.
        left_place: where the left model does it.
        right_place: where the right model does it.
    """

    what: str
    left: str
    right: str
    left_place: Place
    right_place: Place

    def __str__(self) -> str:
        return (
            f"{self.what}  {escape(self.left)} -> {escape(self.right)}  "
            f"left {self.left_place}; right {self.right_place}"
        )


def dtype_differences(
    pairs: Iterable[LeafPair], left: Mapping[Path, str | None], right: Mapping[Path, str | None]
) -> list[Difference]:
    """Pairs of leaves that have other dtypes, each pair of leaves once.

    Args:
        pairs: the pairs.
        left: the dtype of each left leaf.
        right: the same of the right ones.
    """
    out: dict[tuple[Path, Path], Difference] = {}
    for pair in pairs:
        a, b = left[pair.left_path], right[pair.right_path]
        if a != b:
            places = Place(pair.left_path, pair.left_path), Place(pair.right_path, pair.right_path)
            told = Difference("dtype", str(a), str(b), *places)
            out.setdefault((pair.left_path, pair.right_path), told)
    return list(out.values())


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of running both models on one input.

    Attributes:
        max_abs_difference: the largest difference of two output elements.
        max_rel_difference: the same, to the largest magnitude in the left output.
        rtol: up to which relative difference the two are taken for the same.
        parts_at: where they part: the first matched place, in the order of the left model, at which what the
            two have computed differs by more than rounding, left and right; None where they do not part, or
            no matched place shows it.
        values: the right leaves whose values are not the left ones carried over, where right params were
            given.
    """

    max_abs_difference: float
    max_rel_difference: float
    rtol: float
    parts_at: tuple[Place, Place] | None = None
    values: tuple[Path, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the outputs agree within `rtol`."""
        return self.max_rel_difference <= self.rtol

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        if math.isinf(self.max_rel_difference) and math.isinf(self.max_abs_difference):
            return "outputs differ: they have other shapes, or values that are no numbers"
        told = (
            f"outputs {'agree' if self.ok else 'differ'}: at most {self.max_abs_difference:.3g} apart, "
            f"{self.max_rel_difference:.3g} of the largest (within {self.rtol:g} is the same)"
        )
        if self.parts_at is not None:
            told += f"; they part first at: left {self.parts_at[0]}; right {self.parts_at[1]}"
        if self.values:
            shown = ", ".join(map(display_path, self.values[:10]))
            more = f" and {len(self.values) - 10:,} more" if len(self.values) > 10 else ""
            told += f"; not the left values carried over: {shown}{more}"
        return told
