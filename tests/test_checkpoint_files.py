"""Files that others save: safetensors, `.npz` and msgpack, each against the library that wrote it."""

import io
import json
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from leafreport import CheckpointError, diff, read, report
from leafreport._checkpoint._safetensors import _DTYPES
from leafreport._checkpoint._zarr import ITEMSIZES

ARRAYS = {
    "model.layers.0.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "model.layers.10.weight": np.zeros((3, 4), np.float32),
    "scalar": np.array(1, np.int64),
    "empty": np.zeros((0, 3), np.float16),
    "flags": np.zeros(5, bool),
}


def facts(found):
    return [(leaf.name, leaf.kind, leaf.dtype, leaf.shape, leaf.nbytes) for leaf in found]


def failure(path, **options):
    with pytest.raises(CheckpointError, match=r".") as caught:
        read(path, **options)
    return str(caught.value)


def test_every_itemsize_is_that_of_numpy_and_ml_dtypes():
    for name, nbytes in ITEMSIZES.items():
        assert np.dtype(getattr(ml_dtypes, name, name)).itemsize == nbytes, name


# --- npz ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_what_numpy_loads(save, tmp_path):
    save(tmp_path / "x.npz", **ARRAYS)
    found = read(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as loaded:
        assert facts(found) == facts(report(dict(loaded)))
    assert not diff(ARRAYS, found)
    if save is np.savez:  # a header of 128 bytes before each
        assert found["flags"].stored_nbytes == 128 + 5


def test_npz_of_a_dtype_numpy_does_not_keep_is_told_as_numpy_loads_it(tmp_path):
    np.savez(tmp_path / "x.npz", b=np.asarray(jnp.zeros(3, jnp.bfloat16)))
    with np.load(tmp_path / "x.npz") as loaded:
        assert facts(read(tmp_path / "x.npz")) == facts(report(dict(loaded)))


def test_npz_without_its_suffix_is_known_by_its_first_bytes(tmp_path):
    np.savez(tmp_path / "x.npz", **ARRAYS)
    (tmp_path / "x.npz").rename(tmp_path / "weights")
    assert read(tmp_path / "weights").leaf_count == len(ARRAYS)


def test_damaged_npz_is_told(tmp_path):
    np.savez(tmp_path / "x.npz", **ARRAYS)
    content = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(content[:-30])
    assert failure(tmp_path / "x.npz").startswith(f"cannot read '{tmp_path}/x.npz': it is no archive")
    (tmp_path / "x.npz").write_bytes(content.replace(b"\x93NUMPY", b"\x93NUMPX"))
    assert "'model.layers.0.weight.npy' in it is no array" in failure(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as archive:
        whole = io.BytesIO()
        np.save(whole, np.zeros((3, 9), np.float32))
        archive.writestr("w.npy", whole.getvalue()[:-60])
    assert "'w.npy' in it has 176 bytes, and is said to be float32[3,9]" in failure(tmp_path / "y.npz")


# --- safetensors --------------------------------------------------------------------------------------------


def test_safetensors_are_what_the_library_loads(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    library.save_file(ARRAYS, tmp_path / "x.safetensors")
    found = read(tmp_path / "x.safetensors")
    assert facts(found) == facts(report(library.load_file(tmp_path / "x.safetensors")))
    assert [leaf.stored_nbytes for leaf in found] == [leaf.nbytes for leaf in found]
    assert read(tmp_path) == found


def test_every_dtype_of_safetensors_is_known(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    arrays = {
        name: np.zeros(4, getattr(ml_dtypes, name, name)) for name, bits in _DTYPES.values() if bits >= 8
    }
    known = {}
    for name, array in arrays.items():
        try:
            library.save_file({name: array}, tmp_path / f"{name}.safetensors")
        except (KeyError, ValueError):  # it writes fewer than it reads
            continue
        known[name] = array
        assert not diff({name: array}, read(tmp_path / f"{name}.safetensors"))
    assert known.keys() >= {"float32", "bfloat16", "int8", "bool", "float64", "uint64"}


def test_several_safetensors_are_read_by_their_index(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    names = sorted(ARRAYS)
    places = {}
    for i, some in enumerate((names[:2], names[2:])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        library.save_file({name: ARRAYS[name] for name in some}, tmp_path / file)
        places |= dict.fromkeys(some, file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    assert not diff(ARRAYS, read(index))
    assert read(tmp_path) == read(index)
    index.unlink()
    assert "holds several files: model-00001-of-00002.safetensors, model-00002-" in failure(tmp_path)
    index.write_text(json.dumps({"weight_map": {**places, "more": places[names[0]]}}))
    assert "does not have 'more', and the index says otherwise" in failure(index)
    index.write_text(json.dumps({"weight_map": {names[0]: places[names[0]]}}))
    assert f"has {names[1]!r}, and the index says otherwise" in failure(index)
    index.write_text(json.dumps({"weight_map": {"w": "gone.safetensors"}}))
    assert "gone.safetensors': No such file or directory" in failure(index)


@pytest.mark.parametrize("size", [0, 4, 8, 40])
def test_cut_safetensors_are_told(size, tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    library.save_file(ARRAYS, tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(content[:size])
    assert failure(tmp_path / "x.safetensors").startswith(
        f"cannot read '{tmp_path}/x.safetensors': safetensors says"
    )


# --- msgpack ------------------------------------------------------------------------------------------------


def flax_tree():
    return {
        "params": {"w": jnp.ones((3, 4), jnp.bfloat16), "b": np.arange(3)},
        "list": [np.zeros(2), (np.zeros(3), None)],
        "empty": {},
        "step": 3,
        "rate": 0.5,
        "name": "net",
        "scalar": np.float32(1),
    }


def test_msgpack_is_what_flax_restores(tmp_path):
    serialization = pytest.importorskip("flax.serialization")
    (tmp_path / "checkpoint_7").write_bytes(serialization.to_bytes(flax_tree()))
    found = read(tmp_path / "checkpoint_7")
    restored = serialization.msgpack_restore((tmp_path / "checkpoint_7").read_bytes())
    live = report(restored)
    assert (found.paths, found.nodes) == (live.paths, live.nodes)
    assert not diff(live, found)


def test_array_in_pieces_is_one(tmp_path, monkeypatch):
    serialization = pytest.importorskip("flax.serialization")
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)
    (tmp_path / "checkpoint_1").write_bytes(serialization.to_bytes({"w": np.zeros((30, 4))}))
    assert facts(read(tmp_path / "checkpoint_1")) == [("w", "array", "float64", (30, 4), 960)]


def test_steps_that_flax_saved_as_files_are_steps(tmp_path):
    serialization = pytest.importorskip("flax.serialization")
    for step in (2, 10):
        (tmp_path / f"checkpoint_{step}").write_bytes(serialization.to_bytes({f"at{step}": np.zeros(3)}))
    assert read(tmp_path).names == ("at10",)
    assert read(tmp_path, step=2).names == ("at2",)


def test_aggregate_file_of_older_orbax_is_read_with_the_arrays_beside_it(tmp_path):
    """As it was written until 2024: small values in one file, and in place of the others their names."""
    msgpack = pytest.importorskip("msgpack")
    held = {
        "a": msgpack.ExtType(1, msgpack.packb(((2,), "float32", b"\0" * 8))),
        "b": {"c": "PLACEHOLDER://b.c"},
    }
    (tmp_path / "checkpoint").write_bytes(msgpack.packb(held))
    assert "it names the array 'b.c', and b.c/.zarray or b.c/zarr.json has no such" in failure(tmp_path)
    (tmp_path / "b.c").mkdir()
    told = {"zarr_format": 2, "shape": [3, 5], "chunks": [3, 5], "dtype": "bfloat16"}
    (tmp_path / "b.c" / ".zarray").write_text(json.dumps(told))
    (tmp_path / "b.c" / "0.0").write_bytes(b"1234567")
    found = read(tmp_path)
    assert facts(found) == [("a", "array", "float32", (2,), 8), ("b/c", "array", "bfloat16", (3, 5), 30)]
    assert [leaf.stored_nbytes for leaf in found] == [8, 7]


def test_damaged_msgpack_is_told(tmp_path):
    serialization = pytest.importorskip("flax.serialization")
    content = serialization.to_bytes(flax_tree())
    file = tmp_path / "checkpoint_1"
    file.write_bytes(content[:-10])
    assert "it ends too early, or is no msgpack (OutOfData)" in failure(file)
    file.write_bytes(content + b"\0\0")
    assert "2 bytes follow after the tree" in failure(file)
    file.write_bytes(content.replace(b"\x92\x03\x04", b"\x92\x03\x05"))
    assert "bytes for an array of 30" in failure(file)
    file.write_bytes(b"\x81\xa1a" * 2000)
    assert "msgpack says: " in failure(file) or "it ends too early" in failure(file)


# --- What is no checkpoint, and what is not installed -------------------------------------------------------


def test_file_of_no_known_format_is_told(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\x00\x01words")
    assert failure(tmp_path / "x.bin").startswith(
        f"'{tmp_path}/x.bin' is a file of no format that can be read."
    )
    (tmp_path / "x.bin").write_bytes(b"")
    assert "no format" in failure(tmp_path / "x.bin")


def test_item_and_step_of_what_has_none_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", **ARRAYS)
    assert failure(tmp_path / "x.npz", step=3) == (
        f"'{tmp_path}/x.npz' has no steps: it is one checkpoint. Leave step=3 out."
    )
    assert failure(tmp_path / "x.npz", item="a") == (
        f"'{tmp_path}/x.npz' has no items: it is one tree. Leave item='a' out."
    )


ABSENT = """
import sys
absent, path = sys.argv[1:]

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import leafreport
try:
    leafreport.read(path)
except leafreport.FrameworkMissingError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("absent", "extra"), [("tensorstore", "orbax"), ("msgpack", "orbax"), ("safetensors", "safetensors")]
)
def test_library_that_is_not_installed_is_named_with_its_extra(absent, extra, tmp_path):
    path = tmp_path / "c"
    if absent == "tensorstore":
        path.mkdir()
        (path / "_METADATA").write_text("{}")
        (path / "manifest.ocdbt").write_bytes(b"")
    else:
        path = tmp_path / {"msgpack": "checkpoint_1", "safetensors": "x.safetensors"}[absent]
        path.write_bytes(b"\x80")
    command = [sys.executable, "-c", ABSENT, absent, str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"{absent}, " in said
    assert said.endswith(f"Install it: pip install 'leafreport[{extra}]'\n")


def test_report_of_a_file_equals_a_live_tree_without_devices(tmp_path):
    np.savez(tmp_path / "x.npz", w=np.zeros((2, 3), np.float32))
    live = {"w": jax.ShapeDtypeStruct((2, 3), np.float32)}
    assert str(diff(live, read(tmp_path / "x.npz"))) == "same: 1 leaf on the left, 1 on the right"
