"""How fast weights are read, against reading their files from one end to the other. GB are 10^9 bytes."""

import ctypes
import dataclasses
import gc
import math
import mmap
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError

from vidjax.checks import try_folder
from vidjax.errors import InputError
from vidjax.models.wan.denoiser import DenoiserConfig
from vidjax.models.wan.weights import abstract_params, published_tree
from vidjax.weights import folder as weights

REPETITIONS = 3

DTYPES = ("bfloat16", "float32")
SHARDS = 8
SEQUENTIAL_BYTES = 16 * 2**20
"""What is asked for at once where only the disk is measured."""

HEADS = (40, 24, 12, 6, 3, 1)
MIN_LAYERS = 16
"""A denoiser of a given size is as wide as leaves it these layers."""

SLACK_BYTES = 2**29
"""Memory for the interpreter and its libraries."""


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """How fast weights come from the disk. The rates are of the median repetitions; all their seconds are there.

    ``cache_dropped`` is False where the system may have had the files in memory, and the rates are not of the disk.
    ``extra_memory_bytes`` is the most that the host held beyond the result (and beyond what it held before); None
    where the system does not say.
    """

    size_bytes: int
    files: int
    dtype: str
    cache_dropped: bool
    sequential_seconds: tuple[float, ...]
    read_seconds: tuple[float, ...]
    sequential_gb_per_second: float
    read_gb_per_second: float
    ratio: float
    extra_memory_bytes: int | None

    def __str__(self) -> str:
        disk, ours = (
            f"{rate:.2f} GB/s ({', '.join(f'{s:.2f}' for s in seconds)} s)"
            for rate, seconds in (
                (self.sequential_gb_per_second, self.sequential_seconds),
                (self.read_gb_per_second, self.read_seconds),
            )
        )
        extra = "not known here" if self.extra_memory_bytes is None else f"{self.extra_memory_bytes / 1e6:.0f} MB"
        lines = [
            f"{self.size_bytes / 1e9:.3g} GB of {self.dtype} in {self.files} files",
            f"files read from one end to the other: {disk}",
            f"weights read to the device: {ours}, {self.ratio:.2f} of that",
            f"host memory beyond the result: {extra}",
        ]
        if not self.cache_dropped:
            lines.append("the files could not be dropped from the page cache: these are not the disk's rates")
        return "\n".join(lines)


def load(size_gb: float = 2.0, dir: str | os.PathLike | None = None, dtype: str = "bfloat16") -> LoadReport:
    """Reading a denoiser of random weights, against reading its files from one end to the other.

    The files are written for this, in a folder of their own that is removed again, and out of the page cache each time.

    Args:
      size_gb: about how much is written, in 10^9 bytes.
      dir: where; None: the system's place for temporary files.
      dtype: the stored type, which is kept.

    Raises:
      InputError: the size is no positive number, or more than the disk or the memory has; no such folder or type;
        a folder that may not be written to.
    """
    place = _check_load(size_gb, dir, dtype)
    config = _denoiser(int(size_gb * 1e9) // jnp.dtype(dtype).itemsize)
    with tempfile.TemporaryDirectory(prefix="vidjax-benchmark-", dir=place) as name:
        folder = Path(name)
        try:
            weights.write_config(folder, "transformer", config)
            weights.write_tensors(folder, "transformer", _random_tensors(config, dtype), _shard_bytes(size_gb))
        except (OSError, SafetensorError) as error:
            raise InputError(f"dir={str(place)!r}: the weights could not be written: {error}") from error
        files = sorted((folder / "transformer").glob("*.safetensors"))
        size = sum(path.stat().st_size for path in files)
        dropped, sequential, ours, extra = [], [], [], []
        for _ in range(REPETITIONS):
            dropped.append(_drop_cached(files))
            sequential.append(_read_sequentially(files))
            dropped.append(_drop_cached(files))
            seconds, memory = _read_weights(folder, config)
            ours.append(seconds)
            extra.append(memory)
    disk, rate = (size / 1e9 / statistics.median(seconds) for seconds in (sequential, ours))
    return LoadReport(
        size_bytes=size,
        files=len(files),
        dtype=dtype,
        cache_dropped=all(dropped),
        sequential_seconds=tuple(sequential),
        read_seconds=tuple(ours),
        sequential_gb_per_second=disk,
        read_gb_per_second=rate,
        ratio=rate / disk,
        extra_memory_bytes=None if None in extra else max(extra),
    )


def _check_load(size_gb: float, dir: str | os.PathLike | None, dtype: str) -> Path:
    if not (math.isfinite(size_gb) and size_gb > 0):
        raise InputError(f"size_gb={size_gb:g}: must be a finite number above 0")
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r}: choose {' or '.join(DTYPES)}")
    place = Path(tempfile.gettempdir() if dir is None else dir)
    if not place.is_dir():
        raise InputError(f"dir={str(place)!r}: {'is not a folder' if place.exists() else 'there is no such folder'}")
    try:
        try_folder(place)
    except OSError as error:
        raise InputError(f"dir={str(place)!r}: the folder may not be written to ({error.strerror})") from None
    needed, free = 1.05e9 * size_gb + 1e7, shutil.disk_usage(place).free
    if needed > free:
        raise InputError(f"size_gb={size_gb:g}: {str(place)!r} has only {free / 1e9:.3g} GB free")
    _check_memory(size_gb)
    return place


def _check_memory(size_gb: float) -> None:
    """Raises InputError unless the host has room for the files' making, and the device for the result."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    on_host = 4 * _shard_bytes(size_gb) + SLACK_BYTES + (1e9 * size_gb if device.platform == "cpu" else 0)
    for name, needed, free in (
        ("the machine", on_host, _stated("/proc/meminfo", r"MemAvailable: +(\d+) kB", 1024)),
        ("the container", on_host, _stated("/sys/fs/cgroup/memory.max", r"(\d+)")),
        ("the device", 1e9 * size_gb, stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None),
    ):
        if free is not None and needed > free:
            gb = f"{needed / 1e9:.3g} GB of memory are needed"
            raise InputError(f"size_gb={size_gb:g}: {gb}, {name} has only {free / 1e9:.3g} GB")


def _shard_bytes(size_gb: float) -> int:
    return min(weights.MAX_SHARD_BYTES, max(1, int(1e9 * size_gb / SHARDS)))


def _denoiser(size: int) -> DenoiserConfig:
    """A denoiser of about ``size`` parameters, the published ones' shape; at least the smallest that there is."""
    for heads in HEADS:
        width = 128 * heads
        config = DenoiserConfig(num_attention_heads=heads, ffn_dim=4 * width)
        outside = width * (8 * width + config.text_dim + config.freq_dim)
        layers = round((size - outside) / (16 * width**2))
        if layers >= MIN_LAYERS:
            break
    return dataclasses.replace(config, num_layers=max(1, layers))


def _random_tensors(config: DenoiserConfig, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    """Layer by layer, as the published files have them."""
    rng = np.random.default_rng(0)
    tree = published_tree(abstract_params("transformer", config))
    tensors = [tensor for group in tree.values() for tensor in group]
    for tensor in sorted(tensors, key=lambda tensor: -1 if tensor.layer is None else tensor.layer):
        yield tensor.name, (rng.random(tensor.shape, np.float32) - 0.5).astype(dtype)


def _drop_cached(files: list[Path]) -> bool:
    """Drops files from the page cache; False where that cannot be done, as on a disk that is memory itself."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # only what is on the disk can be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return all(_cached_share(path) < 0.01 for path in files)


def _cached_share(path: Path) -> float:
    """How much of a file is in memory; all of it, where the system does not say."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as view:
        pages = np.ones(-(-len(view) // mmap.PAGESIZE), np.uint8)
        start = ctypes.c_char.from_buffer(view)
        ctypes.CDLL(None).mincore(ctypes.byref(start), ctypes.c_size_t(len(view)), ctypes.c_void_p(pages.ctypes.data))
        del start  # or the view could not be closed
    return float(np.mean(pages & 1))


def _read_sequentially(files: list[Path]) -> float:
    """Seconds."""
    block = bytearray(SEQUENTIAL_BYTES)
    start = time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(block):
                pass
    return time.perf_counter() - start


def _read_weights(folder: Path, config: DenoiserConfig) -> tuple[float, int | None]:
    """Seconds, and the bytes of host memory that this took beyond the result; None where the system does not say."""
    gc.collect()  # JAX is late in giving numpy its memory back
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)  # memory that was kept for later would be used without being seen
        before = _stated("/proc/self/status", r"VmRSS:\s+(\d+) kB", 1024)
    except OSError:
        before = None
    start = time.perf_counter()
    params = jax.block_until_ready(weights.read_part(folder, "transformer", config))
    seconds = time.perf_counter() - start
    peak = _stated("/proc/self/status", r"VmHWM:\s+(\d+) kB", 1024)
    on_host = jax.default_backend() == "cpu"
    result = sum(x.nbytes for x in jax.tree.leaves(params)) if on_host else 0
    return seconds, None if before is None or peak is None else max(0, peak - before - result)


def _stated(path: str, pattern: str, unit: int = 1) -> int | None:
    """A number that the system states in a file; None where it does not."""
    try:
        found = re.search(pattern, Path(path).read_text())
    except OSError:
        return None
    return int(found[1]) * unit if found else None
