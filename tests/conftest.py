"""Eight CPU devices for every test, set before JAX is imported."""

import os
import pathlib

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
)

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture
def golden():
    """Compares a text with a golden file, exactly; a missing file fails."""

    def compare(name, text):
        assert text == (GOLDEN / name).read_text(encoding="utf-8")

    return compare
