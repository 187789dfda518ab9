"""Datasets of TFDS as clips, without TensorFlow."""

import dataclasses
import io
import json
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vidjax.data.source import TfdsData
from vidjax.errors import InputError


class ToyMoves(tfds.core.GeneratorBasedBuilder):
    """Videos of 5 to 8 frames, stored as pictures; brightness tells which it is."""

    VERSION = tfds.core.Version("1.2.0")
    code_path = pathlib.Path(__file__).parent / "elsewhere" / "toy.py"

    def _info(self):
        frames = tfds.features.Sequence(tfds.features.Image(shape=(24, 16, 3), encoding_format="png"))
        label = tfds.features.ClassLabel(names=["JumpRope", "pick_up"])
        features = {"video": frames, "label": label, "who": tfds.features.Text()}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 4), "test": self._generate_examples(4, 6)}

    def _generate_examples(self, start, end):
        for i in range(start, end):
            # Encoded here: from an array TFDS would do it with TensorFlow.
            Image.new("RGB", (16, 24), (40 * i,) * 3).save(png := io.BytesIO(), "PNG")
            frames = [io.BytesIO(png.getvalue()) for _ in range(5 + i % 4)]
            yield i, {"video": frames, "label": i % 2, "who": "a fox"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The toy dataset in array_record files, said to hold what `tfds.features.Video` would write."""
    place = tmp_path_factory.mktemp("tfds")
    builder = ToyMoves(data_dir=str(place))
    builder.download_and_prepare(file_format="array_record")
    path = builder.data_path / "features.json"
    features = json.loads(path.read_text())
    video = {"shape": {"dimensions": ["-1", "24", "16", "3"]}, "dtype": "uint8", "encodingFormat": "png"}
    name = "tensorflow_datasets.core.features.video_feature.Video"
    features["featuresDict"]["features"]["video"] = {"pythonClassName": name, "video": video}
    path.write_text(json.dumps(features))
    return place


@pytest.fixture
def data(prepared, tmp_path):
    return TfdsData(
        "tfds:toy_moves", "{who} does {label}", str(prepared), str(tmp_path), num_frames=5, height=16, width=16
    )


def test_clips_with_captions_from_their_labels(data):
    """Its own test split is held out; each clip has the caption of its own label."""
    train, test = data.open("train"), data.open("test")
    assert (len(train), len(test)) == (4, 2)
    for i, example in enumerate([train[i] for i in range(4)] + [test[i] for i in range(2)]):
        assert example["video"].shape == (5, 16, 16, 3)
        np.testing.assert_array_equal(example["video"], 40 * i)
        said = data.caption(example, np.random.default_rng(0))
        assert said == ("a fox does pick up" if i % 2 else "a fox does jump rope")
    assert data.captions(2) == ["a fox does jump rope", "a fox does pick up"]
    assert len(data.smoke().open("train")) == 4
    assert data.name().startswith("clips-")


def test_cut_once(data, prepared, tmp_path):
    """Read again, nothing is decoded; other settings are other clips."""
    name = data.name()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.array_record")}
    assert data.name() == name
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.array_record")} == before
    other = TfdsData("tfds:toy_moves:1.2.0", "x", str(prepared), str(tmp_path), 5, 16, 16)
    assert other.name() != name
    assert other.open("train")[0]["captions"] == ["x"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": "tfds:toy_move"}, "no dataset 'toy_move' in .*tfds build toy_move --file_format=array_record"),
        ({"dataset": "tfds:toy_moves:2.0.0"}, "no dataset 'toy_moves:2.0.0'"),
        ({"template": "a {colour} thing"}, "no feature 'colour'; its features are label, video, who"),
        ({"template": "a {label"}, "template='a {label'"),
        ({"video": "clip"}, "no feature 'clip'"),
        ({"video": "who"}, "6 of 6 files cannot be used; .*first train/0: Its 'who' is"),
        ({"num_frames": 17}, "6 of 6 files cannot be used; .*fewer than the 17"),
    ],
)
def test_bad_input_is_one_line(data, changes, said):
    """A wrong name must not end in a traceback out of another library."""
    with pytest.raises(InputError, match=said) as error:
        dataclasses.replace(data, **changes).open("train")
    assert "\n" not in str(error.value)
