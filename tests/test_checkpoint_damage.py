"""Checkpoints damaged in thousands of ways: a report or one clear error, quickly, and nothing outside is opened."""

import copy
import json
import os
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("orbax.checkpoint")
pytest.importorskip("safetensors")
import jax.numpy as jnp
import msgpack
from checkpoints import SAVES, keys, manager, scalars
from safetensors.numpy import save_file

from leafreport import CheckpointError, LeafReport, LeafReportError, read
from leafreport._checkpoint._listing import listing
from leafreport._cli import main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:orbax", "ignore::DeprecationWarning")
DRAWS = 3_000
# One reading, the machine busy with something else.
MOST_SECONDS = 5.0


def tree():
    return {
        "params": {f"Dense_{i}": {"kernel": jnp.zeros((3, 4)), "bias": np.zeros(3)} for i in range(2)},
        "list": [np.zeros(2, np.int8), None, {}],
        "keys": {"fry": keys()["fry"]},
        "scalars": scalars(),
    }


def packed(array):
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))


def _safetensors(path):
    path.mkdir()
    save_file({"a": np.zeros((2, 3), np.float32), "b.c": np.zeros(4, np.int8)}, path / "one.safetensors")
    save_file({"d": np.zeros(5)}, path / "two.safetensors")
    places = {"a": "one.safetensors", "b.c": "one.safetensors", "d": "two.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _npz(path):
    path.mkdir()
    np.savez_compressed(path / "x.npz", **{"a/b": np.zeros((2, 3)), "c": np.arange(3)})


def _msgpack(path):
    path.mkdir()
    held = {"a": {"b": packed(np.zeros((2, 3))), "c": None}, "d": [1, 2.5, "s"], "e": {}}
    (path / "checkpoint").write_bytes(msgpack.packb(held))


MAKERS = {
    **{
        name: lambda path, save=SAVES[name]: save(path, tree())
        for name in ("ocdbt-zarr2", "v1", "flat-zarr2", "flat-zarr3")
    },
    "manager": lambda path: manager(path, [1, 2], {"w": np.zeros(3)}),
    "safetensors": _safetensors,
    "npz": _npz,
    "msgpack": _msgpack,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Every file of one checkpoint of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    made = {}
    for name, make in MAKERS.items():
        make(folder / name)
        inside = sorted(file for file in (folder / name).rglob("*"))
        made[name] = {
            str(file.relative_to(folder / name)): None if file.is_dir() else file.read_bytes()
            for file in inside
        }
    return made


def written(files, path):
    """A checkpoint from its files."""
    path.mkdir()
    for name, content in files.items():
        file = path / name
        if content is None:
            file.mkdir(parents=True, exist_ok=True)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


DEEP = "[" * 100_000 + "]" * 100_000
HOSTILE = [
    *(
        "../../secret/file",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a/../../secret/file",
        "\0",
        "x" * 10_000,
        "\ud800",
        "/",
    ),
    *(0, -1, 1, 2**31, 2**63, 2**64, 10**400, 1.5, 1e308, True, False, None),
    *([], {}, [[]], [10**10, 10**10], [2**62] * 70, [0], [-1], ["1"], {"a": 1}, list(range(200))),
    *("float32", "<f4", "<f99", "|O", "<U5", ">f4", "object", "Dict", "scalar", "None", "NamedSharding"),
]


def hostile(rng, value):
    """A JSON value with one part of it replaced, removed, doubled or moved."""
    places = []
    todo = [value]
    while todo:
        found = todo.pop()
        inner = (
            found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
        )
        for key, part in inner:
            places.append((found, key))
            todo.append(part)
    if not places:
        return copy.deepcopy(rng.choice(HOSTILE))
    owner, key = rng.choice(places)
    match rng.randrange(5):
        case 0:
            del owner[key]
        case 1 if isinstance(owner, dict):
            owner[rng.choice([h for h in HOSTILE if isinstance(h, str)])] = owner.pop(key)
        case 2:
            other, name = rng.choice(places)
            if name in other if isinstance(other, dict) else name < len(other):
                owner[key] = copy.deepcopy(other[name])
        case _:
            owner[key] = copy.deepcopy(rng.choice(HOSTILE))
    return value


def hostile_json(rng, content):
    """The bytes of a JSON file, made hostile."""
    match rng.randrange(6):
        case 0:
            return rng.choice(
                [DEEP, '{"a":' * 100_000 + "1" + "}" * 100_000, "9" * 10_000, "NaN", "{", "", "\0"]
            ).encode()
        case 1:  # every key twice
            text = content.decode()
            return text.replace("{", '{"key": 1, "key": 2, ', rng.randrange(1, 4)).encode()
        case _:
            value = json.loads(content)
            for _ in range(rng.randrange(1, 4)):
                value = hostile(rng, value)
            return json.dumps(value).encode()


def is_json(content):
    try:
        return content is not None and content[:1] == b"{" and bool(json.loads(content))
    except (ValueError, RecursionError):  # damaged before
        return False


def damaged(rng, files):
    """The files of a checkpoint, some of them damaged; and what was done."""
    files = dict(files)
    names = [name for name, content in files.items() if content is not None]
    documents = [name for name in names if is_json(files[name])]
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        kind = rng.choice(
            ["flip", "cut", "remove", "swap", "hostile", "hostile", "hostile", "folder", "grow", "copy"]
        )
        name = rng.choice(documents if kind == "hostile" and documents else names)
        content = files.get(name) or b""
        match kind:
            case "flip" if content:
                changed = bytearray(content)
                for _ in range(rng.choice([1, 1, 4, 16])):
                    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
                files[name] = bytes(changed)
            case "cut":
                files[name] = content[: rng.randrange(len(content) + 1)]
            case "remove":
                files = {
                    other: kept for other, kept in files.items() if not f"{other}/".startswith(f"{name}/")
                }
            case "swap":
                other = rng.choice(names)
                files[name], files[other] = files.get(other) or b"", content
            case "hostile" if is_json(content):
                files[name] = hostile_json(rng, content)
            case "folder":
                files[name] = None
            case "grow":
                files[name] = content + rng.randbytes(rng.randrange(1, 100))
            case "copy":
                files[
                    rng.choice(["_METADATA", "checkpoint", "7/_METADATA", "x/manifest.ocdbt", "_sharding"])
                ] = content
        done.append((kind, name))
    return files, done


OPENED = []
WATCHING = []


def _watch(event, arguments):
    if WATCHING and event in ("open", "os.scandir", "os.listdir"):
        OPENED.append(
            os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
        )


sys.addaudithook(_watch)


@pytest.fixture
def watched(tmp_path):
    """Fails where a file outside was opened."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_text("{}")
    (tmp_path / "secret" / ".zarray").write_text(
        '{"zarr_format": 2, "shape": [], "chunks": [], "dtype": "<f4"}'
    )
    OPENED.clear()
    WATCHING.append(True)
    yield
    WATCHING.clear()
    assert [name for name in OPENED if "secret" in os.path.realpath(name) or "passwd" in name] == []


def outcome(path):
    """What comes of a damaged checkpoint: a report, which can be shown, or what its error says."""
    start = time.perf_counter()
    said = None
    try:
        found = read(path)
    except LeafReportError as error:
        found, said = None, str(error)
    if found is not None:
        found.to_text()
        found.to_tree()
        LeafReport.from_json(found.to_json())
    assert time.perf_counter() - start < MOST_SECONDS
    assert said is None or ("\n" not in said and len(said) < 3000)
    return found or said


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("name", MAKERS)
def test_damaged_checkpoint_is_a_report_or_one_clear_error(name, whole, tmp_path):
    rng = random.Random(name)
    outcomes = {"report": 0, "error": 0}
    for draw in range(DRAWS // len(MAKERS)):
        files, done = damaged(rng, whole[name])
        path = tmp_path / "c"
        try:
            written(files, path)
        except (NotADirectoryError, FileExistsError, IsADirectoryError):
            shutil.rmtree(path)
            continue
        try:
            found = outcome(path)
        except BaseException as error:
            raise AssertionError(f"draw {draw}: {done}") from error
        outcomes["report" if isinstance(found, LeafReport) else "error"] += 1
        shutil.rmtree(path)
    assert min(outcomes.values()) > 10, outcomes


@pytest.mark.parametrize("name", ["ocdbt-zarr2", "v1"])
def test_flipped_byte_of_a_database_never_gives_another_report(name, whole, tmp_path):
    path = tmp_path / "c"
    written(whole[name], path)
    expected = read(path)
    rng = random.Random(name)
    refused = 0
    files = [
        file for file, content in whole[name].items() if content and ("manifest" in file or "d/" in file)
    ]
    for file in files:
        content = whole[name][file]
        places = range(len(content)) if len(content) < 150 else rng.sample(range(len(content)), 150)
        for place in places:
            changed = bytearray(content)
            changed[place] ^= 1 << rng.randrange(8)
            (path / file).write_bytes(changed)
            try:
                assert read(path) == expected, (file, place)
            except CheckpointError:
                refused += 1
        (path / file).write_bytes(content)
    assert refused > 100


# --- What a hostile file claims -----------------------------------------------------------------------------


def failure(path, **options):
    with pytest.raises(CheckpointError, match=r".") as caught:
        read(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def flat(tmp_path, whole):
    path = tmp_path / "flat"
    written(whole["flat-zarr2"], path)
    return path


def tree_of(path, *steps, value_type="np.ndarray", **array):
    """A checkpoint of one leaf, whose files say what is given."""
    path.mkdir()
    entry = {
        "key_metadata": [{"key": step, "key_type": 2} for step in steps],
        "value_metadata": {"value_type": value_type},
    }
    (path / "_METADATA").write_text(json.dumps({"tree_metadata": {str(steps): entry}}))
    if array:
        folder = path / ".".join(steps)
        folder.mkdir(parents=True)
        told = {"zarr_format": 2, "shape": [2], "chunks": [2], "dtype": "<f4", **array}
        (folder / ".zarray").write_text(json.dumps(told))
    return path


def test_claimed_terabytes_are_only_numbers(tmp_path):
    found = read(tree_of(tmp_path / "c", "w", shape=[10**6, 10**7], chunks=[10**6, 10**7]))
    assert (found.nbytes, found.stored_nbytes) == (4 * 10**13, 0)


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "..", "\0"])
def test_name_that_leads_out_is_refused(name, tmp_path):
    path = tree_of(tmp_path / "c", name)
    assert "leads out of the checkpoint" in failure(path)


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize(
    "location", ["../secret/file", "/etc/passwd", "d/../../secret/file", "d/%2e%2e/%2e%2e/x"]
)
def test_database_that_refers_outside_is_refused(location, tmp_path, whole):
    ts = pytest.importorskip("tensorstore")
    path = tmp_path / "c"
    written(whole["v1"], path)
    base = ts.KvStore.open({"driver": "file", "path": f"{path}/state/"}).result()
    manifest = ts.ocdbt.dump(base).result()
    root = manifest["versions"][-1]["root"]
    root["location"] = f"btreenode::{location}:0:{root['location'].rpartition(':')[2]}"
    (path / "state" / "manifest.ocdbt").write_bytes(ts.ocdbt.undump_manifest(manifest))
    said = failure(path)
    assert "outside the checkpoint" in said or "Invalid" in said or "no place in a file" in said, said


@pytest.mark.usefixtures("watched")
def test_files_of_safetensors_outside_are_refused(tmp_path):
    for name in ("../secret/file", "/etc/passwd", "..", ".", "", "a/b", "\0"):
        path = tmp_path / "model.safetensors.index.json"
        path.write_text(json.dumps({"weight_map": {"w": name}}))
        assert "which is no file beside the index" in failure(path)


def test_pipe_in_place_of_a_file_is_not_waited_for(tmp_path, whole):
    for name, pipe in (
        ("v1", "state/_METADATA"),
        ("v1", "state/manifest.ocdbt"),
        ("flat-zarr2", "_sharding"),
    ):
        path = tmp_path / pipe.replace("/", "-")
        written(whole[name], path)
        (path / pipe).unlink()
        os.mkfifo(path / pipe)
        assert "it is no regular file" in failure(path)
    os.mkfifo(tmp_path / "x.safetensors")
    assert "it is no regular file" in failure(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEEP, "its JSON is nested too deep"),
        ('{"tree_metadata": ' + DEEP + "}", "its JSON is nested too deep"),
        ("9" * 10_000, "its JSON cannot be read"),
        (
            '{"tree_metadata": {}, "tree_metadata": {}}',
            "its JSON cannot be read (the key 'tree_metadata' is there twice)",
        ),
        ("[]", "its JSON is a list of 0 where an object belongs"),
        ("", "its JSON cannot be read"),
        ('{"tree_metadata": []}', 'its "tree_metadata" is a list of 0 where an object belongs'),
        ('{"tree_metadata": {"a": NaN}}', "its JSON cannot be read (it holds NaN)"),
        ('{"tree_metadata": {"a": 1}}', "the entry 'a' has no path or no type"),
    ],
    ids=range(9),
)
def test_metadata_that_is_none_is_said_to_be(text, said, flat):
    (flat / "_METADATA").write_text(text)
    assert failure(flat).startswith(f"cannot read '{flat}/_METADATA': {said}")


@pytest.mark.parametrize(
    ("array", "said"),
    [
        ({"shape": [10**400]}, "its shape is a list of 1, which is no list of sizes"),
        ({"shape": [-1]}, "its shape is a list of 1, which is no list of sizes"),
        ({"shape": [1] * 65}, "its shape is a list of 65, which is no list of sizes"),
        ({"shape": "2"}, "its shape is '2', which is no list of sizes"),
        ({"chunks": [1, 1]}, "its chunks have 2 dimensions, its shape has 1"),
        ({"dtype": "<f3"}, "its dtype is 'float24', which is none that JAX has"),
        ({"dtype": [["a", "<f4"]]}, "its dtype is a list of 1, which is none that JAX has"),
        ({"zarr_format": 4}, 'its "zarr_format" is 4, this version reads 2 and 3'),
    ],
    ids=str,
)
def test_array_that_cannot_be_is_said_to_be(array, said, tmp_path):
    assert said in failure(tree_of(tmp_path / "c", "w", **array))


def test_paths_that_no_tree_has_are_refused(tmp_path):
    def document(name, *paths):
        path = tmp_path / name
        path.mkdir()
        rows = {}
        for steps in paths:
            kinds = [(str(step), 1 if isinstance(step, int) else 2) for step in steps]
            rows[str(tuple(step for step, _ in kinds))] = {
                "key_metadata": [{"key": step, "key_type": kind} for step, kind in kinds],
                "value_metadata": {"value_type": "None"},
            }
        (path / "_METADATA").write_text(json.dumps({"tree_metadata": rows}))
        return path

    assert "['a'] is a leaf and has others below it" in failure(document("1", "a", "ab"))
    assert "['a'] is a list and a dict" in failure(document("2", "ab", ("a", 0)))
    assert "a list of 2 has the places '0', '2'" in failure(document("3", (0,), (2,)))
    assert "a leaf is at the root, and there are others" in failure(document("4", "a", ""))
    assert "a path has 513 steps and 513 characters, more than the 512" in failure(document("5", "x" * 513))
    assert "a path has 1 steps and 5,000 characters" in failure(document("6", ("x" * 5000,)))
    assert read(document("7", "x" * 512)).leaf_count == 0


def test_entry_that_contradicts_itself_is_told(tmp_path):
    path = tree_of(tmp_path / "c", "w", shape=[2])
    text = (path / "_METADATA").read_text()
    (path / "_METADATA").write_text(text.replace('"key": "w"', '"key": "v"'))
    assert "the entry \"('w',)\" says that its path is ('v',)" in failure(path)


def test_memory_and_time_stay_in_proportion(tmp_path, whole):
    """Each of these in an interpreter of its own, which tells its peak."""
    script = (
        "import sys, leafreport\n"
        "try:\n    print(leafreport.read(sys.argv[1]).nbytes)\n"
        "except leafreport.LeafReportError as error:\n    print(str(error)[:200])\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    cases = []
    for name in ("_METADATA", "_sharding", "array_metadatas/process_0", "params.Dense_0.bias/.zarray"):
        path = tmp_path / name.replace("/", "-")
        written(whole["flat-zarr2"], path)
        (path / name).write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
        cases.append(path)
    huge = tmp_path / "huge"
    written(whole["v1"], huge)
    os.truncate(huge / "state" / "_METADATA", 2**40)  # a terabyte, none of which is on disk
    cases.append(huge)
    map_of_all = tmp_path / "checkpoint_1"
    map_of_all.write_bytes(b"\xdf\xff\xff\xff\xff")
    header = tmp_path / "x.safetensors"
    header.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    for path in (*cases, map_of_all, header):
        command = [sys.executable, "-c", script, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        said, peak = done.stdout.splitlines()
        assert said.startswith("cannot read"), said
        assert int(peak) < 150 * 1024, path


def test_command_says_it_in_one_line(flat, capsys):
    (flat / "_METADATA").write_text("{")
    assert main(["show", str(flat)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"leafreport: error: cannot read '{flat}/_METADATA': its JSON cannot be read")
    assert err.count("\n") == 1


def test_listing_tells_of_the_steps_that_cannot_be_read(tmp_path, whole):
    written(whole["manager"], tmp_path / "r")
    (tmp_path / "r" / "1" / "_CHECKPOINT_METADATA").write_text("{")
    found = listing(tmp_path / "r")
    assert [bool(entry.trouble) for entry in found.entries] == [True, False]
    assert "cannot be read: cannot read" in found.to_text()
