"""Where a run keeps what it writes: a folder of this machine, or an object store."""

from pathlib import Path
from typing import Any

from etils import epath

from vidjax.errors import CheckpointError, InputError


def is_local(workdir: Any) -> bool:
    """Whether it is a path, not an address such as ``gs://bucket/run``."""
    return "://" not in str(workdir)


def open_workdir(workdir: Any) -> epath.Path:
    """The folder or the address, whether or not there is something yet.

    Raises:
      InputError: it is no name, or its kind of address needs a package that is not installed.
      CheckpointError: it is a file, a dataset's folder, or a model's.
    """
    if not str(workdir).strip():
        raise InputError("workdir is empty: give the name of a folder, or an address such as gs://bucket/run")
    place = epath.Path(workdir)
    try:
        held = [name for name in ("config.json", "dataset.json", "model_index.json") if (place / name).exists()]
    except ImportError as error:
        raise InputError(f"{workdir}: {error}") from error
    if is_local(workdir) and place.exists() and not place.is_dir():
        raise CheckpointError(f"{workdir} is a file: give the name of a folder")
    if held and "config.json" not in held:
        raise CheckpointError(f"{workdir} is no folder of a run: it holds {held[0]}; choose another")
    return place


def check_new(out: Path) -> None:
    """See that a folder is free to be written.

    Raises:
      InputError: it is a file, or holds something already.
    """
    try:
        if out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file: give the name of a new folder")
        if out.is_dir() and any(out.iterdir()):
            raise InputError(f"{out} holds something already: give the name of a new folder, or remove it first")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made: {error.strerror or error}") from error
