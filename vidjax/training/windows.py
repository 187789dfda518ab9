"""Windows cut out of longer clips: what a model learns from that is to go on where another window ended.

The first latent frame of a clip holds one frame, every later one four. In a window from the middle of a clip position
0 is of the later kind, as it is where a long clip is rolled out (``vidjax.long``).
"""

import dataclasses
from typing import Any

import numpy as np

from vidjax.data.buckets import Bucketed
from vidjax.errors import InputError
from vidjax.models.wan.presets import SamplingDefaults
from vidjax.typing import Float


def cut_window(
    latents: Float[np.ndarray, "f h w z"], frames: int, later_share: float, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "g h w z"], int]:
    """``frames`` latent frames of a clip, and at which of its own they begin.

    In ``later_share`` of the samples they begin anywhere behind it, in the others with it; a clip that is no longer
    than a window is left whole.
    """
    behind = len(latents) - frames
    later, start = rng.random() < later_share, rng.integers(max(behind, 1))
    start = 1 + start if later and behind > 0 else 0
    return latents[start : start + frames], int(start)


def window_row(
    latents: Float[np.ndarray, "f h w z"], frames: int, later_share: float, causal: bool, rng: np.random.Generator
) -> tuple[dict[str, Any], int]:
    """What an example of a batch has of such a window, and at which latent frame of the clip that begins.

    ``latents``, whether it is a ``later`` one, and, for ``causal`` steps, the ``first`` latent frame of the clip.

    A causal step sees the first frame and then the window's own, any other step the window as it is cut. So the batch
    carries both: each kind of step has windows of the form that it is sampled in, at the cost of one frame.
    """
    cut, start = cut_window(latents, frames, later_share, rng)
    return {"latents": cut, "later": start > 0, **({"first": latents[:1]} if causal else {})}, start


def check_window(window: int | None, sampling: SamplingDefaults, ratio: int) -> None:
    """See that samples are as long as what is sampled.

    Raises:
      InputError: they are not.
    """
    sampled = 1 + (sampling.num_frames - 1) // ratio
    if window is not None and not window == sampled > 1:
        raise InputError(
            f"window={window}: must be the latent frames of sampling.num_frames={sampling.num_frames}, at least 2; "
            f"nearest: {max(sampled, 2)}"
        )


@dataclasses.dataclass(frozen=True)
class FirstWindows:
    """Examples of a source, with the first ``frames`` latent frames of their ``latents``."""

    source: Any
    frames: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.source[index]
        return {**example, "latents": example["latents"][: self.frames]}


def first_windows(source: Any, frames: int) -> Any:
    """A source of latents, bucketed or not, as clips that begin are sampled: what a model is judged on."""
    if isinstance(source, Bucketed):
        return Bucketed(tuple(FirstWindows(one, frames) for one in source.sources))
    return FirstWindows(source, frames)
