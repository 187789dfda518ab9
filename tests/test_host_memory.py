"""Memory that a training keeps."""

import subprocess
import sys

import pytest

from vidjax.cli import host_memory

KEPT = """
import resource
import sys

from vidjax.cli import host_memory

host_memory._has_accelerators = lambda: {accelerators}
print(host_memory.keep_host_memory())

import numpy as np

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

np.ones(2**25)
before = faults()
np.ones(2**25)
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of the C library of Linux")
def test_a_block_that_was_given_back_is_taken_again():
    """Every step of a training on CPU would wait for the system to clear the same gigabytes."""

    def run(accelerators):
        script = KEPT.format(accelerators=accelerators)
        out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
        return out[0], int(out[1])

    pages = 8 * 2**25 // 4096
    kept, faults = run(False)
    if kept == "False":
        pytest.skip("another C library than glibc")
    assert faults < pages / 100
    # An accelerator's memory is its own; the process stays as it is.
    assert run(True)[0] == "False"


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: object())
    assert not host_memory.keep_host_memory()
