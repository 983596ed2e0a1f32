"""With one framework installed that one works, and the others say how to install them; with none, the core works."""

import json
import subprocess
import sys

import pytest

PACKAGES = {"flax": "flax", "nnx": "flax", "equinox": "equinox", "haiku": "haiku"}
LINES = {
    "flax": "pip install 'leafreport[flax]'",
    "nnx": "pip install 'leafreport[nnx]'",
    "equinox": "pip install 'leafreport[equinox]'",
    "haiku": "pip install 'leafreport[haiku]'",
}

# An interpreter in which every framework but one cannot be imported, as where it is not installed.
SCRIPT = """
import json, sys
absent = set({absent!r})

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import jax, numpy, leafreport

told = {{}}
for backend in {backends!r}:
    try:
        told[backend] = leafreport.leaf_count(0, numpy.ones((4, 8)), 3, backend=backend).tolist()
    except leafreport.FrameworkMissingError as error:
        told[backend] = str(error)
    try:
        leafreport.adapter(backend).model(object())
    except leafreport.LeafReportError as error:
        told[f"{{backend}} model"] = type(error).__name__
told["core"] = leafreport.report({{"a": numpy.zeros((2, 3))}}).param_count
told["imported"] = sorted(absent & sys.modules.keys())
print(json.dumps(told))
"""


def run(present):
    absent = sorted(set(PACKAGES.values()) - {present})
    code = SCRIPT.format(absent=absent, backends=list(PACKAGES))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("present", ["flax", "equinox", "haiku", "none"])
def test_one_framework_alone(present):
    if present != "none":
        pytest.importorskip(present)
    told = run(present)
    assert told["core"] == 6
    assert told["imported"] == []
    for backend, package in PACKAGES.items():
        if package == present:
            assert told[backend] == [6.0]
            assert told[f"{backend} model"] == "ModelError"
        else:
            assert told[backend].startswith(f"the backend '{backend}' needs ")
            assert f"(No module named '{package}" in told[backend]
            assert told[backend].endswith(f"Install it: {LINES[backend]}")
            assert told[f"{backend} model"] == "FrameworkMissingError"
