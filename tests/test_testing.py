"""The conformance kit: healthy adapters pass; of those that break one promise, that one is named."""

import os
import random
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import broken_adapters
import distributions
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from broken_adapters import (
    BROKEN,
    Healthy,
    ModelOfAnything,
    ModelThatMakesArrays,
    Net,
    Promise,
    PythonNumber,
    RaisesOnce,
    ReluBetween,
    SeedIgnored,
)

from leafreport import AdapterError, ConformanceError, adapter
from leafreport.testing import check_adapter

TESTS = Path(__file__).parent
X = jnp.ones((4, 8))
ABSTRACT_X = jax.ShapeDtypeStruct((4, 8), jnp.float32)


@pytest.fixture
def put_back(monkeypatch):
    """What the adapters that change something change."""
    monkeypatch.setattr(jax.nn, "relu6", jax.nn.relu6)
    yield
    jax.config.update("jax_debug_nans", False)
    os.environ.pop("LEAFREPORT_TESTING", None)


def breaches(adapter, **options):
    """The breaches that the kit names, each as the check's name and what it says."""
    with pytest.raises(ConformanceError, match=r"^the adapter .* breaks the contract") as caught:
        check_adapter(adapter, **options)
    lines = [line for line in str(caught.value).splitlines() if line.startswith("- ")]
    times = "1 time:" if len(lines) == 1 else f"{len(lines)} times:"
    assert str(caught.value).splitlines()[0].endswith(f" {times}")
    return [tuple(line.removeprefix("- ").split(": ", 1)) for line in lines]


def models():
    return [(Net(), X), (Net(), ABSTRACT_X), (Promise(), ABSTRACT_X)]


class OfThisTest(Healthy):
    """A plain class, as an author may have it who has no distribution yet."""

    def apply(self, params, x):
        for layer in params["layers"]:
            x = jnp.dot(x, layer["kernel"]) + layer["bias"]
        return x


@pytest.mark.parametrize("kind", [Healthy, OfThisTest])
def test_healthy_adapter_of_a_test_passes(kind):
    check_adapter(kind())
    check_adapter(kind(), models=models()[:2])


def test_every_broken_adapter_is_tried():
    found = vars(broken_adapters).values()
    kinds = {kind for kind in found if isinstance(kind, type) and hasattr(kind, "name")}
    assert set(BROKEN) == kinds - {Healthy, RaisesOnce}


@pytest.mark.usefixtures("put_back")
@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_broken_adapter_is_caught_and_no_other_breach_named(kind):
    check, words = BROKEN[kind]
    ((found, said),) = breaches(kind(), models=models() if kind is ModelThatMakesArrays else models()[:2])
    assert found == check
    assert words in said


def test_error_is_an_assertion_that_names_what_was_not_checked():
    with pytest.raises(ConformanceError, match=r"^the adapter 'healthy' breaks") as caught:
        check_adapter(PythonNumber())
    assert isinstance(caught.value, AssertionError)
    assert str(caught.value) == (
        "the adapter 'healthy' breaks the contract 1 time:\n"
        "- leaves: layers/0/bias, layers/1/bias, layers/2/bias: a float, where the leaves of params are arrays\n"
        "not checked, as it stands on these: abstract, seeds, input, apply"
    )


class BrokenTwice(ReluBetween, ModelOfAnything, SeedIgnored):
    """Three breaches that have nothing to do with each other."""


def test_every_breach_is_named():
    assert [check for check, _ in breaches(BrokenTwice())] == ["seeds", "apply", "models"]


def test_class_in_place_of_an_adapter_is_named():
    ((check, said),) = breaches(Healthy)
    assert (check, said) == ("contract", "Healthy is a class: an adapter is an object, such as Healthy()")


def test_name_of_no_backend_is_the_usual_error():
    with pytest.raises(AdapterError, match=r"^no backend is called 'no-such-backend'\."):
        check_adapter("no-such-backend")


# --- No trace -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Healthy, RaisesOnce])
def test_kit_leaves_no_trace(kind):
    state, python_state = np.random.get_state(), random.getstate()
    config, environment, path = dict(jax.config.values), dict(os.environ), list(sys.path)
    finders = list(sys.meta_path)
    if kind is Healthy:
        check_adapter(kind())
    else:
        assert "RuntimeError: boom" in breaches(kind())[0][1]
    assert sys.getprofile() is None
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), state, strict=True))
    assert random.getstate() == python_state
    assert (dict(jax.config.values), dict(os.environ), list(sys.path)) == (config, environment, path)
    assert sys.meta_path == finders


def test_profiler_of_the_caller_is_put_back():
    events = []

    def note(*given):
        events.append(given)

    sys.setprofile(note)
    try:
        check_adapter(Healthy())
        assert sys.getprofile() is note
    finally:
        sys.setprofile(None)


# --- With a framework ---------------------------------------------------------------------------------------

FRAMEWORK = """
import jax

class Maker:
    def make(self, seed, width, num_layers):
        keys = jax.random.split(jax.random.PRNGKey(seed), max(num_layers, 1))
        layer = lambda key: [jax.random.normal(key, (width, width)), jax.numpy.zeros(width)]
        return [layer(keys[n]) for n in range(num_layers)]
"""
ADAPTER = """
import jax, os
from leafreport import Model
{top}

class Adapter:
    name = "{name}"

    def dense_stack(self, seed, x, num_layers, *, abstract=False):
        {use}

        def make():
            return kit_framework.Maker().make(seed, x.shape[-1], num_layers)

        params = jax.eval_shape(make) if abstract else make()
        return Model(params, apply)

def apply(params, x):
    for kernel, bias in params:
        x = x @ kernel + bias
    return x

adapter = Adapter()
"""
USE = "import kit_framework"
UNCLEAR = """try:
            import kit_framework
        except ImportError:
            raise {} from None"""
PATCH = """import kit_framework

        def make(self, seed, width, num_layers, old=kit_framework.Maker.make):
            return old(self, seed, width, num_layers)

        kit_framework.Maker.make = make"""
PATCH_ONCE = """import functools
        import kit_framework

        if not hasattr(kit_framework.Maker.make, "__wrapped__"):
            old = kit_framework.Maker.make
            kit_framework.Maker.make = functools.wraps(old)(lambda *inputs: old(*inputs))"""
# Whose patch is not the adapter's own code: only one look before the first stack and one after it show it.
PATCH_OF_ANOTHER = """import kit_framework

        kit_framework.Maker.make = kit_framework.other"""
CHANGE_ONCE = """import kit_framework

        os.environ.setdefault("LEAFREPORT_TESTING", "1")"""


@pytest.fixture
def outsider(tmp_path, monkeypatch, request, put_back):  # noqa: ARG001  # what these adapters change too
    """Makes the modules of an adapter and of its framework, installs them, and gives the adapter."""
    made = []

    def make(top="", use=USE, name=None, framework=FRAMEWORK, requires=True):
        backend = f"kit-{abs(hash(request.node.name)) % 10**8}"
        module = backend.replace("-", "_")
        distributions.install(
            tmp_path,
            f"{backend}-adapter",
            {backend: f"{module}:adapter"},
            modules={
                module: ADAPTER.format(top=top, use=use, name=backend if name is None else name),
                "kit_framework": framework,
                "kit_helper": "def same(function):\n    return lambda *a, **k: function(*a, **k)\n",
            },
            requires=(f"kit-framework; extra == '{backend}'",) if requires else (),
        )
        framework_info = tmp_path / "kit_framework-1.dist-info"
        framework_info.mkdir()
        (framework_info / "METADATA").write_text("Metadata-Version: 2.1\nName: kit-framework\nVersion: 1\n")
        (framework_info / "top_level.txt").write_text("kit_framework\n")
        monkeypatch.syspath_prepend(tmp_path)
        made.extend([module, "kit_framework", "kit_helper"])
        return backend

    yield make
    for module in made:
        sys.modules.pop(module, None)


@pytest.mark.parametrize("requires", [True, False])
def test_healthy_adapter_with_a_framework_passes(outsider, requires):
    check_adapter(outsider(requires=requires))


def test_helper_that_is_imported_is_not_taken_for_the_framework(outsider):
    backend = outsider(
        top="import kit_helper\n@kit_helper.same\ndef nothing(): pass", use=f"{USE}; nothing()"
    )
    check_adapter(backend)


@pytest.mark.parametrize(
    ("given", "check", "said"),
    [
        ({"top": USE}, "imports", "importing MODULE imports kit_framework, which is for when it is used"),
        (
            {"top": "os.environ['LEAFREPORT_TESTING'] = '2'"},
            "imports",
            "by importing MODULE os.environ is changed: LEAFREPORT_TESTING",
        ),
        (
            {"use": UNCLEAR.format("ImportError('something is missing')")},
            "imports",
            "without kit_framework the error does not name what is missing: 'something is missing'",
        ),
        (
            {"use": UNCLEAR.format("RuntimeError('kit_framework?')")},
            "imports",
            "without kit_framework, building gives RuntimeError: kit_framework?, and no ImportError",
        ),
        ({"use": PATCH}, "mutation", "kit_framework.Maker.make replaced: functions and classes of others"),
        (
            {"use": PATCH_ONCE},
            "mutation",
            "kit_framework.Maker.make replaced: functions and classes of others",
        ),
        (
            {
                "use": PATCH_OF_ANOTHER,
                "framework": f"{FRAMEWORK}\nold = Maker.make\ndef other(*inputs): return old(*inputs)\n",
            },
            "mutation",
            "by the first stack of an interpreter kit_framework.Maker.make replaced",
        ),
        (
            {"use": CHANGE_ONCE},
            "mutation",
            "by the first stack of an interpreter os.environ is changed: LEAFREPORT_TESTING",
        ),
        (
            {"name": "other"},
            "contract",
            "its name is 'other' and its entry point's 'BACKEND': the two are equal",
        ),
    ],
    ids=[
        "framework imported",
        "environment changed on import",
        "nothing named",
        "no ImportError",
        "patched",
        "patched once",
        "patched by another",
        "environment changed once",
        "other name",
    ],
)
def test_broken_adapter_with_a_framework_is_caught(given, check, said, outsider):
    backend = outsider(**given)
    ((found, told),) = breaches(backend)
    words = said.replace("MODULE", backend.replace("-", "_")).replace("BACKEND", backend)
    assert (found, told[: len(words)]) == (check, words)


def test_name_is_compared_for_an_object_too(outsider):
    ((found, _),) = breaches(adapter(outsider(name="other")))
    assert found == "contract"


def test_what_the_framework_changes_on_its_own_import_is_not_the_adapters_doing(outsider):
    check_adapter(outsider(framework=f"import os\nos.environ['LEAFREPORT_TESTING'] = '3'\n{FRAMEWORK}"))


def test_framework_that_is_not_installed_is_said_once(outsider):
    backend = outsider(use="import kit_framework_absent as kit_framework")
    ((check, said),) = breaches(backend)
    assert check == "builds"
    assert said == (
        "its framework cannot be imported, so nothing was checked: No module named 'kit_framework_absent'"
    )


def test_adapter_of_a_file_that_no_path_leads_to_passes(outsider, tmp_path):
    code = Path(adapter(outsider()).dense_stack.__code__.co_filename).read_text()
    file = tmp_path / "elsewhere" / "kit_elsewhere.py"  # as a test's module with pytest's importlib mode
    file.parent.mkdir()
    file.write_text(code)
    spec = spec_from_file_location("kit_elsewhere", file)
    sys.modules["kit_elsewhere"] = module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        check_adapter(module.adapter)
    finally:
        del sys.modules["kit_elsewhere"]


def test_adapter_that_no_interpreter_finds_is_told_how_to_be_found(outsider):
    backend = outsider()
    kind = type(adapter(backend))

    class Local(kind):
        pass

    ((check, said),) = breaches(Local())
    assert check == "imports"
    assert said.startswith(
        "whether it needs kit_framework on import cannot be seen: no fresh interpreter finds it."
    )


# --- The real ones ------------------------------------------------------------------------------------------


def flax_models():
    nn = pytest.importorskip("flax.linen")
    model = nn.Sequential([nn.Dense(4), nn.BatchNorm(use_running_average=True)])
    return [(model, X), (model, ABSTRACT_X), (nn.Dense(3), ABSTRACT_X)]


def nnx_models():
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Sequential(nnx.Linear(8, 4, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1)))
    abstract = nnx.eval_shape(lambda: nnx.Linear(8, 4, rngs=nnx.Rngs(0)))
    return [(model, X), (model, ABSTRACT_X), (abstract, ABSTRACT_X)]


def equinox_models():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(8, 2, 4, 1, key=jax.random.key(0))
    abstract = eqx.filter_eval_shape(eqx.nn.Linear, 8, 4, key=jax.random.key(0))
    return [(model, X), (model, X[0]), (abstract, ABSTRACT_X), (lambda: model, ABSTRACT_X)]


def haiku_models():
    hk = pytest.importorskip("haiku")
    plain = hk.transform(lambda x: hk.nets.MLP([4, 2])(x))
    with_state = hk.transform_with_state(lambda x: hk.BatchNorm(True, True, 0.9)(x, is_training=True))
    return [(plain, X), (plain, ABSTRACT_X), (with_state, X), (with_state, ABSTRACT_X)]


def toy_models():
    import toynet

    net = toynet.make_net(jax.random.key(0), [8, 4, 2])
    abstract = jax.eval_shape(lambda: net)
    return [(net, X), (net.layers[0], ABSTRACT_X), (abstract, ABSTRACT_X)]


@pytest.mark.parametrize(
    ("name", "make"),
    [("flax", flax_models), ("nnx", nnx_models), ("equinox", equinox_models), ("haiku", haiku_models)],
    ids=["flax", "nnx", "equinox", "haiku"],
)
def test_own_adapters_pass(name, make):
    check_adapter(name, models=make())


def test_toy_adapter_passes(monkeypatch):
    for folder in ("toy_adapter", "toy_framework"):
        monkeypatch.syspath_prepend(TESTS / folder)
    import leafreport_toy

    check_adapter(leafreport_toy.adapter, models=toy_models())
