"""Names that could break a terminal, a page, a table or a file come out escaped and whole in every format."""

import csv
import html
import io
import json
import re
from html.parser import HTMLParser

import pytest
import treescope

from leafreport import LeafReport, diff, report

# Each name and how it is shown on one line of text.
SHOWN = {
    "<script>alert(1)</script>": "<script>alert(1)</script>",
    "\x1b[31mred\x1b[0m": "\\x1b[31mred\\x1b[0m",
    "[red]bold[/red]": "[red]bold[/red]",
    "two\nlines": "two\\nlines",
    "carriage\rreturn": "carriage\\rreturn",
    "tab\there": "tab\\there",
    "\x00nul\x7f": "\\x00nul\\x7f",
    "\x9b31m": "\\x9b31m",
    "lone \ud800 surrogate": "lone \\ud800 surrogate",
    "\ud83d\ude00": "\\ud83d\\ude00",
    "\u202eright to left": "\\u202eright to left",
    "back\\slash": "back\\\\slash",
    "pipe|table": "pipe|table",
    "quote\"and'comma,": "quote\"and'comma,",
    "&amp;": "&amp;",
    "": '""',
    ".": ".",
    "..": "..",
    "x" * 10_000: "x" * 10_000,
    "ünï": "ünï",
}
NAMES = list(SHOWN)
IDS = [ascii(name)[:24] for name in NAMES]


def _tree(name):
    return {name: {"inner": 1.0}, "plain": [2]}


def _unsafe(text):
    """Characters no output may hold raw, but for the newlines that end its lines."""
    return re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", text)


def test_unsafe_characters_would_be_found():
    assert _unsafe("a\x1bb\rc\ud800") == ["\x1b", "\r", "\ud800"]


@pytest.mark.parametrize("name", NAMES, ids=IDS)
def test_text_shows_the_name_escaped_and_whole(name):
    text = report(_tree(name)).to_text()
    assert not _unsafe(text)
    lines = text.splitlines()
    assert sum(line.startswith(f"{SHOWN[name]}/inner ") for line in lines) == 1
    assert len(lines) == 4  # heading, two leaves, total


@pytest.mark.parametrize("name", NAMES, ids=IDS)
def test_tree_shows_the_name_escaped_and_whole(name):
    text = report(_tree(name)).to_tree()
    assert not _unsafe(text)
    assert sum(line.startswith(f"  {SHOWN[name]}  1 leaf") for line in text.splitlines()) == 1


@pytest.mark.parametrize("name", NAMES, ids=IDS)
def test_html_shows_the_name_escaped_and_whole(name):
    page = report(_tree(name)).to_html()
    assert not _unsafe(page)
    assert f"<b>{html.escape(SHOWN[name])}</b>" in page
    assert "<script" not in page


@pytest.mark.parametrize("name", NAMES, ids=IDS)
def test_markdown_shows_the_name_escaped_and_whole(name):
    text = report(_tree(name)).to_markdown()
    assert not _unsafe(text)
    (row,) = [line for line in text.splitlines() if "inner" in line]
    cell = row.split(" | ")[0].removeprefix("| ")
    # What Markdown would show: its own escapes undone.
    assert html.unescape(re.sub(r"\\([\\|*_`~<>\[\]#])", r"\1", cell)) == f"{SHOWN[name]}/inner"
    assert not re.search(r"(?<!\\)<", cell)


@pytest.mark.parametrize("name", NAMES, ids=IDS)
def test_csv_holds_the_name_escaped_and_the_path_exactly(name):
    text = report(_tree(name)).to_csv()
    assert not _unsafe(text)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["path"] for row in rows if row["path"].endswith("/inner")] == [f"{SHOWN[name]}/inner"]
    steps = [json.loads(row["steps"]) for row in rows if row["path"].endswith("/inner")]
    if name != "\ud83d\ude00":  # JSON fuses the two; the report's own JSON keeps them apart
        assert steps == [[name, "inner"]]


@pytest.mark.parametrize("name", NAMES, ids=IDS)
def test_json_gives_the_name_back(name):
    found = report(_tree(name))
    text = found.to_json()
    assert text.isascii()
    assert LeafReport.from_json(text) == found
    assert (name, "inner") in LeafReport.from_json(text).paths


@pytest.mark.parametrize("name", NAMES, ids=IDS)
def test_diff_shows_the_name_escaped_and_whole(name):
    found = diff(_tree(name), {"plain": [2]})
    assert not _unsafe(found.to_text())
    assert f"- {SHOWN[name]}/inner float" in found.to_text().splitlines()
    assert found.to_json().isascii()


def test_a_surrogate_pair_and_the_character_stay_apart():
    pair, character = "\ud83d\ude00", "\U0001f600"
    assert pair != character
    both = report({pair: 1, character: 2})
    assert LeafReport.from_json(both.to_json()) == both
    assert report({pair: 1}) != report({character: 1})


class _Elements(HTMLParser):
    """What a browser would make of a page: its scripts' texts, and every attribute that runs."""

    def __init__(self, page):
        super().__init__()
        self.scripts, self.handlers, self._inside = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self._inside = tag == "script"
        self.handlers += [value for name, value in attributes if name.startswith("on")]

    def handle_data(self, data):
        if self._inside:
            self.scripts.append(data)

    def handle_endtag(self, tag):
        self._inside = False


ATTACKS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "\"><script>alert(1)</script>",
    "' onclick='alert(1)",
    '" onclick="alert(1)',
    "</style><img src=x onerror=alert(1)>",
]


def _planted(page):
    elements = _Elements(page)
    return [found for found in elements.scripts + elements.handlers if found.startswith("alert(1)")]


@pytest.mark.parametrize("name", ATTACKS)
def test_html_and_treescope_pages_run_nothing_from_a_name(name):
    found = report({name: {name: 1.0}})
    assert _planted(found.to_html()) == []
    assert _planted(found._repr_html_()) == []
    assert _planted(treescope.render_to_html(found, compressed=False)) == []


@pytest.mark.parametrize("name", ATTACKS)
def test_planted_alert_would_be_found(name):
    raw = f"<style></style><b title='{name}' id=\"{name}\">{name}</b>"
    assert _planted(raw) != []
