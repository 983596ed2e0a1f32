"""Text, Markdown, CSV, tree and HTML: golden files, and parsed back."""

import csv
import html.parser
import io
import json

import jax
import numpy as np
import oracle
import pytest
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from leafreport import LeafReport, report
from leafreport._leaf import format_nbytes
from leafreport._render import _treescope

EMBEDDING = np.zeros((100, 16), np.float32)
SPLIT = NamedSharding(AbstractMesh((4, 2), ("data", "model")), P(None, "model"))
TREE = {
    "params": {
        **{f"Dense_{i}": {"kernel": np.zeros((16, 16), np.float32), "bias": np.zeros(16)} for i in range(11)},
        "embed": EMBEDDING,
        "head": EMBEDDING,
        "odd|name": jax.ShapeDtypeStruct((2**20, 2**20), np.float32, sharding=SPLIT),
    },
    "rng": jax.eval_shape(lambda: jax.random.key(0)),
    "step": 3,
    "state": [None, {}, (np.float32(0), len)],
}

FORMS = {
    "table.txt": lambda r: r.to_text(),
    "table_folded.txt": lambda r: r.to_text(fold=True),
    "table_depth_1.txt": lambda r: r.to_text(depth=1),
    "table_by_bytes_3_rows.txt": lambda r: r.to_text(sort="bytes", max_rows=3),
    "table.md": lambda r: r.to_markdown(),
    "table_folded.md": lambda r: r.to_markdown(fold=True, sort="params"),
    "table.csv": lambda r: r.to_csv(),
    "table_depth_2.csv": lambda r: r.to_csv(depth=2),
    "tree.txt": lambda r: r.to_tree(),
    "tree_unfolded_8_rows.txt": lambda r: r.to_tree(fold=False, max_rows=8),
    "tree_depth_1_color.txt": lambda r: r.to_tree(depth=1, color=True),
    "tree.html": lambda r: r.to_html(),
}


@pytest.mark.parametrize("name", FORMS)
def test_output_is_as_the_golden_file_has_it(golden, name):
    golden(name, FORMS[name](report(TREE)))


def test_missing_golden_file_fails(golden):
    with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
        golden("absent.txt", "")


def test_golden_file_of_other_text_fails(golden):
    with pytest.raises(AssertionError, match="assert"):
        golden("table.txt", "")


@pytest.mark.parametrize("name", FORMS)
def test_output_read_from_a_saved_report_is_the_same(name):
    found = report(TREE)
    assert FORMS[name](LeafReport.from_json(found.to_json())) == FORMS[name](found)


# --- Sorting and cutting ------------------------------------------------------------------------------------


def test_sorting_by_bytes_and_by_params():
    tree = {
        "a": np.zeros(3, np.float64),
        "b": np.zeros(9, np.int8),
        "c": jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 99)),
        "d": 1,
    }
    for sort, order in [("path", "abcd"), ("bytes", "cabd"), ("params", "bacd")]:
        for text in (report(tree).to_text(sort=sort), report(tree).to_csv(sort=sort)):
            assert "".join(line[0] for line in text.splitlines()[1:5]) == order


@pytest.mark.parametrize(("most", "lines"), [(0, 0), (1, 1), (3, 3), (4, 4), (5, 4), (None, 4)])
def test_rows_past_the_most_are_counted(most, lines):
    found = report(list("abcd"))
    text = found.to_text(max_rows=most).splitlines()
    left = 4 - lines
    said = (
        [f"... {left} more {'leaf' if left == 1 else 'leaves'} not shown; the total has all"] if left else []
    )
    assert text[1 + lines :] == [*said, "total  4 leaves, 0 params, 0 B"]
    assert len(found.to_csv(max_rows=most).splitlines()) == 1 + lines


@pytest.mark.parametrize(("most", "rows"), [(1, 1), (4, 4), (5, 5), (6, 5), (None, 5)])
def test_tree_rows_past_the_most_are_counted(most, rows):
    lines = report(list("abcd")).to_tree(fold=False, max_rows=most).splitlines()
    left = 5 - rows
    said = [f"... {left} more {'row' if left == 1 else 'rows'} not shown; the sums have all"] if left else []
    assert lines[rows:] == said


# --- Parsed back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_csv_comes_back_exactly(seed):
    found = report(oracle.random_tree(seed))
    records = list(csv.DictReader(io.StringIO(found.to_csv(), newline="")))
    leaves = {(json.dumps(leaf.path), n): leaf for n, leaf in enumerate(found)}
    assert len(records) == found.leaf_count
    assert sorted(tuple(json.loads(r["steps"])) for r in records) == sorted(found.paths)
    by_path = {leaf.path: leaf for leaf in leaves.values()}
    for record in records:
        leaf = by_path[tuple(json.loads(record["steps"]))]
        assert record["kind"] == leaf.kind
        assert record["dtype"] == leaf.dtype
        assert record["nbytes"] == ("" if leaf.nbytes is None else str(leaf.nbytes))
        assert record["size"] == ("" if leaf.size is None else str(leaf.size))
        assert record["shape"] == ("" if leaf.shape is None else str(leaf.shape).replace(" ", ""))


def test_csv_steps_tell_a_surrogate_pair_of_two_code_points():
    record = next(csv.DictReader(io.StringIO(report({"\ud83d\ude00": {"😀": 1}}).to_csv())))
    first, second = json.loads(record["steps"])
    assert ("".join(first), second) == ("\ud83d\ude00", "😀")


class Outline(html.parser.HTMLParser):
    """The text of every row, with its depth; refuses what a browser would have to repair."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.rows, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "meta":
            return
        if (tag == "div" and ("class", "leaf") in attrs) or tag == "summary":
            self.rows.append([self.open.count("details"), ""])
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "b" in self.open or "span" in self.open:
            self.rows[-1][1] += data if "b" in self.open else f"  {data}"


def outline(text):
    parser = Outline()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    assert parser.tags <= {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "div",
        "details",
        "summary",
        "b",
        "span",
        "p",
    }
    return parser.rows


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("fold", [True, False])
def test_html_holds_the_rows_of_the_tree(seed, fold):
    found = report(oracle.random_tree(seed))
    lines = found.to_tree(fold=fold).splitlines()
    rows = [("  " * (depth - (0)) + text) for depth, text in outline(found.to_html(fold=fold))]
    strip = [" ".join(line.split()) for line in lines]
    assert [" ".join(row.split()) for row in rows] == strip


def test_html_needs_nothing_from_elsewhere():
    text = report(TREE).to_html()
    for word in ("<script", "http:", "https:", "src=", "href=", "@import", "url("):
        assert word not in text
    assert outline(report(TREE)._repr_html_()) == outline(text)


# --- The tree -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(15))
def test_treescope_draws_what_the_plain_drawing_does(monkeypatch, seed):
    found = report(oracle.random_tree(seed, depth=6))
    for options in ({}, {"fold": False}, {"depth": 2}, {"max_rows": 5}):
        drawn = found.to_tree(**options)
        with monkeypatch.context() as patch:
            patch.setattr(_treescope, "_MOST_DRAWN", 0)
            assert found.to_tree(**options) == drawn


@pytest.mark.parametrize("leaves", [2_998, 2_999, 3_000])
def test_tree_around_the_most_that_treescope_draws(leaves):
    lines = report([{"a": i} for i in range(leaves)]).to_tree(fold=False, depth=1).splitlines()
    assert len(lines) == leaves + 1
    assert lines[-1] == f"  {leaves - 1}  1 leaf, 0 params, 0 B"


def test_colours_are_all_that_colour_adds():
    import re

    found = report(TREE)
    assert re.sub("\x1b\\[[0-9;]*m", "", found.to_tree(color=True)) == found.to_tree()
    assert "\x1b" not in found.to_tree()


def test_treescope_draws_a_report_in_a_notebook():
    import treescope

    found = report({f"Dense_{i}": {"kernel": np.zeros((2, 2))} for i in range(12)})
    text = treescope.render_to_text(found)
    assert text.startswith("<LeafReport: 12 leaves, 48 params, 384 B>")
    assert "Dense_{0..11} x12" in text
    assert "Dense_{0..11} x12" in treescope.render_to_html(found, compressed=False)
    assert "array" not in text


# --- Units --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"), (1, "1 B"), (1023, "1023 B"), (1024, "1 KiB"), (1025, "1 KiB"), (1075, "1 KiB"),
        (1076, "1.1 KiB"), (2**20 - 1, "1 MiB"), (2**20, "1 MiB"), (2**20 + 2**19, "1.5 MiB"),
        (1023 * 1024, "1023 KiB"), (1023 * 1024 + 972, "1023.9 KiB"), (1023 * 1024 + 973, "1 MiB"),
        (2**60, "1 EiB"), (2**70, "1024 EiB"), (2**83, "8388608 EiB"),
    ],
)  # fmt: skip
def test_bytes_in_units(nbytes, text):
    assert format_nbytes(nbytes) == text


def test_bytes_in_units_are_within_half_a_tenth_of_the_exact_number():
    import random

    rng = random.Random(0)
    units = {"B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40, "PiB": 50, "EiB": 60}
    for _ in range(5000):
        nbytes = rng.randrange(2 ** rng.randrange(1, 69))
        number, unit = format_nbytes(nbytes).split()
        assert abs(float(number) * 2 ** units[unit] - nbytes) <= 2 ** units[unit] * 0.0501
        assert float(number) < 1024 or unit == "EiB"
