"""Batches of a dataset with several shapes: one shape each, every clip once an epoch, the same from any position."""

import collections
import functools

import numpy as np
import pytest

from vidjax.data.buckets import Bucket, Bucketed
from vidjax.data.pipeline import indices, make_loader
from vidjax.data.records import Index, Shards, open_part, open_split, pack, write_index

POSITIONS = 50
BATCH = 4
SHAPES = (Bucket(1, 8, 8), Bucket(5, 8, 8), Bucket(5, 8, 16))
COUNTS = (8, 24, 16)
EPOCH = sum(COUNTS) // BATCH


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Bucketed:
    """A dataset on disk, as workers get it; clip i is of brightness i."""
    out = tmp_path_factory.mktemp("dataset")
    names = iter(range(sum(COUNTS)))
    with open_part(out, 0) as writer:
        for bucket, count in zip(SHAPES, COUNTS, strict=True):
            for name in (next(names) for _ in range(count)):
                writer.write(
                    bucket, {"captions": ["a"], "file": name}, pack(np.full(bucket.shape, name, np.uint8), None)
                )
    shards = tuple(Shards(bucket, ((0, count),), ()) for bucket, count in zip(SHAPES, COUNTS, strict=True))
    write_index(out, Index(shards, None, 8.0, "0" * 12, False))
    return open_split(out, "train")


def loader(source, **where):
    def draw(example, rng):
        return {"video": example["video"], "file": np.int64(example["file"]), "draw": rng.random()}

    return make_loader(source, draw, BATCH, seed=5, **where)


def take(batches, count):
    return [next(batches) for _ in range(count)]


@pytest.fixture(scope="module")
def whole(source):
    """The batches of a run that is never cut off."""
    return take(loader(source), POSITIONS + 6)


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_one_shape_a_batch(whole):
    """Shapes that are mixed cannot be stacked; buckets that come in runs make the training swing."""
    for batch in whole:
        np.testing.assert_array_equal(batch["video"][:, 0, 0, 0, 0], batch["file"])
    shapes = [batch["video"].shape[1:] for batch in whole]
    for start in range(len(shapes) - EPOCH):
        counts = collections.Counter(shapes[start : start + EPOCH])
        for bucket, count in zip(SHAPES, COUNTS, strict=True):
            assert abs(counts[bucket.shape] - count / BATCH) <= 1


def test_every_clip_once_an_epoch(whole):
    """A clip that never comes was prepared for nothing; one that comes twice is learnt by heart."""
    for epoch in range(3):
        files = np.concatenate([batch["file"] for batch in whole[epoch * EPOCH : (epoch + 1) * EPOCH]])
        assert sorted(files) == list(range(sum(COUNTS)))
    first, second = ([batch["file"].tolist() for batch in whole[i * EPOCH : (i + 1) * EPOCH]] for i in range(2))
    assert first != second


def test_rows_of_a_batch_are_known_without_reading_it(source, whole):
    """A run that stops on bad batches would name clips of another bucket."""
    for k, batch in enumerate(whole):
        assert [source[i]["file"] for i in indices(source, BATCH, 5, k)] == batch["file"].tolist()


def test_two_processes_then_one(source, whole):
    """A run that resumes on other hosts would see clips twice, or others."""
    half = EPOCH // 2
    pair = [take(loader(source, blocks=(i,), count=2), half) for i in range(2)]
    alone = take(loader(source, start=half), EPOCH - half)
    files = [batch["file"] for batch in (*pair[0], *pair[1], *alone)]
    assert sorted(np.concatenate(files)) == list(range(sum(COUNTS)))
    joined = [{name: np.concatenate([a[name], b[name]]) for name in a} for a, b in zip(*pair, strict=True)]
    assert_same(joined + alone, whole[:EPOCH])


def check_positions(source, whole, workers, positions, count=3):
    for start in positions:
        batches = loader(source, workers=workers, start=start)
        assert_same(take(batches, count), whole[start : start + count])
        batches.close()


@pytest.mark.parametrize(
    ("workers", "positions"),
    [
        (0, range(POSITIONS)),
        (1, (30,)),
        (4, (7,)),
        pytest.param(1, range(POSITIONS), marks=pytest.mark.slow),
        pytest.param(4, range(POSITIONS), marks=pytest.mark.slow),
    ],
)
def test_goes_on_from_every_position(source, whole, workers, positions):
    """A resumed run would train on other batches than the one that was never cut off."""
    check_positions(source, whole, workers, positions)


def test_a_source_of_one_bucket_is_read_as_it_always_was(source):
    """Runs that began before there were buckets must go on with their own batches."""
    plain = source.sources[1]
    same = functools.partial(loader, start=3)
    assert_same(take(same(Bucketed((plain,))), 9), take(same(plain), 9))


def test_weights_say_how_often(source):
    """Shares of kinds of examples that a configuration names must be those that are trained on."""
    shared = Bucketed(source.sources, (0.25, 0.5, 0.25))
    files = [batch["file"] for batch in take(loader(shared), 40)]
    starts = np.cumsum([0, *COUNTS])
    counts = np.histogram([rows[0] for rows in files], starts)[0]
    np.testing.assert_array_equal(counts, [10, 20, 10])
    for i in (0, 7, 39):
        assert indices(shared, BATCH, 5, i) == files[i].tolist()
    assert all(starts[1] <= index < starts[2] for index in indices(Bucketed(source.sources, (0, 1.0, 0)), BATCH, 5, 3))
