"""Patterns over leaf names, and the columns of the leaves they choose."""

import re
from collections.abc import Callable, Iterable

import numpy as np

from leafreport._columns import Columns, Ints, subtree_ends
from leafreport._errors import PatternError

_Matcher = Callable[[str], object]


def matcher(pattern: str) -> _Matcher:
    """A test for one pattern, on the path joined by "/".

    A glob: `*` and `?` stay within one step, `**` crosses steps (none, one or many), `[ab]` is a set. With
    the prefix `re:` a regular expression, found anywhere in the name.

    Raises:
        PatternError: the pattern cannot be read.
    """
    try:
        if pattern.startswith("re:"):
            return re.compile(pattern[3:]).search
        return re.compile(_glob(pattern), re.DOTALL).fullmatch
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(
            f"cannot read the pattern {pattern[:200]!r}: {error}. A glob takes *, ?, ** and [set]; a regular "
            "expression starts with re:"
        ) from error


def _glob(pattern: str) -> str:
    out: list[str] = []
    i = 0
    while i < len(pattern):
        char = pattern[i]
        at_step = i == 0 or pattern[i - 1] == "/"
        if pattern.startswith("**/", i) and at_step:
            out.append("(?:[^/]*/)*")
            i += 3
            while pattern.startswith("**/", i):
                i += 3
        elif pattern[i:] == "**" and at_step:
            if out and out[-1] == "/":  # "a/**" takes a itself too, as "**/a" does
                out[-1] = "(?:/"
                out.append(".*)?")
            else:
                out.append(".*")
            i += 2
        elif char == "*":
            out.append("[^/]*")
            while i < len(pattern) and pattern[i] == "*":
                i += 1
        elif char == "?":
            out.append("[^/]")
            i += 1
        elif char == "[" and (end := pattern.find("]", i + 2)) > 0:
            body = pattern[i + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            out.append(f"(?!/)[{'^' + body[1:] if body[0] in '!^' else body}]")
            i = end + 1
        else:
            out.append(re.escape(char))
            i += 1
    return "".join(out)


def chosen(names: Iterable[str], include: Iterable[str], exclude: Iterable[str]) -> np.ndarray:
    """bool[leaves]: names some include pattern takes (all, where there is none) and no exclude pattern."""
    takes = [matcher(pattern) for pattern in include]
    drops = [matcher(pattern) for pattern in exclude]
    return np.fromiter(
        (
            (not takes or any(take(name) for take in takes)) and not any(drop(name) for drop in drops)
            for name in names
        ),
        np.bool_,
    )


def narrowed(columns: Columns, keep: np.ndarray) -> Columns:
    """The columns of the chosen leaves and of the nodes above them."""
    entries = np.zeros(len(columns.code), np.bool_)
    entries[columns.leaves[keep]] = True
    kept_before = np.zeros(len(columns.leaves) + 1, np.int32)
    np.cumsum(keep, out=kept_before[1:])
    start = columns.leaf_start
    entries |= kept_before[start[columns.end]] > kept_before[start[:-1]]
    entries[0] = True
    number = np.cumsum(entries, dtype=np.int32) - 1
    parent = columns.parent[entries]
    parent[1:] = number[parent[1:]]
    return Columns(
        parent=parent,
        end=subtree_ends(parent),
        name=columns.name[entries],
        code=columns.code[entries],
        names=columns.names,
        specs=columns.specs,
        nodes=columns.nodes,
        first=_shared(columns.first, keep),
    )


def _shared(first: Ints | None, keep: np.ndarray) -> Ints | None:
    if first is None:
        return None
    _, head, group = np.unique(first[keep], return_index=True, return_inverse=True)
    found = head[group].astype(np.int32)
    return None if len(head) == len(found) else found
