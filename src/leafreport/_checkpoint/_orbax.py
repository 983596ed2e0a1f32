"""One tree that Orbax saved: what its JSON and its store say of each leaf, put together."""

from dataclasses import replace
from pathlib import Path

from leafreport._checkpoint._files import damaged
from leafreport._checkpoint._metadata import Saved, key_implementations, saved, shardings
from leafreport._checkpoint._sharding import laid_out
from leafreport._checkpoint._skeleton import EMPTY, End, columns_of
from leafreport._checkpoint._store import Stored, flat_store, has_database, not_there, ocdbt_store
from leafreport._checkpoint._zarr import zarr_array
from leafreport._columns import Columns
from leafreport._leaf import Spec

# How JAX names the dtype of keys of each implementation, and how many uint32 one key is.
_KEYS = {"threefry2x32": ("fry", 2), "rbg": ("rbg", 4), "unsafe_rbg": ("urbg", 4)}
_SCALARS = {"b": "bool", "i": "int", "u": "int", "f": "float", "c": "complex"}


def orbax_tree(folder: Path) -> Columns:
    """The columns of the tree that a folder with `_METADATA` holds.

    Raises:
        CheckpointError: something is missing, damaged, or does not fit the rest.
        FrameworkMissingError: TensorStore is needed and not installed.
    """
    # The store first: what it takes to read is freed before the rest is made.
    arrays = ocdbt_store(folder) if has_database(folder) else None
    leaves = saved(folder)
    if arrays is None:
        arrays = flat_store(folder, (leaf.name for leaf in leaves if _has_array(leaf)))
    if not arrays and any(leaf.value_type == "jax.Array" for leaf in leaves):
        raise damaged(folder, "its arrays are gone: it has no manifest.ocdbt, and no .zarray or zarr.json")
    read = _Leaves(folder, arrays)
    return columns_of(map(read.end, leaves), lambda why: damaged(folder / "_METADATA", why))


def _has_array(leaf: Saved) -> bool:
    return not leaf.is_empty and leaf.value_type != "string"


class _Leaves:
    """Specs of leaves. Leaves of which the same is said share one, made once."""

    def __init__(self, folder: Path, arrays: dict[str, Stored]) -> None:
        self.folder = folder
        self.arrays = arrays
        self.keys = key_implementations(folder)
        self.shardings = shardings(folder)
        self.made: dict[tuple[object, ...], Spec] = {}

    def end(self, leaf: Saved) -> End:
        """The end of a path that `columns_of` takes."""
        if leaf.is_empty:
            return End(leaf.steps, leaf.in_list, EMPTY[leaf.value_type])
        if leaf.value_type == "string":
            return End(leaf.steps, leaf.in_list, Spec("object", "str", type="str"))
        name = leaf.name
        stored = self.arrays.get(name)
        if stored is None or stored.text is None:
            if leaf.value_type in ("jax.Array", "np.ndarray", "scalar"):
                raise not_there(self.folder, name)
            return End(leaf.steps, leaf.in_list, Spec("object", leaf.value_type, type=leaf.value_type))
        key = (leaf.value_type, stored.text, self.keys.get(name), self.shardings.get(name))
        spec = self.made.get(key)
        if spec is None:
            self.made[key] = spec = self._spec(leaf, stored.text, name)
        return End(leaf.steps, leaf.in_list, spec, stored.nbytes)

    def _spec(self, leaf: Saved, text: bytes, name: str) -> Spec:
        spec = zarr_array(text, self._file(name)).spec
        if leaf.value_type == "scalar":
            if spec.shape:
                raise damaged(self._file(name), f"a Python number has the shape {spec.shape}")
            # NumPy's own letter for the kind; the narrow floats of ml_dtypes have none.
            word = _SCALARS.get(spec.dtype[0] if spec.dtype != "bfloat16" else "f", "float")
            return Spec("scalar", word, type=word, abstract=True)
        if leaf.value_type == "jax.Array":
            spec = replace(spec, type="jax.Array")
        sharding = self.shardings.get(name)
        if sharding is not None:
            spec = laid_out(spec, sharding, self.folder / "_sharding")
        return _typed(spec, self.keys.get(name))

    def _file(self, name: str) -> Path | str:
        if has_database(self.folder):
            return f"{self.folder}/manifest.ocdbt: {name}"
        return self.folder / name


def _typed(spec: Spec, implementation: str | None) -> Spec:
    """The spec of typed PRNG keys in place of that of the uint32 they are kept as.

    Of an implementation of someone's own it is not known how many of them a key is: it stays as it is kept.
    """
    if implementation not in _KEYS:
        return spec
    word, width = _KEYS[implementation]
    if spec.dtype != "uint32" or not spec.shape or spec.shape[-1] != width:
        return spec
    sharding = spec.sharding
    if sharding is not None:
        sharding = replace(sharding, spec=sharding.spec[:-1])
    return replace(
        spec,
        kind="key",
        dtype=f"key<{word}>",
        shape=spec.shape[:-1],
        size=(spec.size or 0) // width,
        sharding=sharding,
        shard_shape=None if spec.shard_shape is None else spec.shard_shape[:-1],
        chunk_shape=None if spec.chunk_shape is None else spec.chunk_shape[:-1],
    )
