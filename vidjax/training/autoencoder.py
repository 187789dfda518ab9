"""Training the video autoencoder: reconstruction, a Kullback-Leibler term, and two that ask how it looks."""

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vidjax.checks import whole
from vidjax.config import TrainConfig
from vidjax.data.buckets import Bucketed, check_buckets, first_examples, sources_of
from vidjax.data.source import ClipData, DataConfig
from vidjax.errors import InputError
from vidjax.models.wan import vae
from vidjax.models.wan.sharding import VAE_RULES
from vidjax.parallel.mesh import make_mesh
from vidjax.parallel.rules import constrain
from vidjax.training import adversarial, perceptual
from vidjax.training.adversarial import Adversarial
from vidjax.training.losses import gaussian_kl, reconstruction
from vidjax.training.perceptual import Perceptual
from vidjax.training.task import Task
from vidjax.typing import Array, Params, PyTree, UInt8
from vidjax.video import Video, from_uint8, to_uint8
from vidjax.weights import folder

STATISTICS_CLIPS = 256
"""Clips whose latents give the mean and standard deviation that are published with the autoencoder."""

DISCRIMINATOR, VGG = "discriminator", "vgg"
"""Where their parameters are, beside the autoencoder's own."""

SINGLE = "single"
"""Says of an example that one of its frames is wanted."""

SAMPLE_CLIPS = 4
SAMPLE_FPS = 8
"""Where the clips do not say."""


@dataclasses.dataclass(frozen=True)
class AutoencoderTask:
    """Loss: ``|y - x| + mse_weight (y - x)^2 + kl_weight KL``, on random pieces of up to ``crop_frames`` frames.

    Args:
      picture_share: share of the batches that are single frames, of the clips and what single pictures there are, with
        as many pixels as a batch of pieces: of more scenes, so that what is in a frame is not forgotten over how it
        moves.
      perceptual: adds an LPIPS distance of the frames, by weights of your own.
      adversarial: adds a discriminator, which learns beside. Begin with it where there is something to judge: train
        without it first, then with ``start``.
      start: a model folder whose part ``vae`` goes on learning, published or trained here; None: from nothing.
    """

    model: vae.VAEConfig
    data: DataConfig = ClipData()
    crop_frames: int = 9
    picture_share: float = 0.0
    mse_weight: float = 2.0
    kl_weight: float = 2e-3
    eval_clips: int = 32
    perceptual: Perceptual | None = None
    adversarial: Adversarial | None = None
    start: str | None = None

    def make(self, config: TrainConfig) -> Task:
        """The task as functions; opens the data.

        Raises:
          InputError: the autoencoder's stages do not fit together, the pieces are longer than the clips, or the size
            does not suit the autoencoder.
          WeightsError: the weights to start from, or those of the perceptual term, cannot be read.
        """
        self._check()
        if self.start is not None:  # before clips are rendered
            folder.read_config(Path(self.start).expanduser(), "vae")
        test = self.data.open("test")
        everywhere = NamedSharding(make_mesh(**dataclasses.asdict(config.mesh)), PartitionSpec())
        vgg = None if self.perceptual is None else perceptual.read(Path(self.perceptual.vgg).expanduser())
        return Task(
            init=self.init,
            loss=self.loss,
            source=with_frames(self.data.open("train"), self.crop_frames, self.picture_share),
            transform=self.transform,
            evaluate=lambda params, key: evaluate(self.model, own_params(params), test, self.eval_clips),
            rules=VAE_RULES,
            export=self.export,
            sample=lambda params, key: reconstructions(self.model, own_params(params), test),
            start=None if self.start is None else self.begin,
            data=self.data.name(),
            frozen={} if vgg is None else {VGG: jax.device_put(vgg, everywhere)},
        )

    def _check(self) -> None:
        vae.check_config(self.model)
        whole("eval_clips", self.eval_clips, 1, 2**20)
        buckets, step = self.data.buckets(), self.model.temporal_factor
        frames = max(bucket.num_frames for bucket in buckets)
        if not 1 <= self.crop_frames <= frames or (self.crop_frames - 1) % step:
            near = 1 + step * min(max(round((self.crop_frames - 1) / step), 0), (frames - 1) // step)
            raise InputError(
                f"crop_frames={self.crop_frames}: must be 1 + a multiple of {step}, and at most num_frames={frames}; "
                f"nearest: {near}"
            )
        if not 0 <= self.picture_share < 1:
            raise InputError(f"picture_share={self.picture_share}: must lie in [0, 1); all single: crop_frames=1")
        for bucket in buckets if self.perceptual else ():
            if min(bucket.height, bucket.width) < perceptual.SMALLEST:
                raise InputError(f"{bucket}: the perceptual term needs sides of {perceptual.SMALLEST} pixels at least")
        pieces = [dataclasses.replace(b, num_frames=min(b.num_frames, self.crop_frames)) for b in buckets]
        check_buckets(pieces, step, self.model.spatial_factor)

    def smoke(self) -> "AutoencoderTask":
        """A copy for seconds."""
        model = dataclasses.replace(self.model, base_dim=8, decoder_base_dim=None)
        return dataclasses.replace(self, model=model, data=self.data.smoke(), eval_clips=2, start=None)

    def init(self, key: Array) -> Params:
        """Random parameters, the discriminator's beside the autoencoder's own."""
        params = vae.init(self.model, key)
        if self.adversarial is not None:
            params[DISCRIMINATOR] = adversarial.init(self.adversarial, jax.random.fold_in(key, 1))
        return params

    def begin(self, abstract: PyTree, key: Array) -> Params:
        """The autoencoder of the folder to start from; a discriminator is new.

        Raises:
          WeightsError: the folder's autoencoder is another, or cannot be read.
        """
        place = Path(self.start).expanduser()
        layout = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        params = folder.read_part(place, "vae", self.model, "float32", own_params(layout))
        if self.adversarial is None:
            return params
        new = functools.partial(adversarial.init, self.adversarial)
        return {**params, DISCRIMINATOR: jax.jit(new, out_shardings=layout[DISCRIMINATOR])(key)}

    def transform(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """A random piece of the clip, half of them mirrored."""
        frames = 1 if example.get(SINGLE) else min(self.crop_frames, example["video"].shape[0])
        start = rng.integers(example["video"].shape[0] - frames + 1)
        video = example["video"][start : start + frames]
        return {"video": video[:, :, ::-1] if rng.random() < 0.5 else video}

    def loss(self, params: Params, batch: dict[str, Array], key: Array) -> tuple[Array, dict[str, Array]]:
        """Traceable; see the class."""
        x = from_uint8(batch["video"])
        own = own_params(params)
        (mean, log_variance), _ = vae.encode_chunk(self.model, own, None, x)
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
        # Not clipped: a gradient must bring back what is out of range.
        split = vae.choose_split(*z.shape[2:4])
        y = vae.Autoencoder(self.model, split).apply({"params": own}, z, method="decode")
        absolute, squared = reconstruction(y, x)
        kl = gaussian_kl(mean, log_variance)
        total = absolute + self.mse_weight * squared + self.kl_weight * kl
        metrics = {"absolute": absolute, "psnr": psnr_of(squared), "kl": kl}
        if self.perceptual is not None:
            frames = (clips.reshape(-1, *clips.shape[2:]) for clips in (y, x))
            metrics["perceptual"] = perceptual.distance(params[VGG], *frames)
            total += self.perceptual.weight * metrics["perceptual"]
        if self.adversarial is not None:
            generator, judge = adversarial.losses(self.adversarial, params[DISCRIMINATOR], x, y)
            metrics |= {"generator": generator, "discriminator": judge}
            total += self.adversarial.weight * generator + judge
        return total, metrics

    def export(self, params: Params, out: Path) -> None:
        """Write the part ``vae``, with the statistics of its latents."""
        params = own_params(params)
        train = clips_of(self.data.open("train"))
        count = min(STATISTICS_CLIPS, len(train))
        clips = (train[int(i)]["video"] for i in np.linspace(0, len(train) - 1, count))
        mean, std = latent_statistics(self.model, params, clips)
        config = dataclasses.replace(
            self.model,
            latents_mean=tuple(float(v) for v in mean),
            latents_std=tuple(float(v) for v in std),
            scale_factor_spatial=self.model.spatial_factor,
            scale_factor_temporal=self.model.temporal_factor,
        )
        folder.write_part(out, "vae", config, params)


@dataclasses.dataclass(frozen=True)
class Frames:
    """The clips of a source, of each of which one frame is wanted."""

    source: Any

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.source[index], SINGLE: True}


def with_frames(source: Any, crop_frames: int, share: float) -> Any:
    """Pieces of clips, and single pictures, with the clips' single frames: this share of the batches.

    A batch of pictures has as many rows as make up the pixels of one of pieces.
    """
    if not share:
        return source
    sources = [(one, one[0]["video"].shape) for one in sources_of(source) if len(one)]
    clips = [(one, min(crop_frames, F) * H * W) for one, (F, H, W, _) in sources if F > 1]
    if not clips:
        return source
    pictures = [(Frames(one) if F > 1 else one, H * W) for one, (F, H, W, _) in sources]
    most, parts = max(pixels for _, pixels in clips), []
    for group, part in ((clips, 1 - share), (pictures, share)):
        total = sum(len(one) for one, _ in group)
        parts += [(one, part * len(one) / total, max(most // pixels, 1)) for one, pixels in group]
    return Bucketed(*zip(*parts, strict=True))


def clips_of(source: Any) -> Any:
    """A source without single pictures, if there is anything else."""
    clips = tuple(one for one in sources_of(source) if len(one) and one[0]["video"].shape[0] > 1)
    return Bucketed(clips) if clips else source


def own_params(params: Params) -> Params:
    """What is the autoencoder's."""
    return {name: part for name, part in params.items() if name not in (DISCRIMINATOR, VGG)}


def psnr_of(squared_error: Array) -> Array:
    """Peak signal-to-noise ratio in dB of pixels in [-1, 1]."""
    return 10.0 * jnp.log10(4.0 / squared_error)


def evaluate(config: vae.VAEConfig, params: Params, source: Any, count: int) -> dict[str, float]:
    """Mean PSNR in dB over clips, through the mean latent and back."""
    examples = itertools.chain(*first_examples(source, count))
    scores = [_reconstruct(config, params, example["video"])[1] for example in examples]
    return {"psnr": float(np.mean(jax.device_get(scores)))}


def reconstructions(config: vae.VAEConfig, params: Params, source: Any) -> dict[str, Video]:
    """The first clips, each beside what came back of it."""
    clips = {}
    for i, example in enumerate(itertools.chain(*first_examples(source, SAMPLE_CLIPS))):
        back = np.asarray(_reconstruct(config, params, example["video"])[0])
        clips[f"clip {i}"] = Video(np.concatenate([example["video"], back], axis=2), example.get("fps", SAMPLE_FPS))
    return clips


@functools.partial(jax.jit, static_argnames="config")
def _reconstruct(config: vae.VAEConfig, params: Params, video: Array) -> tuple[UInt8[Array, "F H W 3"], Array]:
    """What comes back of a clip, whole on every device, and the PSNR before it is rounded."""
    x = from_uint8(video)[None]
    (mean, _), _ = vae.encode_chunk(config, params, None, x)
    y, _ = vae.decode_chunk(config, params, None, mean)
    return constrain(to_uint8(y[0])), psnr_of(jnp.mean((y - x) ** 2))


def latent_statistics(config: vae.VAEConfig, params: Params, clips: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [z] of sampled latents (the posterior's own variance counts)."""

    @jax.jit
    def moments(params: Params, video: Array) -> tuple[Array, Array, Array]:
        (mean, log_variance), _ = vae.encode_chunk(config, params, None, from_uint8(video)[None])
        return mean.mean((0, 1, 2, 3)), (mean**2).mean((0, 1, 2, 3)), jnp.exp(log_variance).mean((0, 1, 2, 3))

    first, second, own = (
        np.mean(v, axis=0) for v in zip(*jax.device_get([moments(params, c) for c in clips]), strict=True)
    )
    return first, np.sqrt(second - first**2 + own)
