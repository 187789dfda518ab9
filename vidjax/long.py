"""Clips longer than a model's own: made in windows, each of which is given the end of the one before.

A model that takes given frames goes on from latents, as in Diffusion Forcing (Chen et al., 2407.01392): no trip through
pixels. One that learned to mend is given them noisy, and the last of them is shown as it comes out: so the frames where
two windows meet have seen each other. An image-to-video model goes on from the last frame that was decoded.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from vidjax.errors import InputError
from vidjax.model import ModelConfig

GIVEN = 2
"""Latent frames that a window is given of the one before: eight frames, enough to tell how things move."""

REMADE = 1
"""How many of these, the last, a window shows as it mended them, where it does: joints are least rough there."""

STRETCH = 2
"""So many times its own latent frames a model makes with RIFLEx: without training the paper goes no further."""

MAX_FRAMES = 1 + 2**20


class Rollout(NamedTuple):
    """``length`` latent frames, made in windows of ``size``; each but the first is given ``overlap`` of them.

    All but the first latent frame are ``ratio`` frames. The first ``begun`` windows are there already, in a clip that
    is gone on with. Of what a window made, the last ``remade`` latent frames are shown as the next one makes them anew.
    """

    length: int
    size: int
    overlap: int
    ratio: int
    begun: int = 0
    remade: int = 0

    @property
    def count(self) -> int:
        """How many windows there are."""
        return 1 + max(0, -(-(self.length - self.size) // (self.size - self.overlap)))

    @property
    def windows(self) -> range:
        """Those that are made."""
        return range(self.begun, self.count)

    def frames(self, latent_frames: int) -> int:
        """How many frames the first so many latent frames are."""
        return max(0, 1 + self.ratio * (latent_frames - 1))

    def first(self, i: int) -> int:
        """The latent frame of the clip that is the first one shown of window ``i``."""
        given = self.overlap if i else 0
        return i * (self.size - self.overlap) + given - (self.remade if i > self.begun else 0)

    def new(self, i: int) -> slice:
        """The latent frames of window ``i`` that are shown: each frame of the clip is of one window."""
        start, end = i * (self.size - self.overlap), self.length if i + 1 == self.count else self.first(i + 1)
        return slice(self.first(i) - start, end - start)


def continues(config: ModelConfig) -> Literal["latents", "frame"] | None:
    """What a window of this model goes on from: the latents of the one before, its last frame, or nothing can."""
    if window_frames(config) == 1:
        return None
    if config.pictures == "frames":
        return "latents"
    return "frame" if config.pictures == "channels" and config.num_pictures[0] < 2 else None


def window_frames(config: ModelConfig) -> int:
    """Frames of a window: the model's own number, which it is trained for."""
    return config.sampling.num_frames


def window_overlap(config: ModelConfig) -> int:
    """Latent frames that a window is given of the one before."""
    size = 1 + (window_frames(config) - 1) // config.vae.temporal_factor
    return min(GIVEN, size - 1) if continues(config) == "latents" else 1


def window_remade(config: ModelConfig) -> int:
    """Latent frames of the one before that a window makes anew, if it mends what it goes on from."""
    mends = continues(config) == "latents" and config.sampling.past_noise > 0
    return min(REMADE, window_overlap(config)) if mends else 0


def seen_frames(config: ModelConfig) -> int:
    """Latent frames that one which is made causally sees of those before it: with it they are a window."""
    return (window_frames(config) - 1) // config.vae.temporal_factor


def check_causal(config: ModelConfig, name: str, others: Mapping[str, Any]) -> None:
    """See that the model of this name makes clips frame by frame, and that nothing else is asked of it.

    Raises:
      InputError: it does not, or one of ``others`` is not None.
    """
    if not config.sampling.causal:
        raise InputError(f"causal: {name} is not trained to make clips frame by frame; training with causal_share does")
    for other, value in others.items():
        if value is not None:
            raise InputError(
                f"{other} with causal: frames are made one after another, from words and perhaps an image; give one of "
                "them"
            )


def make_rollout(config: ModelConfig, num_frames: int, causal: bool = False, riflex: bool = False) -> Rollout:
    """How a clip is made; one that fits a window is one window of its own size.

    ``causal``: in windows of one latent frame, which share none: what they go on from is kept elsewhere. ``riflex``: in
    one window of up to ``STRETCH`` times the model's own latent frames.

    Raises:
      InputError: the clip is longer than a window, and the model cannot go on; or it can, and needs no ``riflex``.
    """
    ratio, most = config.vae.temporal_factor, window_frames(config)
    length, size = (1 + (frames - 1) // ratio for frames in (num_frames, most))
    if causal:
        return Rollout(length, 1, 0, ratio)
    if riflex and continues(config) is not None:
        raise InputError("riflex: this model goes on in windows, however long the clip; leave it out")
    if length <= size * (STRETCH if riflex else 1):
        return Rollout(length, length, 0, ratio)
    stretched = 1 + ratio * (STRETCH * size - 1)
    if riflex:
        raise InputError(f"a clip of {num_frames} frames: too long with riflex too; nearest: {stretched}")
    if continues(config) is None:
        raise InputError(
            f"a clip of {num_frames} frames: this model makes up to {most}; the bundled model, Wan's TI2V-5B and its "
            f"image-to-video models can go on from there; with riflex this one makes {stretched}; nearest: {most}"
        )
    return Rollout(length, size, window_overlap(config), ratio, remade=window_remade(config))


def texts_by_window(script: Sequence[tuple[float, str]], rollout: Rollout, fps: float) -> tuple[str, ...]:
    """The text of each window, from (second, text) in order, the first at 0: that of the middle of its new frames.

    Seconds are counted from where the first window that is made begins.

    Raises:
      InputError: a text would hold for no window.
    """
    if len(script) > 1 and len(rollout.windows) == 1:
        raise InputError(
            f"prompt from {script[1][0]:g} s on: the clip is made in one piece, of one prompt; make it longer"
        )
    chosen, begun = [], rollout.frames(rollout.first(rollout.begun))
    for i in range(rollout.count):
        # The last window's is that of a whole one: a longer clip must begin as a shorter one.
        middle = max(0, sum(rollout.frames(rollout.first(j)) for j in (i, i + 1)) / 2 - begun) / fps
        chosen.append(max(n for n, (start, _) in enumerate(script) if start <= middle))
    for n, (start, _) in enumerate(script):
        if n not in chosen:
            piece = (rollout.size - rollout.overlap) * rollout.ratio / fps
            length = (rollout.frames(rollout.length) - begun) / fps
            raise InputError(
                f"prompt from {start:g} s on: it would hold nowhere in a clip of {length:.1f} s; a clip is made in "
                f"pieces of {piece:.1f} s, and each prompt needs one of its own"
            )
    return tuple(script[n][1] for n in chosen)
