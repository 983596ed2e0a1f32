"""Claim: `read` of a checkpoint of 10,000 leaves takes a tenth of Orbax's `metadata()`, and little memory."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from _measure import Case, main

_PEAK_MIB = 130


def saved(leaves, version):  # noqa: ANN001, ANN201
    """A checkpoint of small arrays, saved by an interpreter of its own: a heap is no part of another."""
    folder = Path(tempfile.mkdtemp(prefix="leafreport-bench-"))
    command = [sys.executable, __file__, "--save", str(folder / "checkpoint"), str(leaves), version]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return folder / "checkpoint"


def save(path, leaves, version):  # noqa: ANN001, ANN201
    """What `saved` runs."""
    import _trees
    import orbax.checkpoint as ocp
    from orbax.checkpoint.experimental import v1

    tree = _trees.arrays(leaves)
    if version == "v1":
        v1.save(path, tree)
        return
    with ocp.PyTreeCheckpointer(use_ocdbt=version == "ocdbt") as checkpointer:
        checkpointer.save(path, tree)


def read(path):  # noqa: ANN001, ANN201
    """From a path to a report."""
    import leafreport

    return leafreport.read(path)


def metadata(path):  # noqa: ANN001, ANN201
    """The yardstick: Orbax's own."""
    import orbax.checkpoint as ocp

    found = ocp.PyTreeCheckpointer().metadata(path).item_metadata
    assert found is not None  # noqa: S101
    return found


def metadata_v1(path):  # noqa: ANN001, ANN201
    """The yardstick: that of Orbax's version 1."""
    from orbax.checkpoint.experimental import v1

    found = v1.metadata(path).metadata
    assert found is not None  # noqa: S101
    return found


def show(path):  # noqa: ANN001, ANN201
    """The command, as a shell starts it."""
    command = [sys.executable, "-m", "leafreport._cli", "show", str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def imported(_):  # noqa: ANN001, ANN201
    """The yardstick: Orbax imported, and nothing read."""
    command = [sys.executable, "-c", "import orbax.checkpoint"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def peak_mib(path):  # noqa: ANN001, ANN201
    """The most memory an interpreter had that did nothing but read, by the kernel's count."""
    script = (
        "import sys, leafreport\nfound = leafreport.read(sys.argv[1])\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


def memory() -> bool:
    """Whether the memory of reading 10,000 leaves is within its limit, in each layout."""
    held = True
    for version in ("ocdbt", "flat", "v1"):
        path = saved(10_000, version)
        peak = peak_mib(path)
        held &= peak <= _PEAK_MIB
        word = "holds " if peak <= _PEAK_MIB else "MISSED"
        print(f"{word} memory_{version}_10k: {peak:.0f} MiB resident (at most {_PEAK_MIB})", flush=True)
        shutil.rmtree(path.parent)
    return held


CASES = {
    "ocdbt_10k": Case(lambda: saved(10_000, "ocdbt"), read, metadata, 0.1, rounds=3),
    "flat_10k": Case(lambda: saved(10_000, "flat"), read, metadata, 0.1, rounds=3),
    "v1_10k": Case(lambda: saved(10_000, "v1"), read, metadata_v1, 0.1, rounds=3),
    "show_1k": Case(lambda: saved(1_000, "ocdbt"), show, imported, 1.0, rounds=7),
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--save"]:
        save(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    elif sys.argv[1:] == ["memory"]:
        sys.exit(not memory())
    else:
        main(CASES)
