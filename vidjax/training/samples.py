"""Clips to look at while a denoiser is trained: held-out captions, from noise to frames."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidjax import tokenizer as tokenizers
from vidjax.data.buckets import first_examples
from vidjax.data.source import DataConfig
from vidjax.diffusion import sampling as walks
from vidjax.diffusion.flow import initial_noise, make_schedule
from vidjax.diffusion.guidance import classifier_free
from vidjax.diffusion.solvers import SOLVERS
from vidjax.models.wan import vae
from vidjax.models.wan.presets import SamplingDefaults
from vidjax.parallel.rules import constrain
from vidjax.typing import Array, Float, Int, Params, UInt8
from vidjax.video import Video, to_uint8

CLIPS = 4

Encode = Callable[[Params, Int[Array, "B L"], Int[Array, "B"]], Float[Array, "B L D"]]
"""``(params, tokens, lengths) -> text``."""

Denoise = Callable[[Float[Array, "B L D"], Params, Float[Array, "B f h w c"], Float[Array, "B f"]], Array]
"""``(text, params, x, t) -> velocity``."""


class Parts(NamedTuple):
    """What clips are made with."""

    encode: Encode
    denoise: Denoise
    autoencoder: vae.VAEConfig
    sampling: SamplingDefaults


def sample_clips(
    parts: Parts,
    params: Params,
    autoencoder: Params,
    tokenizer: tokenizers.Tokenizer,
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
        frames = make_frames(parts, params, autoencoder, _tokens(tokenizer, captions), initial_noise(key, shape))
        clips |= {text: Video(f, parts.sampling.fps) for text, f in zip(captions, np.asarray(frames), strict=True)}
    return clips


@functools.partial(jax.jit, static_argnames="parts")
def make_frames(
    parts: Parts,
    params: Params,
    autoencoder: Params,
    tokens: tuple[Int[Array, "N L"], Int[Array, "N"]],
    noise: Float[Array, "B f h w c"],
) -> UInt8[Array, "B F H W 3"]:
    """From noise to frames, whole on every device; ``tokens`` are of the captions, and behind them of as many empty."""
    settings, text = parts.sampling, parts.encode(params, *tokens)

    def pair(x: Float[Array, "B f h w c"], t: Float[Array, ""]) -> tuple[Array, Array]:
        both = jnp.concatenate([x, x])
        positive, negative = jnp.split(parts.denoise(text, params, both, jnp.broadcast_to(t, both.shape[:2])), 2)
        return positive, negative

    schedule = make_schedule(settings.num_inference_steps, settings.flow_shift)
    velocity = classifier_free(pair, settings.guidance_scale)
    latents = walks.sample(velocity, noise, schedule, SOLVERS["unipc"])
    pixels = vae.decode(parts.autoencoder, autoencoder, vae.denormalize(parts.autoencoder, latents))
    return constrain(to_uint8(pixels))


def _tokens(tokenizer: tokenizers.Tokenizer, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    tokens = tokenizers.tokenize(tokenizer, [*captions, *[""] * len(captions)])
    return tokens.ids, tokens.lengths
