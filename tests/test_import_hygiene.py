"""What an import loads: each case in a fresh interpreter, each check with a twin that shows it can fail."""

import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import pytest

HEAVY = ("jax", "jaxlib", "numpy", "treescope", "flax", "equinox", "haiku", "optax", "orbax")
FRAMEWORKS = ("flax", "equinox", "haiku", "optax", "orbax")


def loaded(code: str, names: tuple[str, ...] = HEAVY) -> set[str]:
    """Which of the named packages are loaded once the code has run."""
    script = f"import sys\n{code}\nsys.stderr.write(repr([n for n in {names!r} if n in sys.modules]))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(literal_eval(done.stderr.splitlines()[-1]))


def run_command(*arguments: str) -> str:
    """Code that runs the command as the console script does, and goes on when it exits."""
    return (
        "from leafreport._cli import main\n"
        f"sys.argv = {['leafreport', *arguments]!r}\n"
        "try:\n    main()\nexcept SystemExit as exit:\n    assert not exit.code, exit.code"
    )


def test_import_loads_nothing_heavy() -> None:
    assert loaded("import leafreport") == set()


@pytest.mark.parametrize("name", ["LeafReportError", "FlattenError", "Model", "Leaf"])
def test_record_loads_nothing_heavy(name: str) -> None:
    assert loaded(f"import leafreport; leafreport.{name}") == set()


def test_listing_names_loads_nothing_heavy() -> None:
    assert loaded("import leafreport; dir(leafreport); leafreport.__all__; leafreport.__version__") == set()


@pytest.mark.parametrize("arguments", [("--help",), ("show", "--help"), ("stack", "--help"), ("--version",)])
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert loaded(run_command(*arguments)) == set()


def test_report_loads_jax_which_the_check_sees() -> None:
    assert loaded("import leafreport; leafreport.report") >= {"jax", "jaxlib", "numpy"}


def test_report_loads_no_framework_and_no_treescope() -> None:
    names = (*FRAMEWORKS, "treescope")
    assert loaded("import leafreport; str(leafreport.report({'a': 1}))", names) == set()


def test_tree_loads_treescope_which_the_check_sees() -> None:
    code = "import leafreport; leafreport.report({'a': 1}).to_tree()"
    assert loaded(code, ("treescope",)) == {"treescope"}


def test_saved_report_is_read_without_jax() -> None:
    text = '{"schema": "leafreport/1", "leaf_count": 0, "param_count": 0, "nbytes": 0, "repeated_nbytes": 0, '
    text += (
        '"nodes": [{"path": [], "parent": -1, "first_leaf": 0, "kind": "dict", "type": "dict", "keys": ""}], '
    )
    text += '"leaves": [], "shared": []}'
    code = f"import leafreport\nprint(leafreport.LeafReport.from_json({text!r}))"
    assert loaded(code, ("jax", "jaxlib", "treescope", *FRAMEWORKS)) == set()


def test_file_is_read_without_jax(tmp_path: Path) -> None:
    code = (
        f"import numpy, leafreport\nfile = {str(tmp_path / 'x.npz')!r}\nnumpy.savez(file, w=numpy.zeros(3))\n"
        "leafreport.read(file)"
    )
    names = ("jax", "jaxlib", "treescope", "tensorstore", "msgpack", "safetensors", *FRAMEWORKS)
    assert loaded(code, names) == set()


def test_two_reports_are_compared_without_jax() -> None:
    code = "import leafreport; leafreport.diff; leafreport.assert_same; leafreport.LeafDiff"
    assert loaded(code, ("jax", "jaxlib", "treescope", *FRAMEWORKS)) == set()


def test_listing_adapters_loads_no_framework() -> None:
    assert loaded("import leafreport; leafreport.adapters()", ("jax", *FRAMEWORKS)) <= {"jax"}


def test_finding_an_adapter_loads_no_framework() -> None:
    assert loaded("import leafreport; leafreport.adapter('flax')", FRAMEWORKS) == set()


def test_building_with_an_adapter_loads_its_framework_which_the_check_sees() -> None:
    pytest.importorskip("flax")
    code = (
        "import jax, leafreport\nx = jax.ShapeDtypeStruct((1, 2), 'float32')\n"
        "leafreport.adapter('flax').dense_stack(0, x, 1, abstract=True)"
    )
    assert "flax" in loaded(code, FRAMEWORKS)
