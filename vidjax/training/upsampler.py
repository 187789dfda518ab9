"""Training the spatial upsampler: what an autoencoder makes of clips at half their size, to the clips themselves."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vidjax.checks import number, whole
from vidjax.config import TrainConfig
from vidjax.data.buckets import Bucketed, check_buckets, first_examples
from vidjax.data.latents import fingerprint, open_latents
from vidjax.data.source import ClipData, DataConfig
from vidjax.models import upsampler
from vidjax.models.wan import vae
from vidjax.models.wan.sharding import UPSAMPLER_RULES
from vidjax.parallel.mesh import make_mesh
from vidjax.training.autoencoder import psnr_of
from vidjax.training.samples import stack
from vidjax.training.task import Task
from vidjax.typing import Array, Float, Params, UInt8
from vidjax.video import from_uint8
from vidjax.weights import folder

EVAL_BATCH = 8

FRAMES_OF = 4
"""Of so many frames of a clip a step learns from one: neighbours tell nearly the same."""


@dataclasses.dataclass(frozen=True)
class UpsamplerTask:
    """Loss: the absolute error of pixels in [-1, 1], which blurs outlines less than the squared one.

    Args:
      vae: a folder with a part ``vae``: frames to enlarge look as its decoder makes them.
      data: clips of twice the size that will be enlarged.
      noise: latents get as much of it as a uniform number up to this says (standard deviation, of latents whose own
        is 1): those of a denoiser are not as clean as an encoder's.
      sharp_share: the share of clips whose small frames are cells of 2 x 2 pixels averaged, as they are: what was
        enlarged once, and is to be enlarged again, is no longer as a decoder makes it.
    """

    vae: str
    model: upsampler.UpsamplerConfig = upsampler.UpsamplerConfig()
    data: DataConfig = ClipData(height=128, width=128)
    noise: float = 0.1
    sharp_share: float = 0.5
    eval_clips: int = 32

    def make(self, config: TrainConfig) -> Task:
        """The task as functions; computes the latents of the small clips at the first call.

        Raises:
          InputError: half of a clip's size does not suit the autoencoder, or a share is none.
        """
        place = Path(self.vae).expanduser()
        coder = folder.read_config(place, "vae")
        upsampler.check_config(self.model)
        number("noise", self.noise, 0, 1)
        number("sharp_share", self.sharp_share, 0, 1)
        whole("eval_clips", self.eval_clips, 1, 2**20)
        check_buckets(self.data.buckets(), coder.temporal_factor, 2 * coder.spatial_factor)
        params = folder.read_part(place, "vae", coder, "float32")
        kept = Path(self.data.folder).expanduser() / "latents"

        def pairs(split: str) -> Any:
            clips, name = self.data.open(split), f"{self.data.name()}-{split}-halved"
            return paired(clips, open_latents(coder, params, halved(clips), kept, name))

        train, test = pairs("train"), pairs("test")
        everywhere = NamedSharding(make_mesh(**dataclasses.asdict(config.mesh)), PartitionSpec())
        frozen = {"vae": jax.device_put(params, everywhere)}
        return Task(
            init=functools.partial(upsampler.init, self.model),
            loss=functools.partial(self.loss, coder),
            source=train,
            transform=lambda example, rng: _rows(example),
            evaluate=lambda params, key: self.evaluate(coder, frozen["vae"], params, test),
            rules=UPSAMPLER_RULES,
            data=f"{self.data.name()}-{fingerprint(coder, params)}",
            export=lambda params, out: folder.write_part(out, "upsampler", self.model, params, "bfloat16"),
            frozen=frozen,
        )

    def smoke(self) -> "UpsamplerTask":
        """A copy for seconds."""
        model = dataclasses.replace(self.model, dim=8, num_res_blocks=1)
        return dataclasses.replace(self, model=model, data=self.data.smoke(), eval_clips=2)

    def loss(
        self, coder: vae.VAEConfig, params: Params, batch: dict[str, Array], key: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Traceable; see the class."""
        latents, video = batch["small"], batch["video"]
        B, F, H, W, _ = video.shape
        how_much, noise, which, at = jax.random.split(key, 4)
        at = jax.random.choice(at, F, (max(1, F // FRAMES_OF),), replace=False)
        large = from_uint8(video[:, at])
        strength = self.noise * jax.random.uniform(how_much, (B, 1, 1, 1, 1))
        decoded = _decode(coder, params["vae"], latents + strength * jax.random.normal(noise, latents.shape))
        means = large.reshape(B, -1, H // 2, 2, W // 2, 2, 3).mean(axis=(3, 5))
        small = jnp.where(jax.random.bernoulli(which, self.sharp_share, (B, 1, 1, 1, 1)), means, decoded[:, at])
        small, large = (x.reshape(-1, *x.shape[2:]) for x in (jax.lax.stop_gradient(small), large))
        error = upsampler.upsample(self.model, params, small) - large
        return jnp.mean(jnp.abs(error)), {"squared": jnp.mean(error**2)}

    def evaluate(self, coder: vae.VAEConfig, vae_params: Params, params: Params, source: Any) -> dict[str, float]:
        """The PSNR in dB of decoded small clips, enlarged, the mean over clips."""
        scores = []
        for examples in first_examples(source, self.eval_clips):
            for start in range(0, len(examples), EVAL_BATCH):
                rows = stack([_rows(example) for example in examples[start : start + EVAL_BATCH]])
                scores.append(np.asarray(_psnr(coder, self.model, vae_params, params, rows)))
        return {"psnr": float(np.concatenate(scores).mean())}


def _decode(coder: vae.VAEConfig, params: Params, latents: Float[Array, "B f h w z"]) -> Float[Array, "B F H W 3"]:
    return vae.decode(coder, params, vae.denormalize(coder, latents))


@functools.partial(jax.jit, static_argnames=("coder", "model"))
def _psnr(
    coder: vae.VAEConfig,
    model: upsampler.UpsamplerConfig,
    vae_params: Params,
    params: Params,
    rows: dict[str, Array],
) -> Float[Array, "B"]:
    small = _decode(coder, vae_params, rows["small"])
    # Frame by frame: all at once are gigabytes.
    found = jax.lax.map(lambda x: upsampler.upsample(model, params, x), small.swapaxes(0, 1)).swapaxes(0, 1)
    return psnr_of(jnp.mean((jnp.clip(found, -1, 1) - from_uint8(rows["video"])) ** 2, axis=(1, 2, 3, 4)))


def _rows(example: dict[str, Any]) -> dict[str, np.ndarray]:
    return {"video": np.asarray(example["video"]), "small": np.asarray(example["small"], np.float32)}


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
        return {**self.large[index], "small": self.small.latents[index]}


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
