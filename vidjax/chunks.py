"""The autoencoder both ways, one latent frame at a time; and a picture as the latent frame behind others."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.model import Model, ModelConfig
from vidjax.models.wan.vae import VAEConfig
from vidjax.typing import Array, Float, Params, PyTree, UInt8
from vidjax.video import from_uint8, to_uint8

FIT_STEPS = 16
FIT_RATE = 0.1
"""Steps of Adam, and how far one goes in latents whose standard deviation is 1, at first."""

HELD = 0.1
"""What the error of the frames before a picture counts for, beside its own."""

CONTEXT = 2
"""Latent frames of several frames that an encoder or a decoder sees before one, where a whole clip is not there."""


@functools.partial(jax.jit, static_argnames="config")
def decode_chunk(config: ModelConfig, params: Params, cache: PyTree | None, latents: Array) -> tuple[Array, PyTree]:
    """Frames, uint8 [B, n, H, W, 3], of the next normalized latent frames, and the cache to go on with."""
    vae = config.modules.vae
    frames, cache = vae.decode_chunk(config.vae, params, cache, vae.denormalize(config.vae, latents))
    return to_uint8(frames), cache


@functools.partial(jax.jit, static_argnames="config")
def encode_chunk(config: ModelConfig, params: Params, cache: PyTree | None, frames: Array) -> tuple[Array, PyTree]:
    """Normalized latents of the next frames, uint8 [B, n, H, W, 3], and the cache to go on with."""
    vae = config.modules.vae
    (mean, _), cache = vae.encode_chunk(config.vae, params, cache, from_uint8(frames))
    return vae.normalize(config.vae, mean), cache


def by_latent_frame(config: VAEConfig, frames: UInt8[Any, "B F H W 3"]) -> Iterator[UInt8[Any, "B _ H W 3"]]:
    """Those of one latent frame at a time."""
    ratio = config.temporal_factor
    for end in range(1, frames.shape[1] + 1, ratio):
        yield frames[:, max(0, end - ratio) : end]


def encode_frames(model: Model, frames: UInt8[Any, "B F H W 3"]) -> Float[Array, "B f h w z"]:
    """Normalized latents of clips, one latent frame at a time: memory does not grow with their length."""
    cache, latents = None, []
    for chunk in by_latent_frame(model.config.vae, frames):
        encoded, cache = encode_chunk(model.config, model.params["vae"], cache, chunk)
        latents.append(encoded)
    return jnp.concatenate(latents, axis=1)


def encode_behind(
    model: Model, seen: Sequence[UInt8[Array, "B _ H W 3"]], picture: UInt8[np.ndarray, "B H W 3"]
) -> Float[Array, "B 1 h w z"]:
    """A picture, held, as the latent frame behind frames that are ``seen``, of each latent frame those.

    The last latent frame of a clip depends on what was before: encoded behind something else, the picture comes back
    from the decoder with traces of that.
    """
    ratio = model.config.vae.temporal_factor
    before = jnp.concatenate(seen, axis=1)[:, -1 - CONTEXT * ratio :]
    held = jnp.repeat(jnp.asarray(picture)[:, None], ratio, axis=1)
    return encode_frames(model, jnp.concatenate([before, held], axis=1))[:, -1:]


@functools.partial(jax.jit, static_argnames="config")
def fit_picture(
    config: ModelConfig,
    params: Params,
    cache: PyTree,
    latents: Float[Array, "B 1 h w z"],
    picture: UInt8[Array, "B H W 3"],
) -> Float[Array, "B 1 h w z"]:
    """The latent frame, near ``latents``, whose last frame the decoder makes most like a picture.

    An encoder spreads its error over all clips and all frames of a latent; here one frame counts, and is known. So the
    decoder's own error is descended (Bojanowski et al., 1707.05776). The frames before it are held like it, loosely.
    """
    import optax

    vae, wanted = config.modules.vae, from_uint8(picture)[:, None]

    def error(z: Float[Array, "B 1 h w z"]) -> Array:
        frames, _ = vae.decode_chunk(config.vae, params, cache, vae.denormalize(config.vae, z))
        squared = jnp.mean((frames - wanted) ** 2, axis=(2, 3, 4))
        # The sum over clips, so that none knows of the others.
        return jnp.sum(squared[:, -1] + HELD * jnp.mean(squared[:, :-1], axis=1))

    adam = optax.adam(optax.linear_schedule(FIT_RATE, 0.0, FIT_STEPS), b1=0.8, b2=0.95)

    def step(at: tuple[Array, PyTree], _: None) -> tuple[tuple[Array, PyTree], None]:
        z, state = at
        change, state = adam.update(jax.grad(error)(z), state)
        return (optax.apply_updates(z, change), state), None

    return jax.lax.scan(step, (latents, adam.init(latents)), None, length=FIT_STEPS)[0][0]
