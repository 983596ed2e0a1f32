import csv
import io
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distributions import TOY, install

from leafreport import LeafReport, diff, report
from leafreport._cli import main

F32 = np.float32
pytestmark = pytest.mark.usefixtures("folder")
MAIN = [sys.executable, "-P", "-m", "leafreport._cli"]  # -P: the working folder is not importable by itself


def sds(*shape, dtype=F32):
    return jax.ShapeDtypeStruct(shape, dtype)


def layers(count, width):
    return {f"Dense_{n}": {"bias": sds(width), "kernel": sds(width, width)} for n in range(count)}


TREE = {"encoder": layers(12, 8), "head": {"kernel": sds(8, 100)}, "step": 1, "name": "net"}
TOTALS = "total  27 leaves, 1,664 params, 6.5 KiB (6,656 B)"


def without_progress(err):
    """Standard error without the lines that a slow or busy machine gets: a test of their own has them."""
    return re.sub(r"(?m)^leafreport: .* \.\.\.\n", "", err)


@pytest.fixture
def command(capsys):
    """Runs the command in this process; gives its exit code, standard output and standard error."""

    def run(*arguments, progress=False):
        try:
            code = main(list(map(str, arguments)))
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err if progress else without_progress(err)

    return run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a saved report of TREE, and one that differs from it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for name in ("FORCE_COLOR", "NO_COLOR", "PYTHONIOENCODING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    (tmp_path / "tree.json").write_text(report(TREE).to_json())
    (tmp_path / "other.json").write_text(report({**TREE, "head": {"kernel": sds(8, 10)}}).to_json())
    return tmp_path


@pytest.fixture
def toy(tmp_path_factory, monkeypatch):
    """A backend of one leaf a layer that needs no framework."""
    place = tmp_path_factory.mktemp("toy")
    install(place, "toy-cli", {"toy-cli": "toy_cli:adapter"}, modules={"toy_cli": TOY.format(name="toy-cli")})
    monkeypatch.syspath_prepend(place)
    return "toy-cli"


# --- stack --------------------------------------------------------------------------------------------------


def test_stack_prints_the_tree_and_the_count(command):
    pytest.importorskip("flax")
    assert command("stack", "--layers", 2, "--features", 3) == (
        0,
        textwrap.dedent("""\
            (root)  4 leaves, 24 params, 96 B
              params  4 leaves, 24 params, 96 B
                Dense_0  2 leaves, 12 params, 48 B, Dense
                  bias  float32[3], 12 B
                  kernel  float32[3,3], 36 B
                Dense_1  2 leaves, 12 params, 48 B, Dense
                  bias  float32[3], 12 B
                  kernel  float32[3,3], 36 B
            [4.]
        """),
        "",
    )


def test_stack_folded(command):
    pytest.importorskip("flax")
    assert command("stack", "--layers", 12, "--fold") == (
        0,
        textwrap.dedent("""\
            (root)  24 leaves, 864 params, 3.4 KiB
              params  24 leaves, 864 params, 3.4 KiB
                Dense_{0..11} x12  24 leaves, 864 params, 3.4 KiB, Dense
                  bias  float32[8], 32 B
                  kernel  float32[8,8], 256 B
            [24.]
        """),
        "",
    )


@pytest.mark.parametrize("layers", [0, 1, 3, 12, 100])
def test_stack_count_is_the_last_line(layers, command):
    pytest.importorskip("flax")
    for options in ((), ("--format", "text"), ("--include", "**/bias"), ("--depth", 0), ("--max-rows", 1)):
        code, out, _ = command("stack", "--layers", layers, *options)
        assert (code, out.splitlines()[-1]) == (0, f"[{2 * layers}.]")


def test_stack_of_four_layers_is_the_default(command):
    pytest.importorskip("flax")
    code, out, err = command("stack")
    assert (code, out.splitlines()[-1], err) == (0, "[8.]", "")


@pytest.mark.parametrize(("given", "count"), [("2.7", 2), ("0.9", 0), ("-0.5", 0), ("1e1", 10)])
def test_stack_casts_layers(given, count, command, toy):
    code, out, _ = command("stack", f"--layers={given}", "--seed", "0.9", "--backend", toy)
    assert (code, out.splitlines()[-1]) == (0, f"[{count}.]")


@pytest.mark.parametrize("layers", [1, 2, 11, 12, 100])
@pytest.mark.parametrize("backend", ["flax", "nnx", "equinox", "haiku"])
def test_stack_counts_in_every_backend(backend, layers, command):
    pytest.importorskip({"nnx": "flax"}.get(backend, backend))
    code, out, err = command("stack", "--backend", backend, "--layers", layers)
    assert (code, out.splitlines()[-1], err) == (0, f"[{2 * layers}.]", "")


def test_stack_of_every_backend_is_one_table(command, toy):
    code, out, _ = command("stack", "--backend", "all", "--layers", 3, "--no-fold")
    lines = out.splitlines()
    assert code == 0
    assert toy in lines[0].split()
    (counts,) = [line.split() for line in lines if line.startswith("count ")]
    assert dict(zip(lines[0].split(), counts, strict=True))[toy] == "[3.]"  # the toy has one leaf a layer
    for option, kind in (
        (("--json",), "json"),
        (("--format", "csv"), "csv"),
        (("--format", "markdown"), "md"),
    ):
        code, out, _ = command("stack", "--backend", "all", *option)
        start = {"json": "{", "csv": "layer,backend,", "md": "| layer |"}[kind]
        assert (code, out.startswith(start)) == (0, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--depth", 1), "--depth does nothing with --backend all: leave it out."),
        (("--include", "**/bias"), "--include does nothing with --backend all: leave it out."),
        (("--sort", "bytes"), "--sort does not go with --backend all, which lists layers in their order."),
        (
            ("--format", "html"),
            "--format html does not go with --backend all, which lists layers in their order.",
        ),
    ],
)
def test_option_of_no_use_to_all_backends_is_refused(options, said, command):
    assert command("stack", "--backend", "all", *options) == (2, "", f"leafreport: error: {said}\n")


def test_stack_in_another_format_is_the_report_alone(command, toy):
    expected = report([{"w": sds(8, 8)}] * 3)
    code, out, _ = command("stack", "--layers", 3, "--backend", toy, "--json")
    assert code == 0
    assert LeafReport.from_json(out).names == expected.names
    assert command("stack", "--layers", 3, "--backend", toy, "--format", "csv")[1] == expected.to_csv()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--layers", "-1"), "num_layers is -1: a stack has 0 layers or more."),
        (("--layers", "nan"), "num_layers is nan: it must be a finite number."),
        (("--layers", "inf"), "num_layers is inf: it must be a finite number."),
        (("--layers", "x"), "argument --layers: invalid float value: 'x'. See leafreport stack --help."),
        (("--seed", "-1"), "seed is -1: jax.random.PRNGKey would wrap it"),
        (("--seed", "4294967296"), "seed is 4294967296: jax.random.PRNGKey would wrap it"),
        (("--features", "0"), "--features is 0: the sample input has shape (batch, features)."),
        (("--features", "2.5"), "argument --features: invalid int value: '2.5'."),
        (("--batch", "-1"), "--batch is -1: the sample input has shape (batch, features)."),
        (("--backend", "flx"), "no backend is called 'flx'. Did you mean flax? Known: "),
        (("extra",), "unrecognized arguments: extra. See leafreport --help."),
    ],
)
def test_stack_trouble_is_one_line_and_exit_code_2(options, said, command):
    code, out, err = command("stack", *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"leafreport: error: {said}")
    assert err.count("\n") == 1


# --- show ---------------------------------------------------------------------------------------------------


def test_show_prints_one_line_a_leaf_and_the_totals(command, folder):
    (folder / "small.json").write_text(report({"w": sds(2, 3), "b": [1.0, "s"], "n": {}}).to_json())
    assert command("show", "small.json") == (
        0,
        textwrap.dedent("""\
            path  shape  dtype    params  bytes
            b/0          float
            b/1          str
            w     (2,3)  float32       6   24 B
            total  3 leaves, 6 params, 24 B
        """),
        "",
    )


def test_show_of_a_saved_report_equals_the_live_one(command, folder):
    (folder / "cli_live.py").write_text(
        "import jax, numpy as np\n"
        "tree = {f'Dense_{n}': {'w': np.zeros((n + 1, 2), np.float32), 's': 'x'} for n in range(11)}\n"
        "tree['key'], tree['empty'] = jax.random.key(0), [{}, None]\n"
    )
    code, saved, _ = command("show", "cli_live:tree", "--json")
    assert code == 0
    assert saved == report(sys.modules["cli_live"].tree).to_json()
    (folder / "saved.json").write_text(saved)
    options = [
        ("--json",),
        ("--fold",),
        *(("--format", f) for f in ("text", "tree", "csv", "markdown", "html")),
    ]
    for some in options:
        live, read = command("show", "cli_live:tree", *some), command("show", "saved.json", *some)
        assert live == read
        assert live[0] == 0


@pytest.mark.parametrize(
    ("form", "method"),
    [
        ("text", "to_text"),
        ("tree", "to_tree"),
        ("json", "to_json"),
        ("csv", "to_csv"),
        ("markdown", "to_markdown"),
        ("html", "to_html"),
    ],
)
def test_show_prints_what_the_method_gives(form, method, command, folder):
    r = LeafReport.from_json((folder / "tree.json").read_bytes())
    options = {"fold": False} if form in ("text", "tree", "markdown") else {}
    assert command("show", "tree.json", "--format", form) == (0, getattr(r, method)(**options), "")


def test_show_json_option_is_the_json_format(command, folder):
    text = (folder / "tree.json").read_text()
    assert command("show", "tree.json", "--json") == (0, text, "")
    assert command("show", "tree.json", "--format", "json")[1] == text
    assert LeafReport.from_json(text) == report(TREE)


def test_show_selects_and_tells_what_it_left_out(command):
    code, out, err = command(
        "show", "tree.json", "--include", "**/kernel", "--exclude", "encoder/Dense_1*/**"
    )
    lines = out.splitlines()
    assert (code, err) == (0, "")
    kernels = [0, *range(2, 10)]
    assert [line.split()[0] for line in lines[1:-2]] == [
        *(f"encoder/Dense_{n}/kernel" for n in kernels),
        "head/kernel",
    ]
    assert lines[-2] == "total  10 leaves, 1,376 params, 5.4 KiB (5,504 B)"
    assert lines[-1] == (
        "not selected  17 of 27 leaves; all of them: 27 leaves, 1,664 params, 6.5 KiB (6,656 B)"
    )
    assert 9 * 64 + 800 == 1376


def test_show_selects_with_several_patterns(command):
    code, out, _ = command("show", "tree.json", "--include", "step", "--include", "re:^na", "--format", "csv")
    assert code == 0
    assert [row["path"] for row in csv.DictReader(io.StringIO(out))] == ["name", "step"]


def test_show_of_patterns_that_take_nothing_says_so(command):
    code, out, err = command("show", "tree.json", "--include", "no/such")
    assert code == 0
    assert out.splitlines()[-1].startswith("not selected  27 of 27 leaves")
    assert err == "leafreport: the patterns take no leaf\n"


def test_show_depth_sums_up(command):
    assert command("show", "tree.json", "--depth", 1) == (
        0,
        textwrap.dedent("""\
            path     leaves  params    bytes  of all
            encoder      24     864  3.4 KiB   51.9%
            head          1     800  3.1 KiB   48.1%
            name          1       0      0 B    0.0%
            step          1       0      0 B    0.0%
        """)
        + f"{TOTALS}\n",
        "",
    )


@pytest.mark.parametrize(
    ("sort", "first"), [("path", "encoder/Dense_0/bias"), ("bytes", "head/kernel"), ("params", "head/kernel")]
)
def test_show_sorts(sort, first, command):
    out = command("show", "tree.json", "--sort", sort)[1]
    assert out.splitlines()[1].split()[0] == first


def test_show_in_natural_order(command):
    out = command("show", "tree.json", "--format", "csv", "--include", "**/bias")[1]
    numbers = [int(re.search(r"Dense_(\d+)", row["path"])[1]) for row in csv.DictReader(io.StringIO(out))]
    assert numbers == list(range(12))


def test_show_totals_are_the_same_whatever_is_shown(command):
    options = [
        (),
        ("--fold",),
        ("--no-fold",),
        *(("--depth", n) for n in (0, 1, 2, 99)),
        *(("--max-rows", n) for n in (0, 1, 26, 27, 28)),
        ("--sort", "bytes"),
        ("--fold", "--max-rows", 1, "--sort", "params"),
        ("--depth", 1, "--max-rows", 1),
    ]
    for some in options:
        code, out, _ = command("show", "tree.json", *some)
        assert code == 0
        assert [line for line in out.splitlines() if line.startswith("total")] == [TOTALS], some
    for some in ((), ("--fold",), ("--depth", 0), ("--depth", 1), ("--max-rows", 1)):
        out = command("show", "tree.json", "--format", "tree", *some)[1]
        assert out.splitlines()[0].startswith("(root)  27 leaves, 1,664 params, 6.5 KiB"), some
    for some in ((), ("--fold",), ("--depth", 1), ("--max-rows", 1)):
        out = command("show", "tree.json", "--format", "markdown", *some)[1]
        assert "27 leaves, 1,664 params, 6.5 KiB (6,656 B)" in out, some


@pytest.mark.parametrize(("rows", "shown"), [(0, 0), (1, 1), (26, 26), (27, 27), (28, 27)])
def test_show_max_rows_counts_what_it_hides(rows, shown, command):
    lines = command("show", "tree.json", "--max-rows", rows)[1].splitlines()
    assert len(lines) == 1 + shown + (shown < 27) + 1
    assert ("more" in lines[-2]) == (shown < 27)
    if shown < 27:
        assert re.search(r"\d+", lines[-2])[0] == str(27 - shown)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--json", "--depth", "1"), "--depth does nothing with --format json: leave it out."),
        (("--json", "--sort", "bytes"), "--sort does nothing with --format json: leave it out."),
        (("--json", "--max-rows", "0"), "--max-rows does nothing with --format json: leave it out."),
        (("--json", "--fold"), "--fold does nothing with --format json: leave it out."),
        (("--format", "csv", "--no-fold"), "--fold does nothing with --format csv: leave it out."),
        (("--format", "html", "--sort", "params"), "--sort does nothing with --format html: leave it out."),
        (
            ("--format", "html", "--max-rows", "3"),
            "--max-rows does nothing with --format html: leave it out.",
        ),
        (("--format", "tree", "--sort", "bytes"), "--sort does nothing with --format tree: leave it out."),
        (("--depth", "1", "--fold"), "--fold does nothing with --depth in a table"),
    ],
)
def test_show_refuses_an_option_that_does_nothing(options, said, command):
    code, out, err = command("show", "tree.json", *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"leafreport: error: {said}")
    assert command("show", "missing.json", *options)[2] == err  # told before anything is read


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show",), "the following arguments are required: TARGET. See leafreport show --help."),
        (("show", "tree.json", "x"), "unrecognized arguments: x. See leafreport --help."),
        (("show", "missing.json"), "cannot read 'missing.json': No such file or directory. A target is "),
        (("show", "nothing"), "'nothing' is no file. A target is "),
        (("show", "tree.json", "--include", "re:("), "cannot read the pattern 're:(': "),
        (
            ("show", "tree.json", "--format", "yaml"),
            "argument --format: invalid choice: 'yaml' (choose from ",
        ),
        (("show", "tree.json", "--depth", "-1"), "argument --depth: '-1' is no whole number from 0 up"),
        (("show", "tree.json", "--depth", "1.5"), "argument --depth: '1.5' is no whole number from 0 up"),
        (("show", "tree.json", "--max-rows", "²"), "argument --max-rows: '²' is no whole number from 0 up"),
        (("show", "tree.json", "--max-rows", "9" * 5000), "argument --max-rows: '9999"),
        (("show", "\x1b[31mred"), "'\\x1b[31mred' is no file. "),
        (("show", "a\nb"), "'a\\nb' is no file. "),
        (("--\x1b[31m", "show", "tree.json"), "unrecognized arguments: --\\x1b[31m."),
        (("diff", "-", "-"), "both sides are -: standard input can be read once."),
        (("diff", "tree.json"), "the following arguments are required: RIGHT. See leafreport diff --help."),
        (("diff", "tree.json", "missing.json"), "cannot read 'missing.json': No such file or directory."),
        (
            ("diff", "tree.json", "tree.json", "--json", "--max-rows", "1"),
            "--max-rows does nothing with --format json",
        ),
        (("nonsense",), "argument COMMAND: invalid choice: 'nonsense' (choose from "),
        ((), "the following arguments are required: COMMAND. See leafreport --help."),
    ],
)
def test_trouble_is_one_line_and_exit_code_2(arguments, said, command):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"leafreport: error: {said}")
    assert (err.count("\n"), "\x1b" in err, len(err) < 1200) == (1, False, True)


def test_long_message_is_cut_in_the_middle(command):
    err = command("show", "x" * 5000)[2]
    assert re.fullmatch(
        r"leafreport: error: 'x+ \.\.\. x+' is no file\. A target is .*pkg\.module:name\.\n", err
    )


# --- diff ---------------------------------------------------------------------------------------------------


def test_diff_of_same_reports(command):
    assert command("diff", "tree.json", "tree.json") == (
        0,
        "same: 27 leaves on the left, 27 on the right\n",
        "",
    )


def test_diff_of_different_reports(command):
    assert command("diff", "tree.json", "other.json") == (
        1,
        textwrap.dedent("""\
            ~ head/kernel  shape (8, 100) -> (8, 10)
            different: 1 changed; 27 leaves on the left, 27 on the right
        """),
        "",
    )


def test_diff_of_what_a_save_does_is_same(command, folder):
    (folder / "a.json").write_text(report({"x": (1, 2)}).to_json())
    (folder / "b.json").write_text(report({"x": [1, 2]}).to_json())
    assert command("diff", "a.json", "b.json") == (
        0,
        textwrap.dedent("""\
            = x  container tuple -> list  (by a save itself)
            same: 2 leaves on the left, 2 on the right; 1 by a save itself
        """),
        "",
    )


def test_diff_as_json_is_to_json(command, folder):
    left, right = (LeafReport.from_json((folder / f"{n}.json").read_bytes()) for n in ("tree", "other"))
    for options in (("--json",), ("--format", "json")):
        assert command("diff", "tree.json", "other.json", *options) == (1, diff(left, right).to_json(), "")


def test_diff_quiet_tells_by_its_exit_code(command):
    assert command("diff", "-q", "tree.json", "other.json") == (1, "", "")
    assert command("diff", "--quiet", "tree.json", "tree.json") == (0, "", "")
    assert command("diff", "-q", "tree.json", "missing.json")[:2] == (2, "")


def test_diff_of_a_selection(command):
    assert command("diff", "tree.json", "other.json", "--exclude", "head/**")[:2] == (
        0,
        "same: 26 leaves on the left, 26 on the right\n",
    )
    assert command("diff", "tree.json", "other.json", "--include", "head/**")[0] == 1


def test_diff_max_rows(command, folder):
    (folder / "none.json").write_text(report({}).to_json())
    out = command("diff", "tree.json", "none.json", "--max-rows", 2)[1]
    assert out.splitlines() == [
        "- encoder/Dense_0/bias float32[8]",
        "- encoder/Dense_0/kernel float32[8,8]",
        "... 25 more not shown; the counts have all",
        "different: 27 removed; 27 leaves on the left, 0 on the right",
    ]


def test_diff_of_a_module_and_a_report(command, folder):
    (folder / "cli_diff.py").write_text(
        "import jax.numpy as jnp\ndef made():\n    return {'w': jnp.zeros((2, 3))}\nother = {'w': 1}\n"
    )
    (folder / "w.json").write_text(report({"w": sds(2, 3)}).to_json())
    assert command("diff", "cli_diff:made", "w.json")[0] == 0
    assert command("diff", "w.json", "cli_diff:other")[0] == 1


# --- adapters, help, version --------------------------------------------------------------------------------


@pytest.mark.usefixtures("toy")
def test_adapters_lists_the_backends(command):
    code, out, err = command("adapters")
    assert (code, err) == (0, "")
    lines = [re.split(r"\s{2,}", line) for line in out.splitlines()]
    assert lines[0] == ["backend", "adapter from", "framework", "state"]
    assert ["toy-cli", "toy-cli 1.2.3", "not stated", "ready"] in lines
    assert [line[0] for line in lines[1:]] == sorted(line[0] for line in lines[1:])
    listed = {entry["name"]: entry for entry in json.loads(command("adapters", "--json")[1])}
    assert listed["toy-cli"] == {
        "name": "toy-cli",
        "distribution": "toy-cli",
        "version": "1.2.3",
        "framework": None,
        "framework_version": None,
        "installed": True,
        "state": "ready",
    }
    assert listed["flax"]["distribution"] == "leafreport"


def test_adapters_gives_the_line_that_installs_a_missing_framework(command, tmp_path, monkeypatch):
    requires = ("no-such-dist; extra == 'toy-missing'",)
    install(tmp_path, "toy-missing-adapter", {"toy-missing": "absent:adapter"}, requires=requires)
    monkeypatch.syspath_prepend(tmp_path)
    (line,) = [line for line in command("adapters")[1].splitlines() if line.startswith("toy-missing")]
    assert line.endswith("no-such-dist is not installed: pip install 'toy-missing-adapter[toy-missing]'")


@pytest.mark.parametrize("arguments", [(), ("stack",), ("show",), ("diff",), ("adapters",)])
def test_help(arguments, command):
    code, out, err = command(*arguments, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: {' '.join(('leafreport', *arguments))} ")


def test_version(command):
    import leafreport

    assert command("--version") == (0, f"leafreport {leafreport.__version__}\n", "")


# --- Colours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "force", "no", "colored"),
    [
        ("always", None, None, True),
        ("always", None, "1", True),
        ("never", None, None, False),
        ("never", "1", None, False),
        ("auto", None, None, False),  # this is no terminal
        ("auto", "1", None, True),
        ("auto", "1", "1", True),
        ("auto", None, "1", False),
        ("auto", "", None, False),
        ("auto", "1", "", True),
        (None, None, None, False),
        (None, "1", None, True),
    ],
)
def test_color_flag_comes_before_force_color_before_no_color(flag, force, no, colored, command, monkeypatch):
    for name, value in (("FORCE_COLOR", force), ("NO_COLOR", no)):
        if value is not None:
            monkeypatch.setenv(name, value)
    options = () if flag is None else ("--color", flag)
    for arguments in (("show", "tree.json", "--format", "tree"), ("diff", "tree.json", "other.json")):
        assert ("\x1b[" in command(*arguments, *options)[1]) == colored


def test_colors_change_no_text(command):
    for arguments in (("show", "tree.json", "--format", "tree"), ("diff", "tree.json", "other.json")):
        colored = command(*arguments, "--color", "always")[1]
        assert re.sub("\x1b\\[[0-9]+m", "", colored) == command(*arguments, "--color", "never")[1] != colored


def on_a_terminal(*arguments, **environment):
    """What the command writes on a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*MAIN, *arguments], stdout=theirs, stderr=subprocess.PIPE, env={**os.environ, **environment}
    ) as process:
        os.close(theirs)
        chunks = []
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # on Linux: the other end is closed
                break
            if not chunk:
                break
            chunks.append(chunk)
        err = process.stderr.read().decode()
    os.close(ours)
    assert without_progress(err) == ""
    return b"".join(chunks).decode().replace("\r\n", "\n")


def piped(*arguments, **environment):
    return subprocess.run(
        [*MAIN, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_terminal_gets_colors_and_folding_and_a_pipe_neither(folder):
    arguments = ("show", "tree.json", "--format", "tree")
    r = LeafReport.from_json((folder / "tree.json").read_bytes())
    assert on_a_terminal(*arguments) == r.to_tree(fold=True, color=True)
    assert piped(*arguments).stdout == r.to_tree(fold=False, color=False)
    assert "Dense_{0..11} x12" in r.to_tree(fold=True)
    assert on_a_terminal("show", "tree.json") == r.to_text(fold=True)
    lines = piped("show", "tree.json").stdout.splitlines()
    assert len(lines) == 1 + 27 + 1


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_terminal_without_colors(environment):
    out = on_a_terminal("diff", "tree.json", "other.json", **environment)
    assert out.splitlines()[0] == "~ head/kernel  shape (8, 100) -> (8, 10)"


def test_terminal_with_colors_in_a_diff():
    first = on_a_terminal("diff", "tree.json", "other.json").splitlines()[0]
    assert first == "\x1b[33m~ head/kernel  shape (8, 100) -> (8, 10)\x1b[0m"


# --- Processes, pipes, signals ------------------------------------------------------------------------------


def test_exit_codes_of_the_process():
    assert [piped("diff", "tree.json", f"{name}.json").returncode for name in ("tree", "other", "none")] == [
        0,
        1,
        2,
    ]


def test_standard_input_is_a_target(folder):
    text = (folder / "tree.json").read_text()
    show = subprocess.run(
        [*MAIN, "show", "-", "--json"], input=text, capture_output=True, text=True, check=True
    )
    assert show.stdout == text
    same = subprocess.run(
        [*MAIN, "diff", "-", "tree.json"], input=text, capture_output=True, text=True, check=True
    )
    assert same.stdout.startswith("same: 27 leaves")


@pytest.mark.parametrize(
    ("arguments", "code"), [(("show", "big.json"), 0), (("diff", "big.json", "tree.json"), 1)]
)
def test_reader_that_leaves_is_no_trouble(arguments, code, folder):
    (folder / "big.json").write_text(report({f"leaf_{n}": 1 for n in range(20_000)}).to_json())
    with subprocess.Popen([*MAIN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        first = process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read().decode()
    assert first.strip()
    assert (without_progress(err), process.returncode) == ("", code)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")  # noqa: PTH110  # a device
def test_full_disk_is_told():
    with open("/dev/full", "wb") as full:  # noqa: PTH123  # as above
        done = subprocess.run([*MAIN, "adapters"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr == b"leafreport: error: OSError: [Errno 28] No space left on device\n"


@pytest.mark.parametrize(
    ("redirection", "code", "out", "err"),
    [
        (">&-", 2, "", "leafreport: error: standard output is closed\n"),
        ("2>&-", 2, "", ""),
        ("<&-", 2, "", "leafreport: error: '-' is standard input, which is closed.\n"),
    ],
)
def test_closed_stream_is_no_traceback(redirection, code, out, err):
    line = f'"$0" -P -m leafreport._cli show - {redirection}'
    done = subprocess.run(
        ["/bin/sh", "-c", line, sys.executable], input="", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, without_progress(done.stderr)) == (code, out, err)


def test_names_of_other_scripts_in_an_ascii_locale(folder):
    (folder / "names.json").write_text(report({"größe": 1, "層": "x"}).to_json())
    plain = piped("show", "names.json", PYTHONIOENCODING="utf-8")
    assert [line.split()[0] for line in plain.stdout.splitlines()[1:-1]] == ["größe", "層"]
    bare = piped("show", "names.json", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (bare.returncode, without_progress(bare.stderr)) == (0, "")
    assert [line.split()[0] for line in bare.stdout.splitlines()[1:-1]] == ["gr\\xf6\\xdfe", "\\u5c64"]
    wrong = piped("show", "größe", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert wrong.returncode == 2
    assert without_progress(wrong.stderr).startswith("leafreport: error: 'gr")


@pytest.fixture
def interrupts():
    """Not ignored, as a shell has them for what it starts in the background: a child inherits that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_interrupt_ends_without_a_word():
    with subprocess.Popen(
        [*MAIN, "show", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        progress = process.stderr.readline()  # it waits for its input by now
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert progress == b"leafreport: reading - ...\n"
    assert (process.returncode, out, err) == (130, b"", b"")


def test_slow_target_tells_in_one_line_that_it_takes_long(command, folder):
    (folder / "cli_slow.py").write_text("import time\ntime.sleep(1.3)\ntree = {'a': 1}\n")
    assert command("show", "cli_slow:tree", "--format", "csv", progress=True) == (
        0,
        report({"a": 1}).to_csv(),
        "leafreport: reading cli_slow:tree ...\n",
    )
    assert command("show", "cli_slow:tree", "--format", "csv", progress=True)[2] == ""  # imported by now


def test_working_folder_is_importable_and_what_a_module_prints_is_no_output(folder):
    (folder / "cli_loud.py").write_text(
        "import os\nprint('from print')\nos.write(1, b'from C\\n')\ntree = {'a': 1}\n"
    )
    done = piped("show", "cli_loud:tree", "--json")
    assert (done.returncode, done.stdout) == (0, report({"a": 1}).to_json())
    assert {"from print", "from C"} <= set(done.stderr.splitlines())
    blocked = subprocess.run(
        [sys.executable, "-P", "-c", "import cli_loud"], capture_output=True, check=False
    )
    assert blocked.returncode == 1  # it is the command that makes it importable


def test_jax_runs_on_the_cpu_unless_told(folder):
    (folder / "cli_where.py").write_text(
        "import os, sys, jax\nprint(os.environ['JAX_PLATFORMS'], jax.default_backend())\ntree = {'a': 1}\n"
    )
    cpu = piped("show", "cli_where:tree", JAX_PLATFORMS="cuda")
    assert (cpu.returncode, "cpu cpu" in cpu.stderr.splitlines()) == (0, True)
    other = piped("show", "cli_where:tree", "--platform", "nonsense")
    assert other.returncode == 2
    assert "Unable to initialize backend 'nonsense'" in other.stderr


def test_report_is_shown_without_jax_and_a_module_with_it(folder):
    (folder / "cli_plain.py").write_text("tree = {'a': 1}\n")
    code = (
        "import sys\nfrom leafreport._cli import main\n"
        "code = main(['show', {target!r}])\nassert code == 0\n"
        "sys.stderr.write('with' if 'jax' in sys.modules else 'without')"
    )

    def run(target):
        command = [sys.executable, "-c", code.format(target=target)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()[-1]

    assert run("tree.json") == "without"
    assert run("cli_plain:tree") == "with"


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
def test_model_of_50_gib_is_shown_in_mib(folder):
    (folder / "cli_big.py").write_text(
        "import jax.numpy as jnp\n"
        "def made(gib=50):\n    return [jnp.ones((1024, 1024, 256)) for _ in range(gib)], jnp.tanh, 'text'\n"
        "def small():\n    return made(1)\n"
        "live = None\n"
        "def __getattr__(name):\n"
        "    if name != 'one':\n        raise AttributeError(name)\n"
        "    return made(1)\n"
    )
    code = (
        "import sys\nfrom leafreport._cli import main\n"
        "code = main(['show', {target!r}, '--format', 'csv'])\n"
        # The peak since this process began; getrusage would count what the one that started it had needed.
        "(line,) = [line for line in open('/proc/self/status') if line.startswith('VmHWM:')]\n"
        "sys.stderr.write(f'{{code}} {{line.split()[1]}}')"
    )

    def run(target):
        command = [sys.executable, "-c", code.format(target=target)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        exit_code, peak = map(int, done.stderr.splitlines()[-1].split())
        assert exit_code == 0
        rows = csv.DictReader(io.StringIO(done.stdout))
        return sum(int(row["nbytes"] or 0) for row in rows), peak * 1024

    nbytes, peak = run("cli_big:made")
    assert nbytes == 50 * 2**30
    assert peak < 2**30
    nbytes, peak = run("cli_big:one")  # made at import, and seen by the measure
    assert nbytes == 2**30
    assert peak > 2**30


# --- Anything at all ----------------------------------------------------------------------------------------

WORDS = [
    *("show", "diff", "adapters", "stack", "--help", "--version", "tree.json", "other.json", "bad.json", "-"),
    *(
        "nothing:here",
        "os:path",
        "json:dumps",
        "sys:exit",
        "builtins:object",
        "--json",
        "--format",
        "text",
        "csv",
    ),
    *(
        "html",
        "markdown",
        "tree",
        "--depth",
        "0",
        "1",
        "-1",
        "--fold",
        "--no-fold",
        "--sort",
        "bytes",
        "--include",
    ),
    *(
        "**",
        "re:(",
        "[",
        "re:.*",
        "--exclude",
        "--color",
        "always",
        "--max-rows",
        "-q",
        "--layers",
        "nan",
        "2.5",
    ),
    *(
        "--features",
        "--seed",
        "--backend",
        "toy-cli",
        "",
        ":",
        "::",
        "a:b:c",
        "\x1b[31m",
        "\udc80",
        "é",
        "=",
        "--",
        "\0",
    ),
]


def test_no_argument_at_all_shows_a_traceback(command, folder, toy):
    (folder / "bad.json").write_text('{"schema": "leafreport/1", "nodes": 3}')
    chooser = random.Random(0)
    seen = set()
    for _ in range(400):
        first = chooser.choice(["show", "show", "diff", "stack", "adapters", chooser.choice(WORDS)])
        arguments = [first, *chooser.choices(WORDS, k=chooser.randrange(5))]
        if first == "stack":
            arguments += ["--backend", toy]
        if first in ("show", "diff") and chooser.random() < 0.5:
            arguments[1:1] = ["tree.json", "other.json"][: 1 + (first == "diff")]
        code, out, err = command(*arguments)
        assert code in (0, 1, 2), arguments
        seen.add(code)
        if code == 2:
            assert out == "", arguments
            last = err.splitlines()[-1]
            assert last.startswith("leafreport: error: "), (arguments, err)
            assert "\x1b" not in err, arguments
        elif "--help" not in arguments and "always" not in arguments:
            assert "\x1b" not in out, arguments
    assert seen == {0, 1, 2}


def test_error_of_any_kind_is_one_line(command, folder):
    (folder / "cli_hostile.py").write_text("raise ValueError('\\x1b[31mred\\nsecond line')")
    code, out, err = command("show", "cli_hostile:x")
    assert (code, out) == (2, "")
    assert err == (
        "leafreport: error: importing 'cli_hostile' failed: ValueError: \\x1b[31mred second line "
        "(cli_hostile.py:1)\n"
    )


def test_hostile_names_are_escaped_on_the_way_out(command, folder):
    names = ["<script>", "\x1b[31mred", "[red]", "a\nb", "\udc80", "", ".", "\u202e"]
    (folder / "hostile.json").write_text(report({name: jnp.zeros(2) for name in names}).to_json())
    for form in ("text", "tree", "csv", "markdown", "html", "json"):
        code, out, err = command("show", "hostile.json", "--format", form)
        assert (code, err) == (0, "")
        assert not {"\x1b", "\udc80", "\u202e"} & set(out)
    out = command("show", "hostile.json")[1]
    assert {line.split()[0] for line in out.splitlines()[1:-1]} == {
        *("<script>", "\\x1b[31mred", "[red]", "a\\nb", "\\udc80", '""', ".", "\\u202e")
    }
