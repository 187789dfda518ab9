"""Clips to look at while a denoiser is trained: held-out captions, from noise to frames."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.data.buckets import first_examples
from vidjax.data.source import DataConfig
from vidjax.diffusion import sampling as walks
from vidjax.diffusion.flow import initial_noise, make_schedule
from vidjax.diffusion.guidance import classifier_free
from vidjax.diffusion.solvers import SOLVERS
from vidjax.models.wan import vae
from vidjax.models.wan.presets import SamplingDefaults
from vidjax.parallel.rules import constrain
from vidjax.typing import Array, Float, Params, UInt8
from vidjax.video import Video, to_uint8

CLIPS = 4

Row = Callable[[str], dict[str, np.ndarray]]
"""What an example of a batch has of its caption."""

Encode = Callable[[Params, dict[str, Array]], Float[Array, "B L D"]]
"""``(params, rows) -> text``, of a batch of such."""

Denoise = Callable[[Float[Array, "B L D"], Params, Float[Array, "B f h w c"], Float[Array, "B f"]], Array]
"""``(text, params, x, t) -> velocity``."""


class Parts(NamedTuple):
    """What clips are made with."""

    row: Row
    encode: Encode
    denoise: Denoise
    autoencoder: vae.VAEConfig
    sampling: SamplingDefaults


def sample_clips(
    parts: Parts,
    params: Params,
    autoencoder: Params,
    data: DataConfig,
    source: Any,
    key: Array,
) -> dict[str, Video]:
    """A clip for each of the first captions of ``source``, whose examples have ``latents``, of the size of theirs.

    From words alone, as the model's own defaults have it; ``autoencoder`` decodes.
    """
    clips = {}
    for examples in first_examples(source, CLIPS):
        captions = [data.caption(example, np.random.default_rng(i)) for i, example in enumerate(examples)]
        shape = (len(examples), *examples[0]["latents"].shape)
        rows = [parts.row(text) for text in (*captions, *[""] * len(captions))]
        frames = make_frames(parts, params, autoencoder, stack(rows), initial_noise(key, shape))
        clips |= {text: Video(f, parts.sampling.fps) for text, f in zip(captions, np.asarray(frames), strict=True)}
    return clips


@functools.partial(jax.jit, static_argnames="parts")
def make_frames(
    parts: Parts,
    params: Params,
    autoencoder: Params,
    rows: dict[str, Array],
    noise: Float[Array, "B f h w c"],
) -> UInt8[Array, "B F H W 3"]:
    """From noise to frames, whole on every device; ``rows`` are of the captions, and behind them of as many empty."""
    settings, text = parts.sampling, parts.encode(params, rows)

    def pair(x: Float[Array, "B f h w c"], t: Float[Array, ""]) -> tuple[Array, Array]:
        both = jnp.concatenate([x, x])
        positive, negative = jnp.split(parts.denoise(text, params, both, jnp.broadcast_to(t, both.shape[:2])), 2)
        return positive, negative

    schedule = make_schedule(settings.num_inference_steps, settings.flow_shift)
    velocity = classifier_free(pair, settings.guidance_scale)
    latents = walks.sample(velocity, noise, schedule, SOLVERS["unipc"])
    pixels = vae.decode(parts.autoencoder, autoencoder, vae.denormalize(parts.autoencoder, latents))
    return constrain(to_uint8(pixels))


def stack(rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Examples as a batch."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
