"""What a command-line target leads to: a saved report, a checkpoint on disk, or something importable."""

import functools
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, TypeVar

from leafreport._errors import LeafReportError, ModelError, ReportFormatError, TargetError, nearest
from leafreport._report import LeafReport

_T = TypeVar("_T")
_FORMS = (
    "A target is a saved report (FILE.json, or - for standard input), a checkpoint (its folder or file, or "
    "ROOT@STEP) or pkg.module:name."
)
_STEP = re.compile(r"(.+)@([0-9]{1,18})", re.DOTALL)


def load(
    target: str, *, inputs: Sequence[str] = (), backend: str | None = None, strict: bool = False
) -> LeafReport:
    """The report of a target.

    `pkg.module:name` is imported with the working folder importable; `name` may be dotted. A tree or a
    `Model` is reported as it is; a factory is called under `jax.eval_shape`, so that no array is made. A
    framework's own model, whose arrays are made from inputs, is traced on these.

    Args:
        target: what the user typed.
        inputs: shapes, and dtypes where they are not float32: `4,8` or `4,16:int32`.
        backend: the adapter that tells roles and layers; found by the target's class when not given.
        strict: refuse inputs and a backend that are of no use to the target.

    Raises:
        TargetError: nothing is there, or it does not give a tree; the message says what was found.
        ReportFormatError: the file is no saved report.
        CheckpointError: the checkpoint cannot be read.
    """
    saved = _read(target)
    if saved is not None:
        _refuse(
            strict and (inputs or backend), target, "a saved report or a checkpoint, which says all it knows"
        )
        return saved
    with _stdout_to_stderr():
        reading = _Reading(target, tuple(map(sample, inputs)), backend, strict)
        return _of_more_than_an_object(reading.report(_named(target)), target)


def opened(targets: Sequence[str], use: Callable[[list[Any]], _T], *, traced: bool) -> _T:
    """Gives what targets lead to (reports, models, trees) to a function, and what that makes of it.

    Args:
        targets: what the user typed.
        use: what is done with them.
        traced: call factories under `jax.eval_shape`, so that no array is made: what they give lives as long
            as `use` runs. Otherwise they are called as they are.

    Raises:
        TargetError: as for `load`.
        ReportFormatError: as for `load`.
    """
    import jax

    reports = [_read(target) for target in targets]
    with _stdout_to_stderr():
        found: list[Any] = [
            _named(target) if known is None else known for target, known in zip(targets, reports, strict=True)
        ]
        factories = [known is None and _calls(one) for one, known in zip(found, reports, strict=True)]
        out: list[_T] = []

        def run() -> tuple[()]:
            made = []
            for target, one, is_factory in zip(targets, found, factories, strict=True):
                made.append(_called(one, target) if is_factory else one)
            out.append(use(made))
            return ()

        if traced and any(factories):
            jax.eval_shape(run)
        else:
            run()
    return out[0]


def _called(factory: Callable[[], Any], target: str) -> Any:
    try:
        return factory()
    except LeafReportError:
        raise
    except (Exception, SystemExit) as error:
        raise _failed(factory, target, error) from error


def _read(target: str) -> LeafReport | None:
    """The report of what is on disk; None for something importable."""
    if target == "-":
        return _piped()
    path, step = on_disk(target)
    if path is None:
        return None
    from leafreport._checkpoint._read import is_checkpoint_file, read

    # Path raises where a name is too long.
    is_report = os.path.isfile(path) and not is_checkpoint_file(Path(path))  # noqa: PTH113
    if is_report or _is_report_name(path):
        return _saved(Path(path))
    return read(path, step=step)


def on_disk(target: str) -> tuple[str | None, int | None]:
    """The path that a target names, and the step of it; no path where it names something importable.

    What is there by the very name given is meant; then `ROOT@100` is a step.
    """
    # Path raises where a name is too long.
    if os.path.exists(target) or _is_report_name(target):  # noqa: PTH110
        return target, None
    if found := _STEP.fullmatch(target):
        return found[1], int(found[2])
    if "://" in target or target.startswith("~") or (os.sep in target and ":" not in target):
        return target, None
    return None, None


def _is_report_name(target: str) -> bool:
    return target.endswith(".json") and not target.endswith(".safetensors.index.json")


def _named(target: str) -> Any:
    """The object of `pkg.module:name`."""
    module, colon, name = target.partition(":")
    if not colon:
        raise TargetError(f"{target!r} is no file. {_FORMS}")
    if not module or not name:
        raise TargetError(f"{target!r} names no {'object' if module else 'module'}. {_FORMS}")
    one = _imported(module, name)
    if isinstance(one, ModuleType):
        raise TargetError(f"{target!r} is a module: name a tree, a model or a factory in it.")
    return one


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


def sample(text: str) -> Any:
    """The abstract array of `4,8` or `4,16:int32`.

    Raises:
        TargetError: it is neither.
    """
    import jax

    shape, _, dtype = text.partition(":")
    sizes = [size.strip() for size in shape.split(",") if size.strip()]
    if all(size.isdecimal() and len(size) < 18 for size in sizes):
        with suppress(TypeError, ValueError):
            return jax.ShapeDtypeStruct(tuple(map(int, sizes)), jax.numpy.dtype(dtype or "float32"))
    raise TargetError(
        f"--input {text!r} is no shape: give sizes, and a dtype where it is not float32, such as 4,8 or "
        "4,16:int32."
    )


@dataclass(frozen=True)
class _Reading:
    """How an imported object becomes a report."""

    target: str
    inputs: tuple[Any, ...]
    backend: str | None
    strict: bool

    def report(self, found: Any) -> LeafReport:
        """The report of a tree, a model, or what a factory gives."""
        if _calls(found):
            return _traced(found, self)
        return self.made(found)

    def made(self, found: Any) -> LeafReport:
        """The report of what is no factory: of a framework's model, by its adapter."""
        from jax import tree_util

        from leafreport._adapter import adapter, adapter_of, model
        from leafreport._flatten import report
        from leafreport._model import Model

        chosen = adapter(self.backend) if self.backend else adapter_of(found)
        if isinstance(found, Model) or chosen is None:
            _refuse(
                self.strict and self.inputs, self.target, f"a {type(found).__name__}, which is not called"
            )
            return report(found)
        recognized = getattr(chosen, "recognizes", lambda _: False)(found)
        if recognized and (self.inputs or not any(map(_is_array, tree_util.tree_leaves(found)))):
            try:
                return report(model(chosen, found, self.inputs))
            except ModelError as error:
                hint = "" if self.inputs else " On the command line: --input 4,8, once for each input."
                raise TargetError(f"{self.target!r}: {error}{hint}") from error
        _refuse(self.strict and self.inputs, self.target, f"a {type(found).__name__}, which is not called")
        return report(found, adapter=chosen)


def _refuse(unused: object, target: str, found: str) -> None:
    if unused:
        raise TargetError(f"{target!r} is {found}: leave --input and --backend out.")


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _calls(found: Any) -> bool:
    """Whether a target is called for what it gives: a factory that is no framework's own model."""
    from leafreport._adapter import adapter_of

    return adapter_of(found) is None and _is_factory(found)


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


def _traced(factory: Callable[[], Any], reading: _Reading) -> LeafReport:
    import jax

    target = reading.target
    reports: list[LeafReport] = []

    def run() -> tuple[()]:
        # Reported while traced: shapes and dtypes are known then, and leaves that are no arrays (functions,
        # strings), which no traced function may return, are still there.
        reports.append(reading.made(factory()))
        return ()

    try:
        jax.eval_shape(run)
    except LeafReportError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ValueError) and "mesh" in str(error):
            otherwise = _made_without_mesh(factory, reading)
            if otherwise is not None:
                return otherwise
        raise _failed(factory, target, error) from error
    return reports[0]


def _failed(factory: Callable[[], Any], target: str, error: BaseException) -> TargetError:
    """The error for a factory that raises, with what may help."""
    import jax

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
    return TargetError(f"calling {target!r} failed: {_described(error)}.{hint}")


def _made_without_mesh(factory: Callable[[], Any], reading: _Reading) -> LeafReport | None:
    """The report of a factory whose framework asks for a mesh; None where none knows how to do without.

    NNX does so as soon as a variable that names mesh axes is made, unless it is told not to.
    """
    from leafreport._adapter import adapter, model
    from leafreport._discovery import adapters, packages
    from leafreport._flatten import report

    for record in adapters():
        imported = record.framework is not None and packages(record.framework) & sys.modules.keys()
        if imported and record.distribution == "leafreport":
            with suppress(Exception):
                return report(model(adapter(record.name), factory, reading.inputs))
    return None


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
