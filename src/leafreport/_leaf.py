"""What one leaf and one node are: records, paths, natural order and the escaping of names.

No JAX here: a report read from a file needs none.
"""

import re
from dataclasses import dataclass
from typing import Literal

from leafreport._model import Role

Kind = Literal["array", "key", "scalar", "object"]
KINDS: tuple[Kind, ...] = ("array", "key", "scalar", "object")
Path = tuple[str, ...]
# Of a mesh larger than any machine the number of devices is not kept: totals per device list every device.
MOST_DEVICES = 2**20


@dataclass(frozen=True, slots=True)
class Sharding:
    """How an array is laid out over devices.

    Attributes:
        type: the class of the sharding, `NamedSharding` for a mesh.
        mesh: axis names and sizes, in mesh order; empty when the sharding has no named mesh.
        spec: one tuple of mesh axes for each array dimension; `()` where it is not split.
        axis_types: `Auto`, `Explicit` or `Manual` for each mesh axis.
        memory_kind: `device`, `pinned_host`..., or None when not stated.
    """

    type: str
    mesh: tuple[tuple[str, int], ...] = ()
    spec: tuple[tuple[str, ...], ...] = ()
    axis_types: tuple[str, ...] = ()
    memory_kind: str | None = None

    def __str__(self) -> str:
        if not self.mesh:
            return self.type
        parts = [
            "None" if not axes else axes[0] if len(axes) == 1 else f"({','.join(axes)})" for axes in self.spec
        ]
        sizes = ",".join(f"{name}:{size}" for name, size in self.mesh)
        return f"P({','.join(parts)}) over {sizes}"


@dataclass(frozen=True, slots=True)
class Spec:
    """Everything but the path: leaves that agree in it share one `Spec` in a report.

    `None` always means that the fact is not known or does not apply, never zero.

    Attributes:
        kind: `array`, `key` (typed PRNG key), `scalar` (a Python number) or `object`.
        dtype: `float32`, `key<fry>`...; the type's name for a scalar or an object.
        shape: None when the leaf is no array.
        size: number of elements.
        nbytes: bytes of one copy of the whole array.
        type: module and name of the leaf's class.
        weak_type: whether JAX would let its dtype yield to others'.
        sharding: None for an array on one device, and where nothing is known.
        shard_shape: shape of the block one device holds.
        devices: how many devices hold a part of it; None for more than `MOST_DEVICES`.
        device_ids: their ids, where they are real devices.
        abstract: it has a shape and a dtype but no storage; or it is a number on disk.
        role: `params`, `statistics`, `rng`, `static` or `other`, where an adapter told.
        owner: the class of the layer that holds it, where an adapter told.
        axes: what each axis of one layer's array is, where an adapter told.
        stacked: how many layers it holds, where it holds several.
        chunk_shape: of a stored array the block that is read at once.
    """

    kind: Kind
    dtype: str
    shape: tuple[int, ...] | None = None
    size: int | None = None
    nbytes: int | None = None
    type: str = ""
    weak_type: bool | None = None
    sharding: Sharding | None = None
    shard_shape: tuple[int, ...] | None = None
    device_nbytes: int | None = None
    devices: int | None = None
    device_ids: tuple[int, ...] | None = None
    abstract: bool = False
    role: Role | None = None
    owner: str | None = None
    axes: tuple[str, ...] | None = None
    stacked: int | None = None
    chunk_shape: tuple[int, ...] | None = None

    def __str__(self) -> str:
        """The usual short form: `float32[2,3]`, or the type's name."""
        if self.shape is None:
            return self.dtype
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


NodeKind = Literal["dict", "list", "tuple", "namedtuple", "none", "custom"]
NODE_KINDS: tuple[NodeKind, ...] = ("dict", "list", "tuple", "namedtuple", "none", "custom")


@dataclass(frozen=True, slots=True)
class Node:
    """An inner node's type, and what addresses its children.

    Attributes:
        kind: the container family; `custom` is any other class registered with JAX.
        type: module and name of the class (`dict`, `optax._src.base.EmptyState`).
        keys: `index`, `attribute`, or the key class' name (`str`, `int`); several are joined by "|".
            The empty string where there are no children.
    """

    kind: NodeKind
    type: str
    keys: str = ""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of a report: a view of its row, holding no array.

    Attributes:
        path: the leaf's address, a tuple of strings.
        shape: None when the leaf is no array.
        dtype: `float32`, `key<fry>`; the type's name for a scalar or an object.
        kind: `array`, `key`, `scalar` or `object`.
        size: number of elements; None when the leaf is no array.
        nbytes: bytes of one whole copy; None when the leaf is no array.
        sharding: mesh axes and spec; None for an array on one device.
        device_nbytes: bytes on one device; None when no device is known.
        shared_with: the paths of the other leaves that are the same object.
        weak_type: whether JAX lets the dtype yield to others'; None when not known.
        type: module and name of the leaf's class.
        role: `params`, `statistics`, `rng`, `static` or `other`; None where no adapter told.
        owner: the class of the layer that holds it (`Dense`); None where no adapter told.
        axes: what each axis of one layer's array is (`("in", "out")`); None where no adapter told.
        stacked: how many layers the leaf holds, where it holds several.
        chunk_shape: the block of a stored array that is read at once; None where nothing is stored.
        stored_nbytes: bytes of the values on disk, compressed as they are; None where nothing is stored.
    """

    path: Path
    shape: tuple[int, ...] | None
    dtype: str
    kind: Kind
    size: int | None
    nbytes: int | None
    sharding: Sharding | None = None
    device_nbytes: int | None = None
    shared_with: tuple[Path, ...] = ()
    weak_type: bool | None = None
    type: str = ""
    role: Role | None = None
    owner: str | None = None
    axes: tuple[str, ...] | None = None
    stacked: int | None = None
    chunk_shape: tuple[int, ...] | None = None
    stored_nbytes: int | None = None

    @property
    def name(self) -> str:
        """The path joined by "/". For display: two paths can share one name."""
        return "/".join(self.path)

    def __str__(self) -> str:
        if self.shape is None:
            return f"{display_path(self.path)} {self.dtype}"
        return f"{display_path(self.path)} {self.dtype}[{','.join(map(str, self.shape))}]"


_DIGITS = re.compile("([0-9]+)")


def natural_key(name: str) -> tuple[tuple[tuple[int, str] | str, ...], str]:
    """A sort key under which `Dense_2` comes before `Dense_10`.

    Digits compare as numbers by length, then text, so a run of any length is safe to compare.

    >>> sorted(["Dense_10", "Dense_2", "Dense"], key=natural_key)
    ['Dense', 'Dense_2', 'Dense_10']
    """
    parts = _DIGITS.split(name)
    key: list[tuple[int, str] | str] = []
    for i, part in enumerate(parts):
        if i % 2:
            digits = part.lstrip("0")
            key.append((len(digits), digits))
        else:
            key.append(part)
    return tuple(key), name


# Escaped: control characters (C0, DEL, C1), line and paragraph separators, bidirectional controls
# (they reorder what a terminal shows), lone surrogates (no encoder takes them) and the backslash.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\\\\]"
)
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    code = ord(char)
    return _NAMED.get(char) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def escape(text: str) -> str:
    r"""Text safe on one line of any terminal or file, nothing dropped.

    >>> escape("a\x1b[31m\n")
    'a\\x1b[31m\\n'
    """
    if text.isalnum() and text.isascii():  # the common name; skips the search
        return text
    return _UNSAFE.sub(_escaped, text)


def display_name(name: str) -> str:
    """One path step as shown: escaped, and visible when it is empty."""
    return escape(name) if name else '""'


def display_path(path: Path) -> str:
    """A whole path as shown; `(root)` for the tree itself.

    >>> display_path(("params", "", "kernel"))
    'params/""/kernel'
    """
    return "/".join(map(display_name, path)) if path else "(root)"


_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def format_nbytes(nbytes: int) -> str:
    """Bytes in binary units, one decimal at most.

    >>> format_nbytes(1023), format_nbytes(1536), format_nbytes(5 * 2**40)
    ('1023 B', '1.5 KiB', '5 TiB')
    """
    if nbytes < 1024:
        return f"{nbytes} B"
    exponent = min((nbytes.bit_length() - 1) // 10, len(_UNITS) - 1)
    if nbytes * 20 >= (1 << (10 * exponent)) * 20479 and exponent < len(_UNITS) - 1:
        exponent += 1  # 1023.95 KiB would round to "1024 KiB"
    tenths = (nbytes * 10 + (1 << (10 * exponent - 1))) >> (10 * exponent)
    whole, tenth = divmod(tenths, 10)
    return f"{whole}.{tenth} {_UNITS[exponent]}" if tenth else f"{whole} {_UNITS[exponent]}"
