"""Numbers and clips of a run: JSON lines, files, the boards that show them, and a line to watch."""

import json
import math
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath

from vidjax.training.boards import Board, Clip
from vidjax.training.workdir import is_local
from vidjax.video import Video

MEASURED = (
    "steps_per_second", "tokens_per_second", "mfu", "data_wait", "save_wait", "eval_wait", "compile_wait", "goodput"
)  # fmt: skip
"""What depends on the clock, of the numbers in a line; all others come out the same when a run is made again."""


class MetricsFile:
    """Appends `{"kind", "step", ...}` lines to `metrics.jsonl`, and gives the same numbers to the boards.

    Opened at a resumed step it drops the lines after it, so that the file reads as if nothing had happened.
    Only process 0 writes.
    """

    def __init__(self, workdir: Any, step: int, boards: Sequence[Board] = ()):
        self._path = _file(workdir)
        self._lines = [line for line in _whole_lines(self._path) if json.loads(line)["step"] <= step]
        self._boards = boards
        self._writes = jax.process_index() == 0
        # Object stores cannot append: there the whole file, a line per interval, is written again.
        self._local = is_local(workdir)
        if self._writes:
            self._rewrite()

    def last(self, kind: str) -> int:
        """The step of the latest line of this kind, or -1."""
        return _last_steps(self._lines).get(kind, -1)

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
        for board in self._boards:
            board.numbers(kind, step, {k: v for k, v in clean.items() if v is not None})

    def write_clips(self, step: int, clips: Mapping[str, Video]) -> None:
        """Add clips under what they show: `samples/STEP/*.mp4`, those on the boards, and then a line, `sample`."""
        if self._writes:
            place = self._path.parent / "samples" / f"{step:08d}"
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as folder:
                saved = []
                for i, (shows, clip) in enumerate(clips.items()):
                    name = "-".join([str(i), *re.findall(r"[0-9a-z]+", shows.lower())])[:80].rstrip("-") + ".mp4"
                    saved.append(Clip(shows, clip, clip.save(Path(place if self._local else folder) / name)))
                    if not self._local:
                        (place / name).write_bytes(saved[-1].path.read_bytes())
                for board in self._boards:
                    board.clips(step, saved)
        self.write("sample", step, {"clips": len(clips)})

    def _rewrite(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("".join(line + "\n" for line in self._lines))


def last_steps(workdir: Any) -> dict[str, int]:
    """The step of the latest line of each kind in a folder's file, before a run that goes on drops any."""
    return _last_steps(_whole_lines(_file(workdir)))


def _file(workdir: Any) -> epath.Path:
    return epath.Path(workdir) / "metrics.jsonl"


def _whole_lines(path: epath.Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if _is_whole(line)] if path.exists() else []


def _is_whole(line: str) -> bool:
    try:
        return {"kind", "step"} <= json.loads(line).keys()
    except (ValueError, AttributeError):
        return False  # cut off by a crash in mid-write


def _last_steps(lines: Sequence[str]) -> dict[str, int]:
    steps: dict[str, int] = {}
    for line in map(json.loads, lines):
        steps[line["kind"]] = max(line["step"], steps.get(line["kind"], -1))
    return steps


def compiling_line(step: int, batch: Mapping[str, jax.Array], stream: Any = None) -> None:
    """Which step is compiled, and for what: it can take minutes, and comes anew with each shape of a batch."""
    shapes = (f"{name} {'x'.join(map(str, rows.shape))}" for name, rows in sorted(batch.items()))
    print(f"step {step}: compiling for {', '.join(shapes)}", file=stream or sys.stderr, flush=True)


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
