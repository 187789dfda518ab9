"""The shapes world as a TFDS dataset on disk, in array_record files; TensorFlow is not needed.

Imports tensorflow_datasets: import this module only where a dataset is wanted.
"""

import dataclasses
import multiprocessing
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Literal

import numpy as np
import tensorflow_datasets as tfds
from filelock import FileLock

from vidjax.data.shapes.captions import caption
from vidjax.data.shapes.render import render
from vidjax.data.shapes.scene import (
    Scene,
    drifting_scene,
    held_out_scene,
    pictured_scene,
    scene_to_json,
    training_scene,
)
from vidjax.errors import InputError

Kind = Literal["named", "drifting", "pictured"]
"""Which scenes: those that captions tell, or of `drifting_scene`, or of `pictured_scene`."""

_SPLITS = ("train", "test")
_WORTH_A_POOL = 256
"""Fewer clips than this are rendered faster than worker processes start."""
_GIGABYTE = 10**9
_UNGUARDED = (
    "clips are rendered by processes that begin by reading your script, and they ended before they were done: in a "
    'script, call this under `if __name__ == "__main__":`'
)


@dataclasses.dataclass(eq=False, kw_only=True)
class ShapesConfig(tfds.core.BuilderConfig):
    """How many clips and of which size; the name follows from them, so every choice has its own folder."""

    name: str = ""
    num_clips: int = 12_000
    num_test_clips: int = 512
    num_frames: int = 17
    height: int = 64
    width: int = 64
    seed: int = 0
    kind: Kind = "named"

    def __post_init__(self):
        size = f"{self.num_frames}x{self.height}x{self.width}"
        kind = "" if self.kind == "named" else f"-{self.kind}"
        self.name = f"{size}-{self.num_clips}-{self.num_test_clips}-seed{self.seed}{kind}"


class ShapesWorld(tfds.core.GeneratorBasedBuilder):
    """Split `train` has training scenes, `test` held-out ones; clip i of a split is scene i of the seed.

    Features: `video` uint8 [F, H, W, 3]; `caption`, one of the sentences that tell the scene; `scene`, JSON text for
    `scene_from_json`, from which other captions can be made. On disk `video` is a zlib stream of its bytes, and a large
    split goes on in `train_1`, `train_2` and so on: TFDS holds one in memory while it writes, and needs TensorFlow
    beyond a gigabyte.
    """

    VERSION = tfds.core.Version("1.1.0")
    code_path = pathlib.Path(__file__)
    """Said here because looking it up needs importlib_resources, which TFDS 4.9.10 uses but does not require."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Coloured shapes act in simple places under a moving camera; with captions.",
            features=tfds.features.FeaturesDict(
                {
                    "video": tfds.features.Tensor(shape=(None,), dtype=np.uint8),
                    "caption": tfds.features.Text(),
                    "scene": tfds.features.Text(),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {
            name: self._generate_examples(split, clips)
            for split in _SPLITS
            for name, clips in _parts(self.builder_config, split).items()
        }

    def _generate_examples(self, split: str, clips: range) -> Iterator[tuple[int, dict]]:
        config = self.builder_config
        size = {"num_frames": config.num_frames, "height": config.height, "width": config.width}
        make = partial(_example, split, config.seed, config.kind, **size)
        if len(clips) < _WORTH_A_POOL:
            yield from enumerate(map(make, clips))
            return
        # Not fork: this process may run threads (JAX does), which a fork would leave in the middle of things.
        with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
            try:
                yield from enumerate(pool.map(make, clips, chunksize=16))
            except BrokenProcessPool as error:
                raise InputError(_UNGUARDED) from error


def load_shapes(
    data_dir: str | os.PathLike,
    split: str = "train",
    *,
    num_clips: int = 12_000,
    num_test_clips: int = 512,
    num_frames: int = 17,
    height: int = 64,
    width: int = 64,
    seed: int = 0,
    kind: Kind = "named",
):
    """A random-access data source of clips, rendered into `data_dir` at the first call and read afterwards.

    `split` is 'train' or 'test'. `len(source)` and `source[i]` work; an item is a dict of `video` (uint8 [F, H, W, 3]),
    `caption` and `scene` (bytes, UTF-8). The first call renders on all cores in spawned processes: in a script keep it
    under `if __name__ == "__main__"`.
    Raises `InputError` for an unknown split, a size or count below 1, or a script without that line.
    """
    if split not in _SPLITS:
        raise InputError(f"the shapes world has no split {split!r}; its splits are 'train' and 'test'")
    if min(num_clips, num_test_clips, num_frames, height, width) < 1:
        raise InputError(
            f"cannot make {num_clips} + {num_test_clips} clips of {num_frames} frames of {height}x{width}; "
            "each must be at least 1"
        )
    config = ShapesConfig(
        num_clips=num_clips,
        num_test_clips=num_test_clips,
        num_frames=num_frames,
        height=height,
        width=width,
        seed=seed,
        kind=kind,
    )
    builder = ShapesWorld(data_dir=os.fspath(data_dir), config=config)
    if not builder.is_prepared():
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            # A renderer that reads the script: it would wait for the one that waits for it.
            raise InputError(_UNGUARDED)
        # Of several processes one renders, and the others wait for it.
        pathlib.Path(data_dir).mkdir(parents=True, exist_ok=True)
        with FileLock(pathlib.Path(data_dir) / f".{builder.name}-{config.name}.lock"):
            builder = ShapesWorld(data_dir=os.fspath(data_dir), config=config)
            builder.download_and_prepare(file_format="array_record")
    parts = tuple(builder.as_data_source(part) for part in _parts(config, split))
    return Clips(parts, (num_frames, height, width, 3), f"{builder.name}-{config.name}-{split}")


def _parts(config: ShapesConfig, split: str) -> dict[str, range]:
    """The splits on disk that hold a split, and which clips of it: none of them over a gigabyte, however packed."""
    count = config.num_clips if split == "train" else config.num_test_clips
    most = max(_GIGABYTE // (3 * config.num_frames * config.height * config.width), 1)
    starts = range(0, count, most)
    return {f"{split}_{i}" if i else split: range(count)[at : at + most] for i, at in enumerate(starts)}


@dataclasses.dataclass(frozen=True)
class Clips:
    """A data source whose clips are unpacked as they are read."""

    parts: tuple[Sequence[dict], ...]
    """All as long as the first, but the last."""
    shape: tuple[int, int, int, int]
    name: str
    """A file name that tells these clips from others."""

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> dict:
        item = self._item(index)
        frames = np.frombuffer(zlib.decompress(item["video"].tobytes()), np.uint8)
        return {**item, "video": frames.reshape(self.shape)}

    def about(self, index: int) -> dict:
        """The item without its frames, which are not unpacked."""
        return {name: value for name, value in self._item(index).items() if name != "video"}

    def _item(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")  # which also ends a `for` over the clips
        part, within = divmod(index, len(self.parts[0]))
        return self.parts[part][within]


def _scene(split: str, seed: int, kind: Kind, index: int) -> Scene:
    if kind == "named":
        return held_out_scene(seed, index) if split == "test" else training_scene(seed, index)
    draw = drifting_scene if kind == "drifting" else pictured_scene
    return draw(seed, index, split == "test")


def _example(split: str, seed: int, kind: Kind, index: int, *, num_frames: int, height: int, width: int) -> dict:
    scene = _scene(split, seed, kind, index)
    return {
        "video": np.frombuffer(zlib.compress(render(scene, num_frames, height, width), 1), np.uint8),
        "caption": caption(scene, np.random.default_rng((seed, index, 1))),
        "scene": scene_to_json(scene),
    }
