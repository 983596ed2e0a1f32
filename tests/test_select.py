"""`select` against an independent matcher: `fnmatch` for a step, recursion over steps for `**`."""

import time
from fnmatch import fnmatchcase

import numpy as np
import oracle
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import tree_util

from leafreport import LeafReport, PatternError, report
from leafreport._select import matcher

TREE = {
    "params": {
        "Dense_0": {"kernel": 1, "bias": 2},
        "Dense_1": {"kernel": 3, "bias": 4},
        "block": {"Dense_0": {"kernel": 5}},
        "kernel": 6,
    },
    "opt": [{"kernel": 7}, None],
    "kernel": 8,
    "": {"": 9},
    "a/b": {"c": 10},
    "[x]": 11,
    "line\nfeed": 12,
}


def names(*patterns, **options):
    return set(report(TREE).select(*patterns, **options).names)


EVERY = set(report(TREE).names)
KERNELS = {name for name in EVERY if name.split("/")[-1] == "kernel"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("kernel", {"kernel"}),
        ("**/kernel", KERNELS),
        ("*/kernel", {"params/kernel"}),
        ("*/*/kernel", {"params/Dense_0/kernel", "params/Dense_1/kernel", "opt/0/kernel"}),
        ("params/**", {name for name in EVERY if name.startswith("params/")}),
        ("params/**/kernel", {name for name in KERNELS if name.startswith("params/")}),
        ("**/Dense_0/**", {"params/Dense_0/kernel", "params/Dense_0/bias", "params/block/Dense_0/kernel"}),
        ("**/Dense_?/bias", {"params/Dense_0/bias", "params/Dense_1/bias"}),
        ("**/Dense_[1-9]/*", {"params/Dense_1/kernel", "params/Dense_1/bias"}),
        ("**/Dense_[!1-9]/b*", {"params/Dense_0/bias"}),
        ("params/D*l", set()),
        ("params*", set()),
        ("**", EVERY),
        ("**/**", EVERY),
        ("*", {"kernel", "[x]", "line\nfeed"}),
        ("kernel/**", {"kernel"}),
        ("kernel/**/**", {"kernel"}),
        ("/", {"/"}),
        ("*/", {"/"}),
        ("a/b/c", {"a/b/c"}),
        ("a/*/c", {"a/b/c"}),
        ("[[]x]", {"[x]"}),
        ("[x]", set()),
        ("line?feed", {"line\nfeed"}),
        ("line*", {"line\nfeed"}),
        ("", set()),
        ("KERNEL", set()),
        ("re:kernel$", KERNELS),
        ("re:^params/(block|kernel)", {"params/block/Dense_0/kernel", "params/kernel"}),
        ("re:", EVERY),
        ("re:(?i)KERNEL", KERNELS),
        ("re:Dense_[01]/b", {"params/Dense_0/bias", "params/Dense_1/bias"}),
    ],
)
def test_pattern_takes(pattern, expected):
    assert names(pattern) == expected


def test_several_patterns_take_what_any_takes():
    assert names("kernel", "opt/**") == {"kernel", "opt/0/kernel"}


def test_no_pattern_takes_every_leaf():
    assert names() == EVERY


@pytest.mark.parametrize("exclude", ["**/kernel", ["**/kernel"], ("re:kernel$",), {"**/kernel"}])
def test_exclude_drops_what_any_excludes(exclude):
    assert names(exclude=exclude) == EVERY - KERNELS


def test_exclude_wins_over_include():
    assert names("params/**", exclude=["**/bias", "params/block/**"]) == {
        "params/Dense_0/kernel",
        "params/Dense_1/kernel",
        "params/kernel",
    }


@pytest.mark.parametrize(
    "pattern", ["re:(", "re:*", "re:[z-a]", "[z-a]", "re:(?P<", "re:a{99999999999999999999}"]
)
def test_pattern_that_cannot_be_read_is_an_error(pattern):
    with pytest.raises(PatternError, match=r"cannot read the pattern .*A glob takes"):
        report(TREE).select(pattern)
    with pytest.raises(PatternError, match="cannot read the pattern"):
        report(TREE).select(exclude=pattern)


@pytest.mark.parametrize(
    "pattern", ["[a&&b]", "[a||b]", "[a~~b]", "[[a]", "[", "[]", "[!]", "a]", "[\\d]", "\\*"]
)
def test_characters_that_regular_expressions_read_stand_for_themselves(pattern):
    for name in ("a", "b", "&", "|", "~", "[", "]", "[]", "[!]", "[^]", "a]", "\\", "d", "5", "\\*", "\\x"):
        chosen = bool(report({name: 1}).select(pattern).leaf_count)
        assert chosen == fnmatchcase(name, pattern), name


def selected(path, steps):
    """Whether a glob's steps take a name's steps."""
    if not steps:
        return not path
    if steps[0] == "**":
        return selected(path, steps[1:]) or (bool(path) and selected(path[1:], steps))
    return bool(path) and fnmatchcase(path[0], steps[0]) and selected(path[1:], steps[1:])


STEP = st.lists(
    st.sampled_from(["a", "b", "*", "?", "[ab]", "[!a]", "[a-b]", "**", ".", "[.]", "-", "\n"]), max_size=5
).map("".join)
GLOBS = st.lists(st.one_of(STEP, st.just("**"), st.just("*")), min_size=1, max_size=6).map("/".join)
NAMES = st.lists(st.text("ab.-\n", max_size=5), min_size=1, max_size=6)


@settings(max_examples=1000, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=8), GLOBS)
@example([["a"]], "a/**/**")
@example([["a", "b", "a", "b"]], "**/a/b/**/b")
@example([["aab"]], "*a*b")
@example([["a\n"]], "a")
@example([["a", "a\n"]], "**/a/**/**/*")
def test_globs_agree_with_an_independent_matcher(paths, pattern):
    takes = matcher(pattern)
    for path in paths:
        assert bool(takes("/".join(path))) == selected(path, pattern.split("/")), path


@pytest.mark.parametrize("pattern", ["*a" * 12 + "*b", "**/a/" * 9 + "b", "?*" * 12 + "b", "*" * 400 + "b"])
def test_glob_of_many_stars_takes_no_longer_than_its_name_is_long(pattern):
    tree = {"a" * 10_000: 1, "/".join("a" * 5_000): 2}
    start = time.perf_counter()
    assert report(tree).select(pattern).leaf_count == 0
    assert time.perf_counter() - start < 2


def test_selection_is_a_report_of_its_own():
    tree = {"a": {"w": np.zeros(3, np.int8), "n": None, "e": {}}, "b": {"v": np.zeros(5, np.int8)}, "c": 1}
    chosen = report(tree).select("a/**", "c")
    assert chosen == report({"a": {"w": tree["a"]["w"]}, "c": 1})
    assert (chosen.leaf_count, chosen.param_count) == (2, 3)
    assert chosen.group()[0].nbytes == 3
    assert LeafReport.from_json(chosen.to_json()) == chosen
    assert chosen.select("c").names == ("c",)


def test_selection_of_nothing_is_empty():
    chosen = report({"a": {"b": 1}}).select("nothing")
    assert (chosen.leaf_count, chosen.names, chosen.group()) == (0, (), ())
    assert LeafReport.from_json(chosen.to_json()) == chosen
    assert chosen.to_tree() == "(root)  empty dict\n"


def test_selection_from_a_lone_leaf():
    found = report(np.zeros(3))
    assert found.select("**") == found
    assert found.select("*").leaf_count == 1
    empty = found.select("x")
    assert (empty.leaf_count, empty.param_count, empty.names, empty.nodes[0][1].kind) == (0, 0, (), "none")
    assert LeafReport.from_json(empty.to_json()) == empty


def test_selection_shows_no_columns_of_leaves_left_out():
    shared = np.zeros(2)
    tree = {"a": shared, "b": shared, "c": np.zeros(1)}
    assert "shared with" in report(tree).to_text()
    assert "shared with" not in report(tree).select("c").to_text()


@pytest.mark.parametrize("seed", range(30))
def test_selection_and_its_complement_make_the_whole(seed):
    found = report(oracle.random_tree(seed, depth=5))
    kept, dropped = found.select("**/*[aek]*"), found.select(exclude="**/*[aek]*")
    assert kept.leaf_count + dropped.leaf_count == found.leaf_count
    assert sorted([*kept.paths, *dropped.paths]) == sorted(found.paths)
    by_path = dict(zip(found.paths, found, strict=True))
    assert all(leaf.shape == by_path[leaf.path].shape for part in (kept, dropped) for leaf in part)
    leaves = dict(zip(found.paths, tree_util.tree_leaves(oracle.random_tree(seed, depth=5)), strict=True))
    for part in (kept, dropped):
        assert oracle.sums_of(part) == oracle.sums([leaves[path] for path in part.paths])
