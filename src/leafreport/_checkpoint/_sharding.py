"""How an array lay on devices when it was saved, of what Orbax keeps of it. Knows no JAX."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from leafreport._checkpoint._files import parse
from leafreport._checkpoint._zarr import MOST_DIMS
from leafreport._leaf import MOST_DEVICES, Sharding, Spec

_AXIS_TYPE = re.compile(r"AxisType\.(\w+)")
_DEVICE = re.compile(r".*[:_]([0-9]{1,9})")


def laid_out(spec: Spec, text: str, file: Path | str) -> Spec:
    """The spec of an array with the sharding it had when it was saved.

    A sharding that cannot be told without JAX, or does not fit the array, is left out: it is not guessed at.

    Args:
        spec: of the array.
        text: what `_sharding` holds of it, itself JSON.
        file: where it is from, for the error.

    Raises:
        CheckpointError: the text is not one JSON object.
    """
    found = parse(text, file)
    match found.get("sharding_type"):
        case "SingleDeviceSharding":
            device = found.get("device_str")
            number = _DEVICE.fullmatch(device) if isinstance(device, str) else None
            return replace(
                spec,
                type="jax.Array",
                shard_shape=spec.shape,
                device_nbytes=spec.nbytes,
                devices=1,
                device_ids=None if number is None else (int(number[1]),),
            )
        case "NamedSharding":
            named = _named(found, len(spec.shape or ()))
            return spec if named is None else _split(spec, named, _device_ids(found.get("device_mesh")))
        case _:
            return spec


def _named(found: dict[str, Any], rank: int) -> Sharding | None:
    sizes, names = found.get("shape"), found.get("axis_names")
    types, entries = found.get("axis_types") or [], found.get("partition_spec")
    if not (_strings(names) and isinstance(sizes, list) and len(sizes) == len(names) <= MOST_DIMS):
        return None
    if len(set(names)) != len(names) or not all(
        type(size) is int and 0 < size <= MOST_DEVICES for size in sizes
    ):
        return None
    if not (isinstance(entries, list) and _strings(types)):
        return None
    axes = [_axes(entry) for entry in entries[:rank]]
    used = [axis for some in axes if some for axis in some]
    if None in axes or len(set(used)) != len(used) or not set(used) <= set(names):
        return None
    spec = tuple(some for some in axes if some is not None)
    return Sharding(
        type="NamedSharding",
        mesh=tuple(zip(names, sizes, strict=True)),
        spec=(*spec, *[()] * (rank - len(spec))),
        axis_types=tuple(match[1] if (match := _AXIS_TYPE.fullmatch(name)) else name for name in types),
        memory_kind=found.get("memory_kind") if isinstance(found.get("memory_kind"), str) else None,
    )


def _strings(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _axes(entry: Any) -> tuple[str, ...] | None:
    """The mesh axes that one dimension is split over; None for what is no such thing."""
    if entry is None:
        return ()
    if isinstance(entry, str):
        return (entry,)
    return tuple(entry) if _strings(entry) else None


def _split(spec: Spec, sharding: Sharding, ids: tuple[int, ...] | None) -> Spec:
    sizes = dict(sharding.mesh)
    devices = math.prod(sizes.values())
    parts = [math.prod(map(sizes.__getitem__, axes)) for axes in sharding.spec]
    shape = spec.shape or ()
    if devices > MOST_DEVICES or any(dim % part for dim, part in zip(shape, parts, strict=True)):
        return replace(spec, type="jax.Array", sharding=sharding)
    block = tuple(dim // part for dim, part in zip(shape, parts, strict=True))
    itemsize = 0 if not spec.size else (spec.nbytes or 0) // spec.size
    return replace(
        spec,
        type="jax.Array",
        sharding=sharding,
        shard_shape=block,
        device_nbytes=math.prod(block) * itemsize,
        devices=devices,
        device_ids=ids if ids is not None and len(ids) == devices else None,
    )


def _device_ids(mesh: Any) -> tuple[int, ...] | None:
    """The ids of a mesh of devices, nested lists of `{"id": 0}`, in order."""
    todo = [mesh.get("mesh") if isinstance(mesh, dict) else None]
    ids: set[int] = set()
    while todo:
        match todo.pop():
            case list(inner):
                todo += inner
            case {"id": int(number)} if 0 <= number < 2**31:
                ids.add(number)
            case _:
                return None
    return tuple(sorted(ids))
