"""Every example in README.md and docs/ does what it says."""

import doctest
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _names(pages):
    return [str(page.relative_to(ROOT)) for page in pages]


WITH_PYTHON = [page for page in PAGES if ">>> " in page.read_text()]
WITH_CONSOLE = [page for page in PAGES if CONSOLE.search(page.read_text())]


def _failures(page, text):
    parser = doctest.DocTestParser()
    test = parser.get_doctest(text.replace("\n```", "\n"), {}, page.name, str(page), 0)
    assert test.examples
    said = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test, out=said.append)
    return "".join(said)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=_names(WITH_PYTHON))
def test_python_examples_print_what_is_shown(page):
    pytest.importorskip("flax")
    pytest.importorskip("optax")
    assert _failures(page, page.read_text()) == ""


def test_python_examples_that_print_something_else_are_caught():
    page = ROOT / "README.md"
    pytest.importorskip("flax")
    assert "Expected:" in _failures(page, ">>> 1 + 1\n3\n")


def _on_a_terminal(command):
    """What a command writes to a terminal that has no colours."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "dumb", "COLUMNS": "120"}
    environment.pop("FORCE_COLOR", None)
    with subprocess.Popen(command, stdout=theirs, env=environment) as process:
        os.close(theirs)
        out = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux's way of saying that the other end is closed
                break
            if not chunk:
                break
            out += chunk
    os.close(ours)
    return process.returncode, out.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("page", WITH_CONSOLE, ids=_names(WITH_CONSOLE))
def test_console_examples_show_the_command_s_real_output(page):
    pytest.importorskip("flax")
    for block in CONSOLE.findall(page.read_text()):
        line, _, shown = block.partition("\n")
        assert line.startswith("$ leafreport ")
        arguments = shlex.split(line.removeprefix("$ leafreport "))
        code, out = _on_a_terminal([sys.executable, "-m", "leafreport._cli", *arguments])
        assert (code, out) == (0, shown)


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+\.md)\)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"
