"""What there is to choose from where a path leads to more than one tree: steps, and items of a step."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from leafreport._checkpoint._files import read_json
from leafreport._checkpoint._place import Root, Step, Tree, local, place
from leafreport._errors import CheckpointError
from leafreport._leaf import display_name, escape
from leafreport._render._rows import plural
from leafreport._render._table import Column, Table, table_text

SCHEMA = "leafreport-steps/1"


@dataclass(frozen=True, slots=True)
class Entry:
    """One step, or a checkpoint that is no step of a root.

    Attributes:
        step: its number; None for a checkpoint that was given itself.
        path: its folder or file.
        items: names of the trees in it; none where it is one tree itself.
        others: names of what else was saved with them.
        saved: when, in UTC; None where it is not told.
        custom_metadata: what its user kept with it; None where there is none.
        trouble: why it cannot be read; the empty string where it can.
    """

    step: int | None
    path: Path
    items: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    saved: datetime | None = None
    custom_metadata: Any = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a path has to choose from.

    Attributes:
        path: the root, or the step of several items.
        entries: the steps, or the one step.
        unfinished: names of saves that were never completed.
    """

    path: Path
    entries: tuple[Entry, ...]
    unfinished: tuple[str, ...] = ()

    def to_text(self) -> str:
        """A table, one line a step or an item, and how to go on."""
        first = self.entries[0]
        if first.step is None:
            names = [*first.items, *first.others]
            one = escape(str(first.path / first.items[0]))
            kinds = ["tree"] * len(first.items) + ["no tree"] * len(first.others)
            table = Table(
                (Column("item", list(map(display_name, names))), Column("what", kinds)),
                (f"{plural(len(first.items), 'item')}; show one: {one}",),
            )
            return table_text(table)
        latest = self.entries[-1].step
        footer = [f"{plural(len(self.entries), 'step')}; show one: {escape(str(self.path))}@{latest}"]
        if self.unfinished:
            footer.append(f"never completed  {', '.join(map(display_name, self.unfinished))}")
        table = Table(
            (
                Column("step", [str(entry.step) for entry in self.entries], align="right"),
                Column("saved", [_time(entry.saved) for entry in self.entries]),
                Column("items", [_items(entry) for entry in self.entries]),
            ),
            tuple(footer),
        )
        return table_text(table)

    def to_json(self) -> str:
        """The same as one JSON document, ASCII only, and what users kept with each step."""
        document = {
            "schema": SCHEMA,
            "path": str(self.path),
            "steps": [
                {
                    "step": entry.step,
                    "path": str(entry.path),
                    "items": entry.items,
                    "others": entry.others,
                    "saved": _time(entry.saved) or None,
                    "custom_metadata": entry.custom_metadata,
                    "trouble": entry.trouble or None,
                }
                for entry in self.entries
            ],
            "unfinished": self.unfinished,
        }
        return json.dumps(document, indent=1) + "\n"


def listing(path: "str | os.PathLike[str]") -> Listing | None:
    """The steps of a root, or the items of a step that has several; None where one tree is all there is.

    Raises:
        CheckpointError: the folder is no checkpoint.
    """
    where = local(path)
    if not where.is_dir():
        return None
    match found := place(where):
        case Root():
            entries = tuple(_entry(number, folder) for number, folder in found.steps.items())
            return Listing(found.path, entries, found.unfinished)
        case Step() if len(found.items) > 1:
            return Listing(found.path, (_entry(None, found.path),))
        case _:
            return None


def _entry(number: int | None, path: Path) -> Entry:
    try:
        found = place(path)
        told = _told(path)
    except CheckpointError as error:
        return Entry(number, path, trouble=str(error))
    items, others = (tuple(found.items), found.others) if isinstance(found, Step) else ((), ())
    trouble = "" if isinstance(found, Step | Tree) else "it is a step that has steps"
    saved = told.get("commit_timestamp_nsecs")
    return Entry(
        step=number,
        path=path,
        items=items,
        others=others,
        saved=_moment(saved) if type(saved) is int else None,
        custom_metadata=told.get("custom_metadata") or None,
        trouble=trouble,
    )


def _told(path: Path) -> dict[str, Any]:
    """What the checkpoint says of itself; older versions of Orbax, and files, say nothing."""
    file = path / "_CHECKPOINT_METADATA"
    return read_json(file) if os.path.lexists(file) else {}


def _moment(nanoseconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(0, UTC) + timedelta(seconds=nanoseconds // 10**9)
    except OverflowError:
        return None


def _time(moment: datetime | None) -> str:
    return "" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _items(entry: Entry) -> str:
    if entry.trouble:
        return f"cannot be read: {escape(entry.trouble)}"
    if not entry.items:
        return "one tree"
    named = ", ".join(map(display_name, entry.items))
    return f"{named} (and {', '.join(map(display_name, entry.others))}, no tree)" if entry.others else named
