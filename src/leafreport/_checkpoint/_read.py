"""`read`: what is in a checkpoint on disk, without its values."""

import os
from collections.abc import Callable
from pathlib import Path

from leafreport._checkpoint._files import damaged, opened, shown
from leafreport._checkpoint._place import AGGREGATE, INDEX, Root, Step, chosen_item, chosen_step, local, place
from leafreport._columns import Columns
from leafreport._errors import CheckpointError
from leafreport._report import LeafReport


def read(path: "str | os.PathLike[str]", *, step: int | None = None, item: str | None = None) -> LeafReport:
    """What is in a checkpoint on disk: each leaf's path, shape, dtype, bytes, saved sharding and chunks.

    Takes what Orbax saved, in any of its layouts: the root of a `CheckpointManager` (its latest step), a
    step, an item, or one tree; and what others saved: a `.safetensors` file or the index of several, an
    `.npz`, a msgpack file of Flax. The report is of the tree that a restore without a target gives, in JAX's
    flatten order; typed PRNG keys are told as such. Sharding is that of the save.

    Reads no value, imports neither JAX nor Orbax, and needs TensorStore only for an OCDBT database. (Of a
    msgpack file, in which values and names alternate, each value passes through memory once.)

    Cost: of an Orbax checkpoint of 10,000 leaves less than a tenth of Orbax's own `metadata()`.

    Args:
        path: a folder or a file; relative, of `~`, or a `file://` address.
        step: which step of a root; the latest when not given.
        item: which item of a step; needed where a step has several.

    Raises:
        CheckpointError: nothing is there, it is no checkpoint or an unfinished one, metadata are missing or
            damaged, there is no such step or item, or several items and none was named. The message names
            the file and what was found.
        FrameworkMissingError: a library that the format needs is not installed.

    Example:
        >>> import numpy as np, tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp(), "weights.npz")
        >>> np.savez(file, kernel=np.zeros((2, 3), np.float32), bias=np.zeros(3, np.float32))
        >>> r = read(file)
        >>> r.names, r["kernel"].shape, r.nbytes
        (('bias', 'kernel'), (2, 3), 36)
    """
    return LeafReport(_columns(_tree(local(path), step, item)))


def _tree(path: Path, step: int | None, item: str | None) -> Path:
    """The folder or file of the one tree that is asked for."""
    found = place(path)
    if isinstance(found, Root):
        found = place(chosen_step(found, step))
    elif step is not None:
        raise CheckpointError(f"{shown(path)} has no steps: it is one checkpoint. Leave step={step} out.")
    if isinstance(found, Step):
        return chosen_item(found, item)
    if item is not None:
        raise CheckpointError(f"{shown(path)} has no items: it is one tree. Leave item={item[:200]!r} out.")
    if isinstance(found, Root):
        raise CheckpointError(f"{shown(found.path)} is a step that has steps. Give one of them.")
    return found.path


def _columns(path: Path) -> Columns:
    if path.is_dir():
        if os.path.lexists(path / "_METADATA"):
            from leafreport._checkpoint._orbax import orbax_tree

            return orbax_tree(path)
        if os.path.lexists(path / AGGREGATE):
            return _msgpack(path / AGGREGATE)
        raise damaged(path / "_METADATA", "it is not there, and it alone holds the names of the leaves")
    return _reader(path)(path)


def _reader(path: Path) -> Callable[[Path], Columns]:
    """What reads a file: told by its name, else by its first bytes."""
    if path.name == INDEX or path.name.endswith(".safetensors.index.json"):
        from leafreport._checkpoint._safetensors import sharded

        return sharded
    if path.suffix == ".safetensors":
        from leafreport._checkpoint._safetensors import safetensors

        return safetensors
    with opened(path) as stream:
        first = stream.read(4)
    if path.suffix == ".npz" or first.startswith(b"PK\3\4"):
        from leafreport._checkpoint._npz import npz

        return npz
    if first and (0x80 <= first[0] <= 0x8F or first[0] in (0xDE, 0xDF)):  # a map, which begins every tree
        return _msgpack
    raise CheckpointError(
        f"{shown(path)} is a file of no format that can be read. Read are: what Orbax saved (a folder), "
        ".safetensors, its .safetensors.index.json, .npz, and Flax's msgpack."
    )


def _msgpack(path: Path) -> Columns:
    from leafreport._checkpoint._msgpack import msgpack

    return msgpack(path)


def is_checkpoint_file(path: Path) -> bool:
    """Whether a file is of a format that `read` takes, by its name and its first bytes."""
    try:
        _reader(path)
    except CheckpointError:
        return False
    return True
