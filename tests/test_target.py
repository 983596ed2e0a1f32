import io
import os
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leafreport import (
    CheckpointError,
    LeafReport,
    LeafReportError,
    ReportFormatError,
    TargetError,
    assert_same,
    report,
)
from leafreport._target import load, sample

FORMS = (
    "A target is a saved report (FILE.json, or - for standard input), a checkpoint (its folder or file, or "
    "ROOT@STEP) or pkg.module:name."
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Writes files into an empty working folder; what they import is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    known = set(sys.modules)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / (name.replace("__", "/") + ".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return tmp_path

    yield write
    for name in set(sys.modules) - known:
        file = getattr(sys.modules[name], "__file__", None)
        if file is None or str(tmp_path) in file:
            del sys.modules[name]


def failure(target, kind=TargetError):
    with pytest.raises(kind, match=r".") as caught:
        load(target)
    assert isinstance(caught.value, LeafReportError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- What can be imported -----------------------------------------------------------------------------------

MODELS = """
    import functools
    from types import SimpleNamespace
    import jax
    import jax.numpy as jnp
    import numpy as np
    import leafreport

    tree = {"w": np.zeros((2, 3), np.float32), "b": [1.0, "s", None]}
    lone = jnp.zeros(3)
    model = leafreport.Model({"w": jnp.zeros(3)}, lambda params, x: x)
    name_space = SimpleNamespace(inner=SimpleNamespace(tree=tree))

    def factory():
        return {"w": jnp.zeros((2, 3)), "b": [1.0, "s", None], "act": jnp.tanh, "rng": jax.random.key(0)}

    def sized(n):
        return {"w": jnp.zeros(n)}

    partial = functools.partial(sized, 7)
    jitted = jax.jit(lambda: {"w": jnp.zeros(5)})

    def model_factory():
        return leafreport.Model({"w": jnp.zeros(3)}, lambda params, x: x)

    class Factory:
        def __call__(self):
            return {"w": jnp.ones(2)}

    instance = Factory()

    class Holder:
        @staticmethod
        def made():
            return {"w": jnp.ones(2)}

        def method(self):
            return {"w": jnp.ones(9)}

    holder = Holder()
"""


@pytest.mark.parametrize(
    ("name", "leaves"),
    [
        ("tree", ["b/0 float", "b/1 str", "w float32[2,3]"]),
        ("lone", ["(root) float32[3]"]),
        ("model", ["w float32[3]"]),
        ("name_space.inner.tree", ["b/0 float", "b/1 str", "w float32[2,3]"]),
        ("factory", ["act PjitFunction", "b/0 float", "b/1 str", "rng key<fry>[]", "w float32[2,3]"]),
        ("partial", ["w float32[7]"]),
        ("jitted", ["w float32[5]"]),
        ("model_factory", ["w float32[3]"]),
        ("instance", ["w float32[2]"]),
        ("Holder.made", ["w float32[2]"]),
        ("holder.method", ["w float32[9]"]),
    ],
)
def test_target_in_a_module(name, leaves, here):
    here(models=MODELS)
    assert list(map(str, load(f"models:{name}"))) == leaves


def test_target_in_a_package(here):
    here(pkg__models="tree = {'a': 1}")
    assert load("pkg.models:tree").names == ("a",)


def test_target_in_a_module_that_is_imported_already_is_taken_as_it_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "leafreport_test_here", SimpleNamespace(tree={"a": 1}))
    assert load("leafreport_test_here:tree").names == ("a",)


def test_working_folder_is_put_on_the_import_path_once(here):
    folder = here(models="tree = {'a': 1}")
    assert str(folder) not in sys.path
    load("models:tree")
    load("models:tree")
    assert sys.path.count(str(folder)) == 1
    assert sys.path[0] == str(folder)


def test_factory_is_traced_and_equals_its_real_result(here):
    here(models=MODELS)
    traced = load("models:factory")
    made = sys.modules["models"].factory()
    assert_same(traced, made)
    assert traced.nbytes == report(made).nbytes == 2 * 3 * 4 + 8


def test_factory_makes_no_array(here):
    """52 GiB are told without being made; assigned to a name they would be made at import."""
    here(models="import jax.numpy as jnp\ndef big():\n    return {'w': jnp.zeros((1024, 1024, 1024, 13))}")
    before = set(map(id, jax.live_arrays()))
    found = load("models:big")
    assert found.nbytes == 13 * 4 * 2**30
    # Arrays that other tests left may go at any time; none may come.
    assert set(map(id, jax.live_arrays())) <= before


def test_equinox_and_nnx_models(here):
    pytest.importorskip("equinox")
    pytest.importorskip("flax")
    here(
        frameworks="""
            import equinox as eqx, jax
            from flax import nnx

            linear = eqx.nn.Linear(2, 3, key=jax.random.key(0))

            def mlp():
                return eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))

            nnx_linear = nnx.Linear(2, 3, rngs=nnx.Rngs(0))

            def nnx_factory():
                return nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        """
    )
    assert list(map(str, load("frameworks:linear"))) == ["weight float32[3,2]", "bias float32[3]"]
    assert [str(leaf) for leaf in load("frameworks:mlp") if leaf.kind == "array"] == [
        "layers/0/weight float32[4,2]",
        "layers/0/bias float32[4]",
        "layers/1/weight float32[3,4]",
        "layers/1/bias float32[3]",
    ]
    for name in ("nnx_linear", "nnx_factory"):
        assert list(map(str, load(f"frameworks:{name}"))) == [
            "bias/value float32[3]",
            "kernel/value float32[2,3]",
        ]


def test_linen_module_is_traced_on_the_inputs_given(here):
    pytest.importorskip("flax")
    here(
        linen="""
            import flax.linen as nn, jax, jax.numpy as jnp

            class Net(nn.Module):
                @nn.compact
                def __call__(self, x):
                    return nn.Dense(3)(x)

            net = Net()

            def variables():
                return net.init(jax.random.key(0), jnp.ones((1, 2)))
        """
    )
    assert load("linen:variables").names == ("params/Dense_0/bias", "params/Dense_0/kernel")
    for target in ("linen:net", "linen:Net"):
        said = failure(target)
        assert said.startswith(f"'{target}': Net cannot be traced without inputs: ")
        assert said.endswith(" On the command line: --input 4,8, once for each input.")
        told = load(target, inputs=["1,2"])
        assert told.names == ("params/Dense_0/bias", "params/Dense_0/kernel")
        assert {(leaf.role, leaf.owner) for leaf in told} == {("params", "Dense")}
    assert load("linen:variables", backend="flax").roles["params"].leaf_count == 2


def test_what_a_module_prints_is_no_output(here, capfd):
    here(
        loud="""
            import os, subprocess, sys
            print("from print")
            os.write(1, b"from C\\n")
            subprocess.run([sys.executable, "-c", "print('from a child')"])
            def factory():
                print("from the factory")
                return {"a": 1}
        """
    )
    assert load("loud:factory").names == ("a",)
    os.write(1, b"after\n")
    print("after, too")  # noqa: T201
    out, err = capfd.readouterr()
    assert out == "after\nafter, too\n"
    assert {"from print", "from C", "from a child", "from the factory"} <= set(err.splitlines())


# --- What cannot be imported --------------------------------------------------------------------------------


def test_target_that_is_no_target(here):
    here()
    assert failure("nothing") == f"'nothing' is no file. {FORMS}"
    assert failure("") == f"'' is no file. {FORMS}"
    assert failure("mod:") == f"'mod:' names no object. {FORMS}"
    assert failure(":name") == f"':name' names no module. {FORMS}"
    assert failure("x" * 5000) == f"'{'x' * 5000}' is no file. {FORMS}"
    os.mkdir("folder")  # noqa: PTH102
    assert failure("folder", CheckpointError) == (
        f"'{Path('folder').absolute()}' is no checkpoint: it is empty. A checkpoint's folder has _METADATA, or "
        "steps or items that have it."
    )


def test_missing_module_names_a_near_one(here):
    here(leafreport_models="tree = 1")
    said = failure("leafreport_model:tree")
    assert said.startswith("there is no module 'leafreport_model' here or among the installed ones. ")
    assert "Did you mean leafreport_models" in said
    assert said.endswith(FORMS)
    assert failure("leafreport_models.sub:tree").startswith("there is no module 'leafreport_models.sub' here")


def test_missing_parent_is_told_apart_from_a_module_that_imports_a_missing_one(here):
    here(wants="import not_there_at_all", pkg__wants="import pkg.not_there")
    assert failure("not_there_at_all.models:x").startswith("there is no module 'not_there_at_all' here")
    assert failure("wants:x") == (
        "importing 'wants' failed: ModuleNotFoundError: No module named 'not_there_at_all' (wants.py:1)"
    )
    assert failure("pkg.wants:x") == (
        "importing 'pkg.wants' failed: ModuleNotFoundError: No module named 'pkg.not_there' (wants.py:1)"
    )


@pytest.mark.parametrize(
    ("target", "dotted"),
    [
        ("models.py:tree", "models"),
        ("./models.py:tree", "models"),
        ("pkg/models.py:tree", "pkg.models"),
        ("pkg/models:tree", "pkg.models"),
    ],
)
def test_file_name_for_a_module_is_told(target, dotted, here):
    here(models="tree = {'a': 1}")
    module = target.partition(":")[0]
    assert failure(target) == (
        f"'{module}' is a file's name. Give the module's: {dotted}:name, from the folder it starts in."
    )


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise RuntimeError('oops')", "RuntimeError: oops (stops.py:1)"),
        ("\n\nraise ValueError", "ValueError (stops.py:3)"),
        ("raise ValueError('one\\ntwo')", "ValueError: one two (stops.py:1)"),
        ("import sys\nsys.exit(3)", "SystemExit: 3 (stops.py:2)"),
        ("def f(:", "SyntaxError: invalid syntax (stops.py, line 1)"),
        ("raise ValueError('x' * 1000)", f"ValueError: {'x' * 300}... (stops.py:1)"),
    ],
)
def test_module_that_stops_at_import(code, said, here):
    here(stops=code)
    assert failure("stops:x") == f"importing 'stops' failed: {said}"


def test_missing_name_suggests_the_near_one(here):
    here(models="params = {'a': 1}\nclass Net:\n    factory = {'b': 1}")
    assert failure("models:parms") == "'models' has no 'parms'. Did you mean params?"
    assert failure("models:Net.factry") == "'models.Net' has no 'factry'. Did you mean factory?"
    assert failure("models:qqq") == "'models' has no 'qqq'."
    assert failure("models:params['a']") == "'models' has no \"params['a']\". Did you mean params?"


def test_module_or_object_is_no_tree(here):
    here(models="import os\nname = 'text'\ndef gives(): return len\nclass Net:\n    pass\nNONE = None")
    assert failure("models:os") == "'models:os' is a module: name a tree, a model or a factory in it."
    assert failure("models:name").startswith(
        "'models:name' gives a str, in which JAX sees no leaves. Name a tree"
    )
    assert failure("models:gives").startswith("'models:gives' gives a builtin_function_or_method, in which")
    assert failure("models:Net").startswith("'models:Net' gives a models.Net, in which")
    assert len(load("models:NONE")) == 0


NO_ARGUMENTS = " A factory takes no arguments: wrap it in a function that gives them."
NO_VALUES = (
    " A factory is traced without values; where it needs some, assign its result to a name of the module and "
    "give that as the target."
)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "def f(n): return n",
            "TypeError: f() missing 1 required positional argument: 'n'." + NO_ARGUMENTS,
        ),
        (
            "class f:\n    def __init__(self, n): pass",
            "TypeError: f.__init__() missing 1 required positional argument: 'n'." + NO_ARGUMENTS,
        ),
        (
            "import jax.numpy as jnp\ndef f():\n    return {'a': 1} if jnp.ones(3).sum() > 2 else {}",
            "TracerBoolConversionError: Attempted boolean conversion of traced array with shape bool[] "
            "(stops.py:3)." + NO_VALUES,
        ),
        (
            "import jax.numpy as jnp\ndef f():\n    return float(jnp.ones(()))",
            "ConcretizationTypeError: Abstract tracer value encountered where concrete value is expected: "
            "traced array with shape float32[] (stops.py:3)." + NO_VALUES,
        ),
        ("def f():\n    raise KeyError('a')", "KeyError: 'a' (stops.py:2)."),
        ("def f():\n    raise SystemExit", "SystemExit (stops.py:2)."),
    ],
)
def test_factory_that_fails(code, said, here):
    here(stops=code)
    assert failure("stops:f") == f"calling 'stops:f' failed: {said}"


def test_factory_that_never_ends(here):
    here(stops="def f():\n    return f()")
    assert failure("stops:f").startswith("calling 'stops:f' failed: RecursionError: maximum recursion depth ")


def test_factory_of_what_jax_cannot_flatten_is_told_with_its_path(here):
    here(stops="def f():\n    return {'a': {1: 1, 'b': 2}}")
    with pytest.raises(LeafReportError, match=r"^cannot flatten the dict at a: JAX sorts dict keys"):
        load("stops:f")


# --- Saved reports ------------------------------------------------------------------------------------------


def test_saved_report_is_the_live_one(here):
    folder = here()
    live = report({"a": np.zeros((2, 3)), "b": jax.random.key(0), "c": [jnp.zeros(2), "s", {}]})
    (folder / "r.json").write_text(live.to_json())
    (folder / "no_suffix").write_text(live.to_json())
    for target in ("r.json", "no_suffix", "./r.json", str(folder / "r.json")):
        assert load(target) == live


def test_saved_report_on_standard_input(monkeypatch):
    live = report({"a": 1})
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(live.to_json().encode())))
    assert load("-") == live
    assert failure("-", ReportFormatError).startswith("standard input is not a saved report: ")
    monkeypatch.setattr(sys, "stdin", None)
    assert failure("-") == "'-' is standard input, which is closed."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a saved report: the JSON cannot be read ("),
        ('{"a', "not a saved report: the JSON cannot be read ("),
        ("{}", 'not a saved report: it has no "schema"'),
        ('{"a": 1}', 'not a saved report: it has no "schema"'),
        ("[1]", "not a saved report: "),
        ('{"schema": "leafreport/999"}', ""),
        ('{"schema": "leafreport/1"}', ""),
    ],
)
def test_json_that_is_no_report(text, said, here):
    (here() / "r.json").write_text(text)
    assert failure("r.json", ReportFormatError).startswith(f"'r.json' is {said}")


def test_bytes_that_are_no_text(here):
    (here() / "r.json").write_bytes(b"\xff\xfe\x00")
    assert failure("r.json", ReportFormatError).startswith(
        "'r.json' is not a saved report: it is not UTF-8 text"
    )


def test_damaged_report_is_told(here):
    text = report({"a": np.zeros(2)}).to_json()
    assert LeafReport.from_json(text)
    (here() / "r.json").write_text(text[: len(text) // 2])
    assert failure("r.json", ReportFormatError).startswith("'r.json' is not a saved report: ")


def test_file_that_cannot_be_read(here):
    folder = here()
    (folder / "d.json").mkdir()
    assert failure("missing.json") == f"cannot read 'missing.json': No such file or directory. {FORMS}"
    assert failure("d.json") == f"cannot read 'd.json': Is a directory. {FORMS}"


@pytest.mark.parametrize(
    ("text", "shape", "dtype"),
    [
        ("4,8", (4, 8), "float32"),
        ("4, 16:int32", (4, 16), "int32"),
        ("7", (7,), "float32"),
        ("", (), "float32"),
        (":bfloat16", (), "bfloat16"),
        ("0,3", (0, 3), "float32"),
        ("4,8:", (4, 8), "float32"),
    ],
)
def test_input_is_sizes_and_a_dtype(text, shape, dtype):
    found = sample(text)
    assert (found.shape, found.dtype.name) == (shape, dtype)


@pytest.mark.parametrize("text", ["a", "4,-1", "4x8", "4,8:int99", "1" * 40, "4.0", "(4,8)"])
def test_input_that_is_no_shape(text):
    with pytest.raises(
        TargetError, match=r"^--input '.*' is no shape: give sizes, .* such as 4,8 or 4,16:int32\.$"
    ):
        sample(text)


def test_model_of_a_framework_is_recognized_by_its_class(here):
    pytest.importorskip("equinox")
    pytest.importorskip("haiku")
    here(
        models="""
            import equinox as eqx, haiku as hk, jax

            mlp = eqx.nn.MLP(3, 3, 4, 1, key=jax.random.key(0))
            net = hk.transform_with_state(lambda x: hk.BatchNorm(True, True, 0.9)(hk.Linear(4)(x), True))
            tree = {"mlp": mlp}

            def make():
                return eqx.nn.MLP(3, 3, 4, 1, key=jax.random.key(0))
        """
    )
    for target in ("models:mlp", "models:make"):
        told = load(target)
        assert {leaf.role for leaf in told} == {"params", "static"}
        assert [leaf.owner for leaf in told] == ["Linear"] * 4 + ["MLP"] * 2
    assert load("models:mlp", inputs=["3"]).leaf_count == 4  # as a model: what is called, its arrays alone
    assert {leaf.role for leaf in load("models:tree")} == {None}
    assert load("models:tree", backend="equinox").leaves[0].owner == "Linear"
    roles = load("models:net", inputs=["2,5"]).roles
    assert {role: sums.leaf_count for role, sums in roles.items()} == {"params": 4, "statistics": 6}
    assert "TransformedWithState cannot be traced" in failure("models:net")


def test_nnx_factory_that_names_mesh_axes_needs_no_mesh(here):
    pytest.importorskip("flax")
    here(
        meshless="""
            from flax import nnx

            def make():
                init = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("in", "out"))
                return nnx.Linear(4, 4, kernel_init=init, rngs=nnx.Rngs(0))
        """
    )
    told = load("meshless:make")
    assert told.names == ("bias/value", "kernel/value")
    assert {leaf.owner for leaf in told} == {"Linear"}


def test_inputs_of_no_use_are_refused_where_asked(here, tmp_path):
    here(plain="import numpy as np\ntree = {'w': np.zeros(3)}\n")
    (tmp_path / "saved.json").write_text(report({"a": 1}).to_json())
    assert load("plain:tree", inputs=["3"]).leaf_count == 1
    for target, said in (
        ("plain:tree", "a dict, which is not called"),
        (str(tmp_path / "saved.json"), "a saved"),
    ):
        with pytest.raises(TargetError, match=f"is {said}.*: leave --input and --backend out"):
            load(target, inputs=["3"], strict=True)


def test_pair_of_a_module_and_its_state_is_a_model(here):
    pytest.importorskip("equinox")
    here(
        pair="""
            import equinox as eqx

            both = eqx.nn.make_with_state(lambda: eqx.nn.BatchNorm(3, "batch", mode="ema"))()
        """
    )
    assert load("pair:both").roles["statistics"].leaf_count == 3
    called = load("pair:both", inputs=["5,3"], strict=True)
    assert {leaf.owner for leaf in called} == {"BatchNorm"}
