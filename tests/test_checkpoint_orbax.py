"""What `read` says of a checkpoint, against Orbax's own `metadata()` and against what Orbax restores."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ocp = pytest.importorskip("orbax.checkpoint")
from checkpoints import SAVES, TREES, Pair, manager  # noqa: E402
from orbax.checkpoint.experimental import v1  # noqa: E402

from leafreport import LeafReport, diff, read, report  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:orbax", "ignore::DeprecationWarning")
CASES = [(tree, save) for tree in TREES for save in SAVES]


def metadata(path, save):
    """Orbax's own metadata of a tree, as a tree."""
    if save.startswith("v1"):
        # Version 1 tells nothing at all of a tree that holds a Python bool; version 0 reads the same folder.
        return metadata(path / "state", "") if "scalars" in str(path) else v1.metadata(path).metadata
    return ocp.PyTreeCheckpointer().metadata(path).item_metadata.tree


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Each tree, saved in each way, once."""
    made = {}

    def get(tree, save):
        if (tree, save) not in made:
            path = tmp_path_factory.mktemp(f"{tree}-{save}") / "checkpoint"
            SAVES[save](path, TREES[tree]())
            made[tree, save] = path
        return made[tree, save]

    return get


def oracle_facts(found):
    """What Orbax tells of a leaf, in leafreport's words."""
    kind = type(found).__name__
    if kind in ("StringMetadata", "str"):
        return ("object", None, "str", None)
    if kind in ("bool", "int", "float"):  # what version 1 tells of a scalar is one
        return ("scalar", None, kind, None)
    if kind == "ScalarMetadata":
        return ("scalar", None, type(np.zeros((), found.dtype).item()).__name__, None)
    stored = found.storage_metadata if hasattr(found, "storage_metadata") else found.storage
    return ("array", tuple(found.shape), str(np.dtype(found.dtype)), tuple(stored.chunk_shape))


def raw_facts(leaf):
    """What `read` tells of a leaf, of a typed key what it is kept as: Orbax's metadata do not tell it."""
    if leaf.kind == "key":
        width = {"key<fry>": 2, "key<rbg>": 4, "key<urbg>": 4}[leaf.dtype]
        return ("array", (*leaf.shape, width), "uint32", (*leaf.chunk_shape, width))
    return (leaf.kind, leaf.shape, leaf.dtype, leaf.chunk_shape)


@pytest.mark.parametrize(("tree", "save"), CASES)
def test_every_leaf_is_what_orbax_says_it_is(tree, save, saved):
    path = saved(tree, save)
    told = metadata(path, save)
    found = read(path)
    assert found.paths == report(told).paths
    assert found.nodes == report(told).nodes
    assert list(map(raw_facts, found)) == list(map(oracle_facts, jax.tree_util.tree_leaves(told)))


@pytest.mark.parametrize("save", SAVES)
def test_every_sharding_is_what_orbax_says_it_was(save, saved):
    path = saved("sharded", save)
    for told, leaf in zip(jax.tree_util.tree_leaves(metadata(path, save)), read(path), strict=True):
        sharding = told.sharding_metadata if save.startswith("v1") else told.sharding
        if (kind := type(sharding).__name__) == "SingleDeviceShardingMetadata":
            assert (leaf.sharding, leaf.device_nbytes) == (None, leaf.nbytes)
            continue
        assert kind == "NamedShardingMetadata"
        assert leaf.sharding.mesh == tuple(zip(sharding.axis_names, sharding.shape, strict=True))
        assert leaf.sharding.axis_types == tuple(axis.name for axis in sharding.axis_types)
        spec = [
            () if e is None else (e,) if isinstance(e, str) else tuple(e) for e in sharding.partition_spec
        ]
        assert leaf.sharding.spec[: len(spec)] == tuple(spec[: len(leaf.shape)])


@pytest.mark.parametrize("save", SAVES)
def test_sharded_tree_equals_the_live_one_device_by_device(save, saved):
    live, found = report(TREES["sharded"]()), read(saved("sharded", save))
    assert str(diff(live, found)) == f"same: {len(live)} leaves on the left, {len(live)} on the right"
    assert found.device_nbytes == live.device_nbytes
    assert found.replicated_nbytes == live.replicated_nbytes
    assert [leaf.sharding and leaf.sharding.spec for leaf in found] == [
        leaf.sharding and leaf.sharding.spec for leaf in live
    ]


@pytest.mark.parametrize(("tree", "save"), [case for case in CASES if case[0] != "sharded"])
def test_live_tree_differs_from_its_checkpoint_by_the_save_alone(tree, save, saved):
    found = diff(TREES[tree](), read(saved(tree, save)))
    assert not found, str(found)


@pytest.mark.parametrize("save", ["ocdbt-zarr2", "flat-zarr3", "v1"])
@pytest.mark.parametrize("tree", ["dtypes", "containers", "optimizer", "scalars", "keys"])
def test_report_is_that_of_what_orbax_restores(tree, save, saved):
    path = saved(tree, save)
    restored = v1.load(path) if save == "v1" else ocp.PyTreeCheckpointer().restore(path)
    live, found = report(restored), read(path)
    assert (live.paths, live.nodes) == (found.paths, found.nodes)
    assert str(diff(live, found)) == f"same: {len(live)} leaves on the left, {len(live)} on the right"
    assert (live.param_count, live.nbytes) == (found.param_count, found.nbytes)


def test_what_a_save_changes_is_told_apart(tmp_path):
    x = np.zeros(2)
    tree = {"t": (x,), "n": Pair(x, x), "i": {1: x}, "s": np.float32(2), "e": ((), {}), "same": [x, {"k": x}]}
    SAVES["ocdbt-zarr2"](tmp_path / "c", tree)
    found = diff(tree, read(tmp_path / "c"))
    assert not found
    assert [str(change) for change in found.by_save] == [
        "e  container tuple -> list",
        "i  keys int -> str",
        "n  container checkpoints.Pair -> dict",
        "s  kind NumPy scalar float32 -> Python float",
        "t  container tuple -> list",
    ]
    # A real difference beside it is one all the same.
    assert diff({**tree, "t": (np.zeros(3),)}, read(tmp_path / "c"))
    assert diff({**tree, "same": {"0": x, "1": {"k": x}}}, read(tmp_path / "c"))
    assert diff({**tree, "s": np.int32(2)}, read(tmp_path / "c"))


def test_difference_of_model_and_checkpoint_is_found(saved):
    tree = TREES["optimizer"]()
    tree["params"]["Dense_1"]["kernel"] = jnp.zeros((4, 9))
    tree["params"]["Dense_2"]["bias"] = jnp.zeros(8, jnp.bfloat16)
    del tree["params"]["Dense_0"]["bias"]
    found = diff(tree, read(saved("optimizer", "standard")))
    assert [str(change) for change in found.changed] == [
        "params/Dense_1/kernel  shape (4, 9) -> (4, 8)",
        "params/Dense_2/bias  dtype bfloat16 -> float32",
    ]
    assert [str(leaf) for leaf in found.added] == ["params/Dense_0/bias float32[8]"]


@pytest.mark.parametrize("save", SAVES)
def test_typed_keys_are_named_and_equal_the_live_ones(save, saved):
    found = read(saved("keys", save))
    assert [(leaf.name, leaf.kind, leaf.dtype, leaf.shape, leaf.nbytes) for leaf in found] == [
        ("batch", "key", "key<fry>", (4, 2), 64),
        ("fry", "key", "key<fry>", (), 8),
        ("looks raw", "array", "uint32", (2,), 8),
        ("raw", "array", "uint32", (2,), 8),
        ("rbg", "key", "key<rbg>", (), 16),
        ("urbg", "key", "key<urbg>", (), 16),
    ]
    assert not diff(TREES["keys"](), found)


def test_older_checkpoint_without_keys_and_shardings_is_read_as_it_is_kept(tmp_path):
    tree = {"key": jax.random.key(0), "w": next(iter(TREES["sharded"]().values()))}
    SAVES["ocdbt-zarr2"](tmp_path / "c", tree)
    shutil.rmtree(tmp_path / "c" / "array_metadatas")
    for name in ("_sharding", "_CHECKPOINT_METADATA", "commit_success.txt"):
        (tmp_path / "c" / name).unlink()
    document = json.loads((tmp_path / "c" / "_METADATA").read_text())
    only = {"tree_metadata": document["tree_metadata"]}
    (tmp_path / "c" / "_METADATA").write_text(json.dumps(only))
    found = read(tmp_path / "c")
    assert [(leaf.dtype, leaf.shape, leaf.sharding) for leaf in found] == [
        ("uint32", (2,), None),
        ("float32", (4, 4), None),
    ]
    assert [str(change) for change in diff(tree, found).changed] == [
        "key  key typed key<fry>[] -> raw uint32[2]"
    ]


def chunk_nbytes(path):
    """Bytes of all chunks, by TensorStore's own reads of every key that is one."""
    ts = pytest.importorskip("tensorstore")
    base = {"driver": "file", "path": f"{path}/"}
    flat = not (path / "manifest.ocdbt").exists()
    store = ts.KvStore.open(base if flat else {"driver": "ocdbt", "base": base}).result()
    inner = [key.decode() for key in store.list().result()]
    chunks = [key for key in inner if "/" in key and not key.endswith((".zarray", "zarr.json"))]
    if flat:
        chunks = [key for key in chunks if not key.startswith("array_metadatas/")]
    return sum(len(store.read(key).result().value) for key in chunks)


@pytest.mark.parametrize("save", SAVES)
def test_bytes_on_disk_are_those_of_every_chunk(save, saved):
    for tree in ("containers", "sharded", "scalars"):
        path = saved(tree, save)
        found = read(path)
        assert found.stored_nbytes == chunk_nbytes(path / "state" if save.startswith("v1") else path)
        assert (
            sum(leaf.stored_nbytes for leaf in found if leaf.stored_nbytes is not None) == found.stored_nbytes
        )


def test_report_of_a_checkpoint_is_read_back_from_json_exactly(saved):
    found = read(saved("sharded", "v1"))
    again = LeafReport.from_json(found.to_json())
    assert again == found
    assert [(leaf.stored_nbytes, leaf.chunk_shape) for leaf in again] == [
        (leaf.stored_nbytes, leaf.chunk_shape) for leaf in found
    ]
    assert read(saved("scalars", "v1")) != found
    part = found.select("vector")
    assert LeafReport.from_json(part.to_json()) == part
    assert part.stored_nbytes == part["vector"].stored_nbytes


def test_strings_are_told_and_never_read(tmp_path):
    SAVES["v1"](tmp_path / "c", {"s": "words", "x": jnp.zeros(2)})
    found = read(tmp_path / "c")
    assert [(leaf.name, leaf.kind, leaf.dtype) for leaf in found] == [
        ("s", "object", "str"),
        ("x", "array", "float32"),
    ]
    assert not diff({"s": "other words", "x": jnp.zeros(2)}, found)


def test_names_with_slashes_are_read_in_every_layout(tmp_path):
    tree = {"mlp/~/linear_0": {"w": np.zeros((2, 3)), "c/0": np.zeros(4)}, "c": {"0": np.zeros(5)}}
    for name, save in SAVES.items():
        save(tmp_path / name, tree)
        found = read(tmp_path / name)
        assert not diff(tree, found), name
        assert all(leaf.stored_nbytes for leaf in found), name


def test_one_name_in_the_store_for_two_leaves_is_reported_as_orbax_has_it(tmp_path):
    SAVES["ocdbt-zarr2"](tmp_path / "c", {"a.b": np.zeros(3), "a": {"b": np.zeros(3)}})
    assert read(tmp_path / "c").names == ("a/b", "a.b")
    assert report(metadata(tmp_path / "c", "ocdbt-zarr2")).names == ("a/b", "a.b")


def test_checkpoint_of_eight_devices_is_read_on_one(saved):
    path = saved("sharded", "standard")
    script = (
        "import json, sys, jax, orbax.checkpoint as ocp, leafreport\n"
        "assert len(jax.devices()) == 1\n"
        "found = leafreport.read(sys.argv[1])\n"
        "told = ocp.StandardCheckpointer().metadata(sys.argv[1]).item_metadata.tree\n"
        "assert found.paths == leafreport.report(told).paths\n"
        "print(found.to_json())"
    )
    environment = {**os.environ, "XLA_FLAGS": ""}
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert LeafReport.from_json(done.stdout) == read(path)


# --- Roots, steps and items ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("manager") / "root"
    manager(path, [1, 20, 100], {"w": np.zeros((2, 3), np.float32)})
    return path


@pytest.fixture(scope="module")
def composite(tmp_path_factory):
    path = tmp_path_factory.mktemp("manager") / "composite"
    tree = {"w": np.zeros((2, 3), np.float32)}
    items = {"ema": ocp.args.StandardSave({"v": np.zeros(7)}), "extra": ocp.args.JsonSave({"a": 1})}
    manager(path, [5], tree, **items)
    return path


def test_root_gives_its_latest_step(root):
    assert read(root) == read(root, step=100) == read(root / "100") == read(root / "100" / "default")
    assert read(root).names == ("w",)


def test_latest_step_is_the_largest_number(tmp_path):
    manager(tmp_path / "r", [9], {"nine": np.zeros(1)})
    manager(tmp_path / "r", [10], {"ten": np.zeros(1)})
    assert read(tmp_path / "r").names == ("ten",)
    assert read(tmp_path / "r", step=9).names == ("nine",)


@pytest.mark.parametrize(("prefix", "length"), [("step", None), (None, 6), ("ck_pt", 8)])
def test_steps_with_prefix_and_zeros_are_found(prefix, length, tmp_path):
    options = ocp.CheckpointManagerOptions(step_prefix=prefix, step_format_fixed_length=length)
    with ocp.CheckpointManager(tmp_path / "r", options=options) as saving:
        saving.save(7, args=ocp.args.StandardSave({"seven": np.zeros(1)}))
        saving.save(12, args=ocp.args.StandardSave({"twelve": np.zeros(1)}))
        saving.wait_until_finished()
    assert read(tmp_path / "r").names == ("twelve",)
    assert read(tmp_path / "r", step=7).names == ("seven",)


def test_item_is_chosen_by_name(composite):
    assert read(composite, item="state").names == ("w",)
    assert read(composite, step=5, item="ema").names == ("v",)
    assert read(composite / "5", item="ema") == read(composite / "5" / "ema")


def test_only_tree_among_items_is_taken(tmp_path):
    manager(tmp_path / "r", [3], {"w": np.zeros(2)}, extra=ocp.args.JsonSave({"a": 1}))
    assert read(tmp_path / "r").names == ("w",)


def test_checkpointables_of_version_1_are_items(tmp_path):
    v1.save_checkpointables(tmp_path / "c", {"model": {"w": np.zeros(2)}, "more": {"v": np.zeros(3)}})
    assert read(tmp_path / "c", item="more").names == ("v",)


def test_steps_of_version_1_are_found(tmp_path):
    with v1.training.Checkpointer(tmp_path / "r") as saving:
        saving.save(4, {"four": np.zeros(2)})
        saving.save(11, {"eleven": np.zeros(2)})
    assert read(tmp_path / "r").names == ("eleven",)
    assert read(tmp_path / "r", step=4).names == ("four",)


# --- Paths --------------------------------------------------------------------------------------------------


def test_path_is_taken_in_every_form(root, monkeypatch):
    expected = read(root)
    monkeypatch.chdir(root.parent)
    monkeypatch.setenv("HOME", str(root.parent))
    for form in (
        str(root),
        "root",
        Path("root"),
        "./root/",
        "~/root",
        f"file://{root}",
        f"file://localhost{root}",
    ):
        assert read(form) == expected
    assert read(os.fsencode(root)) == expected


def test_address_with_escapes_is_a_path_with_spaces(tmp_path):
    SAVES["flat-zarr2"](tmp_path / "a b", {"w": np.zeros(2)})
    assert read(f"file://{tmp_path}/a%20b").names == ("w",)


# --- What is read -------------------------------------------------------------------------------------------


def file_bytes_read(call):
    """What TensorStore's own counter says it read of files meanwhile, and what the call gave."""
    ts = pytest.importorskip("tensorstore")
    counts = []
    result = None
    for step in (lambda: None, call):
        result = step()
        metrics = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
        counts.append(sum(value["value"] for metric in metrics for value in metric["values"]))
    return counts[1] - counts[0], result


@pytest.mark.parametrize("save", ["ocdbt-zarr2", "v1", "flat-zarr2", "flat-zarr3"])
def test_chunks_are_not_read(save, tmp_path):
    SAVES[save](tmp_path / "c", {"w": np.random.default_rng(0).standard_normal((1024, 2048))})
    nbytes, found = file_bytes_read(lambda: read(tmp_path / "c"))
    assert (found.nbytes, found.stored_nbytes > 2**23, nbytes < 2**24 // 100) == (2**24, True, True)


def test_values_that_are_read_are_counted(tmp_path):
    SAVES["ocdbt-zarr2"](tmp_path / "c", {"w": np.random.default_rng(0).standard_normal((1024, 2048))})
    assert file_bytes_read(lambda: ocp.PyTreeCheckpointer().restore(tmp_path / "c"))[0] > 2**23


def test_flat_checkpoint_whose_values_are_gone_is_still_told(tmp_path):
    SAVES["flat-zarr2"](tmp_path / "c", {"w": np.ones((3, 4))})
    (tmp_path / "c" / "w" / "0.0").unlink()
    assert [(leaf.name, leaf.shape, leaf.stored_nbytes) for leaf in read(tmp_path / "c")] == [
        ("w", (3, 4), 0)
    ]


def test_neither_jax_nor_orbax_is_imported(saved):
    script = (
        "import sys, json, leafreport\nprint(leafreport.read(sys.argv[1]))\n"
        "print(json.dumps([n for n in ('jax', 'orbax', 'flax', 'treescope', 'tensorstore') if n in sys.modules]))"
    )
    for save, expected in (("v1", ["tensorstore"]), ("flat-zarr2", [])):
        command = [sys.executable, "-c", script, str(saved("keys", save))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout.splitlines()[-1]) == expected
