import io
import json

import jax.numpy as jnp

from vidjax.training.metrics import MetricsFile, Window, progress_line


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
    progress_line(100, 7300, 0.5, steps_per_second=2.0, data_wait=0.031, save_wait=0.004, stream=stream)
    assert stream.getvalue() == "step 100/7300  loss 0.5  2 steps/s  1:00:00 left  data 3%  saving 0%\n"
