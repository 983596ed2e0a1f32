"""Leaves of any class to `Spec`s: kind, shape, dtype, bytes, sharding, and who is the same object as whom.

Read from the leaves' own attributes only. Leaves of a class JAX or NumPy makes are told apart in bulk, by a
key read from C; others one at a time.
"""

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from leafreport._columns import Columns, Ints
from leafreport._errors import AdapterError
from leafreport._leaf import MOST_DEVICES, Sharding, Spec
from leafreport._model import ROLES, LeafFacts


class Table(dict[Any, int]):
    """Codes for values, given out as they are first seen. Looked up from C, so a hit runs no bytecode."""

    __slots__ = ("_make", "made")

    def __init__(self, make: Callable[[Any], Any] | None = None) -> None:
        self._make = make
        self.made: list[Any] = []

    def __missing__(self, key: Any) -> int:
        made = key if self._make is None else self._make(key)
        self[key] = code = len(self.made)
        self.made.append(made)
        return code


def type_name(kind: type) -> str:
    """Module and qualified name of a class; the name alone for a builtin."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def describe(
    leaves: list[Any], kinds: set[type]
) -> tuple[Ints, tuple[Spec, ...], Callable[[Ints], Ints | None]]:
    """Codes for leaves of these classes, the specs they stand for, and a function that finds the shared ones.

    The function takes the leaves' numbers in flatten order and returns, for each, the first leaf that is the
    same object, or None when no two are.
    """
    specs = Table()
    codes = np.empty(len(leaves), np.int32)
    storage = np.empty(len(leaves), np.bool_)
    for some, here in _by_class(leaves, kinds):
        found, made = _codes(some)
        codes[here] = np.array([specs[spec] for spec in made], np.int32)[found]
        stored = [spec.kind in ("array", "key") and not spec.abstract for spec in made]
        storage[here] = np.array(stored, np.bool_)[found]

    def shared(number: Ints) -> Ints | None:
        if not storage.any():
            return None
        ids = np.fromiter(map(id, leaves), np.int64, len(leaves))
        # What has no storage is no one's twin: it gets a number of its own, negative as no id is.
        ids[~storage] = -1 - np.flatnonzero(~storage)
        if (np.diff(np.sort(ids)) != 0).all():
            return None
        _, first, group = np.unique(ids[number], return_index=True, return_inverse=True)
        return first[group].astype(np.int32)

    return codes, tuple(specs.made), shared


def _by_class(leaves: list[Any], kinds: set[type]) -> Iterator[tuple[list[Any], Any]]:
    """The leaves of each class, and where they are."""
    if len(kinds) == 1:
        yield leaves, slice(None)
        return
    number = {kind: i for i, kind in enumerate(kinds)}
    which = np.fromiter(map(number.__getitem__, map(type, leaves)), np.int32, len(leaves))
    for i in range(len(kinds)):
        here = which == i
        yield list(compress(leaves, here.tolist())), here


def _codes(leaves: list[Any]) -> tuple[Ints, list[Spec]]:
    """Codes for leaves of one class, and what each stands for."""
    kind = type(leaves[0])
    for key, describe_key in (*_bulk(kind), (None, None)):
        table = Table(describe_key)
        try:
            found = map(table.__getitem__, map(key or _spec, leaves))
            return np.fromiter(found, np.int32, len(leaves)), table.made
        except (AttributeError, TypeError):
            if key is None:
                raise
    raise AssertionError(kind)  # the last way takes every leaf


_Way = tuple[Callable[[Any], Any], Callable[[Any], Spec]]


def _bulk(kind: type) -> Iterator[_Way]:
    """Ways to read leaves of a class by a key made in C, the fastest first; one that fails gives way."""
    name = type_name(kind)
    if kind is jax.ShapeDtypeStruct:
        # The property `sharding` raises where a bare PartitionSpec was given outside a mesh.
        yield (
            operator.attrgetter("shape", "dtype", "_sharding", "weak_type"),
            lambda key: _array(key[0], key[1], name, key[2], key[3], abstract=True),
        )
    elif kind is np.ndarray or (issubclass(kind, np.generic) and kind.__module__ == "numpy"):
        yield operator.attrgetter("shape", "dtype"), lambda key: _array(key[0], key[1], name)
    elif issubclass(kind, jax.Array) and not issubclass(kind, jax.core.Tracer):
        # An aval is interned and hashed in C: half the time of shape, dtype and weak type read one by one.
        # A SingleDeviceSharding is compared in Python and every array may have its own: its parts are not.
        yield (
            operator.attrgetter("aval", "_sharding._device", "_sharding._memory_kind"),
            lambda key: _jax_array(key[0], jax.sharding.SingleDeviceSharding(key[1], memory_kind=key[2])),
        )
        yield operator.attrgetter("aval", "sharding"), lambda key: _jax_array(*key)
    elif kind in (bool, int, float, complex):
        yield type, lambda _: Spec("scalar", name, type=name)


def _jax_array(aval: Any, sharding: Any) -> Spec:
    return _array(aval.shape, aval.dtype, "jax.Array", sharding, _attribute(aval, "weak_type"))


def _spec(leaf: Any) -> Spec:
    kind = type(leaf)
    name = type_name(kind)
    if not isinstance(leaf, type):
        shape, dtype = _attribute(leaf, "shape"), _attribute(leaf, "dtype")
        if isinstance(shape, tuple) and dtype is not None and _ints(shape) is not None:
            if isinstance(leaf, jax.core.Tracer):
                return _array(shape, dtype, "jax.Array", None, _attribute(leaf, "weak_type"))
            return _array(
                shape,
                dtype,
                name,
                _attribute(leaf, "sharding"),
                _attribute(leaf, "weak_type"),
                abstract=not (hasattr(kind, "__array__") or hasattr(kind, "__dlpack__")),
            )
    scalar = isinstance(leaf, bool | int | float | complex)
    return Spec("scalar" if scalar else "object", kind.__name__, type=name)


def _attribute(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name, None)
    except Exception:  # noqa: BLE001  # a property of any class at all: what cannot be read is not known
        return None


def _ints(shape: Any) -> tuple[int, ...] | None:
    try:
        return tuple(map(operator.index, shape))
    except TypeError:  # a symbolic dimension
        return None


def _array(
    shape: Any,
    dtype: Any,
    type_name: str,
    sharding: Any = None,
    weak_type: Any = None,
    *,
    abstract: bool = False,
) -> Spec:
    dims = _ints(shape)
    if dims is None:
        return Spec("object", type_name.rpartition(".")[2], type=type_name)
    if isinstance(dtype, type):
        dtype = np.dtype(dtype)
    size = math.prod(dims)
    itemsize = _attribute(dtype, "itemsize")
    counted = isinstance(itemsize, int)
    layout = _layout(sharding, dims)
    block = layout.shard_shape
    return Spec(
        kind="key" if _is_key(dtype) else "array",
        dtype=_dtype_name(dtype),
        shape=dims,
        size=size,
        nbytes=size * itemsize if counted else None,
        type=type_name,
        weak_type=weak_type if isinstance(weak_type, bool) else None,
        sharding=layout.sharding,
        shard_shape=block,
        device_nbytes=math.prod(block) * itemsize if counted and block is not None else None,
        devices=layout.devices,
        device_ids=layout.device_ids,
        abstract=abstract,
    )


def _is_key(dtype: Any) -> bool:
    try:
        return bool(jnp.issubdtype(dtype, jax.dtypes.prng_key))
    except TypeError:  # another library's dtype
        return False


def _dtype_name(dtype: Any) -> str:
    if isinstance(dtype, np.dtype) and dtype == jax.dtypes.float0:
        return "float0"
    return str(dtype)


class _Layout(NamedTuple):
    sharding: Sharding | None = None
    shard_shape: tuple[int, ...] | None = None
    devices: int | None = None
    device_ids: tuple[int, ...] | None = None


def _layout(sharding: Any, shape: tuple[int, ...]) -> _Layout:
    """Where an array lies, from its sharding's description alone: no device is asked."""
    if isinstance(sharding, jax.sharding.PartitionSpec):
        return _Layout(Sharding("PartitionSpec", spec=_spec_axes(sharding, shape)))
    if not isinstance(sharding, jax.sharding.Sharding):
        return _Layout()
    if isinstance(sharding, jax.sharding.SingleDeviceSharding):
        return _Layout(None, shape, 1, _device_ids(sharding))
    try:
        block: tuple[int, ...] | None = tuple(sharding.shard_shape(shape))
    except Exception:  # noqa: BLE001  # a spec that does not divide the shape, or a class of someone's own
        block = None
    kind = type(sharding).__name__
    if not isinstance(sharding, jax.sharding.NamedSharding):
        ids = _device_ids(sharding)
        record = None if ids is not None and len(ids) == 1 else Sharding(kind)
        return _Layout(record, block, len(ids) if ids is not None else None, ids)
    mesh = sharding.mesh
    record = Sharding(
        kind,
        mesh=tuple((str(axis), int(size)) for axis, size in mesh.shape_tuple),
        spec=_spec_axes(sharding.spec, shape),
        axis_types=tuple(axis.name for axis in mesh.axis_types),
        memory_kind=sharding.memory_kind,
    )
    devices = mesh.size if mesh.size <= MOST_DEVICES else None
    return _Layout(record, block, devices, _device_ids(sharding))


def _spec_axes(spec: jax.sharding.PartitionSpec, shape: tuple[int, ...]) -> tuple[tuple[str, ...], ...]:
    axes = [_axes(entry) for entry in spec]
    return tuple(axes + [()] * (len(shape) - len(axes)))


def _axes(entry: Any) -> tuple[str, ...]:
    if entry is None:
        return ()
    if isinstance(entry, tuple | list):
        return tuple(map(str, entry))
    return (str(entry),)


def _device_ids(sharding: jax.sharding.Sharding) -> tuple[int, ...] | None:
    try:
        devices: set[Any] = sharding.device_set
        return tuple(sorted(device.id for device in devices))
    except (ValueError, AttributeError, NotImplementedError):  # a mesh of no real devices
        return None


def annotated(columns: Columns, facts: Sequence[LeafFacts]) -> Columns:
    """Columns whose specs say what an adapter knows: one fact a leaf, in flatten order.

    Raises:
        AdapterError: there are not as many facts as leaves, or one that cannot be.
    """
    codes = columns.leaf_code.tolist()
    if len(facts) != len(codes):
        raise AdapterError(
            f"the adapter told of {len(facts):,} leaves, the tree has {len(codes):,}: facts are one for each "
            "leaf of params, in the order of jax.tree_util.tree_leaves."
        )
    for fact in set(facts):
        if fact.role is not None and fact.role not in ROLES:
            raise AdapterError(
                f"the adapter told of the role {fact.role!r}. Roles are {', '.join(ROLES)}, or None."
            )
        if fact.stacked is not None and fact.stacked < 0:
            raise AdapterError(f"the adapter told of {fact.stacked} layers in a leaf: give a count, or None.")
    specs = Table(lambda key: replace(key[0], role=key[1], owner=key[2], axes=key[3], stacked=key[4]))
    told = np.array(
        [
            specs[columns.specs[code], fact.role, fact.owner, fact.axes, fact.stacked]
            for code, fact in zip(codes, facts, strict=True)
        ],
        np.int32,
    )
    code = columns.code.copy()
    code[columns.leaves] = told
    return replace(columns, code=code, specs=tuple(specs.made))
