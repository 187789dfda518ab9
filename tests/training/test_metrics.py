import io
import json

from vidjax.training.metrics import MetricsFile, last_steps, progress_line


def test_file_drops_lines_after_the_resumed_step(tmp_path):
    """Otherwise a crash between two saves leaves every line of the interval twice."""
    file = MetricsFile(tmp_path, 0)
    for step in (1, 2, 3):
        file.write("train", step, {"loss": float("nan") if step == 2 else 0.5})
    file.write("eval", 2, {"score": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as torn:
        torn.write('{"kind": "train", "st')
    assert last_steps(tmp_path) == {"train": 3, "eval": 2}
    again = MetricsFile(tmp_path, 2)
    assert again.last("eval") == 2
    assert again.last("other") == -1
    again.write("train", 3, {"loss": 0.25})
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
