"""Several processes are one: the same losses, the same clip, one end. Real processes, joined over gloo."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidjax import cli
from vidjax.errors import InputError
from vidjax.parallel.distributed import start
from vidjax.training.metrics import MEASURED

ROOT = Path(__file__).parents[2]
REGRESSION = ROOT / "tests" / "training" / "regression.py"
PATIENCE = 400
"""Seconds, for machines that have other things to do."""


WEIGHTS = """
import sys
import numpy as np
from vidjax.parallel import distributed, gathering
place, address = sys.argv[1], sys.argv[-1]
with distributed.together(address, 2, int(sys.argv[-3])) as process:
    import jax, vidjax
    from vidjax.parallel import make_mesh
    from vidjax.weights import folder
    folder.STREAMED_BYTES, gathering.GATHERED_BYTES = 0, 1
    mesh = make_mesh(fsdp=2, data=2)
    model, whole = vidjax.load(place, mesh=mesh), vidjax.load(place)
    gathered = gathering.to_first(model.params)
    if process == 0:
        jax.tree.map(np.testing.assert_array_equal, gathered, jax.device_get(whole.params))
    settings = {"num_frames": 1, "num_inference_steps": 1, "progress": False, "output_type": "latent"}
    waiting = vidjax.load(place, mesh=mesh, offload=True)
    clips = [vidjax.generate(each, ["a red heart"] * 4, **settings) for each in (model, waiting)]
    np.testing.assert_array_equal(*map(gathering.to_host, clips))
"""


def begin(arguments, processes, devices, errors, cache, program=("-m", "vidjax.cli")):
    """Starts ``vidjax ARGUMENTS`` as so many processes of so many devices; their errors go to files."""
    with socket.create_server(("localhost", 0)) as free:
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
    }
    errors.mkdir(exist_ok=True)
    started = []
    for i in range(processes):
        flags = ["--num-processes", processes]
        if processes > 1:
            flags += ["--process-id", i, "--coordinator", address]
        command = [sys.executable, *program, *map(str, [*arguments, *flags])]
        with (errors / f"{i}.txt").open("w") as file:
            pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": file}
            started.append(subprocess.Popen(command, env=environment, text=True, **pipes))
    return started


def finish(started, errors):
    """Exit codes, outputs and errors."""
    try:
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    said = [(errors / f"{i}.txt").read_text() for i in range(len(started))]
    return [process.returncode for process in started], outputs, said


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs ``vidjax ARGUMENTS`` as so many processes; the compiled programs are shared."""
    cache = tmp_path_factory.mktemp("compiled")

    def call(arguments, processes=1, devices=1):
        errors = tmp_path_factory.mktemp("errors")
        return finish(begin(arguments, processes, devices, errors, cache), errors)

    return call


def train(run, workdir, processes, devices, steps):
    mesh = ["mesh.data=2", "mesh.fsdp=2"] if processes * devices == 4 else []
    settings = [f"steps={steps}", "log_every=1", "eval_every=3", "save_every=3"]
    codes, _, said = run(["train", REGRESSION, *settings, *mesh, "--workdir", workdir], processes, devices)
    assert codes == [0] * processes, said
    return said


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {
        (line.pop("kind"), line.pop("step")): {k: v for k, v in line.items() if k not in MEASURED} for line in lines
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for at, values in expected.items():
        assert found[at] == pytest.approx(values, rel=1e-5, abs=1e-5), at


@pytest.fixture(scope="module")
def alone(run, tmp_path_factory):
    """Five steps by one process with four devices."""
    workdir = tmp_path_factory.mktemp("alone")
    train(run, workdir, 1, 4, 5)
    return workdir


@pytest.mark.parametrize(("processes", "devices"), [(2, 2), (4, 1)])
def test_training_is_that_of_one_process(run, alone, tmp_path, processes, devices):
    """Rows read twice or in another order, gradients of one host only, a file that two write."""
    said = train(run, tmp_path, processes, devices, 3)
    assert [len(lines.splitlines()) for lines in said] == [5] + [0] * (processes - 1), (
        "one tells of steps, of what is compiled, and where the model is"
    )
    assert_same(losses(tmp_path), {at: v for at, v in losses(alone).items() if at[1] <= 3})
    exported = json.loads((tmp_path / "export" / "bias.json").read_text())
    if processes == 2:
        # Saved by two, gone on with by one.
        train(run, tmp_path, 1, 1, 5)
        assert_same(losses(tmp_path), losses(alone))
    else:
        assert len(exported) == 4


@pytest.mark.parametrize("lost", [0, 1])
def test_when_one_is_killed_all_end_and_say_which(tmp_path, lost):
    """A collective waits for ever for a process that is gone: so would the job, and its bill."""
    slow = ["mesh.data=2", "task.pause=0.05", "steps=100000", "log_every=2", "eval_every=100000", "save_every=100000"]
    started = begin(["train", REGRESSION, *slow, "--workdir", tmp_path / "run"], 2, 1, tmp_path, tmp_path / "compiled")
    try:
        end = time.monotonic() + PATIENCE
        while "step 4/" not in (tmp_path / "0.txt").read_text():
            assert time.monotonic() < end, (tmp_path / "0.txt").read_text()
            time.sleep(0.2)
        started[lost].send_signal(signal.SIGKILL)
        started[1 - lost].wait(60)
    finally:
        codes, _, said = finish(started, tmp_path)
    assert codes[lost] == -signal.SIGKILL
    assert codes[1 - lost] != 0
    assert re.search(rf"^vidjax: error: process {lost} of 2 \(.*\) (is gone|ended suddenly)", said[1 - lost], re.M)


def test_error_of_one_ends_all_at_once(run, tmp_path):
    """The others would wait for its part of a collective."""
    codes, _, said = run(["generate", "a red heart", "--out", tmp_path / "nowhere" / "out.mp4"], 2)
    assert codes == [2, 2], said
    assert re.match(r"vidjax: error: .* its folder does not exist", said[0])
    assert re.search(r"^vidjax: error: process 0 of 2 \(.*\) ended: .* its folder does not exist", said[1], re.M)


def test_clip_is_that_of_one_process(run, tiny_folder, tmp_path):
    """Noise drawn per host, pieces put together wrongly, or a file that two write."""
    settings = ["--model", tiny_folder, "--num-frames", 1, "--num-inference-steps", 2, "--seed", 5, "--no-progress"]
    arguments = ["generate", "a red heart", *settings, "--mesh", "fsdp=2"]
    codes, _, said = run([*arguments, "--out", tmp_path / "one.png"], devices=2)
    assert codes == [0], said
    codes, outputs, said = run([*arguments, "--out", tmp_path / "two.png"], 2)
    assert codes == [0, 0], said
    assert f"{tmp_path / 'two.png'}: 1 frames of 32x16" in outputs[0]
    assert "two.png" not in outputs[1]
    one, two = (np.asarray(Image.open(tmp_path / name), np.int16) for name in ("one.png", "two.png"))
    assert np.abs(one - two).max() <= 1


@pytest.mark.slow
def test_campaign_is_that_of_one_process(run, tiny_folder, tmp_path):
    """Each process would plan on its own, and wait for the others' part of another batch."""
    (tmp_path / "jobs.jsonl").write_text('{"template": "a red heart", "seeds": [1, 2, 3]}\n')
    settings = ["--model", tiny_folder, "--num-frames", 1, "--num-inference-steps", 2, "--mesh", "data=2"]
    arguments = ["generate", "--batch", tmp_path / "jobs.jsonl", *settings]
    manifests = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}"
        codes, outputs, said = run([*arguments, "--out-dir", out], processes, 2 // processes)
        assert codes == [0] * processes, said
        assert "3 clips made" in outputs[0]
        lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
        manifests.append([{k: v for k, v in line.items() if k not in ("seconds", "sha256")} for line in lines])
        (out / lines[0]["file"]).unlink()
        _, outputs, _ = run([*arguments, "--out-dir", out], processes, 2 // processes)
        assert "1 clips made, 2 were there" in outputs[0]
    assert manifests[0] == manifests[1]


@pytest.mark.slow
def test_weights_reach_the_devices_of_all(tiny_folder, tmp_path):
    """Streamed, offloaded or gathered again: a device_put that works on one host fails over several."""
    started = begin([tiny_folder], 2, 2, tmp_path, tmp_path / "compiled", ("-c", WEIGHTS))
    codes, _, said = finish(started, tmp_path)
    assert codes == [0, 0], said


@pytest.mark.slow
def test_one_that_is_told_to_stop_stops_all_and_they_go_on(run, alone, tmp_path):
    """One host of many is preempted: all must save the same step, or none could go on."""
    settings = ["log_every=1", "save_every=1000", "eval_every=1000", "steps=100000", "mesh.data=2", "mesh.fsdp=2"]
    begun = ["train", REGRESSION, *settings, "task.pause=0.05", "--workdir", tmp_path / "run"]
    started = begin(begun, 2, 2, tmp_path, tmp_path / "compiled")
    end = time.monotonic() + PATIENCE
    while "step 4/" not in (tmp_path / "0.txt").read_text() and time.monotonic() < end:
        time.sleep(0.2)
    started[1].send_signal(signal.SIGTERM)
    codes, _, said = finish(started, tmp_path)
    assert codes == [128 + signal.SIGTERM] * 2, said
    (saved,) = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()]
    assert saved >= 4
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    rest = [REGRESSION, "task.pause=0.05", f"steps={saved + 2}", "mesh.data=-1", "--workdir", tmp_path / "again"]
    codes, _, said = run(["train", *rest])
    assert codes == [0], said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("10.0.0.1", 2, 0), "--coordinator 10.0.0.1: HOST:PORT is expected, such as"),
        (("10.0.0.1:99999", 2, 0), "the port below 65536"),
        (("10.0.0.1:80", 2, 2), "--process-id 2: must lie between 0 and 1"),
        (("10.0.0.1:80", 2, -1), "--process-id -1: must lie between 0 and 1"),
        (("10.0.0.1:80", 0, 0), "--num-processes 0: must be at least 1"),
        (("10.0.0.1:80", 2, None), "given without --process-id; several"),
        ((None, 2, None), "given without --coordinator and --process-id; several"),
        (("localhost:1", 2, 1), "localhost:1: nobody answers there after 0.1 s"),
        (("no.such.host.invalid:1", 2, 1), "nobody answers there"),
    ],
)
def test_wrong_places_are_refused(given, message):
    """The runtime would abort after minutes, with a stack of C++."""
    with pytest.raises(InputError, match=re.escape(message)):
        start(*given, timeout=0.1)


def test_no_time_to_wait_is_refused():
    """The first process would end at once, and say that the others are late."""
    with pytest.raises(InputError, match="--start-timeout 0: must be above 0 seconds"):
        start("10.0.0.1:80", 2, 0, timeout=0)


def test_who_never_comes_is_not_waited_for(run):
    """One mistyped process would keep all others, and their machines, waiting."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    flags = ["--coordinator", f"localhost:{port}", "--process-id", 0, "--start-timeout", 3]
    command = [sys.executable, "-m", "vidjax.cli", "train", REGRESSION, "--workdir", "unused", "--num-processes", 2]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [str(word) for word in [*command, *flags]], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert "not all processes came within 3 s" in done.stderr.splitlines()[-1]


def test_flags_reach_the_start(monkeypatch, capsys):
    """One line and exit code 2, as for every wrong flag."""
    words = ["vidjax", "generate", "a red heart", "--coordinator", "localhost:1", "--num-processes", "2"]
    monkeypatch.setattr(sys, "argv", [*words, "--process-id", "7"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert capsys.readouterr().err == "vidjax: error: --process-id 7: must lie between 0 and 1\n"
