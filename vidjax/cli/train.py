"""``vidjax train``: a training run, begun or gone on with."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from vidjax.cli.compilation_cache import keep_compiled
from vidjax.cli.host_memory import keep_host_memory
from vidjax.cli.processes import Processes, join


@dataclasses.dataclass(frozen=True)
class Train:
    """Train as a configuration says; the same line again goes on where it stopped."""

    config: tyro.conf.Positional[Path]
    """A Python file with get_config()."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """Settings to change, as key=value or a.b=value."""
    workdir: tyro.conf.OmitArgPrefixes[str] = dataclasses.field(kw_only=True)
    """Where checkpoints, metrics and the finished model go."""
    smoke: bool = False
    """Shrink everything: tens of steps in seconds."""
    processes: tyro.conf.OmitArgPrefixes[Processes] = Processes()


def gather_overrides(words: Sequence[str]) -> list[str]:
    """The words of a ``vidjax train`` line with its settings in one place: they may stand on both sides of flags."""
    settings, flags, wanted = [], [], False
    for word in words:
        is_flag = word.startswith("-")
        (flags if is_flag or wanted else settings).append(word)
        wanted = is_flag and "=" not in word and word not in ("--smoke", "--help", "-h")  # these stand alone
    return settings + flags


def run(command: Train) -> None:
    """``vidjax train``."""
    keep_host_memory()
    from vidjax.config import load_config

    config = load_config(command.config, command.overrides)
    with join(command.processes):
        keep_compiled()
        from vidjax.training import train

        train(config, command.workdir, smoke=command.smoke)
