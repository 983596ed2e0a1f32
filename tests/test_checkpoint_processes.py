"""A checkpoint that two processes saved together, read by one."""

import os
import socket
import subprocess
import sys

import pytest

pytest.importorskip("orbax.checkpoint")

from leafreport import read

SCRIPT = """
import sys
number, folder, port = sys.argv[1:]
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(number))
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec as P

mesh = jax.make_mesh((4, 2), ("data", "model"))

def put(shape, spec):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return jax.make_array_from_callback(shape, NamedSharding(mesh, spec), lambda index: values[index])

tree = {"split": put((64, 32), P("data", "model")), "whole": put((64, 32), P()), "rows": put((64,), P("data"))}
for name, use_ocdbt in (("ocdbt", True), ("flat", False)):
    with ocp.PyTreeCheckpointer(use_ocdbt=use_ocdbt) as checkpointer:
        checkpointer.save(f"{folder}/{name}", tree)
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    port = free_port()
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    running = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(number), str(folder), port], env=environment)
        for number in range(2)
    ]
    try:
        assert [process.wait(timeout=120) for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()
    return folder


@pytest.mark.parametrize("layout", ["ocdbt", "flat"])
def test_every_leaf_is_whole(layout, saved):
    found = read(saved / layout)
    assert [(leaf.name, leaf.shape, leaf.device_nbytes, str(leaf.sharding)) for leaf in found] == [
        ("rows", (64,), 64, "P(data) over data:4,model:2"),
        ("split", (64, 32), 1024, "P(data,model) over data:4,model:2"),
        ("whole", (64, 32), 8192, "P(None,None) over data:4,model:2"),
    ]
    assert found.nbytes == 2 * 64 * 32 * 4 + 64 * 4
    assert len(found.device_nbytes) == 8
    assert all(leaf.stored_nbytes for leaf in found)
    assert sorted(file.name for file in (saved / layout / "array_metadatas").iterdir()) == [
        "process_0",
        "process_1",
    ]


def test_both_layouts_tell_the_same(saved):
    ocdbt, flat = read(saved / "ocdbt"), read(saved / "flat")
    assert ocdbt == flat
