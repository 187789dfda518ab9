"""A run that stops and goes on is the run that never stopped."""

import dataclasses
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from vidjax.config import MeshConfig, load_config
from vidjax.data.buckets import Bucketed
from vidjax.data.pipeline import make_loader
from vidjax.errors import CheckpointError, InputError
from vidjax.training import export, train
from vidjax.training.loop import fit
from vidjax.training.metrics import MEASURED
from vidjax.training.signals import Interrupted, watch_signals
from vidjax.video import Video, read_video

CONFIG = Path(__file__).with_name("regression.py")


def metric_lines(workdir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in lines]


def assert_bitwise(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that was never stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train(load_config(CONFIG), workdir)


def test_resumed_run_equals_uninterrupted_one(whole, tmp_path):
    """Any state outside the checkpoint (a key, data position, open log interval) would show as a difference."""
    _, expected = whole
    # Stops at 7, between two log lines and two saves.
    train(load_config(CONFIG, ["steps=7"]), tmp_path)
    # What a crash leaves behind: later lines, and one cut in the middle.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 8, "loss": 1.0}\n{"kind": "tra')
    state = train(load_config(CONFIG), tmp_path)
    assert_bitwise(state, expected)
    # The short run also logs and evaluates at its own last step.
    extra = [line for line in metric_lines(tmp_path) if line["step"] == 7]
    assert [line["kind"] for line in extra] == ["train", "eval"]
    lines = [line for line in metric_lines(tmp_path) if line["step"] != 7]
    steps = [(line["kind"], line["step"]) for line in lines]
    assert steps == [("train", 4), ("eval", 6), ("train", 8), ("train", 12), ("eval", 12)]


def test_finished_run_changes_nothing(whole):
    """Running a finished line again must neither train, nor evaluate, nor write a line again."""
    workdir, expected = whole
    before = metric_lines(workdir)
    assert_bitwise(train(load_config(CONFIG), workdir), expected)
    assert metric_lines(workdir) == before


def test_training_learns(tmp_path):
    """A wrong sign in the update, or an average that does not follow, would leave the evaluation where it was."""
    state = train(load_config(CONFIG, ["steps=150", "save_every=1000"]), tmp_path)
    errors = [line["error"] for line in metric_lines(tmp_path) if line["kind"] == "eval"]
    assert errors[-1] < 0.1 * errors[0]
    assert int(state.step) == 150
    assert int(state.skipped) == 0


def test_signal_saves_and_second_run_finishes(tmp_path):
    """Preemption: without the handler the work since the last save, here all of it, would be lost."""
    code = (
        "from vidjax.config import load_config; from vidjax.training import train; import sys;"
        "train(load_config(sys.argv[1], ['task.pause=0.02', 'save_every=1000', 'eval_every=1000', 'steps=4000',"
        " 'log_every=2']), sys.argv[2])"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, str(CONFIG), str(tmp_path)]
    run = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    for line in run.stderr:
        if line.startswith("step 4/"):
            break
    run.send_signal(signal.SIGTERM)
    rest = run.stderr.read()
    assert run.wait() == 128 + signal.SIGTERM, rest
    (saved,) = [int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
    assert saved >= 4
    state = train(load_config(CONFIG, ["task.pause=0.02", f"steps={saved + 3}", "save_every=1000"]), tmp_path)
    assert int(state.step) == saved + 3


def test_signal_during_evaluation_loses_nothing(tmp_path):
    """An evaluation may outlast the time that preemption leaves: what came before it must be saved already."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    settings = ["save_every=1000", "eval_every=6", "log_every=6"]
    line = ["train", str(CONFIG), *settings, "task.long_evaluation=1000", "--workdir", str(tmp_path)]
    run = subprocess.Popen([sys.executable, "-m", "vidjax.cli", *line], env=environment, stderr=subprocess.DEVNULL)
    while not (tmp_path / "checkpoints" / "6").is_dir():
        assert run.poll() is None
        time.sleep(0.1)
    time.sleep(0.5)  # let the evaluation begin
    run.terminate()
    assert run.wait(60) == -signal.SIGTERM
    config = json.loads((tmp_path / "config.json").read_text())
    config["task"]["long_evaluation"] = 0.0
    (tmp_path / "config.json").write_text(json.dumps(config))
    train(load_config(CONFIG, settings), tmp_path)
    lines = metric_lines(tmp_path)
    assert [(line["kind"], line["step"]) for line in lines] == [("train", 6), ("eval", 6), ("train", 12), ("eval", 12)]


def test_signal_before_the_first_step_ends_at_once(tmp_path, monkeypatch):
    """The compiler cannot be asked to stop; nothing is lost by leaving before the first step."""
    with watch_signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received(0) == signal.SIGTERM
        with pytest.raises(Interrupted, match=str(128 + signal.SIGTERM)), signals.saved():
            pytest.fail("went on")
    with watch_signals() as signals:
        with signals.saved():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL


def test_damaged_newest_checkpoint_is_passed_over(whole, tmp_path, capsys):
    """A half-written checkpoint must cost the steps since the one before, not the run; and must be named."""
    workdir, expected = whole
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    for data in (tmp_path / "checkpoints" / "12" / "state").rglob("*"):
        if data.is_file():
            data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    capsys.readouterr()
    state = train(load_config(CONFIG), tmp_path)
    said = capsys.readouterr().err
    assert re.search("checkpoint of step 12 .* is damaged", said)
    assert "going back to the checkpoint of step 10" in said
    assert_bitwise(state, expected)
    assert (tmp_path / "checkpoints-damaged" / "12").is_dir()


def test_full_disk_stops_the_run_and_loses_nothing(tmp_path):
    """A save that fails must not go unnoticed, nor take the one before with it; with room again the run goes on."""
    config = load_config(CONFIG)
    plain = config.task.make(config)

    def init(key):
        return {**plain.init(key), "large": jax.random.normal(key, (100_000,))}

    task = plain._replace(init=init, rules=(*plain.rules, ("large", PartitionSpec())))
    expected = fit(task, config, tmp_path / "alone")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk(params, key):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # of a file; a checkpoint's are larger
        return task.evaluate(params, key)

    try:
        with pytest.raises(CheckpointError, match=r"checkpoint of step 10 .*failed to save"):
            fit(task._replace(evaluate=fill_disk), config, tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    # Parts of the failed save may still be written by this process, where a real one has ended by now.
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax."):
            threading.Thread.join(thread, timeout=60)  # its own would raise why it failed
    saved = [int(path.name) for path in (tmp_path / "full" / "checkpoints").iterdir() if path.name.isdigit()]
    assert sorted(saved) == [5, 6]
    assert_bitwise(fit(task, config, tmp_path / "full"), expected)
    assert metric_lines(tmp_path / "full") == metric_lines(tmp_path / "alone")


def test_a_folder_named_from_here(tmp_path, monkeypatch):
    """The form of every command in the README; Orbax takes no such path."""
    monkeypatch.chdir(tmp_path)
    config = load_config(CONFIG, ["steps=5"])
    state = train(config, "runs/one")
    assert (tmp_path / "runs" / "one" / "checkpoints" / "5").is_dir()
    assert_bitwise(train(config, "runs/one"), state)


def test_all_checkpoints_damaged(whole, tmp_path):
    """Starting again from nothing, silently, would overwrite a long run."""
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    for data in (tmp_path / "checkpoints").rglob("*"):
        if data.is_file():
            data.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no readable checkpoint .*step 12: .*step 10: "):
        train(load_config(CONFIG), tmp_path)


def test_other_configuration_is_refused(whole):
    """A changed model or batch would continue as a run that no configuration describes."""
    workdir, _ = whole
    with pytest.raises(CheckpointError, match=r"batch_size was 8 and is now 16, task\.size was 8 and is now 9"):
        train(load_config(CONFIG, ["batch_size=16", "task.size=9"]), workdir)


def test_other_data_are_refused(tmp_path):
    """A dataset made anew has other clips at the places that the run has seen, and not yet seen."""
    config = load_config(CONFIG, ["steps=6"])
    task = config.task.make(config)._replace(data="clips-1")
    fit(task, config, tmp_path)
    more = dataclasses.replace(config, steps=8)
    with pytest.raises(CheckpointError, match="was trained on clips-1, and now there is clips-2; choose another"):
        fit(task._replace(data="clips-2"), more, tmp_path)
    assert int(fit(task, more, tmp_path).step) == 8


def test_resumes_on_another_mesh(whole, tmp_path):
    """Checkpoints tied to the number of devices could not move to the machine that is free."""
    workdir, expected = whole
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "12")
    state = train(load_config(CONFIG, ["mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2"]), tmp_path)
    kernel = state.params["dense"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (4, 2)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == kernel.shape]
    assert len(moments) == 2
    assert all(leaf.sharding.shard_shape(leaf.shape) == (4, 2) for leaf in moments)
    np.testing.assert_allclose(kernel, expected.params["dense"]["kernel"], rtol=1e-4, atol=1e-5)


def test_batch_must_divide_over_the_mesh(tmp_path):
    """Otherwise the error would come from inside jit, about shapes the user never wrote."""
    config = load_config(CONFIG, ["batch_size=12", "mesh.data=-1"])
    with pytest.raises(InputError, match=r"batch_size=12 .* the nearest that does is 16"):
        train(config, tmp_path)


def test_endless_nan_stops_the_run(tmp_path):
    """A diverged run would otherwise burn its whole budget doing nothing."""
    config = load_config(CONFIG, ["steps=1000"])
    task = config.task.make(config)
    broken = task._replace(loss=lambda p, b, k: (jnp.nan * jnp.sum(p["dense"]["bias"]), {}))
    with pytest.raises(InputError, match="20 steps in a row, up to step 20, of the training examples") as stopped:
        fit(broken, dataclasses.replace(config, save_every=1000), tmp_path)
    assert metric_lines(tmp_path)[-1]["step"] <= 24
    loader = make_loader(task.source, task.transform, config.batch_size, config.seed, start=19)
    assert ", ".join(map(str, next(loader)["index"])) in str(stopped.value)


def test_a_step_that_is_not_applied_is_named_with_its_examples(tmp_path, capsys):
    """A damaged clip could not be found among thousands; nor may it stop a run that goes on without it."""
    config = load_config(CONFIG)
    task = config.task.make(config)
    bad = next(make_loader(task.source, task.transform, config.batch_size, config.seed, start=6))["index"]

    def loss(params, batch, key):
        value, extra = task.loss(params, batch, key)
        return jnp.where(jnp.any(batch["index"] == bad[3]), jnp.nan, value), extra

    state = fit(task._replace(loss=loss), config, tmp_path)
    assert (int(state.step), int(state.skipped)) == (12, 1)
    named = [line for line in capsys.readouterr().err.splitlines() if "not applied" in line]
    assert named == [f"step 7 was not applied: not finite; its training examples are {', '.join(map(str, bad))}"]


def test_each_shape_is_said_and_nothing_is_lost_while_it_compiles(tmp_path, capsys):
    """Minutes of silence look like a fault, and a preemption within them would take the steps since the last save."""
    config = load_config(CONFIG, ["save_every=1000", "steps=30", "eval_every=1000", "log_every=1000"])
    task = config.task.make(config)

    class Wide:
        def __len__(self):
            return 3000

        def __getitem__(self, index):
            return task.source[index] | {"more": np.zeros(3, np.float32)}

    saved = []

    def loss(params, batch, key):
        saved.append(sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()))
        return task.loss(params, batch, key)

    fit(task._replace(loss=loss, source=Bucketed((task.source, Wide()))), config, tmp_path)
    said = [line for line in capsys.readouterr().err.splitlines() if "compiling" in line]
    assert said[0].startswith("step 1: compiling for index 8, ")
    assert sorted("more 8x3" in line for line in said) == [False, True]
    second = int(re.match(r"step (\d+):", said[1])[1])
    assert saved[-1] == [second - 1]


class CrashError(Exception):
    """What stands for a crash."""


def test_clips_to_look_at(tmp_path):
    """A crash while clips were made must not lose them, and going on must not make them again."""
    config = load_config(CONFIG, ["sample_every=6"])
    made = []

    def sample(params, key):
        made.append(float(jnp.sum(params["dense"]["bias"])))
        if len(made) == 1:
            raise CrashError
        return {"a red star, at sea": Video(np.full((3, 16, 16, 3), len(made), np.uint8), 8)}

    task = config.task.make(config)._replace(sample=sample)
    with pytest.raises(CrashError):
        fit(task, config, tmp_path)
    state = fit(task, config, tmp_path)
    assert made[0] == made[1] != made[2] == float(jnp.sum(state.ema["dense"]["bias"]))
    assert [line["step"] for line in metric_lines(tmp_path) if line["kind"] == "sample"] == [6, 12]
    names = sorted(path.relative_to(tmp_path / "samples").as_posix() for path in (tmp_path / "samples").rglob("*.mp4"))
    assert names == ["00000006/0-a-red-star-at-sea.mp4", "00000012/0-a-red-star-at-sea.mp4"]
    assert read_video(tmp_path / "samples" / names[1]).frames.shape == (3, 16, 16, 3)
    fit(task, config, tmp_path)
    assert len(made) == 3


def test_starts_from_given_parameters(tmp_path):
    """Fine-tuning would silently start from random weights."""
    config = load_config(CONFIG, ["steps=1", "optimizer.learning_rate=0", "mesh.fsdp=2", "mesh.data=4"])

    def start(abstract, key):
        return jax.tree.map(lambda a: jax.device_put(np.full(a.shape, 3.0, np.float32), a.sharding), abstract)

    state = fit(config.task.make(config)._replace(start=start), config, tmp_path)
    assert np.all(np.asarray(state.ema["dense"]["kernel"]) == 3.0)


def test_smoke_and_export(tmp_path, capsys):
    """`--smoke` on a mesh that this machine lacks, then the published folder holds the averaged parameters."""
    config = dataclasses.replace(load_config(CONFIG), steps=10**6, batch_size=1024, mesh=MeshConfig(fsdp=256))
    state = train(config, tmp_path, smoke=True)
    assert "smoke: 8 devices do not make MeshConfig(data=1, fsdp=256" in capsys.readouterr().err
    assert int(state.step) == 20
    assert json.loads((tmp_path / "config.json").read_text())["task"]["note"] == "smoke"
    export(tmp_path, tmp_path / "out", config=config)
    np.testing.assert_array_equal(json.loads((tmp_path / "out" / "bias.json").read_text()), state.ema["dense"]["bias"])
    with pytest.raises(InputError, match="outside vidjax"):
        export(tmp_path, tmp_path / "again")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"config\.json is no training configuration"):
        export(tmp_path / "other", tmp_path / "again")
    (tmp_path / "file").touch()
    for place, said in (("out", "holds something already"), ("file", "is a file"), ("file/in", "cannot be made")):
        with pytest.raises(InputError, match=said):
            export(tmp_path, tmp_path / place, config=config)


def test_no_folder_of_a_run(tmp_path):
    """A run does not settle among a dataset's files, and says what an address would need."""
    config = dataclasses.replace(load_config(CONFIG), steps=1)
    (tmp_path / "dataset.json").touch()
    with pytest.raises(CheckpointError, match=r"holds dataset\.json; choose another"):
        train(config, tmp_path, smoke=True)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]
    with pytest.raises(CheckpointError, match="is a file"):
        train(config, tmp_path / "dataset.json")
    with pytest.raises(InputError, match="workdir is empty"):
        train(config, " ")
