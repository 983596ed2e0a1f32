"""A report as JSON and back, exactly.

One document: the totals, every node, every leaf, and which leaves share an array. Pure ASCII. Rows are flat
and point at their parents, so that depth costs nothing; a row says its facts by name, so that `jq` can read
it.
"""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from leafreport._columns import Columns, Ints, subtree_ends
from leafreport._errors import ReportFormatError, short
from leafreport._leaf import KINDS, MOST_DEVICES, NODE_KINDS, Node, Sharding, Spec
from leafreport._model import ROLES, Role
from leafreport._totals import Totals

SCHEMA = "leafreport/1"


def exact(text: str) -> Any:
    """A string as JSON can give it back.

    A high surrogate before a low one, as two code points, would be read as one character: such a string is
    written as a list of parts.
    """
    parts: list[str] = []
    start = 0
    for i in range(1, len(text)):
        if "\udc00" <= text[i] <= "\udfff" and "\ud800" <= text[i - 1] <= "\udbff":
            parts.append(text[start:i])
            start = i
    return [*parts, text[start:]] if parts else text


def _step(name: str) -> str:
    return json.dumps(name if name.isascii() else exact(name))


def dump(columns: Columns) -> str:
    """The document. Cost: linear; about 2 us and 200 bytes a leaf."""
    sums = Totals(columns).whole
    steps = list(map(_step, columns.names))
    spec_text = [json.dumps(_spec_fields(spec))[1:] for spec in columns.specs]
    node_text = [json.dumps(_node_fields(node))[1:] for node in columns.nodes]
    nodes: list[str] = []
    leaves: list[str] = []
    number: dict[int, int] = {-1: -1}
    prefix: dict[int, str] = {-1: ""}
    rows = zip(columns.parent.tolist(), columns.name.tolist(), columns.code.tolist(), strict=True)
    for entry, (parent, name, code) in enumerate(rows):
        step = "" if entry == 0 else steps[name]
        above = prefix[parent]
        path = f"{above}, {step}" if above and step else above or step
        if code < 0:
            head = f'{{"path": [{path}], "parent": {number[parent]}, "first_leaf": {len(leaves)}'
            nodes.append(f"{head}, {node_text[~code]}")
            number[entry] = len(nodes) - 1
            prefix[entry] = path
        else:
            stored = columns.stored_at(len(leaves))
            head = f'{{"path": [{path}], "parent": {number[parent]}'
            if stored is not None:
                head += f', "stored_nbytes": {stored}'
            leaves.append(f"{head}, {spec_text[code]}")
    sums_row = {
        "schema": SCHEMA,
        "leaf_count": sums.leaf_count,
        "param_count": sums.param_count,
        "nbytes": sums.nbytes,
        "repeated_nbytes": sums.repeated_nbytes,
    }
    shared = list(map(json.dumps, columns.shared.values()))
    lines = [json.dumps(sums_row)[:-1]]
    for title, body in (("nodes", nodes), ("leaves", leaves), ("shared", shared)):
        text = ",\n".join(body)
        lines.append(f'"{title}": [\n{text}\n]' if body else f'"{title}": []')
    return ",\n".join(lines) + "}\n"


def _spec_fields(spec: Spec) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "kind": spec.kind,
        "shape": spec.shape,
        "dtype": exact(spec.dtype),
        "size": spec.size,
        "nbytes": spec.nbytes,
        "type": exact(spec.type),
        "weak_type": spec.weak_type,
        "abstract": spec.abstract,
    }
    if spec.sharding is not None:
        fields["sharding"] = {
            "type": exact(spec.sharding.type),
            "mesh": [[exact(axis), size] for axis, size in spec.sharding.mesh],
            "spec": [list(map(exact, axes)) for axes in spec.sharding.spec],
            "axis_types": list(map(exact, spec.sharding.axis_types)),
            "memory_kind": None if spec.sharding.memory_kind is None else exact(spec.sharding.memory_kind),
        }
    for name in ("shard_shape", "device_nbytes", "devices", "device_ids", "role", "stacked", "chunk_shape"):
        if (value := getattr(spec, name)) is not None:
            fields[name] = value
    if spec.owner is not None:
        fields["owner"] = exact(spec.owner)
    if spec.axes is not None:
        fields["axes"] = list(map(exact, spec.axes))
    return fields


def _node_fields(node: Node) -> dict[str, Any]:
    return {"kind": node.kind, "type": exact(node.type), "keys": exact(node.keys)}


# --- Reading ------------------------------------------------------------------------------------------------


class _Bad(Exception):  # noqa: N818  # what is wrong, not an error of its own: `load` makes that
    """What is wrong with a document; `load` says where it came from."""


def load(text: str) -> Columns:
    """The columns of a document that `dump` wrote.

    Raises:
        ReportFormatError: the text is not JSON, not a report, of another schema, or does not hold together.
    """
    try:
        document = json.loads(text, parse_constant=_no_constant)
        return _columns(document)
    except _Bad as error:
        raise ReportFormatError(
            f"not a saved report: {error}. Write one with `leafreport show TARGET --json`."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ReportFormatError(
            f"not a saved report: the JSON cannot be read ({type(error).__name__}: {error}). "
            "Write one with `leafreport show TARGET --json`."
        ) from error


def _no_constant(name: str) -> Any:
    raise _Bad(f"it holds {name}, which no report has")


def _columns(document: Any) -> Columns:
    if not isinstance(document, dict) or "schema" not in document:
        raise _Bad('it has no "schema"')
    if document["schema"] != SCHEMA:
        raise _Bad(f"its schema is {short(document['schema'])}, this version reads {SCHEMA!r}")
    nodes, leaves = _list(document, "nodes"), _list(document, "leaves")
    read = _Reader()
    at = 0
    for i, row in enumerate(nodes):
        before = row.get("first_leaf") if isinstance(row, dict) else None
        if not _is_int(before) or not at <= before <= len(leaves):
            raise _Bad(f'node {i} has no fitting "first_leaf"')
        while at < before:
            read.leaf(leaves[at], f"leaf {at}")
            at += 1
        read.node(row, f"node {i}")
    while at < len(leaves):
        read.leaf(leaves[at], f"leaf {at}")
        at += 1
    if not read.parent:
        raise _Bad("it has neither a node nor a leaf")
    parent = np.array(read.parent, np.int32)
    columns = Columns(
        parent=parent,
        end=subtree_ends(parent),
        name=np.array(read.name, np.int32),
        code=np.array(read.code, np.int32),
        names=tuple(read.names),
        specs=tuple(read.specs.made),
        nodes=tuple(read.node_types.made),
        first=_first(_list(document, "shared"), len(leaves)),
        stored=read.stored(),
    )
    for field, value in Totals(columns).whole._asdict().items():
        if document.get(field) != value:
            raise _Bad(f"its {field} is {short(document.get(field))}, its leaves add up to {value}")
    return columns


class _Records(dict[Any, int]):
    """Records, read once for each distinct row; rows that say one thing in two ways are one record."""

    def __init__(self, make: Callable[[dict[str, Any], str], Any]) -> None:
        self._make = make
        self._places: dict[Any, int] = {}
        self.made: list[Any] = []

    def code(self, row: dict[str, Any], fields: tuple[str, ...], what: str) -> int:
        # As text, made in C: it tells 1, 1.0 and true apart, of which only one is a dimension.
        key = repr(list(map(row.get, fields)))
        code = self.get(key)
        if code is None:
            record = self._make(row, what)
            code = self._places.setdefault(record, len(self.made))
            if code == len(self.made):
                self.made.append(record)
            self[key] = code
        return code


class _Reader:
    """Entries in preorder, each checked against those before it."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.name: list[int] = []
        self.code: list[int] = []
        self.names: dict[str, int] = {"": 0}
        self.specs = _Records(_spec)
        self.node_types = _Records(_node)
        self._nodes: list[int] = []
        self._paths: list[list[Any]] = []
        self._open: list[int] = []
        self._stored: list[int] = []

    def node(self, row: Any, what: str) -> None:
        self._entry(row, what)
        self.code.append(~self.node_types.code(row, _NODE_FIELDS, what))
        entry = len(self.parent) - 1
        self._nodes.append(entry)
        self._paths.append(row["path"])
        self._open.append(entry)

    def leaf(self, row: Any, what: str) -> None:
        self._entry(row, what)
        self.code.append(self.specs.code(row, _SPEC_FIELDS, what))
        stored = _optional(row.get("stored_nbytes"), _amount, what)
        if stored is not None and stored >= 2**63:
            raise _Bad(f"{what} has {short(stored)} bytes on disk, more than any disk holds")
        self._stored.append(-1 if stored is None else stored)

    def stored(self) -> "npt.NDArray[np.int64] | None":
        """Bytes on disk by leaf; None where no leaf tells."""
        return np.array(self._stored, np.int64) if any(n >= 0 for n in self._stored) else None

    def _entry(self, row: Any, what: str) -> None:
        if not isinstance(row, dict):
            raise _Bad(f"{what} is no object")
        path, above = row.get("path"), row.get("parent")
        if not self.parent:
            if path != [] or above != -1:
                raise _Bad(f"{what} should be the root: path [], parent -1")
            step, entry = "", -1
        else:
            if not _is_int(above) or not 0 <= above < len(self._nodes):
                raise _Bad(f"{what} has a parent that does not come before it")
            if not isinstance(path, list) or not path or path[:-1] != self._paths[above]:
                raise _Bad(f"{what} has a path that does not continue its parent's")
            step, entry = _text(path[-1], what), self._nodes[above]
            while self._open and self._open[-1] != entry:
                self._open.pop()
            if not self._open:
                raise _Bad(f"{what} comes after its parent's last child")
        self.name.append(self.names.setdefault(step, len(self.names)))
        self.parent.append(entry)


_NODE_FIELDS = ("kind", "type", "keys")
_SPEC_FIELDS = (
    "kind",
    "shape",
    "dtype",
    "size",
    "nbytes",
    "type",
    "weak_type",
    "abstract",
    "sharding",
    "shard_shape",
    "device_nbytes",
    "devices",
    "device_ids",
    "role",
    "owner",
    "axes",
    "stacked",
    "chunk_shape",
)


def _node(row: dict[str, Any], what: str) -> Node:
    if row.get("kind") not in NODE_KINDS:
        raise _Bad(f"{what} is of no kind of node: {short(row.get('kind'))}")
    return Node(row["kind"], _text(row.get("type"), what), _text(row.get("keys"), what))


def _spec(row: dict[str, Any], what: str) -> Spec:
    kind = row.get("kind")
    if kind not in KINDS:
        raise _Bad(f"{what} is of no kind of leaf: {short(kind)}")
    shape = _optional(row.get("shape"), _amounts, what)
    size = _optional(row.get("size"), _amount, what)
    if (shape is None) != (kind in ("scalar", "object")):
        raise _Bad(f"{what} is of kind {kind} and its shape is {short(row.get('shape'))}")
    if size != (None if shape is None else _product(shape, size or 0)):
        raise _Bad(f"{what} has size {short(size)}, which its shape does not give")
    devices = _optional(row.get("devices"), _amount, what)
    if devices is not None and devices > MOST_DEVICES:
        raise _Bad(f"{what} lies on {short(devices)} devices, more than {MOST_DEVICES:,}")
    return Spec(
        kind=kind,
        dtype=_text(row.get("dtype"), what),
        shape=shape,
        size=size,
        nbytes=_optional(row.get("nbytes"), _amount, what),
        type=_text(row.get("type"), what),
        weak_type=_optional(row.get("weak_type"), _flag, what),
        sharding=_optional(row.get("sharding"), _sharding, what),
        shard_shape=_optional(row.get("shard_shape"), _amounts, what),
        device_nbytes=_optional(row.get("device_nbytes"), _amount, what),
        devices=devices,
        device_ids=_optional(row.get("device_ids"), _amounts, what),
        abstract=_flag(row.get("abstract"), what),
        role=_optional(row.get("role"), _role, what),
        owner=_optional(row.get("owner"), _text, what),
        axes=_optional(row.get("axes"), _texts, what),
        stacked=_optional(row.get("stacked"), _amount, what),
        chunk_shape=_optional(row.get("chunk_shape"), _amounts, what),
    )


def _sharding(value: Any, what: str) -> Sharding:
    if not isinstance(value, dict):
        raise _Bad(f"{what} has a sharding that is no object")
    mesh = _items(value.get("mesh"), what)
    if not all(isinstance(axis, list) and len(axis) == 2 for axis in mesh):
        raise _Bad(f"{what} has a mesh that is no list of axes and sizes")
    return Sharding(
        type=_text(value.get("type"), what),
        mesh=tuple((_text(axis, what), _amount(size, what)) for axis, size in mesh),
        spec=tuple(_texts(axes, what) for axes in _items(value.get("spec"), what)),
        axis_types=_texts(value.get("axis_types"), what),
        memory_kind=_optional(value.get("memory_kind"), _text, what),
    )


def _first(groups: list[Any], count: int) -> Ints | None:
    if not groups:
        return None
    first = list(range(count))
    seen: set[int] = set()
    for i, group in enumerate(groups):
        members = _amounts(group, f"shared group {i}")
        ordered = len(members) > 1 and all(a < b for a, b in pairwise(members))
        if not ordered or members[-1] >= count or not seen.isdisjoint(members):
            raise _Bad(f"shared group {i} is not a list of leaves' numbers, each once, in order")
        seen.update(members)
        for member in members:
            first[member] = members[0]
    return np.array(first, np.int32)


def _optional(value: Any, read: Callable[[Any, str], Any], what: str) -> Any:
    return None if value is None else read(value, what)


def _is_int(value: Any) -> TypeGuard[int]:
    return type(value) is int


def _amount(value: Any, what: str) -> int:
    if type(value) is not int or value < 0:
        raise _Bad(f"{what} has {short(value)} where a count belongs")
    return value


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise _Bad(f"{what} has {short(value)} where true or false belongs")
    return value


def _role(value: Any, what: str) -> Role:
    if value not in ROLES:
        raise _Bad(f"{what} has the role {short(value)}, which none has")
    role: Role = value
    return role


def _text(value: Any, what: str) -> str:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "".join(value)
    if not isinstance(value, str):
        raise _Bad(f"{what} has {short(value)} where a string belongs")
    return value


def _items(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise _Bad(f"{what} has {short(value)} where a list belongs")
    return value


def _texts(value: Any, what: str) -> tuple[str, ...]:
    return tuple(_text(item, what) for item in _items(value, what))


def _amounts(value: Any, what: str) -> tuple[int, ...]:
    return tuple(_amount(item, what) for item in _items(value, what))


def _product(shape: tuple[int, ...], most: int) -> int:
    """The product of a shape, or a number above `most`: a damaged shape's product can be of any length."""
    if 0 in shape:
        return 0
    product = 1
    for dim in shape:
        product *= dim
        if product > most:
            break
    return product


def _list(document: dict[str, Any], field: str) -> list[Any]:
    value = document.get(field)
    if not isinstance(value, list):
        raise _Bad(f'its "{field}" is no list')
    return value
