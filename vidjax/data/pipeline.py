"""Batches in a decided random order, forever, from any position (grain)."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from vidjax.config import CONFIG_MODULE
from vidjax.data.buckets import Part, parts_of
from vidjax.errors import InputError

ENDLESS = 2**52
"""Examples until a loader would end."""


def make_loader(
    source: Any,
    transform: Callable[[dict[str, Any], Any], dict[str, Any]],
    batch_size: int,
    seed: int,
    blocks: Sequence[int] = (0,),
    count: int = 1,
    workers: int = 0,
    start: int = 0,
) -> grain.DatasetIterator:
    """An endless iterator over this process's rows of the global batches, from batch `start` on.

    The rows of a batch are cut into `count` blocks, of which these `blocks` are read.

    Batch `k` is a function of `(source, transform, batch_size, seed, k)` alone. The numbers of processes
    and workers do not matter, so a position is one number and a run may resume elsewhere. Each epoch has an
    order of its own. A batch has examples of one shape: of a `Bucketed` source they come from one bucket, and
    the buckets take turns, each as often as it has examples, or as its weight says; a batch has `batch_size` rows,
    or the bucket's multiple of them. `workers=0` reads in threads of this process, otherwise in that many processes.

    Raises:
      InputError: the source is empty, or the batch does not divide over the processes.
    """
    if len(source) == 0:
        raise InputError("the data source is empty: at least one example is needed")
    if batch_size % count:
        raise InputError(
            f"batch_size={batch_size} does not divide over {count} readers; "
            f"the nearest that does is {max(round(batch_size / count), 1) * count}"
        )
    batches = _batches(parts_of(source), transform, batch_size, seed, blocks, count)[start:]
    if workers == 0:
        return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))
    _prepare_workers()
    reads = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    return iter(reads.mp_prefetch(options))


def indices(source: Any, batch_size: int, seed: int, batch: int) -> list[int]:
    """Where in `source` the rows of a global batch of `make_loader` lie, in order; no example is read."""
    parts = parts_of(source)
    starts = np.cumsum([0, *(len(part.source) for part in parts[:-1])])
    numbers = [
        part._replace(source=range(start, start + len(part.source))) for start, part in zip(starts, parts, strict=True)
    ]
    return _batches(numbers, lambda index, rng: {"index": index}, batch_size, seed, (0,), 1)[batch]["index"].tolist()


def _batches(
    parts: Sequence[Part],
    transform: Callable,
    batch_size: int,
    seed: int,
    blocks: Sequence[int],
    count: int,
) -> grain.MapDataset:
    parts = [part for part in parts if part.weight]
    if len(parts) == 1:
        return _of_one_shape(parts[0].source, transform, batch_size * parts[0].multiple, seed, blocks, count)
    seeds = np.random.SeedSequence(seed).generate_state(len(parts))
    buckets = [
        _of_one_shape(part.source, transform, batch_size * part.multiple, int(own), blocks, count)
        for part, own in zip(parts, seeds, strict=True)
    ]
    return grain.MapDataset.mix(buckets, [part.weight for part in parts])


def _of_one_shape(
    source: Any, transform: Callable, batch_size: int, seed: int, blocks: Sequence[int], count: int
) -> grain.MapDataset:
    # grain's own endless repetition overflows at batches of one. Whole batches: all blocks have as many.
    epochs = ENDLESS // (len(source) * batch_size) * batch_size
    examples = grain.MapDataset.source(source).seed(seed).shuffle().repeat(epochs).random_map(transform)
    # Every count-th block of all batches is the same block of its batch: the rows keep their global order.
    parts = [examples.batch(batch_size // count)[block::count] for block in blocks]
    return parts[0] if len(parts) == 1 else grain.experimental.ZipMapDataset(parts).map(_join)


def _join(parts: tuple[dict[str, np.ndarray], ...]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _prepare_workers() -> None:
    import cloudpickle
    from absl import flags

    # Workers cannot import a configuration file: what it defines travels whole.
    for name in [name for name in sys.modules if name.startswith(CONFIG_MODULE)]:
        cloudpickle.register_pickle_by_value(sys.modules[name])
    # grain starts workers through absl, which refuses unless its flags were parsed.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
