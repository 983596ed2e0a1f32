"""Flax's msgpack files, and the aggregate `checkpoint` file of older versions of Orbax.

Names and values alternate in one stream: each value passes through memory once, and none is kept.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leafreport._checkpoint._files import damaged, opened
from leafreport._checkpoint._skeleton import EMPTY, End, columns_of
from leafreport._checkpoint._store import Stored, flat_store, has_database, not_there, ocdbt_store
from leafreport._checkpoint._zarr import array_spec, dims, known_dtype, zarr_array
from leafreport._columns import Columns
from leafreport._errors import FrameworkMissingError, short
from leafreport._leaf import Spec

_ARRAY, _COMPLEX, _NUMPY_SCALAR = 1, 2, 3
# An array over 1 GiB is kept in pieces, under this name.
_IN_PIECES = "__msgpack_chunked_array__"
# What an aggregate file has in place of an array that is in the store beside it.
_ELSEWHERE = "PLACEHOLDER://"
_HEADER_NBYTES = 1024


@dataclass(frozen=True, slots=True)
class _Packed:
    """One value: what it is, and how long it was."""

    spec: Spec
    nbytes: int


def msgpack(file: Path) -> Columns:
    """The columns of the tree in a file: Flax makes dicts of lists, tuples and classes when it saves.

    Raises:
        CheckpointError: the file is damaged, or is no tree of Flax.
        FrameworkMissingError: msgpack is not installed.
    """
    tree = _unpacked(file)
    elsewhere = [text.removeprefix(_ELSEWHERE) for _, _, text in _leaves(tree) if _is_elsewhere(text)]
    store: dict[str, Stored] = {}
    if elsewhere:
        store = ocdbt_store(file.parent) if has_database(file.parent) else flat_store(file.parent, elsewhere)
    ends = (_end(steps, in_list, value, file, store) for steps, in_list, value in _leaves(tree))
    return columns_of(ends, lambda why: damaged(file, why))


def _is_elsewhere(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_ELSEWHERE)


def _unpacked(file: Path) -> Any:
    try:
        from msgpack import Unpacker
    except ImportError as error:
        raise FrameworkMissingError(
            f"{str(file)!r} is a msgpack file, which needs msgpack, and that cannot be imported ({error}). "
            "Install it: pip install 'leafreport[orbax]'"
        ) from error
    with opened(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        unpacker = Unpacker(
            stream,
            ext_hook=lambda code, data: _extension(code, data, file),
            object_pairs_hook=_once,
            strict_map_key=False,
            max_buffer_size=max(size, 1),
        )
        try:
            found = unpacker.unpack()
            rest = size - unpacker.tell()
        except (ValueError, TypeError, RecursionError, MemoryError) as error:
            why = str(error) or type(error).__name__
            raise damaged(file, f"msgpack says: {why[:300]}") from error
        except Exception as error:
            raise damaged(file, f"it ends too early, or is no msgpack ({type(error).__name__})") from error
    if rest:
        raise damaged(file, f"{rest:,} bytes follow after the tree")
    if not isinstance(found, dict):
        raise damaged(file, f"it holds {short(found)}, which is no tree")
    return found


def _once(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    found = {str(key): value for key, value in pairs}
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _extension(code: int, data: bytes, file: Path) -> _Packed:
    """What one of Flax's own types stands for: an array begins with its shape and dtype."""
    from msgpack import Unpacker

    if code == _COMPLEX:
        return _Packed(Spec("scalar", "complex", type="complex", abstract=True), len(data))
    if code not in (_ARRAY, _NUMPY_SCALAR):
        raise ValueError(f"it holds a value of the type {code}, which Flax does not write")
    unpacker = Unpacker(strict_map_key=False, max_buffer_size=_HEADER_NBYTES)
    unpacker.feed(data[:_HEADER_NBYTES])
    if unpacker.read_array_header() != 3:
        raise ValueError("it holds an array that is no shape, dtype and values")
    shape, dtype = dims(unpacker.unpack(), "shape", file), unpacker.unpack()
    name = dtype.decode("ascii", "replace") if isinstance(dtype, bytes) else dtype
    spec = array_spec(known_dtype(name, file), shape)
    nbytes = spec.nbytes or 0
    # Before the values themselves msgpack says how many bytes they are, in one to five.
    if not 1 <= len(data) - unpacker.tell() - nbytes <= 5:
        raise ValueError(f"it holds {len(data):,} bytes for an array of {nbytes:,}")
    return _Packed(spec, nbytes)


_Found = tuple[tuple[str, ...], tuple[bool, ...], Any]


def _leaves(tree: Any) -> Iterator[_Found]:
    """Every value and every empty container, with its path."""
    todo: list[_Found] = [((), (), tree)]
    while todo:
        steps, in_list, found = todo.pop()
        if isinstance(found, dict) and found and _IN_PIECES not in found:
            todo += [((*steps, key), (*in_list, False), inner) for key, inner in found.items()]
        elif isinstance(found, list) and found:
            todo += [((*steps, str(i)), (*in_list, True), inner) for i, inner in enumerate(found)]
        else:
            yield steps, in_list, found


def _end(
    steps: tuple[str, ...], in_list: tuple[bool, ...], value: Any, file: Path, store: dict[str, Stored]
) -> End:
    match value:
        case _Packed():
            return End(steps, in_list, value.spec, value.nbytes)
        case None:
            return End(steps, in_list, EMPTY["None"])
        case []:
            return End(steps, in_list, EMPTY["List"])
        case dict() if not value:
            return End(steps, in_list, EMPTY["Dict"])
        case dict():
            return _whole(steps, in_list, value, file)
        case str() if _is_elsewhere(value):
            name = value.removeprefix(_ELSEWHERE)
            if name not in store or (text := store[name].text) is None:
                raise not_there(file.parent, name)
            return End(steps, in_list, zarr_array(text, file.parent / name).spec, store[name].nbytes)
        case bool() | int() | float():
            word = type(value).__name__
            return End(steps, in_list, Spec("scalar", word, type=word, abstract=True))
        case _:
            word = type(value).__name__
            return End(steps, in_list, Spec("object", word, type=word))


def _whole(steps: tuple[str, ...], in_list: tuple[bool, ...], value: dict[str, Any], file: Path) -> End:
    """The array of which the pieces are there."""
    shape, pieces = value.get("shape"), value.get("chunks")
    if not isinstance(shape, dict) or not isinstance(pieces, dict) or not pieces:
        raise damaged(file, f"the array {'/'.join(steps)[:60]!r} is in pieces and has no shape or no pieces")
    found = list(pieces.values())
    if not all(isinstance(piece, _Packed) for piece in found):
        raise damaged(file, f"the array {'/'.join(steps)[:60]!r} has a piece that is no array")
    spec = array_spec(found[0].spec.dtype, dims(list(shape.values()), "shape", file))
    return End(steps, in_list, spec, sum(piece.nbytes for piece in found))
