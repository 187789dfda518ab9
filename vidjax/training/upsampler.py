"""Training the latent upsampler: latents of clips at half their size, to those at their own."""

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.checks import whole
from vidjax.config import TrainConfig
from vidjax.data.buckets import Bucketed, check_buckets, first_examples
from vidjax.data.latents import fingerprint, open_latents
from vidjax.data.source import ClipData, DataConfig
from vidjax.errors import InputError
from vidjax.models.wan import upsampler, vae
from vidjax.models.wan.sharding import UPSAMPLER_RULES
from vidjax.training.autoencoder import psnr_of
from vidjax.training.samples import stack
from vidjax.training.sensitivity import pixel_metric
from vidjax.training.task import Task
from vidjax.typing import Array, Float, Params, UInt8
from vidjax.weights import folder

EVAL_BATCH = 8

METRIC_CLIPS = 24
"""Clips that tell what of the latents shows."""


@dataclasses.dataclass(frozen=True)
class UpsamplerTask:
    """Loss: the squared error of normalized latents at the size of the clips, as it shows in pixels.

    That is `sensitivity.pixel_metric`: of the channels of a latent one may do a hundred times what another does.

    Args:
      vae: a folder with a part ``vae``, whose latents they are.
      data: clips of twice the size that will be enlarged.
      noise: the small latents get as much of it as a uniform number up to this says (standard deviation, of latents
        whose own is 1): those of a denoiser are not as clean as an encoder's.
    """

    vae: str
    model: upsampler.UpsamplerConfig
    data: DataConfig = ClipData(height=128, width=128)
    noise: float = 0.2
    eval_clips: int = 32

    def make(self, config: TrainConfig) -> Task:
        """The task as functions; computes both kinds of latents at the first call.

        Raises:
          InputError: half of a clip's size does not suit the autoencoder, or its latents have other channels.
        """
        vae_config = folder.read_config(Path(self.vae), "vae")
        if self.model.z_dim != vae_config.z_dim:
            raise InputError(f"model.z_dim={self.model.z_dim}: latents of {self.vae} have {vae_config.z_dim} channels")
        whole("eval_clips", self.eval_clips, 1, 2**20)
        check_buckets(self.data.buckets(), vae_config.temporal_factor, 2 * vae_config.spatial_factor)
        vae_params = folder.read_part(Path(self.vae), "vae", vae_config, "float32")
        place = Path(self.data.folder).expanduser() / "latents"

        def pairs(split: str) -> Any:
            clips, name = self.data.open(split), f"{self.data.name()}-{split}"
            large = open_latents(vae_config, vae_params, clips, place, name)
            return paired(large, open_latents(vae_config, vae_params, halved(clips), place, f"{name}-halved"))

        train, test = pairs("train"), pairs("test")
        some = itertools.chain(*first_examples(train, METRIC_CLIPS))
        metric = pixel_metric(vae_config, vae_params, [_rows(example)["latents"] for example in some])
        return Task(
            init=functools.partial(upsampler.init, self.model),
            loss=functools.partial(self.loss, metric),
            source=train,
            transform=lambda example, rng: _rows(example),
            evaluate=lambda params, key: self.evaluate(vae_config, vae_params, params, test),
            rules=UPSAMPLER_RULES,
            data=f"{self.data.name()}-{fingerprint(vae_config, vae_params)}",
            export=lambda params, out: folder.write_part(out, "upsampler", self.model, params, "bfloat16"),
        )

    def smoke(self) -> "UpsamplerTask":
        """A copy for seconds."""
        model = dataclasses.replace(self.model, dim=8, num_res_blocks=1)
        return dataclasses.replace(self, model=model, data=self.data.smoke(), eval_clips=2)

    def loss(
        self, metric: Float[np.ndarray, "z z"], params: Params, batch: dict[str, Array], key: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Traceable; see the class."""
        small, (how_much, noise) = batch["small"], jax.random.split(key)
        strength = self.noise * jax.random.uniform(how_much, (len(small), 1, 1, 1, 1))
        y, _ = upsampler.upsample_chunk(
            self.model, params, None, small + strength * jax.random.normal(noise, small.shape)
        )
        error = y - batch["latents"]
        return jnp.mean(error * (error @ metric)), {"squared": jnp.mean(error**2)}

    def evaluate(self, config: vae.VAEConfig, vae_params: Params, params: Params, source: Any) -> dict[str, float]:
        """Against the large latents: the mean squared error, and decoded, the mean PSNR in dB over clips."""
        errors, scores = [], []
        for examples in first_examples(source, self.eval_clips):
            for start in range(0, len(examples), EVAL_BATCH):
                rows = stack([_rows(example) for example in examples[start : start + EVAL_BATCH]])
                error, psnr = _compare(config, self.model, vae_params, params, rows)
                errors.append(np.asarray(error))
                scores.append(np.asarray(psnr))
        return {"squared": float(np.concatenate(errors).mean()), "psnr": float(np.concatenate(scores).mean())}


@functools.partial(jax.jit, static_argnames=("config", "model"))
def _compare(
    config: vae.VAEConfig,
    model: upsampler.UpsamplerConfig,
    vae_params: Params,
    params: Params,
    rows: dict[str, Array],
) -> tuple[Array, Array]:
    """Of each clip the squared error of its latents, and the PSNR of what they decode to."""
    y, _ = upsampler.upsample_chunk(model, params, None, rows["small"])
    pixels = [vae.decode(config, vae_params, vae.denormalize(config, z)) for z in (y, rows["latents"])]
    error, squared = (
        jnp.mean((a - b) ** 2, axis=(1, 2, 3, 4)) for a, b in ((y, rows["latents"]), (pixels[0], pixels[1]))
    )
    return error, psnr_of(squared)


def _rows(example: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(example[name], np.float32) for name in ("latents", "small")}


@dataclasses.dataclass(frozen=True)
class Halved:
    """Examples of a source with their ``video`` at half its size."""

    source: Any

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.source[index]
        return {**example, "video": half_size(example["video"])}


@dataclasses.dataclass(frozen=True)
class Paired:
    """Examples of ``large``, with the latents of ``small`` as ``small``."""

    large: Any
    small: Any

    def __len__(self) -> int:
        return len(self.large)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.large[index], "small": self.small[index]["latents"]}


def halved(source: Any) -> Any:
    """A source, bucketed or not, at half its size."""
    return Bucketed(tuple(map(Halved, source.sources))) if isinstance(source, Bucketed) else Halved(source)


def paired(large: Any, small: Any) -> Any:
    """Sources of both sizes, bucketed or not, as one of pairs."""
    if isinstance(large, Bucketed):
        return Bucketed(tuple(Paired(*each) for each in zip(large.sources, small.sources, strict=True)))
    return Paired(large, small)


def half_size(video: UInt8[np.ndarray, "F H W 3"]) -> UInt8[np.ndarray, "F h w 3"]:
    """Cells of 2 x 2 pixels averaged."""
    F, H, W, _ = video.shape
    cells = video.reshape(F, H // 2, 2, W // 2, 2, 3).astype(np.uint16).sum(axis=(2, 4))
    return ((cells + 2) // 4).astype(np.uint8)
