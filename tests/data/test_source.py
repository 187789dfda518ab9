"""Which clips a task is trained on."""

import dataclasses

import numpy as np

from vidjax.data.buckets import Bucket
from vidjax.data.shapes import held_out
from vidjax.data.source import ClipData


def test_oblong_clips(tmp_path):
    """Clips of two shapes cannot be stacked; and judged on these, models would be compared with others."""
    data = ClipData(str(tmp_path), 2, 2, num_frames=5, height=16, width=32, num_oblong_clips=3)
    train, test = data.open("train"), data.open("test")
    sizes = [train[i]["video"].shape[1:3] for i in range(len(train))]
    assert sizes == [(16, 32), (16, 32), (16, 48), (16, 48), (24, 32)]
    assert [test[i]["video"].shape[1:3] for i in range(len(test))] == [(16, 32)] * 2
    assert [(bucket.height, bucket.width) for bucket in data.buckets()] == [(16, 32), (16, 48), (24, 32)]
    one = dataclasses.replace(data, num_oblong_clips=1)
    assert len(one.open("train").sources) == len(one.buckets()) == 2
    assert len({each.name() for each in (data, one, dataclasses.replace(data, num_oblong_clips=0))}) == 3
    assert dataclasses.replace(data, num_oblong_clips=400).smoke().num_oblong_clips == 8


def test_pictures(tmp_path):
    """Single frames must not be judged on, nor have the scenes of the clips: they are for what clips are too few of."""
    data = ClipData(str(tmp_path), 2, 2, num_frames=5, height=16, width=32, num_pictures=40)
    clips, pictures = data.open("train").sources
    assert clips[0]["video"].shape == (5, 16, 32, 3)
    assert pictures[0]["video"].shape == (1, 16, 32, 3)
    assert len(data.open("test")) == 2
    assert data.buckets()[1:] == (Bucket(1, 16, 32),)
    scenes = [data.scene(pictures.about(i)) for i in range(40)]
    assert 0.4 < np.mean([len(scene.subjects) == 2 for scene in scenes]) < 0.8
    assert not any(held_out(scene) for scene in scenes)
    assert data.name() != dataclasses.replace(data, num_pictures=0).name()
    assert dataclasses.replace(data, num_pictures=400).smoke().num_pictures == 8


def test_large_clips(tmp_path):
    """The same scenes, larger: cut out of larger ones, outlines would be as wide as they are there."""
    data = ClipData(str(tmp_path), 2, 2, num_frames=9, height=16, width=32, num_large_clips=2)
    small, large = data.open("train").sources
    assert large[0]["video"].shape == (5, 32, 64, 3)
    halved = large[0]["video"][0].reshape(16, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - small[0]["video"][0]).mean() < 8
    assert data.buckets()[1:] == (Bucket(5, 32, 64),)
    assert len(data.open("test")) == 2
    assert data.name() != dataclasses.replace(data, num_large_clips=0).name()
    assert dataclasses.replace(data, num_large_clips=400).smoke().num_large_clips == 8
