"""Flow matching with given frames: what a denoiser is trained on, and how well it does at each diffusion time.

``velocity(params, batch, x, t)`` is the model's answer to noisy latents ``x`` of a batch at per-frame times ``t``.
Where causal steps are trained it takes ``causal`` too, which may be known only when it runs.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.diffusion.flow import initial_noise, interpolate
from vidjax.training.causal import Noising, causal_noising, one_noisy
from vidjax.training.losses import logit_normal_times
from vidjax.typing import Array, Bool, Float, Params

BANDS = (0.2, 0.5, 0.8, 0.95)
"""Diffusion times at which a model is judged: the plain loss hides where it fails."""

CAUSAL_BANDS = (0.5, 0.8)
"""The same of causal steps."""

EVAL_BATCH = 8

MAX_SHIFT = 20.0
"""Of the mean of the times' normal: beyond it all times are 0, or 1."""

CAUSAL = 2**31
"""Folded into the key of a step for what only causal ones draw."""

BatchVelocity = Callable[..., Array]


def flow_loss(
    velocity: BatchVelocity,
    params: Params,
    batch: dict[str, Array],
    key: Array,
    shift: float,
    given_share: float,
    times: tuple[float, float] = (0.0, 1.0),
    causal_share: float = 0.0,
    past_noise: float = 0.0,
) -> Float[Array, ""]:
    """Mean squared error of the velocity over the frames that are not given (Lipman et al., 2210.02747).

    One diffusion time a clip, logit-normal with mean ``shift`` and kept within ``times``; given frames are at 0.
    Clips that are ``later`` windows of longer ones, where the batch says so, always have some, at ``past_noise``.

    In ``causal_share`` of the steps all clips are noised by ``causal_noising`` instead, and attention is causal: one
    program, of which a step runs one or the other attention.
    """
    time_key, noise_key, given_key = jax.random.split(key, 3)
    x0 = batch["latents"]
    B, f = x0.shape[:2]
    later = batch.get("later")
    given = given_frames(given_key, B, f, given_share, later)
    past = 0.0 if later is None else past_noise * later[:, None]
    t = jnp.where(given, past, logit_normal_times(time_key, (B, 1), shift, times))
    asked, causal = Noising(x0, t, ~given), False
    if causal_share:
        kind_key, own_key = jax.random.split(jax.random.fold_in(key, CAUSAL))
        causal = jax.random.bernoulli(kind_key, causal_share)
        own = causal_noising(own_key, batch, shift, times)
        asked = jax.tree.map(lambda a, b: jnp.where(causal, a, b), own, asked)
    batch, noise = {**batch, "latents": asked.latents}, initial_noise(noise_key, x0.shape)
    losses = frame_losses(velocity, params, batch, noise, asked.times, causal)
    return jnp.sum(jnp.where(asked.counts, losses, 0.0)) / jnp.sum(asked.counts)


def frame_losses(
    velocity: BatchVelocity,
    params: Params,
    batch: dict[str, Array],
    noise: Array,
    t: Float[Array, "B f"],
    causal: bool | Bool[Array, ""] = False,
) -> Float[Array, "B f"]:
    """Mean squared error of the velocity of each latent frame."""
    x, target = interpolate(batch["latents"], noise, t)
    kind = {} if causal is False else {"causal": causal}
    return jnp.mean((velocity(params, batch, x, t, **kind) - target) ** 2, axis=(2, 3, 4))


def given_frames(
    key: Array, batch: int, frames: int, share: float, later: Bool[Array, "B"] | None = None
) -> Bool[Array, "B f"]:
    """Which latent frames are given, in ``share`` of the clips: what people give, as often as they might.

    The first in half of these; the first several, the last several, the first and the last, or any in an eighth each.
    One is always left.
    ``later`` windows all have their first one or several: no clip begins in the middle.
    """
    which, how, count, scattered, one = jax.random.split(key, 5)
    place = jnp.arange(frames)
    first = place == 0
    several = place < jax.random.randint(count, (batch, 1), 1, max(frames, 2))
    any_ = jax.random.bernoulli(scattered, 0.5, (batch, frames)) | (
        place == jax.random.randint(one, (batch, 1), 0, frames)
    )
    kind = jax.random.choice(how, 5, (batch, 1), p=jnp.array([1 / 2, *[1 / 8] * 4]))
    both = first | (place == frames - 1)
    given = jnp.select([kind == i for i in range(4)], [first, several, several[:, ::-1], both], any_)
    given &= jax.random.bernoulli(which, share, (batch, 1))
    if later is not None:
        given = jnp.where(later[:, None], several, given)
    return given & ~(given.all(axis=1, keepdims=True) & (place == frames - 1))


def held_out_losses(
    velocity: BatchVelocity, params: Params, batches: Sequence[dict[str, Any]], key: Array, causal: bool = False
) -> dict[str, float]:
    """``loss_TIME``: the mean error at each time of ``BANDS``, nothing given.

    And where it is ``causal``, ``causal_loss_TIME`` of ``CAUSAL_BANDS``. Each batch has latents of one shape.
    """
    scores = {f"loss_{time}": mean_loss(velocity, params, batches, key, time) for time in BANDS}
    bands = CAUSAL_BANDS if causal else ()
    return scores | {f"causal_loss_{time}": mean_loss(velocity, params, batches, key, time, True) for time in bands}


def mean_loss(
    velocity: BatchVelocity,
    params: Params,
    batches: Sequence[dict[str, Any]],
    key: Array,
    time: float,
    causal: bool = False,
) -> float:
    """``loss_at`` of all clips, ``EVAL_BATCH`` at a time; the same noise for the same key."""
    losses, weights = [], []
    for batch in batches:
        for start in range(0, len(batch["latents"]), EVAL_BATCH):
            part = jax.tree.map(lambda x, start=start: x[start : start + EVAL_BATCH], batch)
            noise_key = jax.random.fold_in(key, len(losses))
            losses.append(float(loss_at(velocity, params, part, noise_key, jnp.float32(time), causal)))
            weights.append(len(part["latents"]))
    return float(np.average(losses, weights=weights))


@functools.partial(jax.jit, static_argnames=("velocity", "causal"))
def loss_at(
    velocity: BatchVelocity,
    params: Params,
    batch: dict[str, Any],
    key: Array,
    t: Float[Array, ""],
    causal: bool = False,
) -> Float[Array, ""]:
    """Mean error at one diffusion time; where it is ``causal``, of one frame of each clip behind clean ones."""
    shape = batch["latents"].shape
    noise = initial_noise(key, shape)
    if not causal:
        return frame_losses(velocity, params, batch, noise, jnp.broadcast_to(t, shape[:2])).mean()
    times, noisy = one_noisy(t, *shape[:2])
    return frame_losses(velocity, params, batch, noise, times, True)[jnp.arange(shape[0]), noisy].mean()
