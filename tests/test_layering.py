"""Who imports whom: read from the source, so that an import inside a function counts too."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import leafreport

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
PACKAGE = SRC / "leafreport"
ADAPTERS = ROOT / "adapters"

# A report read from a file is plain Python and NumPy: none of this needs JAX.
WITHOUT_JAX = {
    "_checkpoint",
    "_columns",
    "_diff",
    "_display",
    "_errors",
    "_facts",
    "_fold",
    "_json",
    "_leaf",
    "_leaves",
    "_render",
    "_report",
    "_select",
    "_tables",
    "_totals",
}
# `diff` takes live trees too, and only then imports, inside the function, what reads them.
DEFERRED = ("leafreport._diff", "leafreport._flatten")
# What the whole of src may import from outside the standard library.
ALLOWED = {"jax", "numpy", "treescope", "leafreport", "safetensors", "tensorstore", "msgpack"}
# The order of the layers: each imports only from those before it.
LAYERS = [
    {"_errors", "_model"},
    {"_leaf"},
    {"_columns", "_render"},
    {"_display", "_leaves", "_totals", "_select", "_json"},
    {"_fold"},
    {"_tables"},
    {"_report"},
    {"_checkpoint"},
    {"_discovery"},
    {"_adapter"},
    {"_describe", "_keys", "_endless", "_flatten", "_facts", "_diff"},
    {"_stack"},
    {"_comparison"},
    {"_align"},
    {"adapting"},
    {"testing"},
    {"_target"},
    {"_commands"},
    {"_cli"},
]


def module_name(file: Path, root: Path) -> str:
    """`leafreport._render._rows` for src/leafreport/_render/_rows.py."""
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(source: str, module: str, known: frozenset[str] = frozenset()) -> Iterator[str]:
    """The modules a source imports, in functions too; what only a type checker reads is left out.

    `from package import module` gives the module where it is among the known ones, else the package.
    """
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                todo += node.orelse
                continue
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(level=0):
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    yield full if full in known else str(node.module)
            case ast.ImportFrom():
                raise AssertionError(f"{module}: a relative import, which no file here uses")
            case ast.Call(func=ast.Name(id="__import__") | ast.Attribute(attr="import_module")):
                # Lazy names and targets are resolved by a computed name; a literal one is an import.
                yield from (a.value for a in node.args if isinstance(a, ast.Constant))
        todo += ast.iter_child_nodes(node)


def outside_functions(source: str) -> str:
    """The source without the bodies of its functions: what runs when the module is imported."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [ast.Pass()]
    return ast.unparse(tree)


def sources(root: Path) -> dict[str, str]:
    return {module_name(file, root): file.read_text() for file in sorted(root.rglob("*.py"))}


CORE = sources(SRC)
OUTSIDE = sources(ADAPTERS)
KNOWN = frozenset(CORE)
IMPORTS = {module: set(imported(source, module, KNOWN)) for module, source in CORE.items()}


def top(module: str) -> str:
    """`_render` for `leafreport._render._rows`; the empty string for the package itself."""
    return f"{module}.".split(".")[1]


def reach_jax(imports: dict[str, set[str]], start: set[str]) -> set[str]:
    """The chains of modules that lead from the start to JAX."""
    found: set[str] = set()
    seen = set(start)
    todo = [(module, module) for module in start]
    while todo:
        module, chain = todo.pop()
        for name in imports.get(module, ()):
            if name.partition(".")[0] in ("jax", "jaxlib"):
                found.add(f"{chain} -> {name}")
            elif name in imports and name not in seen:
                seen.add(name)
                todo.append((name, f"{chain} -> {name}"))
    return found


def strangers(imports: dict[str, set[str]]) -> set[str]:
    """Imports of anything but the standard library and what the core depends on."""
    return {
        f"{module} -> {name}"
        for module, names in imports.items()
        for name in names
        if name.partition(".")[0] not in ALLOWED | sys.stdlib_module_names
    }


def cycle(imports: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter({m: names & imports.keys() - {m} for m, names in imports.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_modules_without_jax_are_all_there() -> None:
    assert {top(module) for module in CORE} >= WITHOUT_JAX


def test_report_side_never_reaches_jax() -> None:
    start = {module for module in CORE if top(module) in WITHOUT_JAX}
    importer, deferred = DEFERRED
    imports = IMPORTS | {importer: IMPORTS[importer] - {deferred}}
    assert reach_jax(imports, start) == set()


def test_import_for_a_live_tree_is_inside_a_function() -> None:
    importer, deferred = DEFERRED
    assert deferred not in set(imported(outside_functions(CORE[importer]), importer, KNOWN))
    assert deferred in IMPORTS[importer]


def test_reaching_jax_through_another_module_is_found() -> None:
    text = {
        "leafreport._leaf": "def f():\n    from leafreport import _b\n",
        "leafreport._b": "import jax.numpy",
    }
    imports = {m: set(imported(s, m, frozenset(text))) for m, s in text.items()}
    assert reach_jax(imports, {"leafreport._leaf"}) == {"leafreport._leaf -> leafreport._b -> jax.numpy"}


def test_core_imports_no_framework_and_no_adapter() -> None:
    assert strangers(IMPORTS) == set()


@pytest.mark.parametrize(
    "line",
    [
        "import flax",
        "from flax import linen",
        "import leafreport_flax",
        "def f():\n    import haiku",
        "import importlib\nimportlib.import_module('equinox')",
    ],
)
def test_framework_import_is_found(line: str) -> None:
    assert strangers({"leafreport._leaf": set(imported(line, "leafreport._leaf"))})


def test_imports_for_a_type_checker_do_not_count() -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import flax\nelse:\n    import haiku\n"
    assert set(imported(text, "m")) == {"typing", "haiku"}


def test_no_module_imports_in_a_circle() -> None:
    assert cycle(IMPORTS) == []


def test_circle_is_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_layers_import_downwards_only() -> None:
    level = {name: i for i, names in enumerate(LAYERS) for name in names}
    wrong = {
        f"{module} -> {name}"
        for module, names in IMPORTS.items()
        for name in names & KNOWN
        if top(module) and top(name) and level[top(name)] > level[top(module)]
    }
    assert wrong == set()


def test_every_module_has_a_layer() -> None:
    assert {top(module) for module in CORE} - {""} == set().union(*LAYERS)


def test_adapters_import_public_names_only() -> None:
    wrong = set()
    for module, source in OUTSIDE.items():
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.ImportFrom(module="leafreport"):
                    names = {alias.name for alias in node.names}
                    wrong |= {f"{module}: {name}" for name in names - {*leafreport.__all__, "adapting"}}
                case ast.ImportFrom(module=str(name)) if name.startswith("leafreport"):
                    wrong |= {f"{module}: {name}"} - {f"{module}: leafreport.adapting"}
                case ast.Import(names=names):
                    wrong |= {f"{module}: {a.name}" for a in names if a.name.startswith("leafreport.")}
                case ast.Attribute(value=ast.Name(id="leafreport"), attr=str(name)):
                    wrong |= {f"{module}: {name}"} - {f"{module}: {n}" for n in leafreport.__all__}
    assert wrong == set()


def test_adapters_import_their_framework_only_when_used() -> None:
    for module, source in OUTSIDE.items():
        names = {name.partition(".")[0] for name in imported(outside_functions(source), module)}
        assert (
            names
            <= ALLOWED - {"treescope", "safetensors", "tensorstore", "msgpack"} | sys.stdlib_module_names
        ), module


def test_every_adapter_module_is_an_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    targets = project["entry-points"]["leafreport.adapters"].values()
    assert {target.partition(":")[0] for target in targets} == set(OUTSIDE)
