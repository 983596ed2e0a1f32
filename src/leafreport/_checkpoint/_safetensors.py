"""safetensors files, and the index of several: the headers alone, read by the format's own library."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leafreport._checkpoint._files import damaged, opened, read_json
from leafreport._checkpoint._skeleton import End, columns_of
from leafreport._checkpoint._store import leads_out
from leafreport._checkpoint._zarr import array_spec, dims
from leafreport._columns import Columns
from leafreport._errors import FrameworkMissingError, short

# The format's names: NumPy's, and the bits an element takes in the file.
_DTYPES = {
    "BOOL": ("bool", 8),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F4": ("float4_e2m1fn", 4),
    "F6_E2M3": ("float6_e2m3fn", 6),
    "F6_E3M2": ("float6_e3m2fn", 6),
    "I16": ("int16", 16),
    "U16": ("uint16", 16),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "I32": ("int32", 32),
    "U32": ("uint32", 32),
    "F32": ("float32", 32),
    "C64": ("complex64", 64),
    "F64": ("float64", 64),
    "I64": ("int64", 64),
    "U64": ("uint64", 64),
}


def safetensors(file: Path) -> Columns:
    """The columns of one file: a dict of its arrays by name, as `load_file` gives it.

    Raises:
        CheckpointError: the header is damaged.
        FrameworkMissingError: safetensors is not installed.
    """
    return columns_of(_ends(file), lambda why: damaged(file, why))


def sharded(index: Path) -> Columns:
    """The columns of several files, which an index names: one dict of all their arrays.

    Raises:
        CheckpointError: the index or a file is damaged, or they do not agree on which file has what.
        FrameworkMissingError: safetensors is not installed.
    """
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise damaged(index, f'its "weight_map" is {short(places)} where an object belongs')
    files: dict[str, set[str]] = {}
    for name, file in places.items():
        if not isinstance(file, str) or not file or leads_out(file) or Path(file).name != file:
            raise damaged(index, f"{name[:60]!r} is in {short(file)}, which is no file beside the index")
        files.setdefault(file, set()).add(name)
    ends: list[End] = []
    for file, names in files.items():
        found = list(_ends(index.with_name(file)))
        there = {end.steps[0] for end in found}
        if there != names:
            name = min(there ^ names)
            says = "has" if name in there else "does not have"
            raise damaged(index, f"{file[:60]!r} {says} {name[:60]!r}, and the index says otherwise")
        ends += found
    return columns_of(ends, lambda why: damaged(index, why))


def _ends(file: Path) -> Iterator[End]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise FrameworkMissingError(
            f"{str(file)!r} needs safetensors, which cannot be imported ({error}). Install it: pip install "
            "'leafreport[safetensors]'"
        ) from error
    opened(file).close()  # the library would wait for a pipe
    try:
        with safe_open(file, framework="numpy") as stream:
            for name in stream.keys():  # noqa: SIM118  # it is no dict
                yield _end(name, stream.get_slice(name), file)
    except (SafetensorError, OSError) as error:
        raise damaged(file, f"safetensors says: {str(error)[:300]}") from error


def _end(name: str, found: Any, file: Path) -> End:
    word = found.get_dtype()
    if word not in _DTYPES:
        raise damaged(file, f"{name[:60]!r} is of the dtype {word[:60]}, which is none that JAX has")
    dtype, bits = _DTYPES[word]
    spec = array_spec(dtype, dims(found.get_shape(), "shape", file))
    return End((name,), (False,), spec, (spec.size or 0) * bits // 8)
