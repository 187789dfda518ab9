"""Numbers and clips of a run: JSON lines, files, TensorBoard where tensorboardX is installed, and a line to watch."""

import contextlib
import json
import math
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from etils import epath

from vidjax.training.utilization import Work
from vidjax.video import Video

MEASURED = ("steps_per_second", "tokens_per_second", "mfu", "data_wait", "save_wait", "eval_wait", "goodput")
"""What depends on the clock, of the numbers in a line; all others come out the same when a run is made again."""


class MetricsFile:
    """Appends `{"kind", "step", ...}` lines to `metrics.jsonl`, and the same numbers to TensorBoard.

    Opened at a resumed step it drops the lines after it, so that the file reads as if nothing had happened.
    Only process 0 writes.
    """

    def __init__(self, workdir: Any, step: int):
        self._path = epath.Path(workdir) / "metrics.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._lines = [line for line in lines if _step_of(line) <= step]
        self._writes = jax.process_index() == 0
        # Object stores cannot append: there the whole file, a line per interval, is written again.
        self._local = "://" not in str(workdir)
        self._board = None
        if self._writes:
            self._rewrite()
            if self._local:
                self._board = _tensorboard(self._path.parent / "tensorboard", step)

    def last(self, kind: str) -> int:
        """The step of the latest line of this kind, or -1."""
        found = [json.loads(line)["step"] for line in self._lines if json.loads(line)["kind"] == kind]
        return max(found, default=-1)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Add a line; a value that is not finite becomes null."""
        if not self._writes:
            return
        clean = {k: float(v) if math.isfinite(v) else None for k, v in values.items()}
        line = json.dumps({"kind": kind, "step": step, **clean})
        self._lines.append(line)
        if self._local:
            with self._path.open("a") as file:
                file.write(line + "\n")
        else:
            self._rewrite()
        if self._board is not None:
            for name, value in clean.items():
                if value is not None:
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def write_clips(self, step: int, clips: Mapping[str, Video]) -> None:
        """Add clips under what they show: `samples/STEP/*.mp4`, TensorBoard's pictures, and then a line, `sample`."""
        if self._writes:
            place = self._path.parent / "samples" / f"{step:08d}"
            place.mkdir(parents=True, exist_ok=True)
            for i, (shows, clip) in enumerate(clips.items()):
                name = "-".join([str(i), *re.findall(r"[0-9a-z]+", shows.lower())])[:80].rstrip("-")
                (place / f"{name}.mp4").write_bytes(_encoded(clip, ".mp4"))
                if self._board is not None:
                    _add_moving_picture(self._board, f"sample/{i} {shows}", clip, step)
        self.write("sample", step, {"clips": len(clips)})

    def close(self) -> None:
        """Flush TensorBoard's file."""
        if self._board is not None:
            self._board.close()

    def _rewrite(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("".join(line + "\n" for line in self._lines))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # cut off by a crash in mid-write


def _tensorboard(folder: Any, step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _add_moving_picture(board: Any, tag: str, clip: Video, step: int) -> None:
    from tensorboardX.proto.summary_pb2 import Summary

    # A picture may be a GIF: its own method for clips wants another encoder.
    _, height, width, _ = clip.frames.shape
    picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=_encoded(clip, ".gif"))
    board.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=picture)]), step)


def _encoded(clip: Video, suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return clip.save(Path(folder) / f"clip{suffix}").read_bytes()


class Window:
    """Step metrics since the last log, kept on the device until asked for: recording does not wait.

    Its sums travel through checkpoints (`as_json`), so that the mean over an interrupted interval is that of
    the whole interval.
    """

    def __init__(self, sums: Mapping[str, Sequence[float]] | None = None):
        self._sums = {name: list(pair) for name, pair in (sums or {}).items()}
        self._pending: list[dict[str, jax.Array]] = []

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Record one step's scalars, possibly not computed yet."""
        self._pending.append(metrics)

    def as_json(self) -> dict[str, list[float]]:
        """`{name: [sum, count]}` over the finite values; waits for the steps recorded."""
        for metrics in jax.device_get(self._pending):
            for name, value in metrics.items():
                total = self._sums.setdefault(name, [0.0, 0])
                if np.isfinite(value):
                    total[0] += float(value)
                    total[1] += 1
        self._pending.clear()
        return {name: list(pair) for name, pair in self._sums.items()}

    def means(self) -> dict[str, float]:
        """The mean of every metric (nan where none was finite), and starts afresh."""
        sums = self.as_json()
        self._sums.clear()
        return {name: total / count if count else math.nan for name, (total, count) in sums.items()}


class Clock:
    """Where the time goes between two calls of `read`. It starts at the end of the first step, which compiles.

    `peak` is what all devices together can do, in FLOPs per second.
    """

    def __init__(self, peak: float | None = None):
        self._peak, self._steps = peak, None

    def tick(self, work: Work) -> None:
        """A step was started."""
        if self._steps is None:
            self._restart()
        else:
            self._steps, self._tokens = self._steps + 1, self._tokens + work.tokens
            self._flops += work.flops

    def _restart(self) -> None:
        self._steps, self._tokens, self._flops = 0, 0, 0.0
        self._waited, self._since = dict.fromkeys(("data", "save", "eval"), 0.0), time.perf_counter()

    @contextlib.contextmanager
    def waiting(self, on: Literal["data", "save", "eval"]) -> Iterator[None]:
        """The time inside is spent on data, on checkpoints, or on evaluations and samples."""
        start = time.perf_counter()
        yield
        if self._steps is not None:
            self._waited[on] += time.perf_counter() - start

    def read(self) -> dict[str, float]:
        """The measures (nan where no step was timed), and a new start.

        `steps_per_second`; `tokens_per_second`, where tokens are counted; `mfu`, the model's FLOPs over those of the
        devices, where these are known; the shares `data_wait`, `save_wait`, `eval_wait` of the time, and `goodput`,
        what they leave to the steps. Speeds leave evaluations out, shares do not.
        """
        total = max(time.perf_counter() - self._since, 1e-9)
        seconds = max(total - self._waited["eval"], 1e-9)
        shares = {f"{on}_wait": waited / total for on, waited in self._waited.items()}
        measures = {"steps_per_second": self._steps / seconds if self._steps else math.nan}
        if self._tokens:
            measures["tokens_per_second"] = self._tokens / seconds
        if self._flops and self._peak:
            measures["mfu"] = self._flops / seconds / self._peak
        self._restart()
        return {**measures, **shares, "goodput": 1.0 - sum(shares.values())}


def progress_line(step: int, steps: int, loss: float, speed: Mapping[str, float], stream: Any = None) -> None:
    """Step, loss, speed, time left, shares of time spent waiting; one rewritten line in a terminal."""
    stream = stream or sys.stderr
    said = "?"
    if speed["steps_per_second"] > 0:
        minutes, seconds = divmod(round((steps - step) / speed["steps_per_second"]), 60)
        left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
        used = f"  MFU {speed['mfu']:.0%}" if "mfu" in speed else ""
        waits = f"data {speed['data_wait']:.0%}  saving {speed['save_wait']:.0%}"
        said = f"{speed['steps_per_second']:.3g} steps/s{used}  {left} left  {waits}"
    text = f"step {step}/{steps}  loss {loss:.4g}  {said}"
    if stream.isatty():
        stream.write("\r\033[K" + text + ("\n" if step == steps else ""))
    else:
        stream.write(text + "\n")
    stream.flush()
