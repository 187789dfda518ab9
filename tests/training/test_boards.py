import io
import json
import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from vidjax.config import load_config
from vidjax.errors import InputError
from vidjax.training import train
from vidjax.training.boards import open_tensorboard, open_wandb
from vidjax.training.metrics import MetricsFile, last_steps
from vidjax.video import Video, read_video

CONFIG = Path(__file__).with_name("regression.py")


def test_clips_move_in_tensorboard(tmp_path):
    """TensorBoard shows what it is given: a still, or nothing, says little of a video."""
    from tensorboardX.proto.event_pb2 import Event

    frames = np.zeros((5, 16, 32, 3), np.uint8)
    for i in range(5):
        frames[i, :, 6 * i : 6 * i + 6] = 255
    with open_tensorboard(tmp_path, 0) as boards:
        MetricsFile(tmp_path, 0, boards).write_clips(7, {"a star": Video(frames, 8)})
    (events,) = (tmp_path / "tensorboard").iterdir()
    data, summaries = events.read_bytes(), []
    while data:  # each record is its length, a checksum of that, itself, and a checksum of that
        (length,) = struct.unpack("<Q", data[:8])
        summaries.append(Event.FromString(data[12 : 12 + length]).summary)
        data = data[16 + length :]
    (value,) = [value for summary in summaries for value in summary.value if value.HasField("image")]
    assert value.tag.endswith("a star")
    with Image.open(io.BytesIO(value.image.encoded_image_string)) as picture:
        assert (picture.n_frames, picture.size) == (5, (32, 16))
        picture.seek(3)
        lit = np.asarray(picture.convert("RGB"))[8, :, 0] > 128
    assert np.flatnonzero(lit).tolist() == list(range(18, 24))


class Run:
    """A run as a W&B server has it: rows are added and never taken back."""

    def __init__(self, name: str):
        self.id, self.rows, self.axes, self.exits, self.config = name, [], {}, [], {}

    def define_metric(self, name, step_metric=None, hidden=None):
        self.axes[name] = step_metric

    def log(self, row):
        self.rows.append(row)

    def finish(self, exit_code=None):
        self.exits.append(exit_code)

    def steps(self, name: str) -> list[int]:
        return [row["step"] for row in self.rows if name in row]


@pytest.fixture
def runs(monkeypatch):
    """The runs of a W&B that stands in for the real one, as `{id: run}`."""
    runs: dict[str, Run] = {}

    def init(project, id, resume, dir, config, allow_val_change):
        assert (project, resume) == ("shapes", "allow")
        run = runs.setdefault(id or f"run{len(runs)}", Run(id or f"run{len(runs)}"))
        run.config.update(config)
        return run

    def video(path, caption, format):
        assert format == "mp4"
        return SimpleNamespace(frames=read_video(path).frames, caption=caption)

    wandb = ModuleType("wandb")
    wandb.init, wandb.Video = init, video
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return runs


def test_wandb_shows_what_the_file_has(runs, tmp_path):
    """A preempted training would be scattered over many runs, or its curves would differ from the file."""
    train(load_config(CONFIG, ["wandb=shapes", "steps=7"]), tmp_path)
    train(load_config(CONFIG, ["wandb=shapes"]), tmp_path)
    (run,) = runs.values()
    assert (run.steps("train/loss"), run.steps("eval/error")) == ([4, 7, 8, 12], [6, 7, 12])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for line, row in zip(lines, run.rows, strict=True):
        kind, step = line.pop("kind"), line.pop("step")
        assert row == {"step": step, **{f"{kind}/{name}": value for name, value in line.items() if value is not None}}
    assert run.axes == {"step": None, "*": "step"}
    assert (run.config["steps"], run.config["optimizer"]["learning_rate"]) == (12, 0.05)
    assert run.exits == [0, 0]


def test_wandb_is_shown_no_step_twice(runs, tmp_path):
    """W&B keeps what came after the checkpoint that a killed run goes on from: curves would fold back."""

    def go_on(after: int, steps: range, starts: bool = False) -> None:
        with open_wandb("shapes", tmp_path, {}, None if starts else last_steps(tmp_path)) as boards:
            file = MetricsFile(tmp_path, after, boards)
            if not starts:
                file.write("eval", after, {"error": 1.0})  # made up for
            for step in steps:
                file.write("train", step, {"loss": 1.0 / step})

    go_on(0, range(1, 7), starts=True)
    go_on(2, range(3, 5))
    go_on(2, range(3, 9))
    (run,) = runs.values()
    assert run.steps("train/loss") == list(range(1, 9))
    assert run.steps("eval/error") == [2]
    go_on(0, range(1, 3), starts=True)
    assert [run.steps("train/loss") for run in runs.values()] == [list(range(1, 9)), [1, 2]]


def test_wandb_clips(runs, tmp_path):
    """Clips would be missing, of another step, or not say what they show."""
    clips = {f"shade {shade}.": Video(np.full((3, 16, 16, 3), shade, np.uint8), 8) for shade in (40, 200)}
    with open_wandb("shapes", tmp_path, {}, None) as boards:
        MetricsFile(tmp_path, 0, boards).write_clips(6, clips)
    (run,) = runs.values()
    row, _ = run.rows
    assert row.keys() == {"step", "sample/0", "sample/1"}
    assert row["step"] == 6
    for name, shade in (("sample/0", 40), ("sample/1", 200)):
        assert row[name].caption == f"shade {shade}."
        np.testing.assert_allclose(row[name].frames, shade, atol=6)


def test_wandb_fails_while_training(runs, tmp_path, monkeypatch, capsys):
    """A server that is down for a minute must not cost days of training, nor fill the log."""

    def refuse(self, *args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(Run, "log", refuse)
    monkeypatch.setattr(Run, "finish", refuse)
    state = train(load_config(CONFIG, ["wandb=shapes"]), tmp_path)
    assert int(state.step) == 12
    assert capsys.readouterr().err.count("no route to host; training goes on") == 1
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [4, 6, 8, 12, 12]


def test_wandb_fails_at_the_start(runs, tmp_path, monkeypatch):
    """Who forgot to log in would learn it from a traceback, or when the run is over; and its failure be hidden."""
    config = load_config(CONFIG, ["wandb=shapes"])
    with pytest.raises(ZeroDivisionError), open_wandb("shapes", tmp_path, {}, None):
        _ = 1 / 0
    assert runs["run0"].exits == [1]

    def refuse(**kwargs):
        raise RuntimeError("no API key")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(InputError, match="'shapes': no API key; wandb=none trains without"):
        train(config, tmp_path)


@pytest.mark.parametrize("found", [None, ModuleType("wandb")], ids=["nothing", "a folder of that name"])
def test_wandb_is_not_installed(found, tmp_path, monkeypatch):
    """The run would end with a traceback, after its data was made; or train for days, shown nowhere."""
    monkeypatch.setitem(sys.modules, "wandb", found)
    with pytest.raises(InputError, match=r"pip install 'vidjax\[wandb\]'"):
        train(load_config(CONFIG, ["wandb=shapes"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with open_wandb(None, tmp_path, {}, None) as boards:
        assert boards == []


def test_only_process_0_writes(runs, tmp_path, monkeypatch):
    """Each host of a pod would make a run of its own."""
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with open_wandb("shapes", tmp_path, {}, None) as wandb, open_tensorboard(tmp_path, 0) as tensorboard:
        assert [*wandb, *tensorboard] == []
    assert not runs
    assert list(tmp_path.iterdir()) == []
