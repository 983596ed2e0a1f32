"""What the project file promises, as far as it can be checked without building."""

import re
import tomllib
from importlib import metadata
from itertools import chain
from pathlib import Path

import leafreport

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_version_is_the_same_everywhere() -> None:
    assert metadata.version("leafreport") == leafreport.__version__


def test_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## ([0-9.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == leafreport.__version__


def test_package_says_it_is_typed() -> None:
    assert (ROOT / "src" / "leafreport" / "py.typed").read_text() == ""


def test_license_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert text.lstrip().startswith("Apache License\n")
    assert "END OF TERMS AND CONDITIONS" in text


def test_core_depends_on_no_framework() -> None:
    names = {re.match(r"[A-Za-z0-9-]+", line)[0] for line in PROJECT["dependencies"]}
    assert names == {"jax", "numpy", "treescope"}


def test_every_backend_has_an_extra_of_its_name() -> None:
    backends = PROJECT["entry-points"]["leafreport.adapters"]
    assert backends.keys() <= PROJECT["optional-dependencies"].keys()
    formats = ["orbax", "safetensors"]
    assert PROJECT["optional-dependencies"]["all"] == [f"leafreport[{','.join([*backends, *formats])}]"]


def test_constraints_are_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 20
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []


def test_constraints_pin_every_requirement() -> None:
    pinned = {
        re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    lines = chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    wanted = {re.match(r"[A-Za-z0-9-]+", line)[0] for line in lines}
    assert wanted - {"leafreport"} <= pinned


def test_readme_has_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    commands = [line for line in lines if line.startswith("pip install")]
    assert len([line for line in commands if line.endswith("&& pytest")]) == 1
    assert len([line for line in commands if "&& leafreport stack" in line]) == 1
