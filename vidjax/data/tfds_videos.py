"""Video datasets of TFDS, prepared in array_record files, as items to make a dataset of; without TensorFlow.

Imports tensorflow_datasets: import this module only where such a dataset is wanted.
"""

import functools
import json
import re
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from vidjax.data.clips import Piece, cut_frames
from vidjax.data.prepare import Item, Settings
from vidjax.errors import InputError, MediaError
from vidjax.image import fit_image

TEST_SPLITS = ("test", "validation")
"""The first that a dataset has is kept for tests."""


class TfdsVideos(NamedTuple):
    """The items of a dataset, ``train/0`` and so on, and the split, if it has one, that is kept for tests."""

    items: list[Item]
    test: str | None


def find_videos(dataset: str, data_dir: Path, template: str, video: str, frame_step: int) -> TfdsVideos:
    """The clips of a prepared dataset, ``NAME``, ``NAME/CONFIG`` or either with ``:VERSION``.

    Captions are ``template`` with the features in braces filled in, labels by their names. Every ``frame_step``-th
    frame is taken: such datasets do not say how many are shown per second.

    Raises:
      InputError: it is not prepared in array_record files, or has no such feature.
    """
    folder = _find(dataset, data_dir)
    info = json.loads((folder / "dataset_info.json").read_text())
    if info.get("fileFormat") != "array_record":
        raise InputError(f"{folder} is in {info.get('fileFormat', 'tfrecord')} files; {_how(dataset, data_dir)}")
    features = _features(folder)
    try:
        wanted = [video, *(field for _, field, _, _ in string.Formatter().parse(template) if field is not None)]
    except ValueError as error:
        raise InputError(f"template={template!r}: {error}") from None
    for name in wanted:
        if name not in features:
            raise InputError(f"{dataset} has no feature {name!r}; its features are {', '.join(sorted(features))}")
    lengths = {split["name"]: [int(n) for n in split["shardLengths"]] for split in info["splits"]}
    test = next((name for name in TEST_SPLITS if name in lengths), None)
    if "train" not in lengths:
        raise InputError(f"{dataset} has no split 'train'; its splits are {', '.join(lengths)}")
    items = []
    for split in filter(None, ("train", test)):
        files = sorted(folder.glob(f"*-{split}.array_record*"))
        if len(files) != len(lengths[split]):
            raise InputError(f"{folder} has {len(files)} of the {len(lengths[split])} files of its split {split}")
        records = ArrayRecordDataSource([f"{f}[0:{n}]" for f, n in zip(files, lengths[split], strict=True)])
        for i in range(len(records)):
            load = functools.partial(_load, features, records, i, template, video, frame_step)
            items.append(Item(f"{split}/{i}", [str(folder), template, video, frame_step], load))
    return TfdsVideos(items, test)


def _find(dataset: str, data_dir: Path) -> Path:
    name, _, version = dataset.partition(":")
    place = data_dir / name
    found = [p for p in place.glob(version or "*.*.*") if (p / "dataset_info.json").is_file()]
    if not found:
        raise InputError(f"there is no dataset {dataset!r} in {data_dir}; {_how(dataset, data_dir)}")
    return max(found, key=lambda p: [int(part) for part in re.findall(r"\d+", p.name)])


def _how(dataset: str, data_dir: Path) -> str:
    return f"make it, where TensorFlow is: tfds build {dataset} --file_format=array_record --data_dir={data_dir}"


def _features(folder: Path) -> Any:
    """The features of a prepared dataset; a Video is read as the sequence of pictures that it is."""

    def without_videos(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if str(value.get("pythonClassName", "")).endswith("video_feature.Video"):
            picture = {
                "dtype": "uint8",
                "encodingFormat": value["video"].get("encodingFormat", "png"),
                "shape": {"dimensions": value["video"]["shape"]["dimensions"][1:]},
            }
            inner = {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image", "image": picture}
            return {
                "pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
                "sequence": {"feature": inner, "length": "-1"},
            }
        return {name: without_videos(item) for name, item in value.items()}

    # A Video itself asks for TensorFlow.
    features = tfds.features.FeatureConnector.from_json(
        without_videos(json.loads((folder / "features.json").read_text()))
    )
    features.load_metadata(str(folder), feature_name=None)
    return features


def _load(
    features: Any,
    records: ArrayRecordDataSource,
    index: int,
    template: str,
    video: str,
    frame_step: int,
    settings: Settings,
    rng: np.random.Generator | None,
) -> tuple[Sequence[str], Iterator[Piece]]:
    example = features.deserialize_example_np(records[index])
    frames = np.asarray(example[video])
    if frames.ndim != 4 or frames.dtype != np.uint8 or frames.shape[-1] not in (1, 3) or 0 in frames.shape:
        raise MediaError(f"Its {video!r} is {frames.dtype} {list(frames.shape)}, not frames of uint8 [F, H, W, 3].")
    frames = np.broadcast_to(frames, (*frames.shape[:3], 3))[::frame_step]
    said = {name: _said(feature, example[name]) for name, feature in features.items() if name != video}
    caption = template.format(**said)

    def read(height: int, width: int) -> Iterator[np.ndarray]:
        yield from (fit_image(frame, height, width) for frame in frames)

    pieces = cut_frames(read, *frames.shape[1:3], settings.buckets, settings.fps, settings.max_pieces, rng)
    return (caption,), pieces


def _said(feature: Any, value: Any) -> str:
    """A value as words: of a label ``JumpRope`` or ``jump_rope``, jump rope."""
    if isinstance(feature, tfds.features.ClassLabel):
        name = feature.int2str(int(value))
        return re.sub(r"(?<=[a-z])(?=[A-Z])|_+", " ", name).lower()
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
