"""Which clips a task is trained on, and where they lie."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from vidjax.data.shapes import Scene, caption, scene_from_json, training_scene


@dataclasses.dataclass(frozen=True)
class ClipData:
    """Clips of the shapes world: rendered into ``folder`` at the first use, read afterwards.

    Sizes are in pixels; ``seed`` chooses the scenes.
    """

    folder: str = "~/.cache/vidjax/data"
    num_clips: int = 12_000
    num_test_clips: int = 512
    num_frames: int = 17
    height: int = 64
    width: int = 64
    seed: int = 0

    def open(self, split: str) -> Any:
        """Random access to the split ``train`` or ``test`` (compositions kept from training)."""
        from vidjax.data.shapes.builder import load_shapes

        sizes = {k: v for k, v in dataclasses.asdict(self).items() if k != "folder"}
        return load_shapes(Path(self.folder).expanduser(), split, **sizes)

    def name(self) -> str:
        """A file name that tells these clips from others."""
        size = f"{self.num_frames}x{self.height}x{self.width}"
        return f"shapes-{size}-{self.num_clips}-{self.num_test_clips}-seed{self.seed}"

    def scene(self, example: dict[str, Any]) -> Scene:
        """The scene of an example."""
        return scene_from_json(example["scene"])

    def caption(self, example: dict[str, Any], rng: np.random.Generator) -> str:
        """One of the captions of an example."""
        return caption(self.scene(example), rng)

    def scenes(self, count: int) -> list[Scene]:
        """The first training scenes; nothing is rendered."""
        return [training_scene(self.seed, i) for i in range(count)]

    def captions(self, count: int) -> list[str]:
        """A caption of each of the first training scenes."""
        return [caption(scene, np.random.default_rng((self.seed, i))) for i, scene in enumerate(self.scenes(count))]
