"""Checkpoints as targets of the command: what is shown, compared and listed, and how trouble is said."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

ocp = pytest.importorskip("orbax.checkpoint")
from checkpoints import SAVES, manager  # noqa: E402

from leafreport import CheckpointError, read  # noqa: E402
from leafreport._cli import main  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:orbax", "ignore::DeprecationWarning")
TREE = {"dense": {"kernel": np.zeros((2, 3), np.float32), "bias": np.zeros(3, np.float32)}}
WIDER = {"dense": {"kernel": np.zeros((2, 4), np.float32), "bias": np.zeros(4, np.float32)}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A root of three steps, a step of two items, one tree, and one that was never completed."""
    folder = tmp_path_factory.mktemp("command")
    manager(folder / "runs", [1, 20], TREE)
    manager(folder / "runs", [100], WIDER)
    (folder / "runs" / "200.orbax-checkpoint-tmp").mkdir()
    items = {"ema": ocp.args.StandardSave(WIDER), "extra": ocp.args.JsonSave({"a": 1})}
    manager(folder / "many", [5], TREE, **items)
    SAVES["flat-zarr2"](folder / "one", TREE)
    (folder / "half.orbax-checkpoint-tmp").mkdir()
    (folder / "ordinary").mkdir()
    (folder / "ordinary" / "notes.txt").write_text("")
    return folder


@pytest.fixture
def command(capsys, monkeypatch, place):
    """Runs the command in the folder of the checkpoints; gives exit code, standard output and error."""
    monkeypatch.chdir(place)

    def run(*arguments):
        code = main(list(arguments))
        out, err = capsys.readouterr()
        return code, out, "".join(line for line in err.splitlines(True) if not line.endswith(" ...\n"))

    return run


def test_show_of_one_tree(command):
    assert command("show", "one") == (
        0,
        textwrap.dedent("""\
            path          shape  dtype    params  bytes  on disk
            dense/bias    (3,)   float32       3   12 B     21 B
            dense/kernel  (2,3)  float32       6   24 B     17 B
            total  2 leaves, 9 params, 36 B
            on disk  38 B (38 B) of values
        """),
        "",
    )


def test_show_of_one_tree_in_other_formats(command):
    code, out, _ = command("show", "one", "--format", "csv")
    assert (code, out.splitlines()) == (
        0,
        [
            (
                "path,steps,kind,shape,dtype,size,nbytes,device_nbytes,sharding,shared_with,role,owner,stacked,"
                "stored_nbytes,chunk_shape"
            ),
            'dense/bias,"[""dense"", ""bias""]",array,"(3,)",float32,3,12,,,,,,,21,"(3,)"',
            'dense/kernel,"[""dense"", ""kernel""]",array,"(2,3)",float32,6,24,,,,,,,17,"(2,3)"',
        ],
    )
    assert command("show", "one", "--json")[1] == read("one").to_json()
    assert "on disk  38 B" in command("show", "one", "--format", "html")[1]
    assert command("show", "one", "--include", "**/bias")[1].splitlines()[1].endswith("21 B")


def test_show_of_a_root_lists_its_steps(command, place):
    code, out, err = command("show", "runs")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["step", "saved", "items"]
    assert [line.split()[0] for line in lines[1:4]] == ["1", "20", "100"]
    assert [line.split()[-1] for line in lines[1:4]] == ["default"] * 3
    assert lines[4:] == [
        f"3 steps; show one: {place}/runs@100",
        "never completed  200.orbax-checkpoint-tmp",
    ]


def test_show_of_a_root_as_json(command, place):
    code, out, _ = command("show", "runs", "--json")
    document = json.loads(out)
    assert (code, document["schema"], document["unfinished"]) == (
        0,
        "leafreport-steps/1",
        ["200.orbax-checkpoint-tmp"],
    )
    assert [(row["step"], row["path"], row["items"]) for row in document["steps"]] == [
        (step, f"{place}/runs/{step}", ["default"]) for step in (1, 20, 100)
    ]


def test_custom_metadata_of_a_step_are_listed(tmp_path, capsys):
    with ocp.CheckpointManager(tmp_path / "r") as saving:
        saving.save(3, args=ocp.args.StandardSave(TREE), custom_metadata={"loss": 0.5})
        saving.wait_until_finished()
    assert main(["show", str(tmp_path / "r"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"][0]["custom_metadata"] == {"loss": 0.5}


def test_show_of_a_step_of_several_items_lists_them(command, place):
    assert command("show", "many/5") == (
        0,
        f"item   what\nema    tree\nstate  tree\nextra  no tree\n2 items; show one: {place}/many/5/ema\n",
        "",
    )
    assert command("show", "many/5/ema")[1] == command("show", "runs@100")[1].replace("default", "ema")


@pytest.mark.parametrize("target", ["runs@100", "./runs@100", "runs/100", "runs/100/default", "~/runs@100"])
def test_step_of_a_root_is_a_target(target, command, monkeypatch, place):
    monkeypatch.setenv("HOME", str(place))
    code, out, _ = command("show", target)
    assert (code, "dense/kernel  (2,4)" in out) == (0, True)


def test_path_of_that_very_name_comes_before_a_step(command, place):
    shutil.copytree(place / "one", place / "runs@20", dirs_exist_ok=True)
    assert command("diff", "runs@20", "one")[0] == 0
    shutil.copytree(place / "runs" / "100" / "default", place / "runs@1", dirs_exist_ok=True)
    assert command("diff", "runs@1", "one")[0] == 1
    shutil.rmtree(place / "runs@1")
    shutil.rmtree(place / "runs@20")
    assert command("diff", "runs@1", "one")[0] == 0


@pytest.mark.parametrize(
    ("left", "right", "code"),
    [
        ("runs@1", "runs@20", 0),
        ("runs@1", "runs@100", 1),
        ("runs", "runs@100", 0),
        ("one", "runs@1", 0),
        ("many/5/ema", "runs@100", 0),
        ("one", "many/5", 2),
    ],
)
def test_diff_of_checkpoints(left, right, code, command):
    found = command("diff", left, right)
    assert found[0] == code
    assert (found[1] == "") == (code == 2)


def test_diff_of_a_model_and_its_checkpoint(command, monkeypatch, tmp_path):
    (tmp_path / "checkpoint_model.py").write_text(
        "import jax.numpy as jnp\n"
        "def make():\n"
        "    return {'dense': {'kernel': jnp.zeros((2, 3)), 'bias': jnp.zeros(3)}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert command("diff", "checkpoint_model:make", "one") == (
        0,
        "same: 2 leaves on the left, 2 on the right\n",
        "",
    )
    code, out, _ = command("diff", "checkpoint_model:make", "runs@100")
    assert (code, out.splitlines()) == (
        1,
        [
            "~ dense/bias  shape (3,) -> (4,)",
            "~ dense/kernel  shape (2, 3) -> (2, 4)",
            "different: 2 changed; 2 leaves on the left, 2 on the right",
        ],
    )


def test_saved_report_of_a_checkpoint_equals_it(command, tmp_path):
    (tmp_path / "one.json").write_text(command("show", "one", "--json")[1])
    assert command("diff", str(tmp_path / "one.json"), "one")[0] == 0
    assert command("show", str(tmp_path / "one.json"))[1] == command("show", "one")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "runs@7"), "'{}/runs' has no step 7. Its steps are 1, 20, 100; the nearest is 1."),
        (("show", "one@7"), "'{}/one' has no steps: it is one checkpoint. Leave step=7 out."),
        (
            ("show", "half.orbax-checkpoint-tmp"),
            "'{}/half.orbax-checkpoint-tmp' is a save that was never completed",
        ),
        (("show", "./half"), "there is no '{}/half', only half.orbax-checkpoint-tmp: a save that was never"),
        (("show", "./runss"), "there is no '{}/runss'. Did you mean runs?"),
        (("show", "runs/100/defalt"), "there is no '{}/runs/100/defalt'. Did you mean default?"),
        (("show", "./no/such"), "there is no '{}/no/such'. '{}' is there, and no 'no' in it."),
        (
            ("show", "ordinary"),
            "'{}/ordinary' is no checkpoint: it holds notes.txt. A checkpoint's folder has",
        ),
        (
            ("show", "gs://bucket/run"),
            "'gs://bucket/run' is no local path, and no other can be read. Copy the",
        ),
        (("diff", "many", "one"), "'{}/many/5' has several items: ema, state. Give one: item='ema', or the"),
        (
            ("show", "runs", "--depth", "1"),
            "'runs' is several trees, and --depth is for one. Without it they",
        ),
        (("show", "runs", "--format", "csv"), "'runs' is several trees, and --format csv is for one."),
        (
            ("show", "one", "--input", "1,2"),
            "'one' is a saved report or a checkpoint, which says all it knows",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_trouble_is_one_line_and_exit_code_2(arguments, said, command, place):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"leafreport: error: {said.replace('{}', str(place))}")
    assert err.count("\n") == 1


def test_step_that_is_no_number_is_refused(place):
    with pytest.raises(CheckpointError, match=r"^step='100' is no whole number, as every step's is\.$"):
        read(place / "runs", step="100")
    assert read(place / "runs", step=np.int64(100)) == read(place / "runs", step=100)


def test_one_step_under_two_names_is_refused(place, tmp_path):
    shutil.copytree(place / "runs" / "1", tmp_path / "r" / "1")
    shutil.copytree(place / "runs" / "1", tmp_path / "r" / "step_001")
    with pytest.raises(
        CheckpointError, match=r"has step 1 twice: 1 and step_001\. Give the folder of the one"
    ):
        read(tmp_path / "r")


def test_unfinished_saves_alone_are_no_root(tmp_path, command):
    (tmp_path / "r" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    code, _, err = command("show", str(tmp_path / "r"))
    assert code == 2
    assert "holds no step, only what was never completed: 5.orbax-checkpoint-tmp." in err


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        (
            "dense.bias",
            "_METADATA': it names the array 'dense.bias', and dense.bias/.zarray or dense.bias/zarr.json",
        ),
        ("dense.bias/.zarray", "_METADATA': it names the array 'dense.bias', and dense.bias/.zarray or"),
    ],
)
def test_missing_file_is_named(removed, said, command, place, tmp_path):
    shutil.copytree(place / "one", tmp_path / "c")
    file = tmp_path / "c" / removed
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    code, out, err = command("show", str(tmp_path / "c"))
    assert (code, out) == (2, "")
    assert err.startswith(f"leafreport: error: cannot read '{tmp_path}/c/{said}")


@pytest.mark.parametrize("removed", ["_METADATA", "manifest.ocdbt", "d"])
def test_missing_database_is_named(removed, command, place, tmp_path):
    shutil.copytree(place / "runs" / "1", tmp_path / "c")
    file = tmp_path / "c" / "default" / removed
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    code, out, err = command("show", str(tmp_path / "c"))
    assert (code, out) == (2, "")
    assert err.startswith(f"leafreport: error: cannot read '{tmp_path}/c/default")


def test_command_imports_neither_jax_nor_orbax(place):
    script = (
        "import sys\nfrom leafreport._cli import main\nmain(sys.argv[1:])\n"
        "print([n for n in ('jax', 'jaxlib', 'orbax', 'flax', 'treescope') if n in sys.modules], file=sys.stderr)"
    )
    for target in ("runs@100", "runs", "one"):
        command = [sys.executable, "-c", script, "show", str(Path(place) / target)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr == "[]\n"
    twin = script.replace("main(sys.argv[1:])", "main(sys.argv[1:]); import leafreport; leafreport.report")
    command = [sys.executable, "-c", twin, "show", str(place / "one")]
    assert "'jax'" in subprocess.run(command, capture_output=True, text=True, check=True).stderr
