"""What people give: numbers and answers of the right kind and in range, folders that files can be made in."""

import math
import numbers
import os
import tempfile
from typing import Any

import numpy as np

from vidjax.errors import InputError


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number; InputError with the nearest that would do."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InputError(f"{name}={value!r:.80}: must be a whole number from {low} to {high}")
    if not low <= value <= high:
        raise InputError(f"{name}={value}: must lie between {low} and {high}; nearest: {min(max(value, low), high)}")
    return int(value)


def number(name: str, value: Any, low: float, high: float) -> float:
    """A finite number; InputError with the nearest that would do."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not _finite(value):
        raise InputError(f"{name}={value!r:.80}: must be a finite number from {low} to {high}")
    if not low <= value <= high:
        raise InputError(f"{name}={value}: must lie between {low} and {high}; nearest: {min(max(value, low), high)}")
    return float(value)


def truth(name: str, value: Any) -> bool:
    """True or False, and nothing that would only be taken for one."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name}={value!r:.80}: must be True or False")
    return bool(value)


def try_folder(folder: str | os.PathLike) -> None:
    """Make a file in a folder and take it away: permissions alone do not tell whether one can be made.

    Raises:
      OSError: none can.
    """
    tempfile.TemporaryFile(dir=folder).close()


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False
