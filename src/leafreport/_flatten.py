"""Any JAX pytree, live or abstract, to a `LeafReport`.

The tree is read level by level. A level's children are gathered in bulk, so that a leaf costs no bytecode of
its own and no object the garbage collector counts: with the collector on, as it should be, those objects are
what makes a flatten slow. `_columns.preorder` restores flatten order at the end.

Only registered flatten functions and the ordering of dict keys run. No leaf is computed with, copied or kept.
"""

import operator
from array import array
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from itertools import chain, compress
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import tree_util

from leafreport._columns import Columns, preorder
from leafreport._describe import Table, annotated, describe, type_name
from leafreport._endless import depth_limit, endless, never_ends, too_deep, unflattenable
from leafreport._keys import key_name, text
from leafreport._leaf import Node, NodeKind, Path
from leafreport._model import Model
from leafreport._report import LeafReport

if TYPE_CHECKING:
    from leafreport._adapter import Adapter

# A tree this deep is searched once for a node that contains itself. Before that, such a node makes the tree
# grow, and is looked for where the tree has grown this much.
_DEEP = 64
_GROWTH = 8


def report(tree: Any, *, adapter: "str | Adapter | None" = None) -> LeafReport:
    """What is in a tree: every leaf's path, shape, dtype, bytes and sharding.

    Takes any JAX pytree, live or abstract, or a `Model` (whose params are reported). Reads no values, copies
    nothing to or from a device, initialises no backend and keeps no leaf alive.

    Cost: a fraction of `jax.tree_util.tree_flatten_with_path`, and about 25 bytes a leaf kept.

    Args:
        tree: any pytree; leaves of any type.
        adapter: a backend's name, or its adapter, whose framework made the tree: it tells each leaf's role
            (`params`, `statistics`, `rng`, `static`, `other`) and, where the tree itself shows it, the class
            of the layer that holds it. A `Model` brings that with it.

    Returns:
        A report with `leaf_count == len(jax.tree_util.tree_leaves(tree))`.

    Raises:
        FlattenError: JAX cannot flatten the tree (dict keys of mixed types, a tree that contains itself or is
            deeper than JAX can go), or a class' own flatten function raises. The message names the path.
        AdapterError: there is no such adapter, or what it tells does not fit the tree.

    Example:
        >>> import numpy as np
        >>> r = report({"kernel": np.zeros((2, 3), np.float32), "bias": np.zeros(3, np.float32)})
        >>> r.leaf_count, r.param_count, r.nbytes
        (2, 9, 36)
        >>> r["kernel"].shape
        (2, 3)
    """
    facts = None
    if isinstance(tree, Model):
        tree, facts = tree.params, tree.facts
    columns = _flatten(tree)
    if adapter is not None and facts is None:
        from leafreport._adapter import describe as told  # most reports ask no adapter

        facts = told(adapter, tree)
    return LeafReport(columns if facts is None else annotated(columns, facts))


def _flatten(tree: Any) -> Columns:
    walk = _Walk(tree)
    levels = [0]
    flags = walk.flags
    leaves: list[Any] = []
    leaf_kinds: set[type] = set()
    level = [tree]
    total = 0
    while level:
        total += len(level)
        levels.append(total)
        each = list(map(type, level))
        kinds = set(each)
        node_kinds = {kind for kind in kinds if walk.is_node[kind]}
        leaf_kinds |= kinds - node_kinds
        if not node_kinds:
            flags.append(bytes(len(level)))
            leaves += level
            break
        if node_kinds == kinds:
            flags.append(b"\1" * len(level))
        else:
            flag = bytes(map(walk.is_node.__getitem__, each))
            flags.append(flag)
            leaves += compress(level, flag.translate(_INVERT))
            level = list(compress(level, flag))
        level = walk.open(level, node_kinds, len(levels) - 2)
    leaf_codes, specs, shared = describe(leaves, leaf_kinds)
    is_node = np.frombuffer(b"".join(flags), np.bool_)
    counts = np.zeros(total, np.int32)
    counts[is_node] = np.frombuffer(walk.counts, np.int32)
    code = np.empty(total, np.int32)
    code[is_node] = np.frombuffer(walk.codes, np.int32)
    code[~is_node] = leaf_codes
    name = np.frombuffer(walk.names, np.int32)
    parent, end, name, code, number = preorder(counts, levels, name, code)
    return Columns(
        parent=parent,
        end=end,
        name=name,
        code=code,
        names=tuple(walk.name_table.made),
        specs=specs,
        nodes=tuple(walk.node_table.made),
        first=shared(number),
    )


_INVERT = bytes([1, 0]) + bytes(254)


class _IsNode(dict[type, bool]):
    """Whether a class is an inner node, asked of JAX once a class."""

    def __missing__(self, kind: type) -> bool:
        self[kind] = node = bool(tree_util.default_registry.is_node(kind))
        return node


# How to open nodes that are alike: what gives a node's children, their names' codes, and the node's code.
_Way = tuple[Callable[[Any], Iterable[Any]], "array[int]", int]


class _Walk:
    """Opens nodes a level at a time, filling the columns of names, child counts and node codes."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        self.is_node = _IsNode({type(None): True})
        self.name_table = Table()
        self.node_table = Table(lambda key: Node(*key))
        self.names = array("i", [self.name_table[""]])
        self.counts = array("i")
        self.flags: list[bytes] = []  # by level: which of its entries are nodes
        self.codes = array("i")
        self._seen = 0
        self._finite: dict[int, Any] = {}
        self._dicts = _Dicts(self.name_table, self.node_table)
        self._classes: dict[type, _Way] = {}
        self._sequences: dict[tuple[type, int], _Way] = {}
        self._fields: dict[type, tuple[tuple[str, ...], array[int], int]] = {}

    def code(self, kind: NodeKind, name: str, keys: str) -> int:
        """The code of a node of this type."""
        return ~self.node_table[kind, name, keys]

    def name_ids(self, names: Iterable[str]) -> "array[int]":
        """The codes of names."""
        return array("i", map(self.name_table.__getitem__, names))

    def open(self, nodes: list[Any], kinds: set[type], depth: int) -> list[Any]:
        """The children of a level's nodes, in order."""
        opened = len(self.counts)
        children = self._open_dicts(nodes) if kinds == {dict} else None
        if children is None:
            children = self._open_each(nodes)
        self._verify(nodes, opened, len(children), depth)
        return children

    def _path(self) -> Path:
        """The path of the next node to open, from the columns: the node may be made anew at each flatten."""
        nodes = np.flatnonzero(np.frombuffer(b"".join(self.flags), np.bool_))
        stops = 1 + np.cumsum(np.frombuffer(self.counts, np.int32))  # where each node's children end
        entry = int(nodes[len(self.counts)])
        steps: list[str] = []
        while entry:
            steps.append(self.name_table.made[self.names[entry]])
            entry = int(nodes[np.searchsorted(stops, entry, side="right")])
        return tuple(reversed(steps))

    def _open_dicts(self, nodes: list[Any]) -> list[Any] | None:
        """A level of plain dicts of str keys, without a step of Python for each; None where it is not one."""
        try:
            known = list(map(self._dicts.__getitem__, map(tuple, nodes)))
        except TypeError:  # a key that is no str
            return None
        if len(set(map(id, known))) == 1:  # a level of dicts that are alike, which a layer's are
            values, ids, code = known[0]
            self.names.extend(ids * len(nodes))
            self.counts.extend(array("i", [len(ids)]) * len(nodes))
            self.codes.extend(array("i", [code]) * len(nodes))
            return list(chain.from_iterable(map(values, nodes)))
        names = list(map(operator.itemgetter(1), known))
        self.names.frombytes(b"".join(names))
        self.counts.extend(map(len, names))
        self.codes.extend(map(operator.itemgetter(2), known))
        ways = map(operator.itemgetter(0), known)
        return list(chain.from_iterable(map(operator.call, ways, nodes)))

    def _open_each(self, nodes: list[Any]) -> list[Any]:
        children: list[Any] = []
        names, counts, codes = self.names, self.counts, self.codes
        for node in nodes:
            kind = type(node)
            way = self._classes.get(kind)
            if way is None and kind in _SEQUENCES:
                way = self._sequences.get((kind, len(node)))
            if way is None:
                found, ids, code = self._look(node)
                children += found
            else:
                values, ids, code = way
                children += values(node)
            names.extend(ids)
            counts.append(len(ids))
            codes.append(code)
        return children

    def _look(self, node: Any) -> tuple[Iterable[Any], "array[int]", int]:
        """The children of a node of any class, their names' codes and the node's; learns what it can."""
        kind = type(node)
        if node is None:
            code = self.code("none", "NoneType", "")
            self._classes[kind] = (lambda _: (), array("i"), code)
            return (), array("i"), code
        if kind in _SEQUENCES:
            ids = self.name_ids(map(str, range(len(node))))
            code = self.code("list" if kind is list else "tuple", kind.__name__, "index" if node else "")
            self._sequences[kind, len(node)] = (iter, ids, code)
            return node, ids, code
        if kind is dict and set(map(type, node)) <= {str}:
            values, ids, code = self._dicts[tuple(node)]
            return values(node), ids, code
        try:
            found, aux = tree_util.default_registry.flatten_one_level(node)
            found = list(found)
        except Exception as error:
            raise unflattenable(self._path(), node, error) from error
        fields = getattr(kind, "_fields", None)
        if issubclass(kind, tuple) and aux is kind and fields is not None:
            # JAX 0.10.2 gives every field of a namedtuple the first one's name where it gives keys.
            ids = self.name_ids(map(text, fields))
            code = self.code("namedtuple", type_name(kind), "attribute" if found else "")
            if len(ids) == len(found):
                self._classes[kind] = (tuple.__iter__, ids, code)
                return found, ids, code
        return found, *self._custom(node, found)

    def _custom(self, node: Any, found: list[Any]) -> tuple["array[int]", int]:
        """Names and code of a node of a registered class.

        A class registered with keys has two flatten functions. `tree_leaves` calls the one without keys: that
        one decides what the children are, the other one only what they are called.
        """
        kind = type(node)
        if kind in self._fields:
            fields, ids, code = self._fields[kind]
            values = getattr(node, "__dict__", {})
            if len(fields) == len(found) and all(map(operator.is_, map(values.get, fields), found)):
                return ids, code
        try:
            keyed, _ = tree_util.default_registry.flatten_one_level_with_keys(node)
            named = [key_name(key) for key, _ in keyed]
        except Exception:  # noqa: BLE001  # any class' own code; its children are known all the same
            named = []
        if len(named) != len(found):
            named = [(str(i), "index") for i in range(len(found))]
        names = tuple(name for name, _ in named)
        keys = "|".join(sorted({key for _, key in named}))
        family: NodeKind = "dict" if kind.__module__ in _STANDARD and issubclass(kind, dict) else "custom"
        ids, code = self.name_ids(names), self.code(family, type_name(kind), keys)
        if is_dataclass(kind) and keys == "attribute":
            # Asking for keys makes an object a child, which costs more than all the rest. A dataclass'
            # children are its fields: seen to be the same objects, they need not be asked for again.
            self._fields[kind] = names, ids, code
        return ids, code

    def _verify(self, nodes: list[Any], opened: int, children: int, depth: int) -> None:
        """Stops at a tree that never ends: a node twice in one level, or great depth, is looked into.

        Looking for a node twice costs a tenth of all the rest. A node that is there twice stays so in the
        levels below, so it is enough to look where the tree has become many times larger than when last seen.
        """
        size = len(self.counts) + children
        if depth < _DEEP:
            if size < self._seen * _GROWTH:
                return
            self._seen = size
        elif depth > _DEEP:
            if depth > depth_limit():
                raise too_deep()
            return
        suspects = list(compress(nodes, self.counts[opened:]))
        if depth < _DEEP:
            ids = np.fromiter(map(id, suspects), np.int64, len(suspects))
            _, first, times = np.unique(ids, return_index=True, return_counts=True)
            suspects = [suspects[i] for i in first[times > 1].tolist()]
        if any(never_ends(node, self._finite) for node in suspects):
            raise endless(self.tree)


class _Dicts(dict[tuple[Any, ...], _Way]):
    """How to open plain dicts of str keys, by the keys as inserted."""

    def __init__(self, names: Table, nodes: Table) -> None:
        # The tables, not the walk: a cycle would keep the tree alive until the collector came by.
        self._names = names
        self._nodes = nodes

    def __missing__(self, keys: tuple[Any, ...]) -> _Way:
        if not set(map(type, keys)) <= {str}:  # 1, 1.0 and True are equal keys of unequal names
            raise TypeError(keys)
        ordered = sorted(keys)
        # JAX sorts a dict by key. Where that is the order of insertion already, values() will do.
        values = dict.values if ordered == list(keys) else operator.itemgetter(*ordered)
        ids = array("i", map(self._names.__getitem__, ordered))
        code = ~self._nodes["dict", "dict", "str" if keys else ""]
        self[keys] = way = (values, ids, code)
        return way


_SEQUENCES = (list, tuple)
_STANDARD = ("builtins", "collections")
