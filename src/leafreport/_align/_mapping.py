"""An alignment as JSON that can be edited by hand, and read again as what the caller says.

A row needs no more than its two paths. Where it says how the left part lies, how it is turned and where it
goes, that is taken as it stands; otherwise it is found out.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path as File
from typing import Any

from leafreport._align._parts import Move, Part, close, whole
from leafreport._align._records import Difference, LeafPair, Place
from leafreport._errors import AlignmentError, nearest
from leafreport._leaf import Leaf, Path, display_path
from leafreport._report import LeafReport

SCHEMA = "leafreport-alignment/1"


@dataclass(frozen=True, slots=True)
class Said:
    """One row of a mapping.

    Attributes:
        left: the left part; the whole leaf where the row says no more.
        right: the right part.
        move: how the left one becomes the right one; None where the row does not say.
        role: the row's word for what the leaf does.
    """

    left: Part
    right: Part
    move: Move | None
    role: str = ""


def to_json(
    pairs: Sequence[LeafPair],
    copies: Sequence[LeafPair],
    facts: Mapping[str, Any],
    differences: Sequence[Difference],
) -> str:
    """Pairs, copies, differences and whatever else as one JSON document, ASCII only."""
    document = {
        "schema": SCHEMA,
        **facts,
        "pairs": [_row(pair) for pair in pairs],
        "copies": [_row(pair) for pair in copies],
        "differences": [
            {
                "what": difference.what,
                "left": difference.left,
                "right": difference.right,
                "left_place": _place(difference.left_place),
                "right_place": _place(difference.right_place),
            }
            for difference in differences
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def _place(place: Place) -> dict[str, Any]:
    return {"after": place.after, "before": place.before, "scope": place.scope, "code": place.code}


_MOST_CANDIDATES = 10


def _row(pair: LeafPair) -> dict[str, Any]:
    row: dict[str, Any] = {
        "left": pair.left_path,
        "right": pair.right_path,
        "role": pair.role,
        "layout": pair.layout,
        "basis": pair.basis,
        "ambiguous": pair.ambiguous,
    }
    if pair.candidates:
        row["candidates"] = [_part(part) for part in pair.candidates[:_MOST_CANDIDATES]]
        row["candidate_count"] = len(pair.candidates)
    for name, part in (("left_part", pair.left), ("right_part", pair.right)):
        if not part.whole:
            row[name] = {"shape": part.shape, "slices": part.slices}
    return row | _move_row(pair.move)


def _move_row(move: Move) -> dict[str, Any]:
    row: dict[str, Any] = {"axes": move.axes, "order": move.order}
    if move.flip:
        row["flip"] = move.flip
    if move.scale != 1.0 or move.offset:
        row["scale"], row["offset"] = move.scale, move.offset
    if move.then is not None:
        row["then"] = _move_row(move.then)
    return row


def _part(part: Part) -> dict[str, Any]:
    row: dict[str, Any] = {"path": part.path}
    return row if part.whole else row | {"shape": part.shape, "slices": part.slices}


# --- Reading ------------------------------------------------------------------------------------------------


def read(source: Any, reports: tuple[LeafReport, LeafReport]) -> list[Said]:
    """The rows of a mapping.

    Args:
        source: what `Alignment.to_json` gives, as text, as a file of it, as a dict, or its rows alone as a
            list; or a dict of left paths to right paths, as tuples or joined by "/". Rows with `ambiguous`
            true say nothing.
        reports: the leaves of both sides.

    Raises:
        AlignmentError: it cannot be read, a row names no leaf, names one part twice, or does not fit it.
    """
    document = _document(source)
    rows = document
    if isinstance(document, dict) and "schema" in document:
        if document["schema"] != SCHEMA:
            raise AlignmentError(
                f"the mapping's schema is {document['schema']!r}, and this version reads {SCHEMA!r}. Save it "
                "with Alignment.to_json."
            )
        rows = document.get("pairs")
    elif isinstance(document, dict):
        rows = [{"left": left, "right": right} for left, right in document.items()]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise AlignmentError(
            "the mapping is neither what Alignment.to_json gives nor a dict of left paths to right paths."
        )
    sides = _Leaves(reports[0]), _Leaves(reports[1])
    # A pair that was open when it was saved is so still, until a hand has said otherwise.
    found = [_said(row, n, sides) for n, row in enumerate(rows) if row.get("ambiguous") is not True]
    for which in ("left", "right"):
        _refuse_twice([getattr(said, which) for said in found], which)
    return found


def _document(source: Any) -> Any:
    if isinstance(source, Mapping):
        return dict(source)
    if isinstance(source, list):
        return source
    name = "the mapping"
    if isinstance(source, PathLike) or (
        isinstance(source, str) and not source.lstrip().startswith(("{", "["))
    ):
        name = f"the mapping {str(source)!r}"
        try:
            source = File(source).read_bytes()
        except OSError as error:
            raise AlignmentError(f"{name} cannot be read: {error.strerror}.") from error
    if not isinstance(source, str | bytes):
        raise AlignmentError(
            f"the mapping is a {type(source).__name__}: give what Alignment.to_json gives, a file of it, or "
            "a dict of left paths to right paths."
        )
    try:
        return json.loads(source)
    except (ValueError, RecursionError) as error:
        raise AlignmentError(f"{name} is no JSON document: {error}.") from error


class _Leaves:
    """A side's leaves by path and by name."""

    def __init__(self, report: LeafReport) -> None:
        self.by_path = {leaf.path: leaf for leaf in report}
        self.by_name: dict[str, list[Path]] = {}
        for path in self.by_path:
            self.by_name.setdefault("/".join(path), []).append(path)

    def leaf(self, given: Any, where: str) -> Leaf:
        """The leaf of a path, given by its steps or joined."""
        if isinstance(given, list | tuple) and all(isinstance(step, str) for step in given):
            path: Path = tuple(given)
        elif isinstance(given, str):
            found = self.by_name.get(given, [])
            path = found[0] if len(found) == 1 else tuple(given.split("/"))
        else:
            raise AlignmentError(f"{where}: {given!r} is no path: give its steps, or them joined by '/'.")
        if path not in self.by_path:
            shown = display_path(path)
            close = nearest(shown, map(display_path, self.by_path))
            raise AlignmentError(f"{where}: no leaf is called {shown}.{close}")
        return self.by_path[path]


def _said(row: dict[str, Any], number: int, sides: tuple[_Leaves, _Leaves]) -> Said:
    where = f"row {number} of the mapping"
    parts = []
    for name, side in zip(("left", "right"), sides, strict=True):
        if name not in row:
            raise AlignmentError(f"{where} has no {name!r}: give a leaf's path.")
        leaf = side.leaf(row[name], f"{where}, {name}")
        parts.append(_read_part(leaf, row.get(f"{name}_part"), f"{where}, {name}_part"))
    move = _move(row, parts, where) if "order" in row else None
    return Said(parts[0], parts[1], move, str(row.get("role", "")))


def _read_part(leaf: Leaf, given: Any, where: str) -> Part:
    path, shape = leaf.path, leaf.shape
    if shape is None:
        raise AlignmentError(f"{where}: {display_path(path)} is no array.")
    if given is None:
        return whole(path, shape)
    try:
        seen = tuple(int(size) for size in given["shape"])
        slices = tuple((int(start), int(stop)) for start, stop in given["slices"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise AlignmentError(
            f"{where} needs 'shape' and 'slices', a start and a stop for each axis."
        ) from error
    fits = len(slices) == len(seen) and all(0 <= a < b <= n for (a, b), n in zip(slices, seen, strict=False))
    if math.prod(seen) != leaf.size or not fits:
        raise AlignmentError(f"{where}: {slices} of {seen} is no part of {display_path(path)} {shape}.")
    return Part(path, shape, seen, slices)


def _move(row: dict[str, Any], parts: Sequence[Part], where: str) -> Move:
    try:
        move = Move(
            tuple(int(n) for n in row["axes"]),
            tuple(int(n) for n in row["order"]),
            tuple(int(n) for n in row.get("flip", ())),
            float(row.get("scale", 1.0)),
            float(row.get("offset", 0.0)),
            _move(row["then"], parts, where) if row.get("then") is not None else None,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise AlignmentError(f"{where} needs 'axes' and 'order', an integer for each axis.") from error
    sizes = {math.prod(move.axes), *(math.prod(part.sizes) for part in parts)}
    flips = set(move.flip) <= set(range(len(move.axes)))
    if sorted(move.order) != list(range(len(move.axes))) or len(sizes) > 1 or not flips:
        raise AlignmentError(
            f"{where}: {parts[0]} of shape {parts[0].sizes}, as {move.axes} and turned by {move.order}, is "
            f"not {parts[1]} of shape {parts[1].sizes}. Leave 'axes' and 'order' out to have them found."
        )
    return move


def _refuse_twice(parts: Sequence[Part], which: str) -> None:
    by_path: dict[Path, list[Part]] = {}
    for part in parts:
        by_path.setdefault(part.path, []).append(part)
    for own in by_path.values():
        near = close(own)
        for n, part in enumerate(near):
            if any(overlap(part, other) for other in near[:n]):
                raise AlignmentError(
                    f"the mapping has {part} twice on the {which}: each element has one partner. Take a row "
                    "out."
                )


def overlap(a: Part, b: Part) -> bool:
    """Whether two parts of one leaf share an element, as far as both divide the leaf alike."""
    if a.whole or b.whole:
        return True
    if a.shape != b.shape:
        return False
    return all(max(x[0], y[0]) < min(x[1], y[1]) for x, y in zip(a.slices, b.slices, strict=True))
