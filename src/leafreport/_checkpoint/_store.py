"""What is known of each array in a store, and how many bytes its values take. No value is asked for.

Orbax keeps a tree's arrays in an OCDBT database, which TensorStore reads, or as one folder an array. Both
give one table here. Of OCDBT the nodes of the tree of keys are read: they say where each value is, and how
long.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from leafreport._checkpoint._files import damaged, opened, read_bytes
from leafreport._checkpoint._zarr import zarr_array
from leafreport._errors import CheckpointError, FrameworkMissingError

if TYPE_CHECKING:
    pass

# What is known of one array takes 200 to 1,000 bytes.
_MOST_ARRAY_METADATA = 2**20
# How many values kept outside the tree of keys are asked for at a time.
_AT_ONCE = 1000
_METADATA_KEY = re.compile(r"(.*)/(\.zarray|zarr\.json)", re.DOTALL)
# By what describes the array: how its chunks are called after its name.
_CHUNK_KEYS = {
    ".zarray": re.compile(r"(.*)/[0-9]+(?:\.[0-9]+)*", re.DOTALL),
    "zarr.json": re.compile(r"(.*)/c(?:/[0-9]+)*", re.DOTALL),
}
_LOCATION = re.compile(r"(?:btreenode|value):([^:]*):([^:]*):([0-9]{1,18}):([0-9]{1,18})")


@dataclass(slots=True)
class Stored:
    """One array in a store.

    Attributes:
        text: its metadata, as JSON; None until they are read.
        nbytes: what its values take, compressed as they are.
    """

    text: bytes | None = None
    nbytes: int = 0


# Only a name with one of these can lead anywhere but down.
_SUSPECT = re.compile(r"\A/|\.\.|[\0\\:]")


def leads_out(name: str) -> bool:
    """Whether a name that a file gives is of something outside the folder it is looked for in."""
    if _SUSPECT.search(name) is None:
        return False
    return "\0" in name or PurePath(name).is_absolute() or ".." in PurePath(name).parts


def flat_store(folder: Path, names: Iterable[str]) -> dict[str, Stored]:
    """What is known of the named arrays, each in a folder of its name. Names without a folder are left out.

    Raises:
        CheckpointError: a name leads out of the checkpoint, or a file cannot be read.
    """
    found: dict[str, Stored] = {}
    forms = list(_CHUNK_KEYS)
    for name in names:
        if leads_out(name):
            raise damaged(folder / "_METADATA", f"the name {name[:60]!r} leads out of the checkpoint")
        inner = f"{folder}/{name}"
        for metadata in forms:
            text = _read_if_there(f"{inner}/{metadata}")
            if text is not None:
                found[name] = Stored(text, _nbytes(inner, metadata, text))
                # One save has one form: the others are looked for after it.
                forms.sort(key=metadata.__ne__)
                break
    return found


def _read_if_there(file: str) -> bytes | None:
    try:
        return read_bytes(file, _MOST_ARRAY_METADATA)
    except CheckpointError as error:
        # A lone surrogate is in no name that a file system takes.
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError | UnicodeEncodeError):
            return None
        raise


def _nbytes(folder: str, metadata: str, text: bytes) -> int:
    """What the chunks of an array take."""
    chunk = _only_chunk(text) if metadata == ".zarray" else None
    if chunk is not None:
        # To ask for the one file there is takes half the time of listing its folder.
        with suppress(OSError):
            return os.stat(f"{folder}/{chunk}").st_size  # noqa: PTH116  # as below
    return sum(_file_sizes(folder, metadata))


@lru_cache(maxsize=4096)
def _only_chunk(text: bytes) -> str | None:
    """The name of the one chunk of a version 2 array; None where there are several, or it is no array."""
    try:
        array = zarr_array(text, "")
    except CheckpointError:
        return None
    if array.chunks is None or any(dim > size for dim, size in zip(array.shape, array.chunks, strict=True)):
        return None
    return ".".join("0" * len(array.shape)) or "0"


def _file_sizes(folder: str, metadata: str) -> Iterator[int]:
    """The sizes of the files of an array's chunks: version 2 has them side by side, version 3 under `c`."""
    nested = metadata == "zarr.json"
    todo = [f"{folder}/c"] if nested else [folder]
    while todo:
        place = todo.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if nested and entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    elif entry.is_file() and _CHUNK_KEYS[".zarray"].fullmatch(f"/{entry.name}"):
                        yield entry.stat().st_size
        except NotADirectoryError:  # of an array without dimensions the one chunk is the file `c`
            yield os.stat(place).st_size  # noqa: PTH116  # 20,000 paths are made faster as text
        except OSError:  # values that are gone are no part of what is asked here
            continue


def ocdbt_store(folder: Path) -> dict[str, Stored]:
    """What is known of every array in the OCDBT database that a folder holds, by name.

    Raises:
        CheckpointError: the database is damaged, or refers to files outside the folder.
        FrameworkMissingError: TensorStore is not installed.
    """
    return _Ocdbt(folder).arrays()


class _Ocdbt:
    """Walks the tree of keys of a database's newest version."""

    def __init__(self, folder: Path) -> None:
        try:
            import tensorstore
        except ImportError as error:
            raise FrameworkMissingError(
                f"{str(folder)!r} keeps its arrays in an OCDBT database, which needs tensorstore, and that "
                f"cannot be imported ({error}). Install it: pip install 'leafreport[orbax]'"
            ) from error
        self.folder = folder
        self.manifest = folder / "manifest.ocdbt"
        self.dump = tensorstore.ocdbt.dump
        self.files: set[str] = set()
        opened(self.manifest).close()  # TensorStore would wait for a pipe
        spec = {"driver": "file", "path": f"{folder}/"}
        self.base: tensorstore.KvStore = self.told(tensorstore.KvStore.open(spec))

    def arrays(self) -> dict[str, Stored]:
        arrays: dict[str, Stored] = {}
        described: dict[str, str] = {}
        # "a/c/0" is a chunk of "a" or of "a/c": what describes the array, which comes later, tells.
        nbytes: dict[str, dict[str, int]] = {metadata: {} for metadata in _CHUNK_KEYS}
        outside: list[tuple[Stored, str]] = []
        for key, value in self.entries():
            inline = value.get("inline_value")
            if metadata := _METADATA_KEY.fullmatch(key):
                arrays[metadata[1]] = stored = Stored(inline)
                described[metadata[1]] = metadata[2]
                if inline is None:
                    outside.append((stored, value["indirect_value"]))
                continue
            length = self.where(value["indirect_value"]) if inline is None else len(inline)
            for form, pattern in _CHUNK_KEYS.items():
                if chunk := pattern.fullmatch(key):
                    nbytes[form][chunk[1]] = nbytes[form].get(chunk[1], 0) + length
        self.fill(iter(outside))
        for name, stored in arrays.items():
            stored.nbytes = nbytes[described[name]].get(name, 0)
        return arrays

    def entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every key, and where its value is, or the value where it is in the tree itself."""
        versions = self.told(self.dump(self.base))["versions"]
        if not versions or "location" not in (root := versions[-1]["root"]):
            return
        todo = [(root["location"], b"", versions[-1]["root_height"])]
        seen = {root["location"]}
        while todo:
            location, prefix, height = todo.pop()
            self.where(location)
            node = self.told(self.dump(self.base, location))
            if node["height"] != height:
                raise damaged(self.manifest, "its tree of keys has a branch of another height than it says")
            for entry in node["entries"]:
                if height == 0:
                    yield (prefix + entry["key"]).decode("utf-8", "surrogateescape"), entry
                    continue
                if entry["location"] in seen:  # a branch that is its own twig would never end
                    raise damaged(self.manifest, "its tree of keys has one branch twice")
                seen.add(entry["location"])
                todo.append((entry["location"], prefix + entry["subtree_common_prefix"], height - 1))

    def fill(self, outside: Iterator[tuple[Stored, str]]) -> None:
        """Reads metadata that are too long to be in the tree itself."""
        while some := list(islice(outside, _AT_ONCE)):
            for _, location in some:
                if self.where(location) > _MOST_ARRAY_METADATA:
                    raise damaged(self.manifest, "it holds metadata of an array that are no such thing")
            asked = [self.dump(self.base, location) for _, location in some]
            for (stored, _), answer in zip(some, asked, strict=True):
                stored.text = self.told(answer)

    def where(self, location: str) -> int:
        """How long what is at a location is. Its file is seen to be a regular one, inside the checkpoint."""
        found = _LOCATION.fullmatch(location)
        if found is None:
            raise damaged(self.manifest, f"it refers to {location[:60]!r}, which is no place in a file")
        name = found[1] + found[2]
        if name not in self.files:
            path = unquote(name)
            if leads_out(path):
                raise damaged(self.manifest, f"it refers to {path[:60]!r}, outside the checkpoint")
            opened(self.folder / path).close()
            self.files.add(name)
        return int(found[4])

    def told(self, future: Any) -> Any:
        """What TensorStore answers; its errors, of many classes, as one."""
        try:
            return future.result()
        except Exception as error:
            text = str(error).partition(" [")[0].partition("\n")[0]
            raise damaged(self.manifest, f"TensorStore says: {text[:300]}") from error


def has_database(folder: Path) -> bool:
    """Whether a folder holds an OCDBT database."""
    return os.path.lexists(folder / "manifest.ocdbt")


def not_there(folder: Path, name: str) -> CheckpointError:
    """The error for an array that a tree has and its store has not."""
    place = "manifest.ocdbt" if has_database(folder) else f"{name}/.zarray or {name}/zarr.json"
    return damaged(
        folder / "_METADATA", f"it names the array {name[:200]!r}, and {place[:300]} has no such array"
    )
