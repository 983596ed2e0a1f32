"""Converted values as a file: NumPy's or safetensors', each leaf under its path joined by "/"."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path as File
from typing import Any

import jax
import numpy as np

from leafreport._errors import AlignmentError, FrameworkMissingError
from leafreport._flatten import report
from leafreport._leaf import Path

_FORMATS = "Give a file whose name ends in .npz or .safetensors."


def refuse_existing(name: str) -> None:
    """Raises where a file cannot be made: it is there already, or its name says no format.

    Raises:
        AlignmentError: so it is.
    """
    if File(name).suffix not in _WRITERS:
        raise AlignmentError(f"--convert {name!r}: what format is it to have? {_FORMATS}")
    if os.path.lexists(name):
        raise AlignmentError(f"--convert {name!r} is there already, and is left as it is. Give another name.")
    if not File(name).absolute().parent.is_dir():
        raise AlignmentError(f"--convert {name!r}: there is no folder {str(File(name).parent)!r}.")


def save(name: str, tree: Any) -> tuple[Path, ...]:
    """Writes a tree's arrays to a file, whole or not at all.

    Returns:
        The paths of the leaves that are no arrays (keys of random streams, Python values) and are left out.

    Raises:
        AlignmentError: two leaves have one name, or the format cannot hold a leaf or be written.
        FrameworkMissingError: safetensors is not installed.
    """
    held: dict[str, np.ndarray] = {}
    left_out: list[Path] = []
    for leaf, value in zip(report(tree), jax.tree_util.tree_leaves(tree), strict=True):
        if leaf.kind != "array":
            left_out.append(leaf.path)
            continue
        if leaf.name in held:
            raise AlignmentError(f"two leaves are called {leaf.name!r}: a file holds one of each name.")
        held[leaf.name] = np.asarray(value)
    refuse_existing(name)
    folder = File(name).absolute().parent
    try:
        handle, place = tempfile.mkstemp(dir=folder, prefix=f".{File(name).name}-")
        os.close(handle)
        try:
            _WRITERS[File(name).suffix](place, held)
            File(place).chmod(0o666 & ~_umask())
            File(place).replace(name)
        finally:
            File(place).unlink(missing_ok=True)
    except OSError as error:
        raise AlignmentError(f"--convert {name!r} cannot be written: {error.strerror or error}.") from error
    return tuple(left_out)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _npz(place: str, held: dict[str, np.ndarray]) -> None:
    for name, array in held.items():
        if array.dtype.kind == "V" or array.dtype.isbuiltin != 1:
            raise AlignmentError(
                f"{name!r} is {array.dtype}, which NumPy's files do not hold: they would give it back as "
                "bytes. Write .safetensors."
            )
    whole: dict[str, Any] = dict(held)
    with File(place).open("wb") as file:
        np.savez(file, **whole)


def _safetensors(place: str, held: dict[str, np.ndarray]) -> None:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import save_file
    except ImportError as error:
        raise FrameworkMissingError(
            f".safetensors needs safetensors, which cannot be imported ({error}). Install it: pip install "
            "'leafreport[safetensors]'"
        ) from error
    try:
        # What is contiguous is left as it is: NumPy would give an array without axes one.
        save_file({n: a if a.flags.c_contiguous else np.ascontiguousarray(a) for n, a in held.items()}, place)
    except SafetensorError as error:
        dtypes = ", ".join(sorted({str(array.dtype) for array in held.values()}))
        raise AlignmentError(f"safetensors does not hold these arrays ({dtypes}): {error}.") from error


_WRITERS: dict[str, Callable[[str, dict[str, np.ndarray]], None]] = {
    ".npz": _npz,
    ".safetensors": _safetensors,
}
