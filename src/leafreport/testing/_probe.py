"""A fresh interpreter that imports an adapter and builds with it, with its framework or without."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from leafreport.testing import _watch

_SECONDS = 300
_MARK = "leafreport.testing: "
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from leafreport.testing._probe import main; main(sys.argv[2])"
)


@dataclass(frozen=True, slots=True)
class Question:
    """What to import and build with.

    Attributes:
        module: the adapter's module.
        file: the file that it is from, for one that is not found by its name.
        place: the adapter in it, or its class.
        is_class: whether it is the class.
        frameworks: the packages that the adapter builds with.
        modules: these packages' modules that building imports; None to hide the packages.
    """

    module: str
    file: str | None
    place: str
    is_class: bool
    frameworks: Sequence[str]
    modules: Sequence[str] | None


@dataclass(slots=True)
class Answer:
    """What happened.

    Attributes:
        failed: why the module could not be imported.
        imported: the framework's packages that it imported.
        changed_on_import: what importing it changed.
        changed: what building changed.
        missing: what the ImportError said that building raised.
        other: what else it raised.
    """

    failed: str = ""
    imported: list[str] = field(default_factory=list)
    changed_on_import: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    missing: str | None = None
    other: str = ""


def ask(questions: Sequence[Question], environment: Mapping[str, str]) -> list[Answer]:
    """The answers of interpreters with this one's import path, one for each question, on the CPU."""
    path = json.dumps([entry or str(Path.cwd()) for entry in sys.path])
    running = [
        subprocess.Popen(  # noqa: S603  # this interpreter, on the adapter under test
            [sys.executable, "-c", _START, path, json.dumps(asdict(question))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, "JAX_PLATFORMS": "cpu"},
        )
        for question in questions
    ]
    return [_answer_of(process) for process in running]


def _answer_of(process: subprocess.Popen[str]) -> Answer:
    with process:
        try:
            out, trouble = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return Answer(failed=f"it takes more than {_SECONDS} seconds")
    for line in out.splitlines():
        if line.startswith(_MARK):
            return Answer(**json.loads(line.removeprefix(_MARK)))
    return Answer(failed=f"the interpreter ended with {process.returncode}: {trouble[-300:].strip()}")


def main(text: str) -> None:
    """Answers one question on standard output."""
    sys.stdout.write(f"\n{_MARK}{json.dumps(asdict(_answer(Question(**json.loads(text)))))}\n")


class _Without:
    """A finder that finds none of some packages, and all else that another finds."""

    def __init__(self, finder: Any, packages: Sequence[str]) -> None:
        self._finder = finder
        self._packages = packages

    def find_spec(self, name: str, *rest: Any) -> Any:
        if name.partition(".")[0] in self._packages:
            return None
        return self._finder.find_spec(name, *rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)  # such as what finds distributions


def _answer(question: Question) -> Answer:
    if question.modules is None:
        sys.meta_path[:] = [_Without(finder, question.frameworks) for finder in sys.meta_path]
    answer = Answer()
    jax.devices()  # what JAX sets when it starts is no one's change
    known, settings = {*sys.modules}, _watch.settings()
    try:
        module = _imported(question)
        adapter = attrgetter(question.place)(module)
        adapter = adapter() if question.is_class else adapter
    except Exception as error:  # noqa: BLE001  # an adapter's own code
        answer.failed = f"{type(error).__name__}: {error}"
        return answer
    answer.imported = sorted({*question.frameworks} & ({*sys.modules} - known))
    answer.changed_on_import = list(_watch.changed(settings, _watch.settings()))
    for name in question.modules or ():
        try:
            import_module(name)
        except Exception:  # noqa: BLE001, S112  # it is there by another way than an import
            continue
    watched = {*question.frameworks, "jax", "numpy"}
    settings, functions = _watch.settings(), _watch.functions(watched)
    try:
        _build(adapter)
    except ImportError as error:
        answer.missing = str(error)
    except Exception as error:  # noqa: BLE001  # an adapter's own code
        answer.other = f"{type(error).__name__}: {error}"
    answer.changed = list(_watch.changed(settings, _watch.settings()))
    if replaced := _watch.replaced(functions, _watch.functions(watched)):
        answer.changed.insert(0, f"{', '.join(sorted(replaced)[:10])} replaced")
    return answer


def _imported(question: Question) -> ModuleType:
    try:
        return import_module(question.module)
    except ModuleNotFoundError as error:
        if error.name != question.module or question.file is None:
            raise
    spec = spec_from_file_location(question.module, question.file)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {question.module!r}", name=question.module)
    module = module_from_spec(spec)
    sys.modules[question.module] = module
    spec.loader.exec_module(module)
    return module


def _build(adapter: Any) -> None:
    x = jax.ShapeDtypeStruct((2, 3), np.float32)
    for abstract in (True, False):
        adapter.dense_stack(0, x, 1, abstract=abstract)
