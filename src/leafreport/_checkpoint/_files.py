"""Files of a checkpoint, opened with care: regular ones only, of a fitting size, JSON that says all once."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from leafreport._errors import CheckpointError, short

# Metadata of a million leaves is 200 MB. What is larger is none.
MOST_METADATA = 2**30
_SHORT = 200


def damaged(file: Path | str, why: str) -> CheckpointError:
    """The error for a file that does not hold what it should."""
    return CheckpointError(
        f"cannot read {shown(file)}: {why}. The checkpoint is damaged or was not copied whole: take another "
        "copy."
    )


def shown(file: Path | str) -> str:
    """A path as messages quote it, its middle cut out where it is very long."""
    text = str(file)
    return repr(text if len(text) <= 2 * _SHORT else f"{text[:_SHORT]} ... {text[-_SHORT:]}")


def opened(file: Path | str) -> BinaryIO:
    """A regular file, opened to read. A pipe or a device is never waited for.

    Raises:
        CheckpointError: it is no regular file, or cannot be opened.
    """
    descriptor, _ = _descriptor(file)
    return os.fdopen(descriptor, "rb")


_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def _descriptor(file: Path | str) -> tuple[int, int]:
    """A regular file's descriptor, and its size."""
    try:
        descriptor = os.open(file, _FLAGS)
    except (OSError, ValueError) as error:
        raise damaged(file, getattr(error, "strerror", None) or str(error)) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise damaged(file, "it is no regular file")
    return descriptor, status.st_size


def read_bytes(file: Path | str, most: int = MOST_METADATA) -> bytes:
    """All of a file that holds metadata.

    Raises:
        CheckpointError: it cannot be read, or holds more than `most` bytes.
    """
    # Of 10,000 small files half the time would be that of making stream objects.
    descriptor, size = _descriptor(file)
    try:
        if size > most:
            raise damaged(file, f"it has {size:,} bytes, more than the {most:,} that metadata can have")
        found = os.read(descriptor, size)
        while len(found) < size and (more := os.read(descriptor, size - len(found))):
            found += more
    except OSError as error:
        raise damaged(file, error.strerror or str(error)) from error
    finally:
        os.close(descriptor)
    return found


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object a file holds.

    Raises:
        CheckpointError: it cannot be read, or does not hold one JSON object that says everything once.
    """
    return parse(read_bytes(file), file)


_Pairs = list[tuple[str, Any]]


def once(pairs: _Pairs) -> dict[str, Any]:
    """The object of pairs that a JSON text gives, which are seen to have each key once.

    Raises:
        ValueError: a key is there twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return found


def parse(text: bytes | str, file: Path | str, make: Callable[[_Pairs], object] = once) -> dict[str, Any]:
    """The JSON object a text is.

    Args:
        text: what was read.
        file: where it is from, for the error.
        make: what becomes of each object in it, from its pairs.

    Raises:
        CheckpointError: it is not one JSON object, or says something twice.
    """
    try:
        found = json.loads(text, object_pairs_hook=make, parse_constant=_no_constant)
    except RecursionError:
        raise damaged(file, "its JSON is nested too deep") from None
    except ValueError as error:
        raise damaged(file, f"its JSON cannot be read ({error})") from None
    if not isinstance(found, dict):
        raise damaged(file, f"its JSON is {short(found)} where an object belongs")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}")
