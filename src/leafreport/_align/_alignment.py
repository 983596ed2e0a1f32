"""`Alignment`: what came of aligning two models, and what can be done with it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import jax
import numpy as np

from leafreport._align import _rows
from leafreport._align._carry._convert import converted, listed
from leafreport._align._carry._verify import (
    Run,
    distance,
    drawn_inputs,
    drawn_params,
    first_parting,
    laid_out,
)
from leafreport._align._mapping import to_json
from leafreport._align._parts import Part
from leafreport._align._records import BASES, Difference, LeafPair, Verification
from leafreport._align._trace._call import traced
from leafreport._errors import AlignmentError
from leafreport._leaf import Path, display_path
from leafreport._model import Model
from leafreport._render._paired import PairedRow, paired_text
from leafreport._render._rows import plural
from leafreport._report import LeafReport


@dataclass(frozen=True)
class End:
    """One of the two that are aligned.

    Attributes:
        report: its leaves.
        model: its params and its call; None of a tree or a report alone.
        params: its leaves' values, abstract or not, as a tree; None of a report.
        inputs: what its call was traced on.
        alone: the used parts that have no partner.
        unused: the paths of the leaves that lead to no output.
        opaque: what in its program was not understood: primitives without a rule, and what else.
        places: for each leaf which of the distinct arrays among the leaves it is; empty where none is shared.
    """

    report: LeafReport
    model: Model | None = None
    params: Any = None
    inputs: tuple[Any, ...] = ()
    alone: tuple[Part, ...] = ()
    unused: tuple[Path, ...] = ()
    opaque: tuple[str, ...] = ()
    places: tuple[int, ...] = ()

    @property
    def called(self) -> Model:
        """The model, of which there must be one.

        Raises:
            AlignmentError: there is a tree or a report alone.
        """
        if self.model is None:
            raise AlignmentError(
                "nothing can be run: one side has no program. Align two models with an input: "
                "align(left, right, x)."
            )
        return self.model

    @cached_property
    def dtypes(self) -> dict[Path, str | None]:
        """The dtype of each leaf by its path."""
        return {leaf.path: leaf.dtype for leaf in self.report}

    @cached_property
    def numbers(self) -> dict[Path, int]:
        """The number of each leaf by its path."""
        return {path: n for n, path in enumerate(self.report.paths)}


@dataclass(frozen=True)
class Alignment:
    """Which leaf of one model is which of another, and where the two are not the same function.

    It keeps both models, and so their params.

    Attributes:
        pairs: one row for each left part and the right part that does the same; no element is in two. Each
            has `left_path`, `right_path`, `role`, `layout`, `basis`, `ambiguous` and `candidates`.
        differences: what the two do differently though no leaf holds it, each with both values and both
            places.
        traced: whether both programs were read; otherwise names, shapes and layers alone told.
        left: the left end.
        right: the right end.
        copies: left parts that are paired already and that the right model has once more, in a leaf of its
            own, as a table that is tied on the left alone: rows like pairs.
    """

    pairs: tuple[LeafPair, ...]
    differences: tuple[Difference, ...]
    traced: bool
    left: End = field(repr=False)
    right: End = field(repr=False)
    copies: tuple[LeafPair, ...] = ()
    # Pairs of parts of the inputs and of the outputs, by which one side's are laid out as the other's.
    _inputs: tuple[LeafPair, ...] = field(default=(), repr=False)
    _outputs: tuple[LeafPair, ...] = field(default=(), repr=False)

    # --- What it says

    @property
    def only_left(self) -> tuple[Path, ...]:
        """The paths of left leaves that are used and have, at least in part, no partner."""
        return tuple(dict.fromkeys(part.path for part in self.left.alone))

    @property
    def only_right(self) -> tuple[Path, ...]:
        """The paths of right leaves that are used and have, at least in part, no partner."""
        return tuple(dict.fromkeys(part.path for part in self.right.alone))

    @property
    def unused_left(self) -> tuple[Path, ...]:
        """The paths of left leaves that never reach the output."""
        return self.left.unused

    @property
    def unused_right(self) -> tuple[Path, ...]:
        """The paths of right leaves that never reach the output."""
        return self.right.unused

    @property
    def opaque(self) -> tuple[str, ...]:
        """What in either program was not understood, and taken as it stands: primitives without a rule."""
        return tuple(dict.fromkeys((*self.left.opaque, *self.right.opaque)))

    @cached_property
    def kept(self) -> tuple[Path, ...]:
        """The paths of right leaves that `convert` leaves as they are, at least in part."""
        put = dict.fromkeys(self.right.report.paths, 0)
        for pair in (*self.pairs, *self.copies):
            put[pair.right_path] += math.prod(pair.right.sizes)
        shared = self._shared()
        return tuple(
            leaf.path
            for n, leaf in enumerate(self.right.report)
            if put[self.right.report.paths[shared.get(n, n)]] < (leaf.size or 0) or leaf.kind != "array"
        )

    def _shared(self) -> dict[int, int]:
        """For each right leaf the first one that is the same array."""
        first: dict[int, int] = {}
        return {n: first.setdefault(place, n) for n, place in enumerate(self.right.places)}

    @cached_property
    def ambiguous(self) -> tuple[LeafPair, ...]:
        """The pairs that nothing determines."""
        return tuple(pair for pair in self.pairs if pair.ambiguous)

    @property
    def ok(self) -> bool:
        """Whether every used leaf is paired, none ambiguously, and there are no differences."""
        return not (self.left.alone or self.right.alone or self.ambiguous or self.differences)

    def summary(self) -> str:
        """The outcome in one line."""
        by = [(sum(pair.basis == basis for pair in self.pairs), basis) for basis in BASES]
        told = ", ".join(f"{count:,} by {basis}" for count, basis in by if count)
        parts = [plural(len(self.pairs), "pair") + (f" ({told})" if told else "")]
        parts += [
            f"{count:,} {words}"
            for count, words in (
                (len(self.ambiguous), "ambiguous"),
                (len(self.only_left), "only on the left"),
                (len(self.only_right), "only on the right"),
                (len(self.unused_left), "unused on the left"),
                (len(self.unused_right), "unused on the right"),
            )
            if count
        ]
        if self.differences:
            parts.append(plural(len(self.differences), "difference"))
        if self.opaque:
            parts.append(f"not understood: {', '.join(self.opaque)}")
        tail = "" if self.traced else "; by names, shapes and layers alone: no program was read"
        return f"{'aligned' if self.ok else 'not aligned'}: {', '.join(parts)}{tail}"

    # --- What can be done with it

    def convert(
        self, left_params: Any, *, right_params: Any = None, choose: Literal["listed"] | None = None
    ) -> Any:
        """The right params with the values of left ones: bit by bit, unless a pair's layout computes.

        Right leaves without a partner stay as they are in the right model; where those are abstract, they are
        zeros. They are listed in `kept`.

        Args:
            left_params: values for the left model's params; the same tree.
            right_params: what to put them into; the right model's own params by default.
            choose: `listed` takes ambiguous pairs as they are listed; without it they are refused.

        Returns:
            A tree like the right params. Leaves are `jax.Array`s where JAX keeps their dtype, NumPy arrays
            otherwise and where the right leaf is one.

        Raises:
            AlignmentError: a pair is ambiguous and nothing is chosen; a used right leaf has neither partner
                nor value; the params are another tree; a value cannot be kept in its new dtype.
        """
        self._refuse_open(choose)
        left = self._leaves(left_params, self.left, "left_params")
        empty = [
            p.left_path for p in self.pairs if isinstance(left[self.left.numbers[p.left_path]], _Abstract)
        ]
        if empty:
            names = listed(tuple(dict.fromkeys(empty)))
            raise AlignmentError(
                f"there are no values to convert: the left model's {names} are abstract. Give left_params "
                "that hold them; on the command line, a target that does."
            )
        own = self.right.params if right_params is None else right_params
        right = self._leaves(own, self.right, "right_params")
        abstract = [
            p for p in self.only_right if isinstance(right[self.right.numbers[p]], jax.ShapeDtypeStruct)
        ]
        if abstract:
            raise AlignmentError(
                f"the right model uses {listed(abstract)}, which nothing on the left is and which has no "
                "values. Give right_params that hold them."
            )
        made = converted((*self.pairs, *self.copies), left, right, (self.left.numbers, self.right.numbers))
        for n, first in self._shared().items():  # leaves that are one array stay one
            made[n] = made[first]
        return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(own), made)

    def verify(
        self,
        left_params: Any = None,
        x: Any = None,
        *,
        x_right: Any = None,
        right_params: Any = None,
        choose: Literal["listed"] | None = None,
        rtol: float = 1e-5,
        seed: int = 0,
    ) -> Verification:
        """Runs both models on one input, with the highest precision of products, and compares the outputs.

        Args:
            left_params: values for the left params; the left model's own by default, and drawn at random
                where those are abstract.
            x: the left call's input, or a tuple of several; drawn at random by default: floats from a normal
                distribution, integers among the rows of the tables they index.
            x_right: the right call's input; the left one, laid out as the right call takes it, by default.
            right_params: values for the right params; the left ones converted by default. With it, the values
                that are not the left ones carried over are listed too.
            choose: as for `convert`.
            rtol: the largest difference, to the largest magnitude of the output, that still is the same.
            seed: for what is drawn.

        Returns:
            A record: `max_abs_difference`, `max_rel_difference`, `ok`, and, where the outputs part, the first
            matched place at which they do.

        Raises:
            AlignmentError: there are no programs to run, or what `convert` raises.
        """
        if not self.traced:
            raise AlignmentError(
                "nothing can be run: the models were aligned without an input. Give it: "
                "align(left, right, x)."
            )
        models = self.left.called, self.right.called
        rng = np.random.default_rng(seed)
        roles = {pair.left_path: pair.role for pair in self.pairs}
        params = drawn_params(
            self.left.params if left_params is None else left_params, self.left.report.leaves, roles, rng
        )
        given = self.left.inputs if x is None else as_inputs(x)
        call = traced(models[0].apply, params, given)
        left = Run(models[0], params, drawn_inputs(given, call, rng))
        carried = self.convert(params, right_params=right_params, choose=choose)
        own = carried if right_params is None else right_params
        right = Run(models[1], own, self._as_right(left.inputs) if x_right is None else as_inputs(x_right))
        outputs, others = left.outputs(), right.outputs()
        shapes = [array.shape for array in others]
        if not (self._same_inputs and shapes == [array.shape for array in outputs]):
            outputs = laid_out(self._outputs, outputs, shapes) or outputs
        absolute, relative = distance(outputs, others)
        places = None
        if not relative <= rtol:
            paths = self.left.report.paths, self.right.report.paths
            places = first_parting((left, right), paths, relative, rtol)
        return Verification(absolute, relative, rtol, places, self._not_carried(carried, own))

    @property
    def _same_inputs(self) -> bool:
        """Whether both calls take arrays of the same shapes: then these are the same arrays."""
        left, right = ([leaf.shape for leaf in _arrays(end.inputs)] for end in (self.left, self.right))
        return left == right

    def _as_right(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The left inputs, laid out as the right call takes them."""
        wanted, structure = jax.tree_util.tree_flatten(self.right.inputs)
        made: Sequence[Any] | None = _arrays(inputs)
        if not self._same_inputs:
            shapes = [leaf.shape for leaf in _arrays(self.right.inputs)]
            made = laid_out(self._inputs, [np.asarray(leaf) for leaf in _arrays(inputs)], shapes)
        if made is None:
            raise AlignmentError(
                "the right model takes its input laid out otherwise, and the programs do not say how. Give "
                "it as x_right."
            )
        arrays = iter(made)
        given = [next(arrays) if hasattr(leaf, "shape") else leaf for leaf in wanted]
        return tuple(jax.tree_util.tree_unflatten(structure, given))

    def _not_carried(self, carried: Any, own: Any) -> tuple[Path, ...]:
        """The right leaves whose values are not the left ones carried over."""
        if carried is own:
            return ()
        paired = {pair.right_path for pair in self.pairs}
        sides = zip(self.right.report.paths, *map(jax.tree_util.tree_leaves, (carried, own)), strict=True)
        return tuple(
            path
            for path, a, b in sides
            if path in paired and distance([np.asarray(a)], [np.asarray(b)])[1] > _ROUNDED
        )

    def _refuse_open(self, choose: Literal["listed"] | None) -> None:
        if choose not in (None, "listed"):
            raise AlignmentError(f"choose is {choose!r}: it is 'listed' or None.")
        if self.ambiguous and choose is None:
            first = self.ambiguous[0]
            rest = len(self.ambiguous) - 1
            among = (
                f"could be {listed(first.candidates)}"
                if first.candidates
                else "could have its axes in another order"
            )
            more = f"; {plural(rest, 'more pair')} {'is' if rest == 1 else 'are'} open" if rest else ""
            raise AlignmentError(
                f"{first.left} {among}{more}. Say which by align(..., mapping=...), or take the pairs as "
                "they are listed with choose='listed'."
            )

    def _leaves(self, params: Any, end: End, name: str) -> list[Any]:
        """The leaves of params, which must be the tree that was aligned."""
        if params is None:
            raise AlignmentError(f"{name} must be given: a report holds no values.")
        leaves = jax.tree_util.tree_leaves(params)
        known = end.report.leaves
        if len(leaves) != len(known):
            raise AlignmentError(f"{name} has {plural(len(leaves), 'leaf')}, the model {len(known):,}.")
        for leaf, own in zip(leaves, known, strict=True):
            shape = tuple(getattr(leaf, "shape", ()))
            if own.shape is not None and shape != own.shape:
                raise AlignmentError(
                    f"{name}: {display_path(own.path)} has shape {shape}, the model's has {own.shape}."
                )
        return leaves

    # --- Showing it

    def to_text(self, *, max_rows: int | None = None) -> str:
        """One line a pair, leaf and difference, and the outcome.

        Each begins with what it is: `=` paired, `?` ambiguous, `-` only left, `+` only right, `.` unused, `~`
        different.
        """
        rows = [PairedRow(0, "?" if pair.ambiguous else "=", str(pair)) for pair in self.pairs]
        rows += [PairedRow(0, "=", f"{copy}, a copy") for copy in self.copies]
        rows += [PairedRow(0, "-", str(part), "only on the left") for part in self.left.alone]
        rows += [PairedRow(0, "+", str(part), "only on the right") for part in self.right.alone]
        for path in self.unused_left:
            rows.append(PairedRow(0, ".", display_path(path), "unused on the left"))
        for path in self.unused_right:
            rows.append(PairedRow(0, ".", display_path(path), "unused on the right"))
        rows += _rows.difference_rows(self.differences)
        return paired_text(rows, max_rows=max_rows) + self.summary() + "\n"

    def to_tree(
        self, *, fold: bool = True, depth: int | None = None, max_rows: int | None = None, color: bool = False
    ) -> str:
        """One tree of the left paths, each with its partner; how many pairs a block has; the outcome.

        Args:
            fold: show blocks that differ by a number alone once.
            depth: leave out what is deeper; the counts have all.
            max_rows: rows past this many are left out, and counted.
            color: with ANSI colours.
        """
        leaves = {leaf.path: leaf for leaf in self.left.report}
        found = _rows.entries(
            self.pairs,
            self.copies,
            [(part.path, part.where) for part in self.left.alone],
            self.unused_left,
            leaves,
        )
        rows = _rows.tree_rows(found, fold=fold, depth=depth)
        rows += [PairedRow(0, "+", str(part), "only on the right") for part in self.right.alone]
        rows += [PairedRow(0, ".", display_path(path), "unused on the right") for path in self.unused_right]
        rows += _rows.difference_rows(self.differences)
        return paired_text(rows, max_rows=max_rows, color=color) + self.summary() + "\n"

    def to_json(self) -> str:
        """The alignment as one JSON document, ASCII only; `align(..., mapping=)` takes it, edited or not."""
        facts = {
            "ok": self.ok,
            "traced": self.traced,
            "only_left": self.only_left,
            "only_right": self.only_right,
            "unused_left": self.unused_left,
            "unused_right": self.unused_right,
            "opaque": self.opaque,
        }
        return to_json(self.pairs, self.copies, facts, self.differences)

    def __str__(self) -> str:
        return self.to_text().rstrip("\n")

    def __repr__(self) -> str:
        return f"<Alignment {self.summary()}>"


def _arrays(inputs: Any) -> list[Any]:
    """The arrays among what a call takes."""
    return [leaf for leaf in jax.tree_util.tree_leaves(inputs) if hasattr(leaf, "shape")]


_Abstract = jax.ShapeDtypeStruct
# Up to this relative difference, values that were computed with are the same.
_ROUNDED = 1e-6


def as_inputs(x: Any) -> tuple[Any, ...]:
    """What a call takes after the params: a tuple is several inputs."""
    return x if isinstance(x, tuple) else () if x is None else (x,)
