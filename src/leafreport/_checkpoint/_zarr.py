"""What a zarr array's own metadata say, in version 2 and 3: shape, dtype and chunks. Looks at no value."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leafreport._checkpoint._files import damaged, parse
from leafreport._errors import short
from leafreport._leaf import Spec

# Bytes of one element in memory, as NumPy and ml_dtypes have it: of narrow ones a byte, whatever the bits.
ITEMSIZES = {
    "bool": 1,
    **dict.fromkeys(("int2", "uint2", "int4", "uint4", "int8", "uint8"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
    **dict.fromkeys(("float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn"), 1),
    **dict.fromkeys(("float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn"), 1),
    **dict.fromkeys(("float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"), 1),
}
_FAMILIES = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex"}
_TYPESTR = re.compile(r"[<>|]([biufc])([0-9]{1,2})")
# NumPy's most. Beyond it nothing can be an array.
MOST_DIMS = 64


@dataclass(frozen=True, slots=True)
class Array:
    """What is stored of one array.

    Attributes:
        dtype: as NumPy and ml_dtypes name it.
        shape: of the whole array, whatever one process or device held of it.
        chunks: the block that is read and decoded at once.
    """

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...] | None = None

    @property
    def spec(self) -> Spec:
        """The spec of the array, of nothing but what is stored."""
        return array_spec(self.dtype, self.shape, self.chunks)


def array_spec(dtype: str, shape: tuple[int, ...], chunks: tuple[int, ...] | None = None) -> Spec:
    """The spec of an array that is nowhere but on disk."""
    size = 1
    for dim in shape:
        size *= dim
    return Spec(
        kind="array",
        dtype=dtype,
        shape=shape,
        size=size,
        nbytes=size * ITEMSIZES[dtype],
        type="numpy.ndarray",
        abstract=True,
        chunk_shape=chunks,
    )


def zarr_array(text: bytes, file: Path | str) -> Array:
    """What a `.zarray` or a `zarr.json` says.

    Args:
        text: what was read.
        file: where it is from, for the error.

    Raises:
        CheckpointError: it does not describe an array.
    """
    found = parse(text, file)
    match found.get("zarr_format"):
        case 2:
            dtype, chunks = _dtype_2(found.get("dtype"), file), found.get("chunks")
        case 3:
            dtype, chunks = known_dtype(found.get("data_type"), file), _chunks_3(found)
        case other:
            raise damaged(file, f'its "zarr_format" is {short(other)}, this version reads 2 and 3')
    shape = dims(found.get("shape"), "shape", file)
    read = dims(chunks, "chunk shape", file)
    if len(read) != len(shape):
        raise damaged(file, f"its chunks have {len(read)} dimensions, its shape has {len(shape)}")
    return Array(dtype, shape, read)


def _dtype_2(name: Any, file: Path | str) -> str:
    found = _TYPESTR.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        return known_dtype(name, file)
    family, nbytes = _FAMILIES[found[1]], int(found[2])
    return known_dtype(family if family == "bool" else f"{family}{8 * nbytes}", file)


def known_dtype(name: Any, file: Path | str) -> str:
    """The name of a dtype, seen to be one.

    Raises:
        CheckpointError: there is no such dtype.
    """
    if not isinstance(name, str) or name not in ITEMSIZES:
        raise damaged(file, f"its dtype is {short(name)}, which is none that JAX has")
    return name


def dims(value: Any, what: str, file: Path | str) -> tuple[int, ...]:
    """A shape, seen to be one.

    Raises:
        CheckpointError: it is no list of sizes.
    """
    if (
        not isinstance(value, list | tuple)
        or len(value) > MOST_DIMS
        or not all(type(size) is int and 0 <= size < 2**63 for size in value)
    ):
        raise damaged(file, f"its {what} is {short(value)}, which is no list of sizes")
    return tuple(value)


def _chunks_3(found: dict[str, Any]) -> Any:
    """The chunks that are read: where several are packed into one value, the small ones."""
    try:
        codec = found["codecs"][0]
        if codec["name"] == "sharding_indexed":
            return codec["configuration"]["chunk_shape"]
    except (LookupError, TypeError):
        pass
    try:
        return found["chunk_grid"]["configuration"]["chunk_shape"]
    except (LookupError, TypeError):
        return None
