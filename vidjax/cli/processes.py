"""Flags and start of several processes, of the commands that can be run as such."""

import contextlib
import dataclasses


@dataclasses.dataclass(frozen=True)
class Processes:
    """Several processes as one program; Cloud TPU, SLURM, Kubernetes and Open MPI need none of these flags."""

    coordinator: str | None = None
    """HOST:PORT at which the others reach process 0."""
    num_processes: int | None = None
    """How many there are; 1 runs alone, wherever this is."""
    process_id: int | None = None
    """Which one this is, from 0."""
    start_timeout: int = 300
    """Seconds that they wait for each other at the start."""


def join(processes: Processes) -> contextlib.AbstractContextManager[int]:
    """Joins the other processes, if there are any; yields this one's number."""
    from vidjax.parallel.distributed import together

    return together(**dataclasses.asdict(processes))
