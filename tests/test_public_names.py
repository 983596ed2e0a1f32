"""The public names: the whole list, and that each one is really there."""

import subprocess
import sys
from pathlib import Path

import pytest

import leafreport

NAMES = [
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


def test_public_names_are_these() -> None:
    assert sorted(leafreport.__all__) == NAMES


def test_public_names_are_listed_by_dir() -> None:
    assert set(NAMES) <= set(dir(leafreport))


# Names for a type checker, which stand for a union of others.
ALIASES = {"Role"}
RECORDS = [name for name in NAMES if name not in ALIASES]


@pytest.mark.parametrize("name", RECORDS)
def test_public_name_resolves_to_what_bears_it(name: str) -> None:
    assert getattr(leafreport, name).__name__ == name


@pytest.mark.parametrize("name", RECORDS)
def test_public_name_has_a_docstring(name: str) -> None:
    assert getattr(leafreport, name).__doc__


def test_star_import_gives_the_public_names() -> None:
    given: dict[str, object] = {}
    exec("from leafreport import *", given)  # noqa: S102  # a star import inside a function is no syntax
    assert set(given) - {"__builtins__"} == set(NAMES)


def test_errors_are_the_children_of_the_base() -> None:
    errors = {name for name in NAMES if name.endswith("Error")}
    children = {child.__name__ for child in leafreport.LeafReportError.__subclasses__()}
    assert {"LeafReportError", *children} == errors


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [("reprot", "report"), ("leafcount", "leaf_count"), ("Leafreport", "LeafReport"), ("adaptor", "adapter")],
)
def test_misspelt_name_is_answered_with_the_nearest(misspelt: str, meant: str) -> None:
    with pytest.raises(AttributeError, match=rf"has no attribute '{misspelt}'\. Did you mean .*\b{meant}\b"):
        getattr(leafreport, misspelt)


def test_name_like_no_other_is_answered_plainly() -> None:
    with pytest.raises(AttributeError, match=r"module 'leafreport' has no attribute 'zzzzzz'\.$"):
        leafreport.zzzzzz  # type: ignore[attr-defined]  # noqa: B018


def test_misspelt_name_is_an_import_error_in_a_from_import() -> None:
    with pytest.raises(ImportError, match="cannot import name 'reprot'"):
        from leafreport import reprot  # type: ignore[attr-defined]  # noqa: F401


@pytest.mark.parametrize("name", ["_flatten", "_report", "_diff"])
def test_module_does_not_hide_the_function(name: str) -> None:
    __import__(f"leafreport.{name}")
    assert callable(leafreport.report)
    assert callable(leafreport.diff)


def check_types(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "user.py"
    file.write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)


def test_type_checker_sees_every_name_and_refuses_a_misspelt_one(tmp_path: Path) -> None:
    lines = [f"from leafreport import {name}" for name in NAMES]
    lines += [
        "reveal_type(report({}))",
        "reveal_type(report({}).nbytes)",
        "import leafreport",
        "leafreport.reprot",
    ]
    done = check_types(tmp_path, "\n".join(lines) + "\n")
    found = done.stdout.splitlines()
    last = len(NAMES)
    assert f'user.py:{last + 1}: note: Revealed type is "leafreport._report.LeafReport"' in found
    assert f'user.py:{last + 2}: note: Revealed type is "int"' in found
    errors = [line for line in found if ": error: " in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert errors[0].startswith(f'user.py:{last + 4}: error: Module has no attribute "reprot"')
