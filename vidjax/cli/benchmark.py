"""``vidjax benchmark``: speed on this machine."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import tyro

from vidjax.cli.host_memory import keep_host_memory


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Measure speed on this machine against its own limits."""

    what: tyro.conf.Positional[Literal["load", "stream", "train"]]
    """load: reading weights, against reading their files from one end to the other; stream: the first frame of clips
    of several lengths, made frame by frame and in windows; train: a denoiser's training step, against the PyTorch
    reference's where that is installed."""
    size_gb: float = 2.0
    """load: about how much is read, in 10^9 bytes; it is written first, and removed."""
    dir: Path | None = None
    """load: a folder on the disk to measure; left out: the system's place for temporary files."""
    dtype: str = "bfloat16"
    """load: how the weights are stored; stream: what is computed in; bfloat16 or float32."""
    model: str | None = None
    """stream: a folder in the published layout or a Hugging Face hub id; left out: the bundled model."""
    seconds: tuple[float, ...] = (4.0, 90.0)
    """stream: lengths of clips."""
    steps: int = 5
    """train: how many are timed."""
    json: bool = False
    """Print JSON."""


def run(command: Benchmark) -> None:
    """``vidjax benchmark``."""
    if command.what == "train":
        keep_host_memory()  # as vidjax train does
    from vidjax import benchmark

    if command.what == "load":
        report = benchmark.load(command.size_gb, command.dir, command.dtype)
    elif command.what == "stream":
        report = benchmark.stream(command.model, command.seconds, command.dtype)
    else:
        report = benchmark.train(command.steps)
    print(json.dumps(dataclasses.asdict(report)) if command.json else report)
