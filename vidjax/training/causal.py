"""Causal steps of flow matching: a latent frame sees those before it, and each has a diffusion time of its own.

Diffusion Forcing (Chen et al., 2407.01392), mostly as clips are made (``vidjax.causal``): what was is clean, and one
frame is noise. A clip that has gone on for long is seen as its first latent frame and the last ones, so a window from
the middle of a longer clip begins with that clip's first.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vidjax.checks import number
from vidjax.errors import InputError
from vidjax.model import ModelConfig
from vidjax.models.wan.causal import sink_slots
from vidjax.models.wan.presets import SamplingDefaults
from vidjax.training.losses import logit_normal_times
from vidjax.typing import Array, Bool, Float, Int

CLEAN_PAST = 0.75
"""Share of the clips of which all frames before a random one are clean; in the others every frame is noisy."""


class Noising(NamedTuple):
    """What a denoiser is asked: clean latents, their times, and the frames whose error counts."""

    latents: Float[Array, "B f h w c"]
    times: Float[Array, "B f"]
    counts: Bool[Array, "B f"]


def causal_noising(key: Array, batch: dict[str, Array], shift: float, times: tuple[float, float]) -> Noising:
    """Of each frame a time, logit-normal with mean ``shift`` and within ``times``, or 0 if it is of a clean past.

    ``later`` windows get the clip's ``first`` latent frame in place of their own, and a clean past that holds the one
    behind it too: nothing can follow the first one so late.
    """
    time_key, past_key, place_key = jax.random.split(key, 3)
    x0, later = batch["latents"], batch.get("later")
    B, f = x0.shape[:2]
    place, least = jnp.arange(f), 0
    clean = jax.random.bernoulli(past_key, CLEAN_PAST, (B, 1))
    if later is not None:
        sink = sink_slots(f - 1)
        seen = jnp.concatenate([batch["first"][:, :sink], x0[:, sink:]], axis=1)
        x0 = jnp.where(later[:, None, None, None, None], seen, x0)
        clean, least = clean | later[:, None], jnp.where(later[:, None], sink + 1, 0)
    noisy = jax.random.randint(place_key, (B, 1), least, f)
    t = logit_normal_times(time_key, (B, f), shift, times)
    t = jnp.where(clean & (place < noisy), 0.0, t)
    return Noising(x0, t, t > 0)


def one_noisy(t: Float[Array, ""], batch: int, frames: int) -> tuple[Float[Array, "B f"], Int[Array, "B"]]:
    """Times of clips in which one frame is at ``t`` and those before it are clean, and which: in turns each one."""
    noisy = jnp.arange(batch) % frames
    return jnp.where(jnp.arange(frames) < noisy[:, None], 0.0, t), noisy


def check_causal_share(share: float, sampling: SamplingDefaults, ratio: int) -> None:
    """Raises InputError unless it is a share, and a clip has a past."""
    number("causal_share", share, 0, 1)
    frames = sampling.num_frames
    if share and frames <= ratio:
        raise InputError(f"causal_share={share}: num_frames={frames} are one latent frame; nearest: {1 + ratio}")


def check_causal_model(share: float, model: ModelConfig, lora: bool) -> None:
    """See that a published model can learn it, and that what is exported can say so.

    Raises:
      InputError: it has two denoisers, or low-rank changes are trained of a model that is not trained for it.
    """
    check_causal_share(share, model.sampling, model.vae.temporal_factor)
    if share and model.boundary_ratio is not None:
        raise InputError(f"causal_share={share}: this model has two denoisers, and frames would need both; choose 0")
    if share and lora and not model.sampling.causal:
        raise InputError(
            f"causal_share={share} with lora: a file of changes cannot say that a model learned it; give lora=none"
        )
