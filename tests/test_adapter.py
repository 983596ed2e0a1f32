import subprocess
import sys
import warnings
from importlib import metadata

import jax.numpy as jnp
import pytest
from distributions import TOY, install

from leafreport import (
    Adapter,
    AdapterError,
    AdapterWarning,
    FrameworkMissingError,
    adapter,
    adapters,
    compare_stacks,
    leaf_count,
)
from leafreport._adapter import adapter_of


def record(name):
    (found,) = [record for record in adapters() if record.name == name]
    return found


def test_adapters_lists_leafreports_own_through_its_entry_point():
    flax = record("flax")
    assert flax.distribution == "leafreport"
    assert flax.version == metadata.version("leafreport")
    assert (flax.framework, flax.extra) == ("flax", "flax")
    try:
        version = metadata.version("flax")
    except metadata.PackageNotFoundError:
        version = None
    assert flax.framework_version == version
    assert flax.installed == (version is not None)


def test_adapter_of_an_outsider_is_found_and_used(tmp_path, monkeypatch):
    install(tmp_path, "toy-adapter", {"toy1": "toy1:adapter"}, modules={"toy1": TOY.format(name="toy1")})
    before = adapters()
    monkeypatch.syspath_prepend(tmp_path)
    assert [r.name for r in adapters()] == sorted([*(r.name for r in before), "toy1"])
    toy = record("toy1")
    assert (toy.distribution, toy.version) == ("toy-adapter", "1.2.3")
    assert (toy.framework, toy.framework_version, toy.extra, toy.installed) == (None, None, None, True)
    assert (toy.rivals, toy.state, toy.package) == ((), "ready", "toy-adapter")
    assert "toy1" not in sys.modules  # listing imports no adapter
    found = adapter("toy1")
    assert found.name == "toy1"
    assert isinstance(found, Adapter)
    assert found is adapter("toy1")
    assert leaf_count(0.0, jnp.ones((4, 8)), 5, backend="toy1").tolist() == [5.0]


@pytest.mark.parametrize(
    ("requires", "framework", "version", "installed"),
    [
        ((), None, None, True),
        (("jax",), None, None, True),
        (('jax>=0.10; extra == "toy2"',), "jax", metadata.version("jax"), True),
        (
            ("numpy>=2.0,<9 ; python_version > '3' and extra == 'toy2'",),
            "numpy",
            metadata.version("numpy"),
            True,
        ),
        (('no-such-dist[extra]>=1; extra == "toy2"',), "no-such-dist", None, False),
        (('jax; extra == "toy22"', 'numpy; extra == "xtoy2"'), None, None, True),
        (('jax; extra == "toy2"', 'numpy; extra == "toy2"'), "jax", metadata.version("jax"), True),
    ],
)
def test_record_reads_the_framework_from_the_extra(
    requires, framework, version, installed, tmp_path, monkeypatch
):
    install(tmp_path, "toy-adapter", {"toy2": "absent:adapter"}, requires=requires)
    monkeypatch.syspath_prepend(tmp_path)
    toy = record("toy2")
    assert (toy.framework, toy.framework_version, toy.installed) == (framework, version, installed)
    assert toy.extra == (None if framework is None else "toy2")
    missing = "no-such-dist is not installed: pip install 'toy-adapter[toy2]'"
    assert toy.state == ("ready" if installed else missing)


def test_adapter_of_unknown_name_tells_the_known_ones():
    known = ", ".join(r.name for r in adapters())
    with pytest.raises(AdapterError, match=rf"^no backend is called 'torch'\. Known: {known}\.$") as caught:
        adapter("torch")
    assert isinstance(caught.value, LookupError)
    with pytest.raises(AdapterError, match=r"^no backend is called 'flaxx'\. Did you mean flax\? Known: "):
        adapter("flaxx")
    with pytest.raises(AdapterError, match=r"^no backend is called ''\. Known: "):
        adapter("")


def test_adapter_claimed_by_two_distributions_names_both(tmp_path, monkeypatch):
    for number in (1, 2):
        name = f"toy3_{number}"
        install(
            tmp_path / name,
            f"claims-{number}",
            {"toy3": f"{name}:adapter"},
            modules={name: TOY.format(name="toy3")},
        )
        monkeypatch.syspath_prepend(tmp_path / name)
        if number == 1:
            assert adapter("toy3").name == "toy3"  # alone it is taken
    records = [r for r in adapters() if r.name == "toy3"]
    assert [(r.distribution, r.rivals) for r in records] == [
        ("claims-1", ("claims-2",)),
        ("claims-2", ("claims-1",)),
    ]
    assert {r.state for r in records} == {"claimed by claims-1 and claims-2: uninstall one"}
    message = r"^the backend 'toy3' is claimed by claims-1 and claims-2\. Uninstall one of them\.$"
    with pytest.raises(AdapterError, match=message):
        adapter("toy3")
    with pytest.raises(AdapterError, match=message):
        leaf_count(0.0, jnp.ones((4, 8)), 1, backend="toy3")


BROKEN = {
    "absent": ("toy4_absent:adapter", None, "ModuleNotFoundError: No module named 'toy4_absent'"),
    "raises": ("toy4_raises:adapter", "raise RuntimeError('boom')", "RuntimeError: boom"),
    "attribute": ("toy4_attribute:adapter", "x = 1", "has no attribute 'adapter'"),
    "number": ("toy4_number:adapter", "adapter = 1", "toy4_number:adapter is a int."),
    "class": ("toy4_class:Toy", TOY.format(name="c"), "toy4_class:Toy is the class Toy."),
    "module": ("toy4_module", "x = 1", "toy4_module is a module."),
    "half": ("toy4_half:adapter", "class A:\n    name = 'half'\nadapter = A()", "toy4_half:adapter is a A."),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_adapter_errs_only_when_asked_for(kind, tmp_path, monkeypatch):
    value, code, said = BROKEN[kind]
    modules = {value.partition(":")[0]: code} if code is not None else {}
    install(tmp_path, "broken-adapter", {f"toy4-{kind}": value}, modules=modules)
    before = adapters()
    monkeypatch.syspath_prepend(tmp_path)
    assert len(adapters()) == len(before) + 1
    if record("flax").installed:
        assert adapter("flax").name == "flax"
    with pytest.raises(AdapterError, match=f"^the adapter 'toy4-{kind}' of broken-adapter ") as caught:
        adapter(f"toy4-{kind}")
    assert said in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12's own, of a field that is missing
@pytest.mark.parametrize(
    ("text", "name", "version"),
    [
        ("", "an unknown distribution", ""),
        ("Version: 1\n", "an unknown distribution", "1"),
        ("Name: half\n", "half", ""),
    ],
)
def test_distribution_of_damaged_metadata_does_not_hurt_listing(text, name, version, tmp_path, monkeypatch):
    install(tmp_path, "damaged", {"toy5": "absent:adapter"})
    (tmp_path / "damaged-1.2.3.dist-info" / "METADATA").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert (record("toy5").distribution, record("toy5").version) == (name, version)
    with pytest.raises(AdapterError, match=rf"^the adapter 'toy5' of {name} does not load"):
        adapter("toy5")


def _loaded(code):
    names = ("jax", "jaxlib", "flax", "leafreport_flax", "toy6", "toy6_framework")
    script = f"import sys\nimport leafreport\n{code}\nprint(*[n for n in {names!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_listing_imports_no_adapter_and_building_does(tmp_path):
    code = "import leafreport\n" + TOY.format(name="toy6").replace("import jax", "import jax, toy6_framework")
    install(
        tmp_path, "toy-adapter", {"toy6": "toy6:adapter"}, modules={"toy6": code, "toy6_framework": "x = 1"}
    )
    path = f"sys.path.insert(0, {str(tmp_path)!r})\n"
    assert _loaded(path + "assert 'toy6' in [r.name for r in leafreport.adapters()]") == set()
    assert _loaded(path + "leafreport.adapter('toy6')") == {"toy6"}
    built = _loaded(path + "import numpy\nleafreport.leaf_count(0, numpy.ones((1, 2)), 1, backend='toy6')")
    assert built == {"toy6", "toy6_framework", "jax", "jaxlib"}


UNREADABLE = {
    "no value": b"[leafreport.adapters]\nnonsense\n",
    "no UTF-8": b"[leafreport.adapters]\ntoy7 = \xff:adapter\n",
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_entry_points_that_cannot_be_read_hurt_nobody(kind, tmp_path, monkeypatch):
    install(tmp_path, "unreadable-adapter", {"toy7": "toy7:adapter"})
    install(tmp_path, "toy-adapter", {"toy8": "toy8:adapter"}, modules={"toy8": TOY.format(name="toy8")})
    (tmp_path / "unreadable_adapter-1.2.3.dist-info" / "entry_points.txt").write_bytes(UNREADABLE[kind])
    before = adapters()
    monkeypatch.syspath_prepend(tmp_path)
    said = (
        r"^the adapters of unreadable_adapter-1\.2\.3 are left out: its metadata cannot be read "
        r"\(.*\)\. Reinstall or uninstall it\.$"
    )
    with pytest.warns(AdapterWarning, match=said) as caught:
        after = adapters()
    assert len(caught) == 1
    assert [r.name for r in after] == sorted([*(r.name for r in before), "toy8"])
    # Said once; from here on a warning would be an error.
    assert adapter("toy8").name == "toy8"
    assert adapter("flax").name == "flax"
    assert leaf_count(0.0, jnp.ones((4, 8)), 5, backend="toy8").tolist() == [5.0]
    with pytest.raises(AdapterError, match=r"^no backend is called 'toy7'\."):
        adapter("toy7")


@pytest.mark.parametrize(("file", "known"), [("METADATA", False), ("RECORD", True), ("top_level.txt", True)])
def test_damaged_framework_hurts_nobody(file, known, tmp_path, monkeypatch):
    """An adapter's framework whose metadata cannot be read: others are listed and used as ever."""
    framework, backend = f"damaged-{file[:3].lower()}", f"toy9-{file[:3].lower()}"
    requires = (f"{framework}; extra == '{backend}'",)
    install(tmp_path, f"{backend}-adapter", {backend: "absent:adapter"}, requires=requires)
    install(tmp_path, framework, {})
    (tmp_path / f"{framework.replace('-', '_')}-1.2.3.dist-info" / file).write_bytes(b"Name: \xff\xfe\n\xff")
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdapterWarning)
        found = record(backend)
        assert (found.framework_version is not None) == known
        assert adapter_of(_of_a_framework(framework.replace("-", "_"))) is None
        if record("flax").installed:
            assert leaf_count(0.0, jnp.ones((4, 8)), 5).tolist() == [10.0]


def _of_a_framework(module):
    return type("Thing", (), {"__module__": module})()


def test_adapter_that_stops_the_program_is_an_error(tmp_path, monkeypatch):
    code = "import sys\n" + TOY.format(name="toy10").replace("        import jax\n", "        sys.exit(7)\n")
    install(tmp_path, "stops-adapter", {"toy10": "toy10:adapter"}, modules={"toy10": code})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AdapterError, match=r"^the adapter 'toy10' stops the program: SystemExit: 7$"):
        leaf_count(0.0, jnp.ones((4, 8)), 1, backend="toy10")


@pytest.mark.parametrize("code", ["raise SystemExit('boom')", "import time\ntime.sleep(600)"])
def test_adapter_that_raises_or_hangs_on_import_hurts_nobody_who_does_not_ask_for_it(code, tmp_path):
    broken, healthy = {"toy9": code}, {"toy10": TOY.format(name="toy10")}
    requires = ("jax; extra == 'toy9'",)  # a framework that many objects are from
    install(tmp_path, "broken-adapter", {"toy9": "toy9:adapter"}, modules=broken, requires=requires)
    install(tmp_path, "toy-adapter", {"toy10": "toy10:adapter"}, modules=healthy)
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import leafreport, numpy
assert {{"toy9", "toy10"}} <= {{r.name for r in leafreport.adapters()}}
assert [r.state for r in leafreport.adapters() if r.name == "toy9"] == ["ready"]
leafreport.adapter("flax")
assert leafreport.leaf_count(0, numpy.ones((1, 2)), 3, backend="toy10").tolist() == [3.0]
leafreport.compare_stacks(0, numpy.ones((1, 2)), 3, backends=["toy10"])
leafreport.report({{"a": numpy.ones(2)}})
assert "toy9" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


FAILING = {
    "import": ("raise RuntimeError('boom')", "does not load from toy11"),
    "build": (
        TOY.format(name="toy11").replace("import jax\n", "raise RuntimeError('boom')\n"),
        "RuntimeError: boom",
    ),
    "model": (
        TOY.format(name="toy11").replace(
            "return leafreport.Model(params, lambda params, x: x)", "return params"
        ),
        "list",
    ),
}


@pytest.mark.parametrize("kind", FAILING)
def test_broken_adapter_beside_others_gives_one_warning_and_a_column_that_says_why(
    kind, tmp_path, monkeypatch
):
    code, said = FAILING[kind]
    module = f"toy11_{kind}"
    install(tmp_path, "broken-adapter", {f"toy11-{kind}": f"{module}:adapter"}, modules={module: code})
    install(
        tmp_path,
        "toy-adapter",
        {"toy12": f"toy12_{kind}:adapter"},
        modules={f"toy12_{kind}": TOY.format(name="toy12")},
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(AdapterWarning, match=r"^an adapter of broken-adapter is broken: ") as caught:
        found = compare_stacks(0.0, jnp.ones((4, 8)), 3)
    assert len(caught) == 1
    (broken,) = [column for column in found.columns if column.backend == f"toy11-{kind}"]
    assert broken.report is None
    assert said in broken.trouble
    assert broken.trouble in str(caught[0].message)
    ready = {r.name for r in adapters() if r.state == "ready"} - {f"toy11-{kind}"}
    assert "toy12" in ready
    assert {column.backend for column in found.built} == ready
    (toy,) = [column for column in found.columns if column.backend == "toy12"]
    assert toy.count == "[3.]"


def test_rivals_beside_others_have_a_column_that_names_both(tmp_path, monkeypatch):
    for number in (1, 2):
        name = f"toy13_{number}"
        modules = {name: TOY.format(name="toy13")}
        install(tmp_path / name, f"claims-{number}", {"toy13": f"{name}:adapter"}, modules=modules)
        monkeypatch.syspath_prepend(tmp_path / name)
    found = compare_stacks(0.0, jnp.ones((4, 8)), 3)
    troubles = [column.trouble for column in found.columns if column.backend == "toy13"]
    assert troubles == ["claimed by claims-1 and claims-2: uninstall one"]


def test_framework_that_is_not_installed_is_told_with_the_line_that_installs_it(tmp_path, monkeypatch):
    code = TOY.format(name="toy14").replace("import jax\n", "import jax, no_such_framework\n")
    requires = ("no-such-framework>=2; extra == 'toy14'",)
    install(tmp_path, "toy-adapter", {"toy14": "toy14:adapter"}, modules={"toy14": code}, requires=requires)
    monkeypatch.syspath_prepend(tmp_path)
    toy = record("toy14")
    assert (toy.installed, toy.package) == (False, "toy-adapter[toy14]")
    assert toy.state == "no-such-framework is not installed: pip install 'toy-adapter[toy14]'"
    assert adapter("toy14").name == "toy14"  # that it is there can be seen without its framework
    with pytest.raises(
        FrameworkMissingError,
        match=r"^the backend 'toy14' needs no-such-framework, which cannot be imported "
        r"\(No module named 'no_such_framework'\)\. Install it: pip install 'toy-adapter\[toy14\]'$",
    ) as caught:
        leaf_count(0.0, jnp.ones((4, 8)), 1, backend="toy14")
    assert isinstance(caught.value, ImportError)
