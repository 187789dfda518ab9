"""Safetensors files: all headers first, then one tensor at a time, or some of its rows."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, which safetensors needs
import numpy as np

from vidjax.errors import WeightsError

DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
"""What is read, and what numpy calls it."""

PICKLES = (b"PK", b"\x80")
"""How the files begin that ``torch.save`` writes, new and old."""

LISTED = 8
"""How many names an error lists before it counts the rest."""


def write_file(tensors: Mapping[str, np.ndarray], file: Path) -> None:
    """The tensors in a file that others may read as any file that is made here."""
    from safetensors.numpy import save_file

    file.touch()
    mode = file.stat().st_mode
    save_file(dict(tensors), file, {"format": "pt"})
    file.chmod(mode)  # it came to be as a temporary file, for the user alone


class Entry(NamedTuple):
    """A tensor in a file, from byte ``offset`` on; ``dtype`` as the file calls it."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors of a file by name, and its metadata. Nothing else is read.

    Raises:
      WeightsError: no such file, a pickle, damaged, shorter than its header says.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise WeightsError(f"{path} is missing or no file: a .safetensors file is expected")
    try:
        with path.open("rb") as file:
            start = file.read(9)
            # In a safetensors file a JSON object follows eight bytes of length.
            if start.startswith(PICKLES) and start[8:] != b"{":
                raise WeightsError(f"{path} is a PyTorch pickle, which can run code when it is read: convert it first")
            with safe_open(path, framework="numpy") as checked:  # against the length of the file, too
                metadata = checked.metadata() or {}
            file.seek(8)
            length = int.from_bytes(start[:8], "little")
            header = json.loads(file.read(length))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged or not a safetensors file: {error}") from error
    header.pop("__metadata__", None)
    entries = {
        name: Entry(path, name, tuple(info["shape"]), info["dtype"], 8 + length + info["data_offsets"][0])
        for name, info in header.items()
    }
    return entries, metadata


def read_tensor(entry: Entry) -> np.ndarray:
    """One tensor.

    Raises:
      WeightsError: as :func:`read_rows`.
    """
    rows = max(1, math.prod(entry.shape[:1]))
    return next(read_rows(entry, 0, rows, rows)).reshape(entry.shape)


def read_rows(entry: Entry, start: int, stop: int, step: int) -> Iterator[np.ndarray]:
    """A tensor's rows from ``start`` to before ``stop`` along its first axis, ``step`` at a time in the same memory.

    Raises:
      WeightsError: the file has become shorter, or can no longer be read.
    """
    rows = np.empty((min(step, stop - start), *entry.shape[1:]), DTYPES[entry.dtype])
    try:
        # Not through a memory map: its pages come one by one, and count as the process's own.
        with entry.path.open("rb") as file:
            file.seek(entry.offset + start * rows[:1].nbytes)
            for i in range(start, stop, step):
                some = rows[: stop - i]
                if file.readinto(some.reshape(-1).view(np.uint8)) != some.nbytes:
                    raise WeightsError(f"{entry.path} has become shorter than its header says")
                yield some
    except OSError as error:
        raise WeightsError(f"{entry.path} cannot be read: {error.strerror or error}") from error


def all_finite(values: np.ndarray) -> bool:
    """Whether none is infinite or not a number. By their bits: numpy is slow with bfloat16."""
    bits = np.dtype(f"u{values.itemsize}")
    exponent = np.array(np.inf, values.dtype).view(bits)
    return bool(np.max(values.view(bits) & exponent, initial=0) < exponent)


def listed(names: Iterable[str]) -> str:
    """The first of the names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
