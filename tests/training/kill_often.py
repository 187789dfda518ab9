"""Kill a training run again and again at random moments, and compare it with a run left alone, bit for bit.

python tests/training/kill_often.py --kills 20
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from vidjax.training.metrics import MEASURED

CONFIG = Path(__file__).with_name("regression.py")
SETTINGS = ("save_every=3", "eval_every=20", "log_every=2", "task.pause=0.002")
STEPS = 60, 20
"""Of a run that is not killed, and for each time that it is: enough for each to fall within it."""


def start(workdir: Path, steps: int) -> subprocess.Popen:
    """The run, in a process of its own; the same line each time."""
    settings = (f"steps={steps}", *SETTINGS)
    command = [sys.executable, "-m", "vidjax.cli", "train", str(CONFIG), *settings, "--workdir", str(workdir)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def kill_at_random(workdir: Path, steps: int, kills: int, rng: random.Random) -> int:
    """Kill the run up to so many times, most often while it steps and saves; then let it end. How often it was."""
    for done in range(kills):
        run = start(workdir, steps)
        stepping = threading.Event()
        reader = threading.Thread(target=_watch, args=(run, stepping))
        reader.start()
        if rng.random() < 0.2:  # while it starts, restores or compiles
            time.sleep(rng.uniform(0, 5))
        else:
            while not stepping.wait(0.05) and run.poll() is None:
                pass
            time.sleep(rng.uniform(0, 0.5))
        run.send_signal(signal.SIGKILL)
        code = run.wait()
        reader.join()
        if code == 0:
            return done
        if code != -signal.SIGKILL:
            raise SystemExit(f"the run ended by itself with {code}")
    run = start(workdir, steps)
    said = run.communicate()[1]
    if run.returncode:
        raise SystemExit(f"the run left alone at the end failed: {said}")
    return kills


def _watch(run: subprocess.Popen, stepping: threading.Event) -> None:
    for line in run.stderr:
        if line.startswith("step "):
            stepping.set()


def outcome(workdir: Path) -> tuple[dict, list[dict]]:
    """Every array of the last checkpoint, and the lines of the metrics without what depends on the clock."""
    newest = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    loaded = ocp.load_checkpointables(newest)
    arrays = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path({k: loaded[k] for k in ("state", "ema")})[0]
    }
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return arrays, [{k: v for k, v in line.items() if k not in MEASURED} for line in lines]


def compare(kills: int, seed: int) -> int:
    """How often the run was killed; exits with an error where it came to something else than the undisturbed one."""
    steps = STEPS[0] + kills * STEPS[1]
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder) / "alone", Path(folder) / "killed"
        kill_at_random(alone, steps, 0, random.Random(seed))
        times = kill_at_random(killed, steps, kills, random.Random(seed))
        (arrays, lines), (other_arrays, other_lines) = outcome(alone), outcome(killed)
    if arrays.keys() != other_arrays.keys():
        raise SystemExit(f"other arrays: {sorted(arrays.keys() ^ other_arrays.keys())}")
    differ = [name for name, value in arrays.items() if value.tobytes() != other_arrays[name].tobytes()]
    if differ:
        raise SystemExit(f"not the same bits: {', '.join(differ)}")
    if lines != other_lines:
        raise SystemExit(f"other metrics: {len(lines)} lines against {len(other_lines)}")
    return times


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"killed {compare(options.kills, options.seed)} times; the same bits, the same metrics")
