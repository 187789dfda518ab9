"""Clips on disk: array_record files of a part of a dataset, an index over all of them, random access.

A bucket's frames and what is said of them lie in files of their own, so that captions are read without frames.
``dataset.json`` is written last: a folder that has it is whole.
"""

import dataclasses
import io
import json
import os
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from vidjax.data.buckets import Bucket, Bucketed
from vidjax.errors import InputError

INDEX = "dataset.json"
BROKEN = "broken.jsonl"
SPLITS = ("train", "test")
_KINDS = ("about", "frames")
_OPTIONS = {"about": "group_size:1", "frames": "group_size:1,uncompressed"}


def pack(frames: UInt8[np.ndarray, "F H W 3"], quality: int | None) -> bytes:
    """Frames as a zlib stream, or as JPEG pictures of this quality, each after its length (uint32)."""
    if quality is None:
        return zlib.compress(np.ascontiguousarray(frames), 1)
    from PIL import Image

    pictures = []
    for frame in frames:
        Image.fromarray(frame).save(out := io.BytesIO(), "JPEG", quality=quality, subsampling=0)
        pictures.append(out.getvalue())
    return np.asarray([len(p) for p in pictures], "<u4").tobytes() + b"".join(pictures)


def unpack(data: bytes, shape: tuple[int, int, int, int], quality: int | None) -> UInt8[np.ndarray, "F H W 3"]:
    """What `pack` packed; JPEG is lossy."""
    if quality is None:
        return np.frombuffer(zlib.decompress(data), np.uint8).reshape(shape)
    from PIL import Image

    ends = np.cumsum(np.frombuffer(data, "<u4", shape[0])) + 4 * shape[0]
    starts = [4 * shape[0], *ends[:-1]]
    pictures = [data[start:end] for start, end in zip(starts, ends, strict=True)]
    return np.stack([np.asarray(Image.open(io.BytesIO(p), formats=["JPEG"])) for p in pictures])


class PartWriter:
    """Writes the clips of one part; made by `open_part`. ``counts`` says how many there are of each bucket."""

    def __init__(self, out: Path, part: int):
        self._out, self._part, self._token = out, part, secrets.token_hex(4)
        self._writers: dict[Bucket, list[Any]] = {}
        self.counts: dict[Bucket, int] = {}

    def write(self, bucket: Bucket, about: dict[str, Any], frames: bytes) -> None:
        """Appends packed frames and what is said of them."""
        from array_record.python.array_record_module import ArrayRecordWriter

        if bucket not in self._writers:
            self._writers[bucket] = [
                ArrayRecordWriter(str(self._temporary(bucket, kind)), _OPTIONS[kind]) for kind in _KINDS
            ]
            self.counts[bucket] = 0
        for writer, data in zip(self._writers[bucket], (json.dumps(about).encode(), frames), strict=True):
            writer.write(data)
        self.counts[bucket] += 1

    def _temporary(self, bucket: Bucket, kind: str) -> Path:
        return self._out / f".{self._token}-{shard_name(bucket, self._part, kind)}"


@contextmanager
def open_part(out: Path, part: int) -> Iterator[PartWriter]:
    """Opens the files of a part; they get their names when the context ends well, and are removed if it does not."""
    writer = PartWriter(out, part)
    try:
        try:
            yield writer
        finally:
            for files in writer._writers.values():
                for file in files:
                    file.close()
        for bucket in writer._writers:
            for kind in _KINDS:
                os.replace(writer._temporary(bucket, kind), out / shard_name(bucket, part, kind))
    finally:
        for path in out.glob(f".{writer._token}-*"):
            path.unlink()


def shard_name(bucket: Bucket, part: int, kind: str) -> str:
    """The file of a bucket's frames, or of what is said of them, of one part."""
    return f"{bucket}-{part:05d}.{kind}.array_record"


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file that is there whole or not at all."""
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        temporary.write_text(json.dumps(value) + "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class Shards:
    """Where the clips of a bucket are: ``(part, clips)`` of each file, and which of them are kept for tests."""

    bucket: Bucket
    files: tuple[tuple[int, int], ...]
    test: tuple[int, ...]

    @property
    def count(self) -> int:
        """Clips, of both splits."""
        return sum(count for _, count in self.files)


@dataclasses.dataclass(frozen=True)
class Index:
    """A whole dataset: its buckets, how frames are packed, frames per second, a name that changes with the clips."""

    shards: tuple[Shards, ...]
    quality: int | None
    fps: float
    fingerprint: str
    same_test: bool
    """A single file is all there is: both splits have it."""


def write_index(out: Path, index: Index) -> None:
    """Makes the dataset whole."""
    write_json(out / INDEX, dataclasses.asdict(index))


def read_index(folder: Path) -> Index:
    """What `write_index` wrote.

    Raises:
      InputError: there is no such dataset, or its making did not end.
    """
    path = folder / INDEX
    try:
        values = json.loads(path.read_text())
        shards = tuple(
            Shards(Bucket(**s["bucket"]), tuple((part, count) for part, count in s["files"]), tuple(s["test"]))
            for s in values.pop("shards")
        )
        return Index(shards, **values)
    except OSError:
        begun = any(folder.glob("part-*.json"))
        fault = "is not finished: run the same `vidjax data` line again" if begun else "is no dataset"
        hint = "" if begun else f": make one with `vidjax data CLIPS {folder}`"
        raise InputError(f"{folder} {fault}{hint}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}): make the dataset again") from error


def open_split(folder: Path, split: str, most: int | None = None) -> Bucketed:
    """Random access to the clips of a split, bucket after bucket; of each bucket the first ``most``.

    An example is a dict of ``video`` (uint8 [F, H, W, 3]), ``captions`` (a list of str), ``file`` (its name),
    ``start`` (seconds into the file) and ``fps``.

    Raises:
      InputError: no such split, or no whole dataset.
    """
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; splits are 'train' and 'test'")
    index = read_index(folder)
    sources = (_open_bucket(folder, index, shards, split, most) for shards in index.shards)
    return Bucketed(tuple(source for source in sources if len(source)))


def _open_bucket(folder: Path, index: Index, shards: Shards, split: str, most: int | None) -> "Records":
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    rows = np.asarray(shards.test, np.int64)
    if split == "train" and not index.same_test:
        rows = np.setdiff1d(np.arange(shards.count), rows)
    about, frames = (
        # With the counts said, no file is opened before it is read.
        ArrayRecordDataSource([f"{folder / shard_name(shards.bucket, p, kind)}[0:{n}]" for p, n in shards.files])
        for kind in _KINDS
    )
    return Records(about, frames, rows[:most], shards.bucket, index.quality)


@dataclasses.dataclass(frozen=True)
class Records:
    """The clips of one bucket in a split, unpacked as they are read."""

    said: Any
    packed: Any
    rows: Int[np.ndarray, "clips"]
    bucket: Bucket
    quality: int | None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        about = self.about(index)
        return {**about, "video": unpack(self.packed[self._row(index)], self.bucket.shape, self.quality)}

    def about(self, index: int) -> dict[str, Any]:
        """An example without its frames, which are not read."""
        return json.loads(self.said[self._row(index)])

    def _row(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        return int(self.rows[index])
