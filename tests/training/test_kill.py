"""A run that is killed, without a chance to save, comes to what it would have come to."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_often.py")


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_run_comes_to_the_same(kills):
    """A half-written checkpoint, a doubled line of metrics or a batch that is read twice would show."""
    done = subprocess.run([sys.executable, SCRIPT, "--kills", str(kills)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(re.match(r"killed (\d+) times", done.stdout)[1]) >= kills // 2
