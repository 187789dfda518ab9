"""Which clips a task is trained on."""

import dataclasses

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
