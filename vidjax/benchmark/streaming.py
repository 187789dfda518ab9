"""How soon the first frame of a clip is there, and whether each latent frame takes as long as the others."""

import dataclasses
import statistics
import time
from collections.abc import Sequence

from vidjax.errors import InputError
from vidjax.generation import stream as frames_of_clip
from vidjax.long import MAX_FRAMES, continues, window_frames
from vidjax.model import Model, load
from vidjax.request import clip_frames

PROMPT = "a small red circle moves right on grass"


@dataclasses.dataclass(frozen=True)
class StreamReport:
    """Seconds to the first frame of clips of some ``lengths``, in seconds: made ``causal``ly, and in ``windows`` (None
    where the model makes none). All was compiled before.

    ``frame_seconds`` are those of each latent frame of the longest clip behind the first window, made causally;
    ``video_seconds`` those that a latent frame plays for.
    """

    lengths: tuple[float, ...]
    causal: tuple[float, ...]
    windows: tuple[float, ...] | None
    frame_seconds: tuple[float, ...]
    video_seconds: float

    def __str__(self) -> str:
        rows = {"frame by frame": self.causal, "in windows": self.windows}
        lines = []
        for name, row in rows.items():
            if row is not None:
                each = (f"{s:.2f} s of {n:g} s" for s, n in zip(row, self.lengths, strict=True))
                lines.append(f"first frame, {name}: {', '.join(each)}")
        part = max(1, len(self.frame_seconds) // 4)
        early, late = (statistics.median(s) for s in (self.frame_seconds[:part], self.frame_seconds[-part:]))
        lines.append(
            f"a latent frame: {early:.2f} s in the first quarter, {late:.2f} s in the last; "
            f"it plays for {self.video_seconds:.2f} s"
        )
        return "\n".join(lines)


def stream(
    model: str | Model | None = None, seconds: Sequence[float] = (4.0, 90.0), dtype: str = "bfloat16"
) -> StreamReport:
    """Clips of some lengths, streamed by a model, loaded or to be loaded; whether it was trained for that is no matter.

    Raises:
      InputError: a length that no clip can have, or none that is longer than the model's own clip by two latent frames.
    """
    model = model if isinstance(model, Model) else load(model, dtype=dtype)
    sampling = dataclasses.replace(model.config.sampling, causal=True)
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, sampling=sampling))
    ratio, own = model.config.vae.temporal_factor, window_frames(model.config)
    least = (own + 2 * ratio) / sampling.fps
    for length in seconds:
        clip_frames(model.config, None, length, sampling.fps, MAX_FRAMES)
    if not seconds or max(seconds) < least:
        raise InputError(f"seconds={tuple(seconds)}: one of them must be {least:g} at least")

    def times(length: float, causal: bool, count: int | None = None) -> list[float]:
        """From the call to the first chunk, and from one to the next, of so many."""
        found, start = [], time.perf_counter()
        for _ in frames_of_clip(model, PROMPT, duration=length, causal=causal):
            found.append(time.perf_counter() - start)
            start = time.perf_counter()
            if len(found) == count:
                break
        return found

    times(least, True)
    first = [times(length, True, 1)[0] for length in seconds]
    windows = None
    if continues(model.config):
        times(max(seconds), False, 1)
        windows = tuple(times(length, False, 1)[0] for length in seconds)
    behind = 1 + (own - 1) // ratio
    frames = times(max(seconds), True)[behind:]
    return StreamReport(tuple(seconds), tuple(first), windows, tuple(frames), ratio / sampling.fps)
