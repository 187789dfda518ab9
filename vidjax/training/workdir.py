"""Where a run keeps what it writes: a folder of this machine, or an object store."""

from typing import Any


def is_local(workdir: Any) -> bool:
    """Whether it is a path, not an address such as ``gs://bucket/run``."""
    return "://" not in str(workdir)
