import sys
from pathlib import Path

import numpy as np
import pytest

from vidjax.config import load_config
from vidjax.data.buckets import Bucketed
from vidjax.data.pipeline import indices, make_loader
from vidjax.errors import InputError

config = load_config(Path(__file__).parents[1] / "training" / "regression.py")
module = sys.modules[type(config.task).__module__]


class Few:
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"index": np.int64(index)}


def keep(example, rng):
    return example | {"draw": rng.random()}


def take(loader, count):
    return [next(loader) for _ in range(count)]


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_loader_goes_on_from_any_position():
    """A resumed run would see other examples, or the same with another crop."""
    batches = take(make_loader(Few(), keep, 4, seed=3), 9)
    for start in (1, 4):  # 4: in the second epoch
        assert_same(take(make_loader(Few(), keep, 4, seed=3, start=start), 9 - start), batches[start:])
    loader = make_loader(Few(), keep, 4, seed=3)
    take(loader, 2)
    saved = loader.get_state()
    take(loader, 3)
    loader.set_state(saved)
    assert_same(take(loader, 7), batches[2:])


def test_rows_of_a_batch_are_known_without_reading_it():
    """A run that stops on bad batches would name others."""
    for k, batch in enumerate(take(make_loader(Few(), keep, 4, seed=3), 9)):
        assert indices(Few(), 4, 3, k) == batch["index"].tolist()


def test_epochs_are_whole_and_differently_ordered():
    """Repeating before or instead of shuffling would lose examples or repeat one order."""
    rows = np.concatenate([batch["index"] for batch in take(make_loader(Few(), keep, 5, seed=0), 4)])
    first, second = rows[:10], rows[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)
    assert list(first) != list(range(10))
    other = np.concatenate([batch["index"] for batch in take(make_loader(Few(), keep, 5, seed=1), 2)])
    assert list(other) != list(first)


def test_batches_of_one():
    """What counts the batches of an endless loader must hold the number of its examples."""
    rows = [batch["index"].item() for batch in take(make_loader(Few(), keep, 1, seed=0), 10)]
    assert sorted(rows) == list(range(10))


def test_multiples_of_a_batch():
    """A step would be given others' rows, or a bad one would be named by the wrong examples."""
    examples = [{"index": np.int64(i)} for i in range(6)]
    source = Bucketed((examples[:4], examples[4:]), None, (1, 3))
    batches = take(make_loader(source, keep, 2, seed=0), 8)
    sizes = [2 if batch["index"].max() < 4 else 6 for batch in batches]
    assert [len(batch["index"]) for batch in batches] == sizes
    assert set(sizes) == {2, 6}
    assert all(indices(source, 2, 0, k) == batch["index"].tolist() for k, batch in enumerate(batches))
    halves = [take(make_loader(source, keep, 2, seed=0, blocks=(i,), count=2), 8) for i in range(2)]
    for k, batch in enumerate(batches):
        np.testing.assert_array_equal(np.concatenate([half[k]["index"] for half in halves]), batch["index"])


def test_processes_share_each_batch_in_order():
    """A job that resumes on another number of hosts would train on other batches."""
    whole = take(make_loader(Few(), keep, 6, seed=0), 4)
    parts = [take(make_loader(Few(), keep, 6, seed=0, blocks=(i,), count=3), 4) for i in range(3)]
    for k, batch in enumerate(whole):
        for name in batch:
            np.testing.assert_array_equal(np.concatenate([part[k][name] for part in parts]), batch[name])


def test_a_process_reads_blocks_that_lie_apart():
    """On a torus of chips a host's devices need not be neighbours in the batch: it would read others' rows."""
    whole = take(make_loader(Few(), keep, 8, seed=0), 3)
    parts = [take(make_loader(Few(), keep, 8, seed=0, blocks=b, count=4, start=1), 2) for b in ((0, 2), (1, 3))]
    for k, batch in enumerate(whole[1:]):
        for name, value in batch.items():
            np.testing.assert_array_equal(parts[0][k][name], value[[0, 1, 4, 5]])
            np.testing.assert_array_equal(parts[1][k][name], value[[2, 3, 6, 7]])


def test_workers_change_nothing():
    """Worker processes must get a source defined in a configuration file, and keep the order of the batches."""
    here = take(make_loader(module.Points(), module.jitter, 4, seed=0, start=2), 5)
    loader = make_loader(module.Points(), module.jitter, 4, seed=0, workers=2, start=2)
    assert_same(take(loader, 5), here)
    loader.close()


def test_errors_are_early():
    with pytest.raises(InputError, match=r"batch_size=10 .* nearest that does is 9"):
        make_loader(Few(), keep, 10, seed=0, count=3)
    with pytest.raises(InputError, match="empty"):
        make_loader([], keep, 10, seed=0)
