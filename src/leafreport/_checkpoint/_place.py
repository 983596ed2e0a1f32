"""What a path leads to: a root of steps, a step of items, one tree, or one file. Looks at names alone."""

import operator
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from leafreport._checkpoint._files import shown
from leafreport._errors import CheckpointError, nearest

# What Orbax adds to the name of a save that is under way; older versions added a number too.
_UNFINISHED = ".orbax-checkpoint-tmp"
# A step's folder, and its file where Flax saved without Orbax: a prefix of anyone's choice, and a number.
_STEP = re.compile(r"(?:.*_)?([0-9]{1,18})", re.DOTALL)
_FLAX = re.compile(r"checkpoint_([0-9]{1,18})")
# A folder that one tree was saved to has some of these, however much of it is gone.
_OF_A_TREE = ("_METADATA", "manifest.ocdbt", "_sharding", "array_metadatas")
# All that older versions of Orbax wrote of a tree of small arrays.
AGGREGATE = "checkpoint"
_OF_A_STEP = ("_CHECKPOINT_METADATA", "orbax.checkpoint")
INDEX = "model.safetensors.index.json"
_MOST_LISTED = 10


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree: a folder that Orbax made, or a file."""

    path: Path


@dataclass(frozen=True, slots=True)
class Step:
    """Several trees saved together, or one under a name.

    Attributes:
        path: its folder.
        items: the trees in it, by name.
        others: names of what else was saved with them and is no tree.
    """

    path: Path
    items: dict[str, Path]
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Root:
    """A folder of steps.

    Attributes:
        path: the folder.
        steps: each step's folder (or file), by number, in order.
        unfinished: names of saves that were never completed.
    """

    path: Path
    steps: dict[int, Path]
    unfinished: tuple[str, ...] = ()


Place = Tree | Step | Root


def local(path: "str | os.PathLike[str]") -> Path:
    """The absolute path of what a user typed: relative, of `~`, or a `file://` address.

    Raises:
        CheckpointError: it is an address of another kind, or no path.
    """
    text = os.fsdecode(path)
    if "://" in text:
        address = urlsplit(text)
        if address.scheme != "file" or address.netloc not in ("", "localhost"):
            raise CheckpointError(
                f"{shown(text)} is no local path, and no other can be read. Copy the checkpoint here first."
            )
        text = unquote(address.path)
    if not text or "\0" in text:
        raise CheckpointError(f"{shown(text)} is no path. Give the folder or file of a checkpoint.")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # no such user
        raise CheckpointError(f"cannot find {shown(text)}: {error}") from error


def place(path: Path) -> Place:
    """What is at a path.

    Raises:
        CheckpointError: nothing, an unfinished save, or nothing that was ever saved.
    """
    try:
        is_folder = path.is_dir()
        is_there = is_folder or path.exists()
    except OSError as error:
        raise CheckpointError(f"cannot read {shown(path)}: {error.strerror}") from error
    if not is_there:
        raise CheckpointError(_missing(path))
    if _UNFINISHED in path.name:
        raise CheckpointError(
            f"{shown(path)} is a save that was never completed: its name ends in {_UNFINISHED}. Nothing in "
            "it can be trusted; give the name of a save that was completed, and delete this one."
        )
    return _place_of(_Folder(path)) if is_folder else Tree(path)


def _place_of(folder: "_Folder") -> Place:
    if folder.is_tree():
        return Tree(folder.path)
    items = {name: inner.path for name, inner in folder.inner() if inner.is_tree()}
    if not folder.is_step and all(map(_STEP.fullmatch, items)) and (root := _root(folder)):
        return root
    if items:
        return Step(folder.path, items, tuple(name for name in folder.folders if name not in items))
    if folder.holds(INDEX):
        return Tree(folder.path / INDEX)
    files = [name for name in folder.names if name.endswith((".safetensors", ".npz"))]
    if len(files) > 1:
        raise CheckpointError(
            f"{shown(folder.path)} holds several files: {_listed(files)}. Give one of them."
        )
    if files:
        return Tree(folder.path / files[0])
    raise CheckpointError(_ordinary(folder))


def _root(folder: "_Folder") -> Root | None:
    """The steps in a folder; None where there are none, finished or not."""
    steps = folder.steps()
    unfinished = tuple(name for name in folder.names if _UNFINISHED in name)
    if unfinished and not steps:
        raise CheckpointError(
            f"{shown(folder.path)} holds no step, only what was never completed: {_listed(unfinished)}. "
            "Nothing in it can be trusted."
        )
    return Root(folder.path, steps, unfinished) if steps else None


class _Folder:
    """The names in a folder, read once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with os.scandir(path) as entries:
                found = sorted((entry.name, entry.is_dir()) for entry in entries)
        except OSError as error:
            raise CheckpointError(f"cannot read the folder {shown(path)}: {error.strerror}") from error
        self.names = [name for name, _ in found]
        self.folders = [name for name, is_folder in found if is_folder and _UNFINISHED not in name]
        self.is_step = any(name in self.names for name in _OF_A_STEP)

    def inner(self) -> "Iterator[tuple[str, _Folder]]":
        """The folders in it that may be read: an ordinary folder can have others."""
        for name in self.folders:
            try:
                found = _Folder(self.path / name)
            except CheckpointError:
                continue
            yield name, found

    def holds(self, name: str) -> bool:
        return name in self.names

    def is_tree(self) -> bool:
        return any(name in self.names for name in _OF_A_TREE) or (
            AGGREGATE in self.names and AGGREGATE not in self.folders
        )

    def is_saved(self) -> bool:
        """Whether a save made it, of one tree or of several."""
        return self.is_tree() or self.is_step or any(inner.is_tree() for _, inner in self.inner())

    def steps(self) -> dict[int, Path]:
        """By number, in order, what was saved under it."""
        found: dict[int, Path] = {}
        saved = [name for name, inner in self.inner() if _STEP.fullmatch(name) and inner.is_saved()]
        files = [name for name in self.names if name not in self.folders and _FLAX.fullmatch(name)]
        for name in saved + files:
            match = _STEP.fullmatch(name)
            number = int(match[1]) if match else 0
            if number in found:
                raise CheckpointError(
                    f"{shown(self.path)} has step {number} twice: {found[number].name} and {name}. Give the "
                    "folder of the one you mean."
                )
            found[number] = self.path / name
        return dict(sorted(found.items()))


def chosen_step(root: Root, step: int | None) -> Path:
    """A root's step, or its latest.

    Raises:
        CheckpointError: there is no such step.
    """
    if step is None:
        return next(reversed(root.steps.values()))
    try:
        step = operator.index(step)
    except TypeError:
        raise CheckpointError(f"step={step!r:.60} is no whole number, as every step's is.") from None
    if step not in root.steps:
        close = min(root.steps, key=lambda there: abs(there - step))
        raise CheckpointError(
            f"{shown(root.path)} has no step {step}. Its steps are {_listed(map(str, root.steps))}; the "
            f"nearest is {close}."
        )
    return root.steps[step]


def chosen_item(found: Step, item: str | None) -> Path:
    """A step's item, or its only one.

    Raises:
        CheckpointError: there is no such item, or several and none was named.
    """
    names = _listed(found.items)
    first = next(iter(found.items))
    if item is None:
        if len(found.items) > 1:
            raise CheckpointError(
                f"{shown(found.path)} has several items: {names}. Give one: item={first!r}, or the folder "
                f"{shown(found.path / first)}."
            )
        return found.items[first]
    if item not in found.items:
        also = f" {item!r} is there and is no tree." if item in found.others else ""
        raise CheckpointError(
            f"{shown(found.path)} has no item {item[:200]!r}.{also}{nearest(item, found.items)} "
            f"Its items: {names}."
        )
    return found.items[item]


def _missing(path: Path) -> str:
    unfinished = path.with_name(path.name + _UNFINISHED) if path.name else path
    if os.path.lexists(unfinished) and unfinished != path:
        return (
            f"there is no {shown(path)}, only {unfinished.name}: a save that was never completed. Nothing in "
            "it can be trusted."
        )
    above = path.parent
    while not above.is_dir() and above != above.parent:
        above = above.parent
    try:
        names = [entry.name for entry in os.scandir(above)]
    except OSError:
        names = []
    below = path.relative_to(above).parts
    close = nearest(below[0], names[:1000]) if below else ""
    where = "" if above == path.parent else f" {shown(above)} is there, and no {below[0][:200]!r} in it."
    return f"there is no {shown(path)}.{where}{close}"


def _ordinary(folder: _Folder) -> str:
    inside = f"holds {_listed(folder.names)}" if folder.names else "is empty"
    if folder.is_step:
        return (
            f"{shown(folder.path)} is a checkpoint in which no item is a tree: it {inside}. An item that "
            "is a tree has _METADATA."
        )
    return (
        f"{shown(folder.path)} is no checkpoint: it {inside}. A checkpoint's folder has _METADATA, or steps "
        "or items that have it."
    )


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    text = ", ".join(name[:80] for name in every[:_MOST_LISTED])
    return text if len(every) <= _MOST_LISTED else f"{text} and {len(every) - _MOST_LISTED:,} more"
