"""An outsider's adapter, installed as anyone's: by pip, into an environment of its own, from its own folder."""

import json
import os
import re
import site
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

from leafreport.testing import _CHECKS as CHECKS

TESTS = Path(__file__).parent
FOLDERS = ("toy_framework", "toy_adapter")
PAGE = TESTS.parent / "docs" / "how-to" / "write-an-adapter.md"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The Python of a fresh environment that sees what is installed here, and the toy's two distributions."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("toy")
    venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    here = sysconfig.get_path("purelib")
    there = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    seen = dict.fromkeys([here, sysconfig.get_path("platlib"), *site.getsitepackages()])
    # Not the path alone: an editable install is a .pth file in that folder, which only addsitedir reads.
    lines = [f"import site; site.addsitedir({place!r})" for place in seen if Path(place).is_dir()]
    Path(there, "outer.pth").write_text("\n".join(lines) + "\n")
    framework, adapter = (str(TESTS / name) for name in FOLDERS)
    run(
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-build-isolation",
        framework,
        f"{adapter}[toy]",
    )
    return python


def run(python, *arguments, cwd=None):
    """What a command writes to standard output; it must succeed."""
    settings = {"JAX_PLATFORMS": "cpu", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(
        [python, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **settings},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def leafreport(python, *arguments, cwd=None):
    return run(python, "-m", "leafreport._cli", *arguments, cwd=cwd)


def test_toy_is_not_installed_here():
    found = subprocess.run([sys.executable, "-c", "import leafreport_toy"], capture_output=True, check=False)
    assert b"No module named 'leafreport_toy'" in found.stderr


def test_adapters_lists_the_toy_as_ready(environment):
    records = json.loads(leafreport(environment, "adapters", "--json"))
    assert [record for record in records if record["name"] == "toy"] == [
        {
            "name": "toy",
            "distribution": "leafreport-toy",
            "version": "1.0.0",
            "framework": "toynet",
            "framework_version": "0.3.0",
            "installed": True,
            "state": "ready",
        }
    ]
    (line,) = [t for t in leafreport(environment, "adapters").splitlines() if t.startswith("toy ")]
    assert re.split(r" {2,}", line) == ["toy", "leafreport-toy 1.0.0", "toynet 0.3.0", "ready"]


def test_stack_is_built_with_the_toy(environment):
    assert leafreport(environment, "stack", "--backend", "toy", "--layers", "3", "--fold") == (
        "(root)  6 leaves, 216 params, 864 B, Net\n"
        "  layers  6 leaves, 216 params, 864 B\n"
        "    {0..2} x3  6 leaves, 216 params, 864 B, Layer\n"
        "      weight  float32[8,8], 256 B\n"
        "      offset  float32[8], 32 B\n"
        "[6.]\n"
    )


def test_stacks_side_by_side_have_a_column_of_the_toy(environment):
    document = json.loads(leafreport(environment, "stack", "--backend", "all", "--layers", "2", "--json"))
    assert document["agree"]
    (toy,) = [column for column in document["backends"] if column["backend"] == "toy"]
    assert (toy["framework"], toy["count"], toy["order"]) == ("toynet 0.3.0", [4.0], "execution")
    assert [layer["path"] for layer in toy["layers"]] == [["layers", "0"], ["layers", "1"]]
    text = leafreport(environment, "stack", "--backend", "all", "--layers", "2")
    assert "toy" in text.splitlines()[0].split()
    assert "(in, out)" in text


def test_toy_keeps_the_contract(environment):
    run(
        environment, "-W", "error", "-c", "from leafreport.testing import check_adapter; check_adapter('toy')"
    )


def test_page_s_own_test_passes(environment, tmp_path):
    (code,) = [block for block in blocks("python") if "def test_adapter_keeps_the_contract" in block]
    (tmp_path / "adapter_test.py").write_text(code)
    call = "import adapter_test; adapter_test.test_adapter_keeps_the_contract()"
    run(environment, "-W", "error", "-c", call, cwd=tmp_path)


def test_show_of_a_net_finds_the_adapter_by_itself(environment, tmp_path):
    (tmp_path / "nets.py").write_text(
        "import jax, toynet\n"
        "net = toynet.make_net(jax.random.PRNGKey(0), [3, 4, 5])\n"
        "both = {'net': net, 'step': jax.numpy.zeros(())}\n"
    )
    document = json.loads(leafreport(environment, "show", "nets:net", "--json", cwd=tmp_path))
    assert [leaf["path"] for leaf in document["leaves"]] == [
        ["layers", "0", "weight"],
        ["layers", "0", "offset"],
        ["layers", "1", "weight"],
        ["layers", "1", "offset"],
    ]
    assert {"params"} == {leaf["role"] for leaf in document["leaves"]}
    assert {"Layer"} == {leaf["owner"] for leaf in document["leaves"]}
    named = leafreport(environment, "show", "nets:both", "--backend", "toy", "--json", cwd=tmp_path)
    assert [leaf.get("owner") for leaf in json.loads(named)["leaves"]] == ["Layer"] * 4 + [None]


def test_model_that_is_none_of_the_framework_is_an_error(environment):
    code = "import leafreport; leafreport.adapter('toy').model(3)"
    done = subprocess.run([environment, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "leafreport._errors.ModelError: the toy adapter takes a toynet.Net or Layer; this is a int."
    )


def test_without_the_framework_the_line_that_installs_it_is_told(environment):
    code = (
        "import sys, leafreport, numpy; sys.modules['toynet'] = None\n"
        "leafreport.leaf_count(0, numpy.ones((4, 8)), 3, backend='toy')"
    )
    done = subprocess.run([environment, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("Install it: pip install 'leafreport-toy[toy]'")


# --- The page that shows it ---------------------------------------------------------------------------------


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_page_shows_the_toys_own_code():
    assert (TESTS / "toy_adapter" / "leafreport_toy.py").read_text() in blocks("python")


def test_page_explains_every_check():
    assert re.findall(r"^\| `([a-z]+)` \|", PAGE.read_text(), re.MULTILINE) == list(CHECKS)


def test_page_shows_the_toys_own_metadata():
    text = (TESTS / "toy_adapter" / "pyproject.toml").read_text()
    assert text in blocks("toml")
    assert list(tomllib.loads(text)["project"]["optional-dependencies"]) == ["toy"]
