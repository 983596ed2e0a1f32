"""An alignment as rows: one tree of the left paths, each with its partner; repeated blocks once."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from leafreport._align._records import Difference, LeafPair
from leafreport._fold import number_runs
from leafreport._leaf import Leaf, Path, display_name, display_path, natural_key
from leafreport._render._paired import PairedRow
from leafreport._render._rows import plural

_NUMBER = re.compile("([0-9]+)")
_INDEX = re.compile(r"\[([0-9]+)(?=[,\]])")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is said of one left leaf, or of a part of it.

    Attributes:
        path: its path.
        glyph: what it is.
        name: its last step, and which part of it.
        right: the path of its partner, if it has one.
        told: the partner's last step, and which part of it.
        note: layout, role and whatever else.
        leaf: the left leaf in words.
    """

    path: Path
    glyph: str
    name: str
    right: Path | None
    told: str
    note: str
    leaf: str


@dataclass(slots=True)
class _Block:
    """A node of the tree of left paths.

    Attributes:
        label: its own step.
        children: the blocks in it.
        entries: what is said of its own leaves.
        right: what the paths of all partners in it begin with; None where there is none.
        inner: what is taken as said of a partner's path within it.
        count: how many pairs.
        alike: a number that blocks share which differ by numbers in their names alone.
    """

    label: str
    children: "dict[str, _Block]" = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    right: Path | None = None
    inner: Path = ()
    count: int = 0
    alike: int = 0


def entries(
    pairs: Iterable[LeafPair],
    copies: Iterable[LeafPair],
    alone: Iterable[tuple[Path, str]],
    unused: Iterable[Path],
    leaves: dict[Path, Leaf],
) -> list[Entry]:
    """What there is to say of the left leaves."""
    found = [
        Entry(
            pair.left_path,
            "?" if pair.ambiguous else "=",
            _last(pair.left_path) + _spaced(pair.left.where),
            pair.right_path,
            _last(pair.right_path) + _spaced(pair.right.where),
            _note(pair) + note,
            _spec(leaves, pair.left_path),
        )
        for own, note in ((pairs, ""), (copies, ", a copy"))
        for pair in own
    ]
    found += [
        Entry(path, "-", _last(path) + _spaced(where), None, "", "only on the left", _spec(leaves, path))
        for path, where in alone
    ]
    found += [Entry(path, ".", _last(path), None, "", "unused", _spec(leaves, path)) for path in unused]
    return found


def _last(path: Path) -> str:
    return display_name(path[-1]) if path else "(root)"


def _spaced(where: str) -> str:
    return f" {where}" if where.startswith("as") else where


def _spec(leaves: dict[Path, Leaf], path: Path) -> str:
    leaf = leaves.get(path)
    return "" if leaf is None or leaf.shape is None else f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _note(pair: LeafPair) -> str:
    told = [pair.layout, pair.role]
    if pair.candidates:
        told.append(f"ambiguous: {len(pair.candidates)} would do, by {pair.basis}")
    elif pair.ambiguous:
        told.append("ambiguous: the order of its axes")
    elif pair.basis != "dataflow":
        told.append(f"by {pair.basis}")
    return ", ".join(filter(None, told))


def tree_rows(found: Sequence[Entry], *, fold: bool, depth: int | None = None) -> list[PairedRow]:
    """The entries as a tree of blocks, each with how many of its leaves are paired.

    Args:
        found: the entries.
        fold: show blocks that differ by a number alone once.
        depth: leave out what is deeper.
    """
    root = _Block("(root)")
    for entry in found:
        block = root
        for step in entry.path[:-1]:
            block = block.children.setdefault(step, _Block(step))
        block.entries.append(entry)
    _sum(root)
    rows: list[PairedRow] = []
    # Blocks that are shown as one, and whatever stands for them elsewhere: the first one's are counted.
    stack: list[tuple[Sequence[_Block], Sequence[_Block], int, Path]] = [([root], [root], 0, ())]
    while stack:
        group, everywhere, level, above = stack.pop()
        rows.append(_block_row(group, level, above))
        block = group[0]
        if depth is not None and level >= depth:
            continue
        every = [sorted(one.entries, key=lambda e: natural_key(e.name)) for one in everywhere]
        inners = [one.inner for one in everywhere]
        if fold and len(everywhere) == 1:
            runs = _runs(every[0])
            rows += [_entry_row(run, inners * len(run), level + 1) for run in runs]
        else:
            rows += [_entry_row(entries, inners, level + 1) for entries in zip(*every, strict=True)]
        children = [sorted(one.children.values(), key=lambda b: natural_key(b.label)) for one in everywhere]
        groups = _groups(children[0]) if fold else [[child] for child in children[0]]
        place = {id(child): n for n, child in enumerate(children[0])}
        for together in reversed(groups):
            all_of_them = [own[place[id(child)]] for own in children for child in together]
            stack.append((together, all_of_them, level + 1, block.inner))
    return rows


def _sum(root: _Block) -> None:
    """Counts pairs, finds what the partners' paths have in common, and which blocks are alike."""
    order: list[_Block] = [root]
    for block in order:
        order += block.children.values()
    for block in reversed(order):
        paths = [e.right[:-1] for e in block.entries if e.right is not None]
        paths += [child.right for child in block.children.values() if child.right is not None]
        block.right = _common(paths) if paths else None
        block.count = sum(e.right is not None for e in block.entries)
        block.count += sum(child.count for child in block.children.values())
    root.inner = root.right or ()
    above: dict[int, Path] = {id(root): ()}
    within: dict[int, tuple[str, ...]] = {id(root): ()}
    for block in order:
        block.inner = block.right if block.right is not None else above[id(block)]
        above.update((id(child), block.inner) for child in block.children.values())
        for child in block.children.values():
            within[id(child)] = (*within[id(block)], *_NUMBER.findall(child.label))
    numbers: dict[object, int] = {}
    for block in reversed(order):
        said = tuple(
            (
                e.glyph,
                e.name,
                _masked(e.told, within[id(block)]),
                _relative(e.right[:-1], block.inner) if e.right else (),
                _masked(e.note, within[id(block)]),
                e.leaf,
            )
            for e in block.entries
        )
        right = tuple(_NUMBER.sub("#", step) for step in _relative(block.right, above[id(block)]))
        below = tuple(child.alike for child in block.children.values())
        key = _NUMBER.sub("#", block.label), right, said, below
        block.alike = numbers.setdefault(key, len(numbers))


def _masked(text: str, numbers: Sequence[str]) -> str:
    """A part's text without an index that is the number of the block it is in: the place in a stack."""
    return _INDEX.sub(lambda m: f"[#{numbers.index(m[1])}" if m[1] in numbers else m[0], text)


def _common(paths: Sequence[Path]) -> Path:
    first, last = min(paths), max(paths)
    length = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), None)
    return first[: min(len(first), len(last)) if length is None else length]


def _block_row(group: Sequence[_Block], level: int, above: Path) -> PairedRow:
    label = _label([display_name(block.label) if level else block.label for block in group])
    rights = [_relative(block.right, above) for block in group]
    arrow = f" -> {_label([display_path(right) for right in rights])}" if rights[0] else ""
    times = f" x{len(group)}" if len(group) > 1 else ""
    count = sum(block.count for block in group)
    return PairedRow(level, "", f"{label}{times}{arrow}", plural(count, "pair") if count else "no pair")


def _runs(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries of one leaf that differ in the place in a stack alone, together."""
    found: dict[object, list[Entry]] = {}
    for entry in entries:
        index = _INDEX.search(entry.name)
        own = () if index is None else (index[1],)
        right = list(entry.right or ())
        step = next((n for n, s in enumerate(right) if _NUMBER.findall(s)[-1:] == list(own)), None)
        if step is not None:
            right[step] = _NUMBER.sub("#", right[step])
        told = [_masked(text, own) for text in (entry.name, entry.told, entry.note)]
        found.setdefault((entry.glyph, *told, *right), []).append(entry)
    return list(found.values())


def _entry_row(entries: Sequence[Entry], inners: Sequence[Path], level: int) -> PairedRow:
    texts = [_entry_text(entry, inner) for entry, inner in zip(entries, inners, strict=True)]
    return PairedRow(level, entries[0].glyph, _label(texts), _label([entry.note for entry in entries]))


def _entry_text(entry: Entry, inner: Path) -> str:
    partner = ""
    if entry.right is not None:
        between = _relative(entry.right[:-1], inner)
        partner = f" -> {f'{display_path(between)}/' if between else ''}{entry.told}"
    spec = f" {entry.leaf}" if entry.leaf else ""
    return f"{entry.name}{spec}{partner}"


def _relative(path: Path | None, above: Path) -> Path:
    if path is None:
        return ()
    return path[len(above) :] if path[: len(above)] == above else path


def _groups(blocks: Sequence[_Block]) -> list[list[_Block]]:
    """Blocks that are alike but for a number, together where the first of them stands."""
    found: dict[int, list[_Block]] = {}
    for block in blocks:
        found.setdefault(block.alike, []).append(block)
    return list(found.values())


def _label(labels: Sequence[str]) -> str:
    """`Dense_{0..11}` of labels that differ in one number; the first and the last of others."""
    if len(set(labels)) == 1:
        return labels[0]
    parts = [_NUMBER.split(label) for label in labels]
    if len({len(p) for p in parts}) == 1:
        varying = [n for n in range(1, len(parts[0]), 2) if len({p[n] for p in parts}) > 1]
        words = {tuple(p[::2]) for p in parts}
        runs = {tuple(p[n] for p in parts) for n in varying}
        if len(runs) == 1 == len(words):
            told = f"{{{number_runs(list(runs.pop()))}}}"
            return "".join(told if n in varying else step for n, step in enumerate(parts[0]))
    return f"{labels[0]} .. {labels[-1]}"


def difference_rows(found: Iterable[Difference]) -> list[PairedRow]:
    """One row a difference."""
    return [PairedRow(0, "~", str(difference)) for difference in found]
