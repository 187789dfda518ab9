"""Safetensors files: all headers first, then one tensor at a time."""

from collections.abc import Iterable
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


class Entry(NamedTuple):
    """A tensor in a file; ``dtype`` as the file calls it."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


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
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  not a dict
            entries = {n: Entry(path, n, tuple(s.get_shape()), s.get_dtype()) for n, s in slices.items()}
            return entries, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged or not a safetensors file: {error}") from error


def read_tensor(entry: Entry) -> np.ndarray:
    """One tensor."""
    from safetensors import safe_open

    with safe_open(entry.path, framework="numpy") as file:
        return file.get_tensor(entry.name)


def listed(names: Iterable[str]) -> str:
    """The first of the names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
