"""Which bucket a clip goes to, and which of its pixels."""

import numpy as np
import pytest

from vidjax.data.buckets import (
    Bucket,
    Bucketed,
    check_buckets,
    covering,
    crop,
    first_examples,
    fitting,
    parse_bucket,
    parts_of,
    sources_of,
)
from vidjax.errors import InputError

WIDE, TALL, SQUARE = Bucket(17, 480, 832), Bucket(17, 832, 480), Bucket(17, 640, 640)


def test_written_and_read():
    """The name is in file names and on the command line: both must mean the same bucket."""
    assert parse_bucket(" 17x480x832 ") == WIDE
    assert parse_bucket(str(SQUARE)) == SQUARE
    for text in ("17x64", "17x64x64x3", "ax64x64", "", "17X64X64"):
        with pytest.raises(InputError, match="FRAMESxHEIGHTxWIDTH"):
            parse_bucket(text)


@pytest.mark.parametrize(
    ("height", "width", "bucket"),
    [(1080, 1920, WIDE), (1920, 1080, TALL), (500, 500, SQUARE), (700, 800, SQUARE), (576, 1024, WIDE)],
)
def test_nearest_aspect_ratio(height, width, bucket):
    """A clip in a bucket of another aspect ratio loses what its crop cuts off."""
    assert fitting([TALL, SQUARE, WIDE], height, width) == (bucket,)


def test_each_duration_in_the_largest_size_that_is_reached():
    """Enlarged pixels teach blur; reduced ones waste what the clip has."""
    small, large = Bucket(17, 480, 832), Bucket(17, 720, 1280)
    long = Bucket(81, 480, 832)
    assert fitting([large, small, long, TALL], 1080, 1920) == (long, large)
    assert fitting([large, small, long, TALL], 480, 854) == (long, small)
    assert fitting([large, small], 120, 210) == (small,), "where none is reached, the least enlarged"


def test_scaled_to_cover():
    """A pixel too few and the crop has nothing to take from; a pixel too many is needless."""
    assert covering(1080, 1920, WIDE) == (480, 854)
    assert covering(480, 832, WIDE) == (480, 832)
    assert covering(16, 16, Bucket(1, 16, 48)) == (48, 48)
    for height, width in np.random.default_rng(0).integers(1, 3000, (200, 2)):
        h, w = covering(int(height), int(width), WIDE)
        assert (h == 480 and w >= 832) or (w == 832 and h >= 480)


def test_crops():
    """The middle must be the middle, and chance must reach every place, the same in all frames of a clip."""
    frames = np.zeros((2, 20, 26, 3), np.uint8)
    frames[...] = (np.arange(20)[:, None, None] * 10 + np.arange(26)[:, None]) % 256
    bucket = Bucket(2, 16, 16)
    np.testing.assert_array_equal(crop(frames, bucket, None), frames[:, 2:18, 5:21])
    corners = set()
    for seed in range(400):
        piece = crop(frames, bucket, np.random.default_rng(seed))
        assert piece.shape == (2, 16, 16, 3)
        corners.add(int(piece[0, 0, 0, 0]))
    y, x = np.arange(5)[:, None], np.arange(11)
    assert corners == set((y * 10 + x).ravel().tolist())


def test_what_an_autoencoder_takes():
    """Found only by the compiler it would be a shape error of many lines."""
    check_buckets([Bucket(17, 32, 64), Bucket(1, 32, 32)], 4, 16)
    with pytest.raises(InputError, match=r"num_frames=16: .* nearest: 17"):
        check_buckets([Bucket(16, 32, 32)], 4, 16)
    with pytest.raises(InputError, match=r"width=40: .* multiple of 16; nearest: 32"):
        check_buckets([Bucket(17, 32, 32), Bucket(17, 32, 40)], 4, 16)


def test_one_after_another():
    """An index that reaches into the wrong bucket pairs latents with the captions of other clips."""
    a, b, c, d, e, f = ({"name": name} for name in "abcdef")
    source = Bucketed(([a, b], [], [c], [d, e, f]))
    assert len(source) == 6
    assert [source[i]["name"] for i in range(6)] == list("abcdef")
    for index in (6, -1):
        with pytest.raises(IndexError):
            source[index]
    assert sources_of(source)[2] == [c]
    assert parts_of(source) == [([a, b], 2, 1), ([], 0, 1), ([c], 1, 1), ([d, e, f], 3, 1)]
    assert parts_of(Bucketed(source.sources, (1.0, 2.0, 3.0, 4.0), (1, 1, 5, 2))) == [
        ([a, b], 1.0, 1),
        ([], 0, 1),
        ([c], 3.0, 5),
        ([d, e, f], 4.0, 2),
    ]
    assert parts_of([a, b]) == [([a, b], 2, 1)]
    assert sources_of([a, b]) == ([a, b],)
    assert first_examples(source, 4) == [[a], [c], [d]]
    assert first_examples(source, 6) == [[a, b], [c], [d, e]]
    assert first_examples([a, b, c], 2) == [[a, b]]
