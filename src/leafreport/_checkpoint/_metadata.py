"""The JSON that Orbax keeps beside a tree's arrays: paths, kinds of values and keys, shardings."""

import os
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from leafreport._checkpoint._files import damaged, once, parse, read_bytes, read_json
from leafreport._checkpoint._skeleton import EMPTY
from leafreport._errors import short

_IN_LIST, _IN_DICT = 1, 2


@dataclass(frozen=True, slots=True)
class Saved:
    """One leaf, or one empty container, as `_METADATA` tells of it.

    Attributes:
        steps: its path.
        in_list: for each step whether it is a place in a list; else it is a key of a dict.
        value_type: `jax.Array`, `np.ndarray`, `scalar`, `string`, `None`, `Dict`..., or a handler's own word.
    """

    steps: tuple[str, ...]
    in_list: tuple[bool, ...]
    value_type: str

    @property
    def name(self) -> str:
        """What the store calls it. Two leaves can have one name."""
        return ".".join(self.steps)

    @property
    def is_empty(self) -> bool:
        """Whether it is an empty container: then no store has it."""
        return self.value_type in EMPTY


def saved(folder: Path) -> list[Saved]:
    """Every leaf and empty container of the tree in a folder.

    Raises:
        CheckpointError: `_METADATA` is damaged.
    """
    file = folder / "_METADATA"
    tree = parse(read_bytes(file), file, _compact).get("tree_metadata")
    if not isinstance(tree, dict):
        raise damaged(file, f'its "tree_metadata" is {short(tree)} where an object belongs')
    for key, row in tree.items():
        if not isinstance(row, Saved):
            why = row if isinstance(row, _Wrong) else "has no path or no type"
            raise damaged(file, f"the entry {key[:60]!r} {why}")
        # Orbax writes the path twice. Where the two differ, one of them was changed since.
        if key != str(row.steps):
            raise damaged(file, f"the entry {key[:60]!r} says that its path is {str(row.steps)[:60]}")
    return list(tree.values())


class _Wrong(str):
    """What is wrong with an entry, in its place."""

    __slots__ = ()


def _compact(pairs: list[tuple[str, Any]]) -> Any:
    """An object of `_METADATA` as soon as it is read: an entry as a record, a step of its path as a tuple.

    A leaf has eight objects there. Kept as dicts until the end of the file they would set off the garbage
    collector, whose work is with all that lives: it would take as long as all the rest.
    """
    found = once(pairs)
    if "key_metadata" in found:
        return _entry(found)
    if "key" in found and "key_type" in found:
        return found["key"], found["key_type"]
    return found


def _entry(found: dict[str, Any]) -> "Saved | _Wrong":
    try:
        path, value_type = found["key_metadata"], found["value_metadata"]["value_type"]
        steps, kinds = zip(*path, strict=True) if path else ((), ())
    except (TypeError, LookupError, ValueError):
        return _Wrong("has no path or no type")
    if not set(map(type, steps)) <= {str} or not isinstance(value_type, str):
        return _Wrong("has a path or a type that is no text")
    if not set(map(type, kinds)) <= {int} or not set(kinds) <= {_IN_LIST, _IN_DICT}:
        return _Wrong("has a step that is neither of a list nor of a dict")
    return Saved(steps, _in_list(kinds), value_type)


@lru_cache(maxsize=4096)
def _in_list(kinds: tuple[int, ...]) -> tuple[bool, ...]:
    return tuple([kind == _IN_LIST for kind in kinds])


def key_implementations(folder: Path) -> dict[str, str]:
    """By name, how typed PRNG keys are implemented. Their arrays alone look like any others.

    Raises:
        CheckpointError: a file of it is damaged.
    """
    found: dict[str, str] = {}
    for file in _process_files(folder / "array_metadatas"):
        rows = parse(read_bytes(file), file, _named_key).get("array_metadatas")
        if not isinstance(rows, list):
            raise damaged(file, f'its "array_metadatas" is {short(rows)} where a list belongs')
        for row in rows:
            if not isinstance(row, tuple):
                raise damaged(file, f"an entry is {short(row)}, which tells of no array")
            name, kind = row
            if isinstance(name, str) and isinstance(kind, str):
                found[name] = kind
    return found


def _named_key(pairs: list[tuple[str, Any]]) -> Any:
    """An entry of `array_metadatas` as soon as it is read: the name, and the implementation of a key."""
    found = once(pairs)
    if "param_name" in found:
        more = found.get("ext_metadata")
        return found["param_name"], more.get("random_key_impl") if isinstance(more, dict) else None
    return found.get("array_metadata", found)


def _process_files(folder: Path) -> Iterator[Path]:
    """One file for each process that saved; older versions of Orbax wrote none."""
    if not os.path.lexists(folder):
        return
    try:
        yield from sorted(file for file in folder.iterdir() if file.name.startswith("process_"))
    except OSError as error:
        raise damaged(folder, error.strerror or str(error)) from error


def shardings(folder: Path) -> dict[str, str]:
    """By name, how arrays lay on devices, each itself JSON. NumPy's are not among them.

    Raises:
        CheckpointError: `_sharding` is damaged.
    """
    file = folder / "_sharding"
    if not os.path.lexists(file):
        return {}
    found: dict[str, str] = {}
    for key, text in read_json(file).items():
        try:
            name = b64decode(key, validate=True).decode()
        except ValueError:
            raise damaged(file, f"the key {key[:60]!r} is no name in base64") from None
        if not isinstance(text, str):
            raise damaged(file, f"the sharding of {name[:60]!r} is {short(text)} where text belongs")
        found[name] = text
    return found
