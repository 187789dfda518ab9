"""``vidjax export``: a model folder of a training run."""

import dataclasses
from pathlib import Path

import tyro


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a training run's averaged weights as a model folder in the published layout."""

    workdir: tyro.conf.Positional[str]
    """What was given to vidjax train."""
    out: tyro.conf.Positional[Path]
    """The folder to write."""
    config: Path | None = None
    """The run's configuration file, needed only where its task is not one of vidjax's own."""


def run(command: Export) -> None:
    """``vidjax export``."""
    from vidjax.config import load_config
    from vidjax.training import export

    export(command.workdir, command.out, load_config(command.config) if command.config else None)
    print(f"{command.out}: exported")
