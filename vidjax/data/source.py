"""Which clips a task is trained on, and where they lie."""

import dataclasses
from pathlib import Path
from typing import Any


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
