"""The JSON that Orbax keeps beside a tree's arrays: paths, kinds of values and keys, shardings."""

import os
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leafreport._checkpoint._files import damaged, read_json, short
from leafreport._checkpoint._skeleton import EMPTY

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
    document = read_json(file)
    tree = document.get("tree_metadata")
    if not isinstance(tree, dict):
        raise damaged(file, f'its "tree_metadata" is {short(tree)} where an object belongs')
    return [_saved(key, row, file) for key, row in tree.items()]


def _saved(key: str, row: Any, file: Path) -> Saved:
    try:
        path = row["key_metadata"]
        steps = tuple([step["key"] for step in path])
        kinds = [step["key_type"] for step in path]
        value_type = row["value_metadata"]["value_type"]
    except (TypeError, LookupError):
        raise damaged(file, f"the entry {key[:60]!r} has no path or no type") from None
    if not all(type(step) is str for step in steps) or not isinstance(value_type, str):
        raise damaged(file, f"the entry {key[:60]!r} has a path or a type that is no text")
    if not all(type(kind) is int and kind in (_IN_LIST, _IN_DICT) for kind in kinds):
        raise damaged(file, f"the entry {key[:60]!r} has a step that is neither of a list nor of a dict")
    # Orbax writes the path twice. Where the two differ, one of them was changed since.
    if key != str(steps):
        raise damaged(file, f"the entry {key[:60]!r} says that its path is {str(steps)[:60]}")
    return Saved(steps, tuple([kind == _IN_LIST for kind in kinds]), value_type)


def key_implementations(folder: Path) -> dict[str, str]:
    """By name, how typed PRNG keys are implemented. Their arrays alone look like any others.

    Raises:
        CheckpointError: a file of it is damaged.
    """
    found: dict[str, str] = {}
    for file in _process_files(folder / "array_metadatas"):
        rows = read_json(file).get("array_metadatas")
        if not isinstance(rows, list):
            raise damaged(file, f'its "array_metadatas" is {short(rows)} where a list belongs')
        for row in rows:
            try:
                row = row["array_metadata"]
                name, more = row["param_name"], row.get("ext_metadata") or {}
                kind = more.get("random_key_impl")
            except (TypeError, LookupError, AttributeError):
                raise damaged(file, f"an entry is {short(row)}, which tells of no array") from None
            if isinstance(name, str) and isinstance(kind, str):
                found[name] = kind
    return found


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
