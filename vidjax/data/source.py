"""Which clips a task is trained on, and where they lie."""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vidjax.data.buckets import Bucket, Bucketed
from vidjax.data.records import INDEX, open_split, read_index
from vidjax.data.shapes import Scene, caption, scene_from_json, training_scene


@runtime_checkable
class DataConfig(Protocol):
    """What a task asks of its data: a frozen dataclass of plain values."""

    folder: str
    """Where they lie, and what is computed from them."""

    def open(self, split: str) -> Any:
        """Random access, by ``len(source)`` and ``source[i]``, to the split ``train`` or ``test``, which are apart.

        An example is a dict that has ``video``, uint8 [F, H, W, 3]. Examples of several shapes are a `Bucketed`.
        """
        ...

    def name(self) -> str:
        """A file name that tells these clips from others."""
        ...

    def buckets(self) -> tuple[Bucket, ...]:
        """The shapes of the clips."""
        ...

    def caption(self, example: dict[str, Any], rng: np.random.Generator) -> str:
        """One of the captions of an example; its video is not looked at."""
        ...

    def captions(self, count: int) -> list[str]:
        """Captions of up to so many training examples; no video is read."""
        ...

    def smoke(self) -> "DataConfig":
        """A copy with a few clips."""
        ...


@runtime_checkable
class SceneData(DataConfig, Protocol):
    """Data of a world in which it is known what is to be seen: words can be swapped and factors told."""

    num_clips: int

    def scene(self, example: dict[str, Any]) -> Scene:
        """The scene of an example."""
        ...

    def caption(self, example: dict[str, Any], rng: np.random.Generator, untold: Collection[str] = ()) -> str:
        """One of the captions of an example, without what is to be ``untold`` (``shapes.caption``)."""
        ...

    def scenes(self, count: int) -> list[Scene]:
        """The first training scenes."""
        ...


@runtime_checkable
class ListedData(DataConfig, Protocol):
    """Data whose captions are written down, so that they can be encoded ahead."""

    def written(self) -> list[str]:
        """Every caption of both splits; no video is read."""
        ...


@dataclasses.dataclass(frozen=True)
class ClipData:
    """Clips of the shapes world: rendered into ``folder`` at the first use, read afterwards.

    Sizes are in pixels; ``seed`` chooses the scenes. For training there are also ``num_long_clips`` of ``long_frames``:
    what takes the whole clip is slower in them, so that they are good for windows behind the first alone. And there are
    ``num_camera_clips``, whose cameras do several things at once, at any speed: for models with a camera adapter; and
    ``num_oblong_clips``, half of which are half as wide again, half as high again, and show more of the world; and
    ``num_pictures``, single frames, most of two subjects: they teach at the least cost what is where; and
    ``num_large_clips`` of ``large_frames`` frames at twice the width and height, for autoencoders: of one size alone
    they learn outlines of one width and steps of one length, and blur those of larger clips.
    """

    folder: str = "~/.cache/vidjax/data"
    num_clips: int = 12_000
    num_test_clips: int = 512
    num_frames: int = 17
    height: int = 64
    width: int = 64
    seed: int = 0
    num_long_clips: int = 0
    long_frames: int = 33
    num_camera_clips: int = 0
    num_oblong_clips: int = 0
    num_pictures: int = 0
    num_large_clips: int = 0
    large_frames: int = 5

    def open(self, split: str) -> Any:
        """Random access to the split ``train`` or ``test`` (compositions kept from training)."""
        from vidjax.data.shapes.builder import load_shapes

        size = {name: getattr(self, name) for name in ("num_test_clips", "num_frames", "height", "width", "seed")}
        load = functools.partial(load_shapes, Path(self.folder).expanduser(), split)
        sources = [load(num_clips=self.num_clips, **size)]
        if split == "train" and self.num_long_clips:
            sources.append(load(num_clips=self.num_long_clips, **size | {"num_frames": self.long_frames}))
        if split == "train" and self.num_camera_clips:
            sources.append(load(num_clips=self.num_camera_clips, kind="drifting", **size))
        if split == "train" and self.num_oblong_clips:
            halves = self.num_oblong_clips - self.num_oblong_clips // 2, self.num_oblong_clips // 2
            for count, (height, width) in zip(halves, self._oblong(), strict=True):
                if count:
                    sources.append(load(num_clips=count, **size | {"height": height, "width": width}))
        if split == "train" and self.num_pictures:
            sources.append(load(num_clips=self.num_pictures, kind="pictured", **size | {"num_frames": 1}))
        if split == "train" and self.num_large_clips:
            large = {"num_frames": self.large_frames, "height": 2 * self.height, "width": 2 * self.width}
            sources.append(load(num_clips=self.num_large_clips, **size | large))
        return sources[0] if len(sources) == 1 else Bucketed(tuple(sources))

    def _oblong(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width of the clips that are wider, and of those that are higher."""
        return (self.height, 3 * self.width // 2), (3 * self.height // 2, self.width)

    def name(self) -> str:
        """A file name that tells these clips from others."""
        size = f"{self.num_frames}x{self.height}x{self.width}"
        long = f"-{self.num_long_clips}x{self.long_frames}" if self.num_long_clips else ""
        camera = f"-camera{self.num_camera_clips}" if self.num_camera_clips else ""
        oblong = f"-oblong{self.num_oblong_clips}" if self.num_oblong_clips else ""
        pictures = f"-pictures{self.num_pictures}" if self.num_pictures else ""
        large = f"-large{self.num_large_clips}x{self.large_frames}" if self.num_large_clips else ""
        extra = f"{long}{camera}{oblong}{pictures}{large}"
        return f"shapes-{size}-{self.num_clips}-{self.num_test_clips}{extra}-seed{self.seed}"

    def buckets(self) -> tuple[Bucket, ...]:
        """The shapes of the clips."""
        lengths = (self.num_frames, self.long_frames) if self.num_long_clips else (self.num_frames,)
        own = [Bucket(length, self.height, self.width) for length in lengths]
        oblong = self._oblong()[: self.num_oblong_clips]  # of one there is none to be higher
        pictures = [Bucket(1, self.height, self.width)] if self.num_pictures else []
        large = [Bucket(self.large_frames, 2 * self.height, 2 * self.width)] if self.num_large_clips else []
        return (*own, *(Bucket(self.num_frames, *size) for size in oblong), *pictures, *large)

    def smoke(self) -> "ClipData":
        """A copy with a few clips."""
        extra = ("num_long_clips", "num_camera_clips", "num_oblong_clips", "num_pictures", "num_large_clips")
        few = {name: min(getattr(self, name), 8) for name in extra}
        return dataclasses.replace(self, num_clips=32, num_test_clips=8, **few)

    def scene(self, example: dict[str, Any]) -> Scene:
        """The scene of an example."""
        return scene_from_json(example["scene"])

    def caption(self, example: dict[str, Any], rng: np.random.Generator, untold: Collection[str] = ()) -> str:
        """One of the captions of an example, without what is to be ``untold`` (``shapes.caption``)."""
        return caption(self.scene(example), rng, untold)

    def scenes(self, count: int) -> list[Scene]:
        """The first training scenes; nothing is rendered."""
        return [training_scene(self.seed, i) for i in range(count)]

    def captions(self, count: int) -> list[str]:
        """A caption of each of the first training scenes."""
        return [caption(scene, np.random.default_rng((self.seed, i))) for i, scene in enumerate(self.scenes(count))]


@dataclasses.dataclass(frozen=True)
class FolderData:
    """Your clips: a dataset that ``vidjax data`` made, in ``folder``. ``max_clips``: the first of each bucket only."""

    folder: str
    max_clips: int | None = None

    def open(self, split: str) -> Any:
        """Random access to the split ``train`` or ``test``, in buckets.

        Raises:
          InputError: the folder holds no whole dataset.
        """
        return open_split(self._place(), split, self.max_clips)

    def name(self) -> str:
        """A file name that changes with the clips."""
        most = "" if self.max_clips is None else f"-{self.max_clips}"
        return f"clips-{read_index(self._place()).fingerprint}{most}"

    def buckets(self) -> tuple[Bucket, ...]:
        """The shapes of the clips."""
        return tuple(shards.bucket for shards in read_index(self._place()).shards)

    def caption(self, example: dict[str, Any], rng: np.random.Generator) -> str:
        """One of the captions of an example."""
        return example["captions"][rng.integers(len(example["captions"]))]

    def captions(self, count: int) -> list[str]:
        """All captions of up to ``count`` training clips, evenly chosen."""
        source = self.open("train")
        chosen = np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)
        return [text for i in chosen for text in source.about(int(i))["captions"]]

    def written(self) -> list[str]:
        """Every caption of both splits; no video is read."""
        sources = [self.open(split) for split in ("train", "test")]
        return [text for source in sources for i in range(len(source)) for text in source.about(i)["captions"]]

    def smoke(self) -> "FolderData":
        """A copy with a few clips of each bucket."""
        return dataclasses.replace(self, max_clips=8)

    def _place(self) -> Path:
        return Path(self.folder).expanduser()


@dataclasses.dataclass(frozen=True)
class TfdsData:
    """A video dataset of TFDS that lies prepared, in array_record files, in ``data_dir``; cut to clips at first use.

    Args:
      dataset: ``tfds:NAME``, ``tfds:NAME/CONFIG``, either perhaps with ``:VERSION``.
      template: the caption; names of features in braces are filled in.
      folder: where the clips go.
      video: the feature that is the clip.
      frame_step: 2 takes every second frame, and so on; such datasets do not record times.
      max_pieces: clips, one after another, that a long video gives.
      max_broken: share of the videos that may be unusable, such as too short.
      max_clips: the first of each bucket only.
    """

    dataset: str
    template: str = "a video of {label}"
    data_dir: str = "~/tensorflow_datasets"
    folder: str = "~/.cache/vidjax/data"
    num_frames: int = 17
    height: int = 64
    width: int = 64
    video: str = "video"
    frame_step: int = 1
    max_pieces: int = 1
    max_broken: float = 0.1
    max_clips: int | None = None

    def open(self, split: str) -> Any:
        """Random access to the split ``train`` or ``test`` (the dataset's own, or a share of it).

        Raises:
          InputError: the dataset is not there, or is not one of clips.
        """
        return self._clips().open(split)

    def name(self) -> str:
        """A file name that changes with the clips."""
        return self._clips().name()

    def buckets(self) -> tuple[Bucket, ...]:
        """The one shape of all clips."""
        return (Bucket(self.num_frames, self.height, self.width),)

    def caption(self, example: dict[str, Any], rng: np.random.Generator) -> str:
        """The caption of an example."""
        return example["captions"][rng.integers(len(example["captions"]))]

    def captions(self, count: int) -> list[str]:
        """Captions of up to ``count`` training clips, evenly chosen."""
        return self._clips().captions(count)

    def written(self) -> list[str]:
        """Every caption of both splits; no video is read."""
        return self._clips().written()

    def smoke(self) -> "TfdsData":
        """A copy with a few clips."""
        return dataclasses.replace(self, max_clips=8)

    def _clips(self) -> FolderData:
        """The clips, cut if they are not yet."""
        made = {k: v for k, v in dataclasses.asdict(self).items() if k not in ("folder", "max_broken", "max_clips")}
        digest = hashlib.sha256(json.dumps(made).encode()).hexdigest()[:12]
        name = self.dataset.removeprefix("tfds:")
        place = Path(self.folder).expanduser() / f"tfds-{re.sub(r'[^0-9A-Za-z.]+', '-', name)}-{digest}"
        if not (place / INDEX).exists():
            from vidjax.data.prepare import Settings, prepare
            from vidjax.data.tfds_videos import find_videos

            settings = Settings(self.buckets(), max_pieces=self.max_pieces)
            data_dir = Path(self.data_dir).expanduser()
            items, test = find_videos(name, data_dir, self.template, self.video, self.frame_step)
            is_test = (lambda item: item.startswith(f"{test}/")) if test else None
            prepare(items, place, settings, self.max_broken, is_test=is_test)
        return FolderData(str(place), self.max_clips)
