import io
import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vidjax.training import metrics
from vidjax.training.metrics import Clock, MetricsFile, Window, progress_line
from vidjax.training.utilization import Work
from vidjax.video import Video


def test_window_survives_a_checkpoint():
    """A mean logged after a resume would otherwise cover only the steps since."""
    values = [1.0, 2.0, float("nan"), 5.0]
    whole, first = Window(), Window()
    for value in values:
        whole.add({"loss": jnp.float32(value)})
    for value in values[:2]:
        first.add({"loss": jnp.float32(value)})
    second = Window(json.loads(json.dumps(first.as_json())))
    for value in values[2:]:
        second.add({"loss": jnp.float32(value)})
    assert second.means() == whole.means() == {"loss": 8.0 / 3}
    assert second.means() == {}


def test_file_drops_lines_after_the_resumed_step(tmp_path):
    """Otherwise a crash between two saves leaves every line of the interval twice."""
    file = MetricsFile(tmp_path, 0)
    for step in (1, 2, 3):
        file.write("train", step, {"loss": float("nan") if step == 2 else 0.5})
    file.write("eval", 2, {"score": 1.0})
    file.close()
    again = MetricsFile(tmp_path, 2)
    assert again.last("eval") == 2
    assert again.last("other") == -1
    again.write("train", 3, {"loss": 0.25})
    again.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [("train", 1), ("train", 2), ("eval", 2), ("train", 3)]
    assert lines[1]["loss"] is None  # NaN is not JSON
    assert lines[-1]["loss"] == 0.25


def test_progress_line():
    """The time left is what people plan by."""
    stream = io.StringIO()
    speed = {"steps_per_second": 2.0, "data_wait": 0.031, "save_wait": 0.004, "eval_wait": 0.0, "goodput": 0.965}
    progress_line(100, 7300, 0.5, speed, stream)
    assert stream.getvalue() == "step 100/7300  loss 0.5  2 steps/s  1:00:00 left  data 3%  saving 0%\n"
    stream = io.StringIO()
    progress_line(100, 7300, 0.5, {**speed, "mfu": 0.414}, stream)
    assert "2 steps/s  MFU 41%  1:00:00 left" in stream.getvalue()


def test_where_the_time_goes(monkeypatch):
    """Speeds would be off by the evaluations, or shares by what they are shares of."""
    now = [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    clock = Clock(peak=1000.0)

    def spend(seconds, on=None):
        if on is None:
            now[0] += seconds
        else:
            with clock.waiting(on):
                now[0] += seconds

    spend(100.0)  # the first step compiles
    clock.tick(Work(10, 500.0))
    for _ in range(2):
        spend(2.0, "data")
        spend(1.0)
        clock.tick(Work(10, 500.0))
    spend(2.0, "save")
    spend(8.0, "eval")
    measures = clock.read()
    expected = {"steps_per_second": 2 / 8, "tokens_per_second": 20 / 8, "mfu": 1000 / 8 / 1000}
    expected |= {"data_wait": 4 / 16, "save_wait": 2 / 16, "eval_wait": 8 / 16, "goodput": 2 / 16}
    assert measures == pytest.approx(expected)
    spend(1.0)
    clock.tick(Work())
    assert clock.read() == pytest.approx(
        {"steps_per_second": 1.0, "data_wait": 0.0, "save_wait": 0.0, "eval_wait": 0.0, "goodput": 1.0}
    )


def test_clips_move_in_tensorboard(tmp_path):
    """TensorBoard shows what it is given: a still, or nothing, says little of a video."""
    from tensorboardX.proto.event_pb2 import Event

    frames = np.zeros((5, 16, 32, 3), np.uint8)
    for i in range(5):
        frames[i, :, 6 * i : 6 * i + 6] = 255
    file = MetricsFile(tmp_path, 0)
    file.write_clips(7, {"a star": Video(frames, 8)})
    file.close()
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
