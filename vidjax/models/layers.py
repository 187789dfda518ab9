"""Small layers shared by the models: norms, modulation, rotary and sinusoidal embeddings."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vidjax.typing import Array, Float


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis with a learned scale (Zhang and Sennrich, 1910.07467), in float32."""

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y = y * jnp.reciprocal(jnp.sqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps))
        return (y * scale).astype(x.dtype)


class LayerNorm(nn.Module):
    """Layer norm over the last axis, computed in float32; ``affine`` adds a learned scale and bias."""

    affine: bool = True
    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        y = x.astype(jnp.float32)
        y = y - y.mean(axis=-1, keepdims=True)
        y = y * jnp.reciprocal(jnp.sqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps))
        if self.affine:
            y = y * self.param("scale", nn.initializers.ones, (x.shape[-1],))
            y = y + self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return y.astype(x.dtype)


def sinusoidal_embedding(t: Float[Array, "..."], dim: int) -> Float[Array, "... dim"]:
    """Cosines then sines of ``t`` at ``dim / 2`` frequencies falling from 1 to 1e-4 (Vaswani et al., 1706.03762)."""
    half = dim // 2
    frequencies = np.exp(-np.log(1e4) * np.arange(half, dtype=np.float32) / np.float32(half))
    angles = t[..., None].astype(jnp.float32) * frequencies.astype(np.float32)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


RIFLEX = 0.9
"""So much of a period a clip may take: the paper's."""


def rotary_table(positions: np.ndarray, dim: int, theta: float = 1e4, trained: int | None = None) -> np.ndarray:
    """Angles [positions, dim / 2] of a rotary embedding (Su et al., 2104.09864), made in float64.

    RIFLEx (Zhao et al., 2502.15894), where more positions than were ``trained`` are asked for: the component whose
    period is nearest to the trained length, with which a longer clip would repeat itself, is slowed down so that the
    whole stays within one period.
    """
    frequencies = theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    if trained is not None and len(positions) > trained:
        own = np.argmin(np.abs(2 * np.pi / frequencies - trained))
        frequencies[own] = min(frequencies[own], RIFLEX * 2 * np.pi / len(positions))
    return np.outer(np.asarray(positions, np.float64), frequencies)


def rotary_tables_3d(
    frames: np.ndarray, height: int, width: int, head_dim: int, trained: int | None = None
) -> tuple[Float[np.ndarray, "f a"], Float[np.ndarray, "s b"]]:
    """Angles of the frames, and of the ``s = height width`` places in a frame; ``a + b`` is ``head_dim / 2``.

    Height and width get ``2 (head_dim // 6)`` channels each, time the rest. ``frames`` holds the positions in time,
    so that given frames may sit anywhere; ``trained`` as of ``rotary_table``, of these.
    """
    spatial = 2 * (head_dim // 6)
    t = rotary_table(frames, head_dim - 2 * spatial, trained=trained)
    h = rotary_table(np.arange(height), spatial)
    w = rotary_table(np.arange(width), spatial)
    return t, np.concatenate([np.repeat(h, width, axis=0), np.tile(w, (height, 1))], axis=-1)


def spread(times: Float[Array, "f a"], places: Float[Array, "s b"]) -> Float[Array, "f s half"]:
    """A table of frames and one of places as one of tokens."""
    f, s = times.shape[0], places.shape[0]
    times = jnp.broadcast_to(times[:, None], (f, s, times.shape[1]))
    return jnp.concatenate([times, jnp.broadcast_to(places, (f, *places.shape))], axis=-1)


def rotate(
    x: Float[Array, "B *N heads D"], cos: Float[Array, "*N half"], sin: Float[Array, "*N half"]
) -> Float[Array, "B *N heads D"]:
    """Turn interleaved channel pairs by the angles of their token, in float32."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    cos, sin = cos[..., None, :], sin[..., None, :]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape).astype(x.dtype)


def modulate(
    x: Float[Array, "B f s D"], shift: Float[Array, "#B #f #s D"], scale: Float[Array, "#B #f #s D"]
) -> Float[Array, "B f s D"]:
    """Adaptive norm: ``x (1 + scale) + shift`` (Peebles and Xie, 2212.09748)."""
    return x * (1 + scale) + shift
