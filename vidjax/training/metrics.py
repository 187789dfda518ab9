"""Numbers of a run: JSON lines, TensorBoard where tensorboardX is installed, and a line to watch."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from etils import epath


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
    """Steps per second since the last `read`, and the shares of that time spent waiting for data and for saves."""

    def __init__(self):
        self._steps = None  # the first step compiles: it is not counted

    def tick(self) -> None:
        """A step was started."""
        if self._steps is None:
            self.restart()
        else:
            self._steps += 1

    def restart(self) -> None:
        """Forget what was measured."""
        self._steps, self._waited, self._since = 0, {"data": 0.0, "save": 0.0}, time.perf_counter()

    def waiting(self) -> AbstractContextManager[None]:
        """The time inside is spent waiting for data."""
        return self._spent("data")

    def saving(self) -> AbstractContextManager[None]:
        """The time inside is spent waiting for checkpoints."""
        return self._spent("save")

    @contextlib.contextmanager
    def _spent(self, on: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self._steps is not None:
            self._waited[on] += time.perf_counter() - start

    def read(self) -> dict[str, float]:
        """The measures (nan where no step was timed), and a new start."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        measures = {
            "steps_per_second": self._steps / seconds if self._steps else math.nan,
            **{f"{on}_wait": waited / seconds for on, waited in self._waited.items()},
        }
        self.restart()
        return measures


def progress_line(
    step: int,
    steps: int,
    loss: float,
    steps_per_second: float,
    data_wait: float,
    save_wait: float,
    stream: Any = None,
) -> None:
    """Step, loss, speed, time left, shares of time spent waiting; one rewritten line in a terminal."""
    stream = stream or sys.stderr
    speed = "?"
    if steps_per_second > 0:
        minutes, seconds = divmod(round((steps - step) / steps_per_second), 60)
        left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
        speed = f"{steps_per_second:.3g} steps/s  {left} left  data {data_wait:.0%}  saving {save_wait:.0%}"
    text = f"step {step}/{steps}  loss {loss:.4g}  {speed}"
    if stream.isatty():
        stream.write("\r\033[K" + text + ("\n" if step == steps else ""))
    else:
        stream.write(text + "\n")
    stream.flush()
