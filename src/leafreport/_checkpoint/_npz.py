"""NumPy's `.npz`: the names in the archive, and the header of each array in it."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy

from leafreport._checkpoint._files import damaged, opened
from leafreport._checkpoint._skeleton import End, columns_of
from leafreport._checkpoint._zarr import dims
from leafreport._columns import Columns
from leafreport._leaf import Spec

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def npz(file: Path) -> Columns:
    """The columns of an archive: a dict of its arrays by name, as `numpy.load` gives it.

    Raises:
        CheckpointError: the archive, or the header of an array in it, is damaged.
    """
    return columns_of(_ends(file), lambda why: damaged(file, why))


def _ends(file: Path) -> Iterator[End]:
    with opened(file) as stream:
        try:
            archive = ZipFile(stream)
        except Exception as error:
            raise damaged(file, f"it is no archive ({error})") from error
        with archive:
            for member in archive.infolist():
                if not member.is_dir():
                    yield _end(archive, member, file)


def _end(archive: ZipFile, member: ZipInfo, file: Path) -> End:
    name = member.filename
    try:
        with archive.open(member) as stream:
            version = npy.read_magic(stream)
            shape, _, dtype = _HEADERS[version](stream)
            start = stream.tell()
    except Exception as error:
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise damaged(file, f"{name[:60]!r} in it is no array ({why})") from error
    spec = _spec(dims(shape, "shape", file), dtype)
    # Objects are pickled, and as long as they are.
    if not dtype.hasobject and start + (spec.nbytes or 0) != member.file_size:
        raise damaged(file, f"{name[:60]!r} in it has {member.file_size:,} bytes, and is said to be {spec}")
    return End((name.removesuffix(".npy"),), (False,), spec, member.compress_size)


def _spec(shape: tuple[int, ...], dtype: "np.dtype[Any]") -> Spec:
    size = math.prod(shape)
    return Spec(
        kind="array",
        dtype=str(dtype),
        shape=shape,
        size=size,
        nbytes=size * dtype.itemsize,
        type="numpy.ndarray",
        abstract=True,
    )
