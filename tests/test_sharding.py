"""Shardings over eight CPU devices, by hand and against JAX's own shards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from leafreport import LeafReport, report


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def mesh(request):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(request.param,) * 2)


def put(mesh, spec, shape=(8, 6), dtype=np.float32):
    return jax.device_put(np.zeros(shape, dtype), NamedSharding(mesh, spec))


def on_devices(arrays):
    """Bytes on each device, from the shards JAX really made."""
    out = dict.fromkeys(range(8), 0)
    for array in arrays:
        for shard in array.addressable_shards:
            out[shard.device.id] += shard.data.nbytes
    return {device: nbytes for device, nbytes in out.items() if nbytes}


@pytest.mark.parametrize(
    ("spec", "axes", "device_nbytes", "shown"),
    [
        (P(), ((), ()), 192, "P(None,None) over x:4,y:2"),
        (P("x"), (("x",), ()), 48, "P(x,None) over x:4,y:2"),
        (P(None, "y"), ((), ("y",)), 96, "P(None,y) over x:4,y:2"),
        (P("x", "y"), (("x",), ("y",)), 24, "P(x,y) over x:4,y:2"),
        (P(("x", "y")), (("x", "y"), ()), 24, "P((x,y),None) over x:4,y:2"),
        (P(("y",), None), (("y",), ()), 96, "P(y,None) over x:4,y:2"),
    ],
    ids=str,
)
def test_named_sharding(mesh, spec, axes, device_nbytes, shown):
    array = put(mesh, spec)
    found = report({"a": array})
    leaf = found["a"]
    assert leaf.sharding.type == "NamedSharding"
    assert leaf.sharding.mesh == (("x", 4), ("y", 2))
    assert leaf.sharding.spec == axes
    assert set(leaf.sharding.axis_types) == {mesh.axis_types[0].name}
    assert str(leaf.sharding) == shown
    assert leaf.device_nbytes == device_nbytes
    assert found.device_nbytes == dict.fromkeys(range(8), device_nbytes) == on_devices([array])
    assert found.replicated_nbytes == 8 * device_nbytes - 192
    assert found.nbytes == 192 == array.nbytes
    assert f"{shown}\n" in found.to_text()


def test_totals_over_a_tree(mesh):
    split, whole, one = put(mesh, P("x", "y")), put(mesh, P()), jnp.zeros(4)
    found = report([split, whole, one, split, np.zeros(9), 3])
    # By hand: 24 + 192 on each of eight devices, 16 more on the first.
    assert (
        found.device_nbytes == {0: 232} | dict.fromkeys(range(1, 8), 216) == on_devices([split, whole, one])
    )
    assert found.replicated_nbytes == 7 * 192
    assert "devices  8, at most 232 B (232 B) on one (device 0); replication costs 1.3 KiB" in found.to_text()
    assert LeafReport.from_json(found.to_json()) == found
    assert LeafReport.from_json(found.to_json()).device_nbytes == found.device_nbytes


def test_single_device_array_has_no_sharding_and_its_device_is_known():
    array = jax.device_put(np.zeros(4, np.int8), jax.devices()[3])
    found = report([array])
    assert found.leaves[0].sharding is None
    assert (found.leaves[0].device_nbytes, found.device_nbytes, found.replicated_nbytes) == (4, {3: 4}, 0)
    assert "sharding" not in found.to_text()


def test_arrays_alike_but_on_two_devices_are_told_apart():
    arrays = [
        jax.device_put(np.zeros(n, np.int8), jax.devices()[d]) for n, d in [(4, 3), (4, 5), (4, 3), (2, 5)]
    ]
    assert report(arrays).device_nbytes == {3: 8, 5: 6} == on_devices(arrays)


def test_numpy_arrays_lie_on_no_device():
    found = report([np.zeros(3), 1])
    assert (found.device_nbytes, found.leaves[0].device_nbytes, found.leaves[0].sharding) == ({}, None, None)


def test_mesh_of_one_device_is_still_a_mesh():
    one = Mesh(np.array(jax.devices()[:1]), ("x",))
    leaf = report(jax.device_put(np.zeros(4), NamedSharding(one, P("x")))).leaves[0]
    assert str(leaf.sharding) == "P(x) over x:1"
    assert leaf.device_nbytes == leaf.nbytes


def test_mesh_of_some_devices():
    some = Mesh(np.array(jax.devices()[2:6]), ("x",))
    array = jax.device_put(np.zeros(8, np.int8), NamedSharding(some, P("x")))
    assert report([array]).device_nbytes == {2: 2, 3: 2, 4: 2, 5: 2} == on_devices([array])


def test_abstract_leaf_with_a_sharding_equals_the_live_one(mesh):
    live = put(mesh, P("x"))
    abstract = jax.ShapeDtypeStruct((8, 6), np.float32, sharding=live.sharding)
    ours, theirs = report([live]), report([abstract])
    assert ours.leaves[0].sharding == theirs.leaves[0].sharding
    assert ours.device_nbytes == theirs.device_nbytes
    assert report(jax.eval_shape(lambda: abstract)).leaves[0].nbytes == 192


def test_abstract_mesh_numbers_its_devices():
    sharding = NamedSharding(AbstractMesh((4, 2), ("x", "y")), P("x"))
    found = report([jax.ShapeDtypeStruct((8,), np.int8, sharding=sharding)])
    assert found.leaves[0].device_nbytes == 2
    assert found.device_nbytes == dict.fromkeys(range(8), 2)
    assert found.replicated_nbytes == 8


def test_abstract_meshes_of_several_sizes_add_up():
    leaves = [
        jax.ShapeDtypeStruct((n * k,), np.int8, sharding=NamedSharding(AbstractMesh((n,), ("x",)), P("x")))
        for n, k in [(2, 1), (4, 10), (4, 100)]
    ]
    assert report(leaves).device_nbytes == {0: 111, 1: 111, 2: 110, 3: 110}


def test_mesh_larger_than_any_machine_is_described_and_not_spelt_out():
    sharding = NamedSharding(AbstractMesh((2**11, 2**10), ("x", "y")), P("x"))
    found = report([jax.ShapeDtypeStruct((2**12,), np.int8, sharding=sharding)])
    assert str(found.leaves[0].sharding) == "P(x) over x:2048,y:1024"
    assert (found.leaves[0].device_nbytes, found.device_nbytes) == (2, {})
    assert LeafReport.from_json(found.to_json()) == found


def test_bare_partition_spec_outside_a_mesh():
    found = report([jax.ShapeDtypeStruct((8, 2), np.int8, sharding=P("x"))])
    leaf = found.leaves[0]
    assert (leaf.sharding.type, leaf.sharding.spec, leaf.sharding.mesh) == ("PartitionSpec", (("x",), ()), ())
    assert (leaf.device_nbytes, found.device_nbytes, found.replicated_nbytes) == (None, {}, 0)
    assert LeafReport.from_json(found.to_json()) == found


def test_spec_that_does_not_divide_the_shape_has_no_device_bytes():
    sharding = NamedSharding(AbstractMesh((4,), ("x",)), P("x"))
    leaf = report(jax.ShapeDtypeStruct((6,), np.int8, sharding=sharding)).leaves[0]
    assert (leaf.sharding.spec, leaf.device_nbytes, leaf.nbytes) == ((("x",),), None, 6)


def test_gspmd_sharding_is_named_and_its_bytes_known():
    gspmd = (
        jax.sharding.GSPMDSharding.get_replicated(jax.devices())
        if hasattr(jax.sharding, "GSPMDSharding")
        else None
    )
    if gspmd is None:
        from jax._src.sharding_impls import GSPMDSharding

        gspmd = GSPMDSharding.get_replicated(tuple(jax.devices()))
    found = report([jax.ShapeDtypeStruct((8,), np.int8, sharding=gspmd)])
    assert (found.leaves[0].sharding.type, found.leaves[0].device_nbytes) == ("GSPMDSharding", 8)
    assert (found.device_nbytes, found.replicated_nbytes) == (dict.fromkeys(range(8), 8), 56)


class OwnSharding(jax.sharding.Sharding):
    """Someone's own, that answers nothing."""

    @property
    def device_set(self):
        raise NotImplementedError

    @property
    def memory_kind(self):
        return None

    def check_compatible_aval(self, _):
        pass


def test_sharding_of_another_class_is_named_and_nothing_is_guessed():
    leaf = report([jax.ShapeDtypeStruct((8,), np.int8, sharding=OwnSharding())]).leaves[0]
    assert (leaf.sharding.type, leaf.sharding.mesh, leaf.device_nbytes) == ("OwnSharding", (), None)


def test_typed_keys_sharded(mesh):
    keys = jax.device_put(jax.random.split(jax.random.key(0), 8), NamedSharding(mesh, P("x")))
    found = report([keys])
    assert (found.leaves[0].kind, found.leaves[0].nbytes, found.leaves[0].device_nbytes) == ("key", 64, 16)
    assert str(found.leaves[0].sharding) == "P(x) over x:4,y:2"
    assert (sum(found.device_nbytes.values()), found.replicated_nbytes) == (128, 64)


def test_memory_kind_is_kept():
    sharding = SingleDeviceSharding(jax.devices()[0], memory_kind="unpinned_host")
    assert report([jax.device_put(np.zeros(3), sharding)]).leaves[0].sharding is None
    named = NamedSharding(
        jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,)), P("x"), memory_kind="unpinned_host"
    )
    assert report([jax.ShapeDtypeStruct((8,), np.int8, sharding=named)]).leaves[0].sharding.memory_kind == (
        "unpinned_host"
    )


def test_report_under_a_set_mesh_is_the_same(mesh):
    array = put(mesh, P("x"))
    outside = report([array])
    with jax.set_mesh(mesh):
        assert report([array]) == outside


def test_tracers_of_sharded_arrays_are_reported(mesh):
    seen = []
    jax.jit(lambda x: seen.append(report([x])) or x).lower(put(mesh, P("x")))
    assert [(leaf.shape, leaf.nbytes) for leaf in seen[0]] == [((8, 6), 192)]


def test_siblings_of_two_shardings_do_not_fold(mesh):
    tree = {f"l_{i}": put(mesh, P("x") if i != 2 else P("y")) for i in range(4)}
    assert [row.label for row in report(tree).fold()] == ["(root)", "l_{0..1,3}", "l_2"]


TWO_PROCESSES = """
import sys, jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
sharding = NamedSharding(mesh, P("x"))
array = jax.make_array_from_callback((8, 2), sharding, lambda index: np.zeros((8, 2), np.float32)[index])
assert not array.is_fully_addressable
import leafreport
found = leafreport.report({"a": array})
leaf = found["a"]
print(leaf.shape, leaf.nbytes, leaf.device_nbytes, leaf.sharding, list(found.device_nbytes.values()))
assert leafreport.LeafReport.from_json(found.to_json()) == found
"""


def test_array_that_is_not_fully_addressable():
    import os
    import socket
    import subprocess
    import sys

    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, address, str(i)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for i in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err[-2000:]
        assert out == "(8, 2) 64 16 P(x,None) over x:4 [16, 16, 16, 16]\n"
