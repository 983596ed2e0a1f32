"""What a command-line target leads to: a saved report, or something importable."""

import functools
import inspect
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from leafreport._errors import LeafReportError, ReportFormatError, TargetError, nearest
from leafreport._report import LeafReport

_FORMS = "A target is a saved report (FILE.json, or - for standard input) or pkg.module:name."


def load(target: str) -> LeafReport:
    """The report of a target.

    `pkg.module:name` is imported with the working folder importable; `name` may be dotted. A tree or a `Model`
    is reported as it is; a factory is called under `jax.eval_shape`, so that no array is made.

    Raises:
        TargetError: nothing is there, or it does not give a tree; the message says what was found.
        ReportFormatError: the file is no saved report.
    """
    if target == "-":
        return LeafReport.from_json(sys.stdin.buffer.read())
    path = Path(target)
    if target.endswith(".json") or path.is_file():
        return _saved(path)
    module, colon, name = target.partition(":")
    if not colon:
        found = "a folder" if path.is_dir() else "no file"
        raise TargetError(f"{target!r} is {found}. {_FORMS}")
    if not module or not name:
        raise TargetError(f"{target!r} names no {'object' if module else 'module'}. {_FORMS}")
    with redirect_stdout(sys.stderr):  # what a user's module prints is no part of the output
        return _reported(_imported(module, name), target)


def _saved(path: Path) -> LeafReport:
    try:
        return LeafReport.from_json(path)
    except OSError as error:
        raise TargetError(f"cannot read {str(path)!r}: {error.strerror}. {_FORMS}") from error
    except ReportFormatError as error:
        raise ReportFormatError(f"{str(path)!r} is {error}") from error


def _imported(module_name: str, name: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise TargetError(
                f"there is no module {error.name!r} here or among the installed ones. {_FORMS}"
            ) from error
        raise TargetError(f"importing {module_name!r} failed: {_described(error)}") from error
    except (Exception, SystemExit) as error:
        raise TargetError(f"importing {module_name!r} failed: {_described(error)}") from error
    for i, step in enumerate(name.split(".")):
        try:
            found = getattr(found, step)
        except Exception as error:
            owner = ".".join([module_name, *name.split(".")[:i]])
            known = [n for n in dir(found) if not n.startswith("_")]
            raise TargetError(f"{owner!r} has no {step!r}.{nearest(step, known)}") from error
    return found


def _reported(found: Any, target: str) -> LeafReport:
    from leafreport._flatten import report

    if isinstance(found, ModuleType):
        raise TargetError(f"{target!r} is a module: name a tree, a model or a factory in it.")
    if not _is_factory(found):
        return report(found)
    return _traced(found, target)


def _is_factory(found: Any) -> bool:
    """Whether to call it: a function, a class, or a callable that is itself neither a tree nor an array."""
    from jax import tree_util

    if inspect.isroutine(found) or inspect.isclass(found) or isinstance(found, functools.partial):
        return True
    return (
        callable(found)
        and not tree_util.default_registry.is_node(type(found))
        and not hasattr(found, "dtype")
    )


def _traced(factory: Callable[[], Any], target: str) -> LeafReport:
    import jax

    from leafreport._flatten import report

    reports: list[LeafReport] = []

    def run() -> tuple[()]:
        # Reported while traced: shapes and dtypes are known then, and leaves that are no arrays (functions,
        # strings), which no traced function may return, are still there.
        reports.append(report(factory()))
        return ()

    try:
        jax.eval_shape(run)
    except LeafReportError:
        raise
    except (Exception, SystemExit) as error:
        hint = ""
        if isinstance(error, jax.errors.JAXTypeError | jax.errors.TracerArrayConversionError):
            hint = (
                " A factory is traced without values; where it needs some, assign its result to a name of the "
                "module and give that as the target."
            )
        elif isinstance(error, TypeError) and "argument" in str(error):
            hint = " A factory takes no arguments: wrap it in a function that gives them."
        raise TargetError(f"calling {target!r} failed: {_described(error)}.{hint}") from error
    return reports[0]


def _described(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if len(text) > 300:
        text = f"{text[:300]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
