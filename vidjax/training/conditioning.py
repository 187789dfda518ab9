"""What a denoiser learns to follow beside words: frames that are given, the frames before, pictures, a camera.

The settings, the same whether it is trained from nothing or goes on learning, and the examples that come of them.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidjax.checks import number
from vidjax.data.buckets import check_frames, sources_of
from vidjax.data.latents import fingerprint, open_latents
from vidjax.data.source import ClipData, DataConfig, SceneData
from vidjax.errors import InputError
from vidjax.models.wan.camera_adapter import CameraAdapterConfig
from vidjax.models.wan.presets import SamplingDefaults
from vidjax.models.wan.vae import VAEConfig
from vidjax.training import camera as cameras
from vidjax.training.camera import CameraTraining
from vidjax.training.references import (
    Beside,
    Gallery,
    beside,
    check_shares,
    open_pictures,
    see,
    taught,
    tell,
    with_pictures,
)
from vidjax.training.samples import Row
from vidjax.training.windows import check_window, first_windows, window_row
from vidjax.typing import Array, Bool, Float, Params

UNTOLD = ("size", "action", "place")
"""What a caption may leave out and nothing else tells: then it may be anything."""


class Clips(NamedTuple):
    """Latents of both splits, and of the pictures that training examples can be beside; ``name`` tells them apart."""

    train: Any
    test: Any
    pictures: Gallery | None
    name: str


class Example(NamedTuple):
    """A row of a batch; whether its caption was ``dropped``, and what of the scene it leaves ``untold``."""

    row: dict[str, Any]
    dropped: bool
    untold: Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioning:
    """Which clips, and in which shares of them what is known beside the caption.

    Args:
      caption_dropout: share of captions left out, for guidance.
      untold_share: share of captions that leave out one or more of ``UNTOLD``, as what people write does; of the shapes
        world only.
      given_share: share of clips of which latent frames are given at time 0, for models with one time per frame; see
        ``flow_matching.given_frames``. A model whose latent frames were all trained to be given says so when exported.
      reference_share: share of examples that are beside one to three pictures of their subject, whose colour and shape
        the caption rarely tells then; of the shapes world only.
      portraits: how many there are of each subject to choose these pictures from: a few are learned by heart, and then
        nothing of shapes in pictures that are new.
      style_share: share of examples that are beside a still in their style, half of them beside a picture of their
        subject too, if ``reference_share`` is not 0. An exported model says which pictures it was trained for.
      window: latent frames of a sample, of clips that are longer: as many as the model's own ``num_frames`` are.
      later_share: share of these samples that begin behind the clip's first latent frame, with some given: they teach
        to go on, for clips of several windows.
      past_noise: diffusion time of what these are given, which the denoiser is told: it learns to mend what it goes on
        from, and long clips come apart less (Chen et al., 2407.01392). An exported model goes on from such frames.
        None: the model's own.
      causal_share: share of the steps that are causal, so that clips can be made frame by frame: a latent frame sees
        those before it, see ``causal.causal_noising``; with ``later`` samples that behind their clip's first. A model
        that has learned so says so when exported.
      camera: a camera adapter learns too, of clips of the shapes world.
    """

    data: DataConfig = ClipData()
    caption_dropout: float = 0.1
    untold_share: float = 0.0
    given_share: float = 0.3
    reference_share: float = 0.0
    portraits: int = 512
    style_share: float = 0.0
    window: int | None = None
    later_share: float = 0.5
    past_noise: float | None = None
    causal_share: float = 0.0
    camera: CameraTraining | None = None

    def check(self, sampling: SamplingDefaults, temporal_factor: int) -> None:
        """See that these clips have what is to be learned, in samples as long as what is sampled.

        Raises:
          InputError: they have not.
        """
        number("caption_dropout", self.caption_dropout, 0, 1)
        check_frames("sampling.num_frames", sampling.num_frames, temporal_factor)
        check_untold(self.untold_share, self.data)
        check_shares(self.data, self.reference_share, self.style_share, self.portraits)
        check_window(self.window, sampling, temporal_factor)
        if self.past_noise is not None:
            number("past_noise", self.past_noise, 0, 1)
        cameras.check_camera(self.camera, self.data, temporal_factor)

    def open(self, config: VAEConfig, params: Params) -> Clips:
        """The clips as latents of this autoencoder, computed at the first call."""
        place = Path(self.data.folder).expanduser() / "latents"
        train, test = (
            open_latents(config, params, self.data.open(split), place, f"{self.data.name()}-{split}")
            for split in ("train", "test")
        )
        pictures = None
        if self.reference_share or self.style_share:
            portraits = self.portraits if self.reference_share else 0
            pictures = open_pictures(config, params, self.data, place, portraits)
            train = with_pictures(train, self.data, self.reference_share, self.style_share)
        test = test if self.window is None else first_windows(test, self.window)
        train = filled_batches(train, self.window)
        return Clips(train, test, pictures, f"{self.data.name()}-{fingerprint(config, params)}")

    def example(
        self, caption_row: Row, pictures: Gallery | None, example: dict[str, Any], rng: np.random.Generator
    ) -> Example:
        """An example of the training clips as a row of a batch: ``latents``, what ``caption_row`` makes of one of the
        captions, latents of pictures beside it, poses of the camera."""
        dropped, seen = bool(rng.random() < self.caption_dropout), see(self.data, pictures, example, rng)
        camera, start = cameras.draw(self.camera, self.data, example, rng), 0
        untold = *seen.show, *camera.show, *draw_untold(self.untold_share, rng)
        row = latents_row(caption_row, example, "" if dropped else tell(self.data, example, rng, untold)) | seen.latents
        if self.window is not None and len(row["latents"]) > 1:  # a picture is whole
            cut, start = window_row(row["latents"], self.window, self.later_share, self.causal_share > 0, rng)
            row |= cut
        if self.camera is not None:
            row |= cameras.pose_row(self.data, example, start, len(row["latents"]), camera, rng)
        return Example(row, dropped, untold)

    def past_time(self, sampling: SamplingDefaults) -> float:
        """The diffusion time of what later windows are given."""
        return sampling.past_noise if self.past_noise is None else self.past_noise

    def learned(self) -> dict[str, Any]:
        """What the sampling defaults say of a model that was trained so."""
        learned = {"causal": True} if self.causal_share else {}
        if self.past_noise is not None:
            learned["past_noise"] = self.past_noise
        return learned | taught(self.reference_share, self.style_share)


def filled_batches(source: Any, window: int | None) -> Any:
    """A source of latents whose batches of single pictures have as many latent frames as those of clips.

    Frames of the pictures that examples are beside count too.
    """
    sources = sources_of(source)
    frames = [len(one[0]["latents"]) if len(one) else 0 for one in sources]
    if 1 not in frames or max(frames) == 1:
        return source
    most = max(frames) if window is None else window
    extra = [one.pictures if isinstance(one, Beside) else 0 for one in sources]
    multiples = ((most + more) // (1 + more) if own == 1 else 1 for own, more in zip(frames, extra, strict=True))
    return dataclasses.replace(source, multiples=tuple(multiples))


def draw_untold(share: float, rng: np.random.Generator) -> list[str]:
    """What a caption leaves out: in ``share`` of them each of ``UNTOLD`` as often as not, at least one."""
    if not share or rng.random() >= share:
        return []
    left = rng.random(len(UNTOLD)) < 0.5
    left[rng.integers(len(UNTOLD))] = True
    return [name for name, out in zip(UNTOLD, left, strict=True) if out]


def check_untold(share: float, data: DataConfig) -> None:
    """Raises InputError unless it is a share, and of captions whose factors are known."""
    number("untold_share", share, 0, 1)
    if share and not isinstance(data, SceneData):
        raise InputError(f"untold_share={share}: only captions of the shapes world can leave something out; choose 0")


def latents_row(caption_row: Row, example: dict[str, Any], caption: str) -> dict[str, np.ndarray]:
    """The latents of an example, and its caption: a row of a batch without anything beside."""
    return {"latents": np.asarray(example["latents"], np.float32), **caption_row(caption)}


def conditioned(
    denoise: Callable[..., Float[Array, "B f h w c"]],
    adapter: CameraAdapterConfig | None,
    text: Float[Array, "B L D"],
    params: Params,
    batch: dict[str, Array],
    x: Float[Array, "B f h w c"],
    t: Float[Array, "B f"],
    causal: bool | Bool[Array, ""],
    dtype: Any,
) -> Float[Array, "B f h w c"]:
    """What ``denoise`` says of noisy latents with this text, beside the pictures of the batch, under its camera."""
    added = None if adapter is None else cameras.added_tokens(adapter, params, batch, dtype)
    return beside(functools.partial(denoise, text, params, causal=causal, added=added), batch)(x, t)
