"""What is in a JAX pytree, what will be written, what is on disk, and do they agree.

Every name is imported when it is first used: `import leafreport` loads no JAX and no NumPy.
"""

TYPE_CHECKING = False  # a type checker takes it for true, and typing need not be imported
if TYPE_CHECKING:
    from leafreport._adapter import Adapter as Adapter
    from leafreport._adapter import adapter as adapter
    from leafreport._align._aligning import align as align
    from leafreport._align._alignment import Alignment as Alignment
    from leafreport._checkpoint._read import read as read
    from leafreport._comparison import StackComparison as StackComparison
    from leafreport._comparison import compare_stacks as compare_stacks
    from leafreport._diff import LeafDiff as LeafDiff
    from leafreport._diff import assert_same as assert_same
    from leafreport._diff import diff as diff
    from leafreport._discovery import adapters as adapters
    from leafreport._errors import AdapterError as AdapterError
    from leafreport._errors import AdapterWarning as AdapterWarning
    from leafreport._errors import AlignmentError as AlignmentError
    from leafreport._errors import CheckpointError as CheckpointError
    from leafreport._errors import ConformanceError as ConformanceError
    from leafreport._errors import DifferenceError as DifferenceError
    from leafreport._errors import FlattenError as FlattenError
    from leafreport._errors import FrameworkMissingError as FrameworkMissingError
    from leafreport._errors import LeafReportError as LeafReportError
    from leafreport._errors import ModelError as ModelError
    from leafreport._errors import PathError as PathError
    from leafreport._errors import PatternError as PatternError
    from leafreport._errors import ReportFormatError as ReportFormatError
    from leafreport._errors import StackError as StackError
    from leafreport._errors import TargetError as TargetError
    from leafreport._flatten import report as report
    from leafreport._leaf import Leaf as Leaf
    from leafreport._model import LeafFacts as LeafFacts
    from leafreport._model import Model as Model
    from leafreport._model import Role as Role
    from leafreport._report import LeafReport as LeafReport
    from leafreport._stack import leaf_count as leaf_count

_HOME = {
    "Adapter": "_adapter",
    "adapter": "_adapter",
    "adapters": "_discovery",
    "Alignment": "_align._alignment",
    "align": "_align._aligning",
    "read": "_checkpoint._read",
    "StackComparison": "_comparison",
    "compare_stacks": "_comparison",
    "LeafDiff": "_diff",
    "assert_same": "_diff",
    "diff": "_diff",
    "AdapterError": "_errors",
    "AdapterWarning": "_errors",
    "AlignmentError": "_errors",
    "CheckpointError": "_errors",
    "ConformanceError": "_errors",
    "DifferenceError": "_errors",
    "FlattenError": "_errors",
    "FrameworkMissingError": "_errors",
    "LeafReportError": "_errors",
    "ModelError": "_errors",
    "PathError": "_errors",
    "PatternError": "_errors",
    "ReportFormatError": "_errors",
    "StackError": "_errors",
    "TargetError": "_errors",
    "report": "_flatten",
    "Leaf": "_leaf",
    "LeafFacts": "_model",
    "Model": "_model",
    "Role": "_model",
    "LeafReport": "_report",
    "leaf_count": "_stack",
}

__all__ = [
    "Adapter",
    "AdapterError",
    "AdapterWarning",
    "Alignment",
    "AlignmentError",
    "CheckpointError",
    "ConformanceError",
    "DifferenceError",
    "FlattenError",
    "FrameworkMissingError",
    "Leaf",
    "LeafDiff",
    "LeafFacts",
    "LeafReport",
    "LeafReportError",
    "Model",
    "ModelError",
    "PathError",
    "PatternError",
    "ReportFormatError",
    "Role",
    "StackComparison",
    "StackError",
    "TargetError",
    "adapter",
    "adapters",
    "align",
    "assert_same",
    "compare_stacks",
    "diff",
    "leaf_count",
    "read",
    "report",
]

__version__ = "0.1.0"


if not TYPE_CHECKING:  # to a type checker it would make every misspelt name right

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            from leafreport._errors import nearest

            raise AttributeError(f"module 'leafreport' has no attribute {name!r}.{nearest(name, _HOME)}")
        from importlib import import_module

        value: object = getattr(import_module(f"leafreport.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
