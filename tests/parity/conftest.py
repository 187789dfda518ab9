"""The PyTorch references of ``tests/golden/make_golden.py``, built anew."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def references() -> SimpleNamespace:
    """The functions of the script that makes the golden files."""
    pytest.importorskip("diffusers")
    script = Path(__file__).parents[1] / "golden" / "make_golden.py"
    return SimpleNamespace(**runpy.run_path(str(script)))
