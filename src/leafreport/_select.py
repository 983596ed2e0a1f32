"""Patterns over leaf names, and the columns of the leaves they choose."""

import re
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from leafreport._columns import Columns, Ints
from leafreport._errors import PatternError
from leafreport._leaf import Node

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
        found = re.compile(_glob(pattern)).fullmatch
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(
            f"cannot read the pattern {pattern[:200]!r}: {error}. A glob takes *, ?, ** and [set]; a regular "
            "expression starts with re:"
        ) from error
    return lambda name: found(f"/{name}")


_ANY_STEPS = "(?:/[^/]*)*"


def _glob(pattern: str) -> str:
    """A regular expression for a name with a "/" before every step, the first too.

    What stands between two stars takes the first place it fits: a later one lets no more names through. The
    group is atomic, so it is never moved, and the search stays linear in the name for any number of stars.
    """
    parts: list[list[str]] = [[]]
    for step in pattern.split("/"):
        if step == "**":
            parts.append([])
        else:
            parts[-1].append(f"/{_step(step)}")
    first, *rest = ("".join(part) for part in parts)
    if not rest:
        return first
    between = "".join(f"(?>{_ANY_STEPS}?{part}(?=/|\\Z))" for part in rest[:-1] if part)
    return f"{first}{between}{_ANY_STEPS}{rest[-1]}"


def _step(pattern: str) -> str:
    pieces = [""]
    i = 0
    while i < len(pattern):
        char = pattern[i]
        i += 1
        if char == "*":
            pieces.append("")
        elif char == "?":
            pieces[-1] += "[^/]"
        # A "]" right after "[" or "[!" belongs to the set; a "[" that nothing closes is itself.
        elif char == "[" and (end := pattern.find("]", i + 1 + (pattern[i : i + 1] in ("!", "^")))) > 0:
            pieces[-1] += _set(pattern[i:end])
            i = end + 1
        else:
            pieces[-1] += re.escape(char)
    first, *rest = pieces
    if not rest:
        return first
    return first + "".join(f"(?>[^/]*?{piece})" for piece in rest[:-1] if piece) + f"[^/]*{rest[-1]}"


def _set(body: str) -> str:
    negated = body[0] in "!^"
    # Escaped: what a regular expression reads in a set; "&&", "||" and "~~" are kept for its later versions.
    inner = re.sub(r"([\\\[\]&|~^])", r"\\\1", body[1:] if negated else body)
    inner = inner.replace("--", r"-\-")
    return f"(?!/)[{'^' if negated else ''}{inner}]"


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
    """The columns of the chosen leaves and the nodes above them; of a lone leaf not chosen, those of None."""
    entries = np.zeros(len(columns.code), np.bool_)
    entries[columns.leaves[keep]] = True
    kept_before = np.zeros(len(columns.leaves) + 1, np.int32)
    np.cumsum(keep, out=kept_before[1:])
    start = columns.leaf_start
    entries |= kept_before[start[columns.end]] > kept_before[start[:-1]]
    entries[0] = True
    before = np.zeros(len(entries) + 1, np.int32)  # how many entries are kept before each
    np.cumsum(entries, out=before[1:])
    parent = columns.parent[entries]
    parent[1:] = before[parent[1:]]
    code = columns.code[entries]
    nodes = columns.nodes
    if columns.code[0] >= 0 and not keep[0]:  # a root that is a leaf, and not chosen
        code, nodes = np.array([~0], np.int32), (Node("none", "NoneType"),)
    # Facts about leaves that are gone would still be looked at where a whole column is described.
    used, code[code >= 0] = np.unique(code[code >= 0], return_inverse=True)
    return Columns(
        parent=parent,
        end=before[columns.end[entries]],
        name=columns.name[entries],
        code=code,
        names=columns.names,
        specs=tuple(columns.specs[spec] for spec in used.tolist()),
        nodes=nodes,
        first=_shared(columns.first, keep),
        stored=_stored(columns.stored, keep),
    )


def _stored(stored: "npt.NDArray[np.int64] | None", keep: np.ndarray) -> "npt.NDArray[np.int64] | None":
    if stored is None:
        return None
    found: npt.NDArray[np.int64] = stored[keep]
    return found if (found >= 0).any() else None


def _shared(first: Ints | None, keep: np.ndarray) -> Ints | None:
    if first is None:
        return None
    _, head, group = np.unique(first[keep], return_index=True, return_inverse=True)
    found = head[group].astype(np.int32)
    return None if len(head) == len(found) else found
