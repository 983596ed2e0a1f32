"""Every exception leafreport raises.

Each derives from `LeafReportError` and from the builtin that fits, so callers can catch either.
Messages say what was asked, what was found, why it cannot be and what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class LeafReportError(Exception):
    """Base of every error leafreport raises on purpose."""


class FlattenError(LeafReportError, ValueError):
    """The tree cannot be flattened: unsortable keys, a cycle, or too deep for JAX."""


class PathError(LeafReportError, LookupError):
    """No leaf has the path asked for, or several have."""


class PatternError(LeafReportError, ValueError):
    """A select pattern is not a valid glob or regular expression."""


class ReportFormatError(LeafReportError, ValueError):
    """A saved report is damaged, or of a schema this version does not know."""


class TargetError(LeafReportError, ValueError):
    """A command-line target does not lead to a tree."""


class StackError(LeafReportError, ValueError):
    """The stack asked for cannot be built: a bad seed, layer count or sample input."""


class AdapterError(LeafReportError, LookupError):
    """No adapter has the name asked for, or the one that has it does not load."""


class ModelError(LeafReportError, ValueError):
    """A model cannot be traced, or is none the adapter knows; the message says which and on what inputs."""


class AlignmentError(LeafReportError, ValueError):
    """Two models cannot be aligned, converted or verified as asked; the message says which leaf or option."""


class CheckpointError(LeafReportError, ValueError):
    """Nothing can be read there: no checkpoint, an unfinished or damaged one, or no such step or item."""


class FrameworkMissingError(LeafReportError, ImportError):
    """A framework that an adapter builds with, or a library that a file needs, is not installed."""


class DifferenceError(LeafReportError, AssertionError):
    """`assert_same` found differences; the message lists every one."""


class ConformanceError(LeafReportError, AssertionError):
    """`leafreport.testing` found an adapter that breaks the contract; the message lists every breach."""


class AdapterWarning(UserWarning):
    """An installed adapter is broken; nothing that does not use it is hurt."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A clause naming the closest known words, or the empty string.

    >>> nearest("flaks", ["flax", "haiku"])
    ' Did you mean flax?'
    """
    # difflib is quadratic in the words' length: names of thousands of characters are cut first.
    close = get_close_matches(word[:200], [name[:200] for name in known], n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def short(value: object) -> str:
    """A value found in a file where another belongs, in a few words."""
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:
        return "a huge number"
    return repr(value)[:60]
