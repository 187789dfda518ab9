"""Batches in a decided random order, forever, from any position (grain)."""

import sys
from collections.abc import Callable
from typing import Any

import grain

from vidjax.config import CONFIG_MODULE
from vidjax.errors import InputError


def make_loader(
    source: Any,
    transform: Callable[[dict[str, Any], Any], dict[str, Any]],
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    start: int = 0,
) -> grain.DatasetIterator:
    """An endless iterator over this process's rows of the global batches, from batch `start` on.

    Batch `k` is a function of `(source, transform, batch_size, seed, k)` alone. The numbers of processes
    and workers do not matter, so a position is one number and a run may resume elsewhere. Each epoch has an
    order of its own. `workers=0` reads in threads of this process, otherwise in that many processes.

    Raises:
      InputError: the source is empty, or the batch does not divide over the processes.
    """
    if len(source) == 0:
        raise InputError("the data source is empty: at least one example is needed")
    if batch_size % process_count:
        raise InputError(
            f"batch_size={batch_size} does not divide over {process_count} readers; "
            f"the nearest that does is {max(round(batch_size / process_count), 1) * process_count}"
        )
    rows = batch_size // process_count
    examples = grain.MapDataset.source(source).seed(seed).shuffle().repeat(None).random_map(transform)
    # Blocks of rows, of which every process_count-th is ours: the batch's rows keep their global order.
    batches = examples.batch(rows)[process_index::process_count][start:]
    if workers == 0:
        return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))
    _prepare_workers()
    reads = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    return iter(reads.mp_prefetch(options))


def _prepare_workers() -> None:
    import cloudpickle
    from absl import flags

    # Workers cannot import a configuration file: what it defines travels whole.
    for name in [name for name in sys.modules if name.startswith(CONFIG_MODULE)]:
        cloudpickle.register_pickle_by_value(sys.modules[name])
    # grain starts workers through absl, which refuses unless its flags were parsed.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
