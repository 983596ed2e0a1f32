"""What a command-line target leads to: a saved report, or something importable."""

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from leafreport._errors import LeafReportError, ReportFormatError, TargetError, nearest
from leafreport._report import LeafReport

_FORMS = "A target is a saved report (FILE.json, or - for standard input) or pkg.module:name."


def load(target: str) -> LeafReport:
    """The report of a target.

    `pkg.module:name` is imported with the working folder importable; `name` may be dotted. A tree or a
    `Model` is reported as it is; a factory is called under `jax.eval_shape`, so that no array is made.

    Raises:
        TargetError: nothing is there, or it does not give a tree; the message says what was found.
        ReportFormatError: the file is no saved report.
    """
    if target == "-":
        return _piped()
    path = Path(target)
    if target.endswith(".json") or os.path.isfile(target):  # noqa: PTH113  # Path raises where a name is too long
        return _saved(path)
    module, colon, name = target.partition(":")
    if not colon:
        found = "a folder" if os.path.isdir(target) else "no file"  # noqa: PTH112  # as above
        raise TargetError(f"{target!r} is {found}. {_FORMS}")
    if not module or not name:
        raise TargetError(f"{target!r} names no {'object' if module else 'module'}. {_FORMS}")
    with _stdout_to_stderr():
        return _of_more_than_an_object(_reported(_imported(module, name), target), target)


def _piped() -> LeafReport:
    if sys.stdin is None:
        raise TargetError("'-' is standard input, which is closed.")
    try:
        return LeafReport.from_json(sys.stdin.buffer.read())
    except ReportFormatError as error:
        raise ReportFormatError(f"standard input is {error}") from error


def _saved(path: Path) -> LeafReport:
    try:
        return LeafReport.from_json(path)
    except OSError as error:
        raise TargetError(f"cannot read {str(path)!r}: {error.strerror}. {_FORMS}") from error
    except ReportFormatError as error:
        raise ReportFormatError(f"{str(path)!r} is {error}") from error


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """What a user's module prints is no part of the output; nor is what C code and child processes write."""
    with redirect_stdout(sys.stderr):
        try:
            kept = os.dup(1)
            os.dup2(2, 1)
        except OSError:  # one of the two is closed
            yield
            return
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def _imported(module_name: str, name: str) -> Any:
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    if "/" in module_name or module_name.startswith("."):
        raise TargetError(_no_module(module_name, module_name))
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise TargetError(_no_module(module_name, error.name)) from error
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


def _no_module(wanted: str, missing: str) -> str:
    if wanted.endswith(".py") or "/" in wanted:
        dotted = wanted.removesuffix(".py").strip("./").replace("/", ".")
        return f"{wanted!r} is a file's name. Give the module's: {dotted}:name, from the folder it starts in."
    known = () if "." in missing else (module.name for module in iter_modules())
    return (
        f"there is no module {missing!r} here or among the installed ones.{nearest(missing, known)} {_FORMS}"
    )


def _of_more_than_an_object(found: LeafReport, target: str) -> LeafReport:
    """The report, unless it is of one object alone: JAX takes it for a tree, and nobody means it."""
    if found.paths == ((),) and found.leaves[0].kind == "object":
        raise TargetError(
            f"{target!r} gives a {found.leaves[0].type}, in which JAX sees no leaves. Name a tree, a model "
            "that holds its parameters, or a factory of one. A model that makes them later is given as a "
            "function that returns them, such as `lambda: model.init(key, x)`."
        )
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
                " A factory is traced without values; where it needs some, assign its result to a name of "
                "the module and give that as the target."
            )
        elif not (inspect.isroutine(factory) or inspect.isclass(factory)):
            hint = (
                f" A {type(factory).__name__} is no tree, so it was called as a factory: where it is a "
                "model, give a function that returns its parameters."
            )
        elif isinstance(error, TypeError) and "argument" in str(error):
            hint = " A factory takes no arguments: wrap it in a function that gives them."
        raise TargetError(f"calling {target!r} failed: {_described(error)}.{hint}") from error
    return reports[0]


def _described(error: BaseException) -> str:
    """An error of a user's own code in one line: what, and the last line of that code it passed."""
    lines = str(error).strip().splitlines()
    # JAX's own messages tell in the first line what happened, in the others how it traces.
    text = " ".join(lines[:1] if type(error).__module__.startswith("jax") else lines).removesuffix(".")
    if len(text) > 300:
        text = f"{text[:300]}..."
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{said}{_where(error)}"


_NOT_THE_USERS = (str(Path(__file__).parent), "<frozen", "site-packages", "contextlib.py", "importlib")


def _where(error: BaseException) -> str:
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(part in frame.filename for part in _NOT_THE_USERS):
            return f" ({Path(frame.filename).name}:{frame.lineno})"
    return ""
