"""The causal 3D video autoencoder of Wan 2.1 and 2.2, in chunks with an explicit cache.

A clip of ``1 + 4 n`` frames becomes ``1 + n`` latent frames. Every convolution in time looks back only, so a clip
can be coded in pieces: each convolution keeps its last frames in the ``cache`` collection, and a piece given that
cache continues where the last one ended. The whole clip is simply one large piece: one code path, equal results.

Submodules carry the published tensor names (a path joined by dots is the published name).

On a mesh the picture is split over ``context``, by rows where these divide and else by columns: convolutions then
need their neighbours' border only, which the partitioner fetches.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vidjax.errors import InputError
from vidjax.models.attention import attention
from vidjax.models.wan.conv3d import CausalConv, Conv3D, copy_of_the_present, recall
from vidjax.parallel.mesh import BATCH_AXES
from vidjax.parallel.rules import constrain, free_axes
from vidjax.typing import Array, Float, Params, PyTree


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Configuration, under the published names.

    ``is_residual`` chooses the 2.2 form (parameter-free shortcuts around every stage); ``patch_size`` folds pixels
    into channels first. ``temperal_downsample`` is spelled as the published configurations spell it.
    """

    base_dim: int = 96
    decoder_base_dim: int | None = None
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attn_scales: tuple[float, ...] = ()
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    is_residual: bool = False
    in_channels: int = 3
    out_channels: int = 3
    patch_size: int | None = None
    scale_factor_temporal: int = 4
    scale_factor_spatial: int = 8
    latents_mean: tuple[float, ...] = ()
    latents_std: tuple[float, ...] = ()

    @property
    def temporal_factor(self) -> int:
        return 2 ** sum(self.temperal_downsample)

    @property
    def spatial_factor(self) -> int:
        return 2 ** (len(self.dim_mult) - 1) * (self.patch_size or 1)


def check_config(config: VAEConfig) -> None:
    """Whether the stages and the statistics fit together, which no single setting shows.

    Raises:
      InputError: they do not.
    """
    if config.z_dim < 1:
        raise InputError(f"z_dim={config.z_dim}: must be at least 1")
    for name in ("latents_mean", "latents_std"):
        count = len(getattr(config, name))
        if count not in (0, config.z_dim):
            raise InputError(f"{name} has length {count}, and z_dim is {config.z_dim}")
    dims, temporal = config.dim_mult, config.temperal_downsample
    if len(temporal) < len(dims) - 1:
        raise InputError(f"temperal_downsample={temporal}: needs {len(dims) - 1} values, one for each step of dim_mult")
    if not config.is_residual:
        return  # convolutions change the width
    if config.num_res_blocks == 0 and set(dims) != {1}:
        raise InputError(
            f"num_res_blocks=0 with dim_mult={dims}: without residual blocks all stages of an is_residual encoder have "
            f"one width; give num_res_blocks=1, or dim_mult={(1,) * len(dims)}"
        )
    cells = [8 if frames else 4 for frames in temporal[: len(dims) - 1]] + [1]
    down = (before * n % mult == 0 for before, mult, n in zip((1, *dims), dims, cells, strict=False))
    up = (mult * n % before == 0 for mult, before, n in zip(dims[1:], dims[2:], cells, strict=False))
    if not all((*down, *up)):
        raise InputError(
            f"dim_mult={dims}: the shortcuts of is_residual cannot join these widths; each value may be the one before "
            "or twice it, from 1, and the last two are equal, as in (1, 2, 4, 4)"
        )


ENCODER = ("encoder", "quant_conv")
"""The parts of an autoencoder that make its latents."""

Split = tuple[str | None, str | None]
"""The axes of the mesh that split rows and columns of a picture."""


def choose_split(rows: int, columns: int) -> Split:
    """By rows, or by columns where only these divide; one choice for all sizes of a clip, as they are its multiples.

    Two parts of one row each are not split so: what convolutions see of the other part comes out wrong (XLA, jax 0.10).
    """
    parts = free_axes().get("context", 1)
    sides = [(("context", None), rows), ((None, "context"), columns)]
    sides = [(split, n) for split, n in sides if parts != 2 or n > 2]
    if parts == 1 or not sides:
        return None, None
    return min(sides, key=lambda side: side[1] % parts > 0)[0]


def lay_out(x: Float[Array, "B F H W C"], split: Split) -> Float[Array, "B F H W C"]:
    return constrain(x, BATCH_AXES, None, *split)


class ChannelNorm(nn.Module):
    """L2-normalise over channels, times ``sqrt(C) gamma``."""

    @nn.compact
    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F H W C"]:
        gamma = self.param("gamma", nn.initializers.ones, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y = y * lax.rsqrt(jnp.maximum(jnp.sum(y * y, axis=-1, keepdims=True), 1e-24))
        return (y * (gamma * x.shape[-1] ** 0.5)).astype(x.dtype)


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, around a shortcut."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F H W D"]:
        shortcut = x
        if x.shape[-1] != self.features:
            shortcut = CausalConv(self.features, (1, 1, 1), name="conv_shortcut")(x)
        x = nn.silu(ChannelNorm(name="norm1")(x))
        x = CausalConv(self.features, name="conv1")(x)
        x = nn.silu(ChannelNorm(name="norm2")(x))
        return shortcut + CausalConv(self.features, name="conv2")(x)


class SpatialAttention(nn.Module):
    """Single-head self-attention inside each frame."""

    split: Split

    @nn.compact
    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F H W C"]:
        B, F, H, W, C = x.shape
        y = ChannelNorm(name="norm")(x)
        qkv = nn.Conv(3 * C, (1, 1), dtype=x.dtype, name="to_qkv")(y.reshape(B * F, H, W, C))
        # The axis that is split comes last: attention sees to it.
        by_rows = self.split[0] is not None
        tokens = (qkv.swapaxes(1, 2) if by_rows else qkv)[..., None, :]
        y = attention(*jnp.split(tokens, 3, axis=-1))[..., 0, :]
        y = y.swapaxes(1, 2) if by_rows else y
        return x + nn.Conv(C, (1, 1), dtype=x.dtype, name="proj")(y).reshape(x.shape)


class MidBlock(nn.Module):
    """Residual block, spatial attention, residual block."""

    split: Split

    @nn.compact
    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F H W C"]:
        x = ResidualBlock(x.shape[-1], name="resnets.0")(x)
        x = SpatialAttention(self.split, name="attentions.0")(x)
        return ResidualBlock(x.shape[-1], name="resnets.1")(x)


class Downsample(nn.Module):
    """Halve the size, and with ``temporal`` the frames after the first."""

    temporal: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F2 H2 W2 C"]:
        B, F, _, _, C = x.shape
        # Zeros to the right and below only: the published padding.
        y = nn.Conv(C, (3, 3), (2, 2), padding=((0, 1), (0, 1)), dtype=x.dtype, name="resample.1")(
            x.reshape(B * F, *x.shape[2:])
        )
        x = y.reshape(B, F, *y.shape[1:])
        if not self.temporal:
            return x
        joined, start = recall(self, x, 1)
        time_conv = Conv3D(C, (3, 1, 1), time_stride=2, kernel_init=copy_of_the_present, name="time_conv")
        return jnp.concatenate([x[:, :1], time_conv(x)], axis=1) if start else time_conv(joined)


class Upsample(nn.Module):
    """Double the size, and with ``temporal`` the frames after the first."""

    features: int
    temporal: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F2 H2 W2 D"]:
        B, _, H, W, C = x.shape
        if self.temporal:
            start = self.get_variable("cache", "past") is None
            rest = x[:, 1:] if start else x
            time_conv = Conv3D(2 * C, (3, 1, 1), kernel_init=copy_of_the_present, name="time_conv")
            y = time_conv(recall(self, rest, 2)[0])
            y = jnp.stack([y[..., :C], y[..., C:]], axis=2).reshape(B, -1, H, W, C)
            x = jnp.concatenate([x[:, :1], y], axis=1) if start else y
        F = x.shape[1]
        x = jnp.repeat(jnp.repeat(x.reshape(B * F, H, W, C), 2, axis=1), 2, axis=2)
        y = nn.Conv(self.features, (3, 3), padding=1, dtype=x.dtype, name="resample.1")(x)
        return y.reshape(B, F, *y.shape[1:])


def average_down(x: Float[Array, "B F H W C"], features: int, ft: int, fs: int) -> Float[Array, "B F2 H2 W2 D"]:
    """Shortcut of a 2.2 encoder stage: fold ``ft x fs x fs`` cells into channels and average groups of them."""
    x = jnp.pad(x, ((0, 0), (-x.shape[1] % ft, 0), (0, 0), (0, 0), (0, 0)))
    B, F, H, W, C = x.shape
    x = x.reshape(B, F // ft, ft, H // fs, fs, W // fs, fs, C).transpose(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(*x.shape[:4], features, -1).mean(axis=-1)


def duplicate_up(
    x: Float[Array, "B F H W C"], features: int, ft: int, fs: int, start: bool
) -> Float[Array, "B F2 H2 W2 D"]:
    """Shortcut of a 2.2 decoder stage: repeat channels and unfold them into ``ft x fs x fs`` cells."""
    B, F, H, W, C = x.shape
    x = jnp.repeat(x, features * ft * fs * fs // C, axis=-1).reshape(B, F, H, W, features, ft, fs, fs)
    x = x.transpose(0, 1, 5, 2, 6, 3, 7, 4).reshape(B, F * ft, H * fs, W * fs, features)
    return x[:, ft - 1 :] if start else x


class ResidualDown(nn.Module):
    """An encoder stage of 2.2."""

    features: int
    blocks: int
    down: bool
    temporal: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F2 H2 W2 D"]:
        shortcut = average_down(x, self.features, 2 if self.temporal else 1, 2 if self.down else 1)
        for i in range(self.blocks):
            x = ResidualBlock(self.features, name=f"resnets.{i}")(x)
        if self.down:
            x = Downsample(self.temporal, name="downsampler")(x)
        return x + shortcut


class UpStage(nn.Module):
    """A decoder stage; 2.2 adds a shortcut and keeps the width, 2.1 halves it while upsampling."""

    features: int
    blocks: int
    up: bool
    temporal: bool
    residual: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B F H W C"], start: bool) -> Float[Array, "B F2 H2 W2 D"]:
        shortcut = x
        for i in range(self.blocks + 1):
            x = ResidualBlock(self.features, name=f"resnets.{i}")(x)
        if not self.up:
            return x
        if not self.residual:
            return Upsample(self.features // 2, self.temporal, name="upsamplers.0")(x)
        x = Upsample(self.features, self.temporal, name="upsampler")(x)
        return x + duplicate_up(shortcut, self.features, 2 if self.temporal else 1, 2, start)


class Encoder(nn.Module):
    """Patchified pixels to ``2 z_dim`` channels of mean and log-variance."""

    config: VAEConfig
    split: Split

    @nn.compact
    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B f h w z2"]:
        c = self.config
        x = CausalConv(c.base_dim, name="conv_in")(lay_out(x, self.split))
        last, index, scale = len(c.dim_mult) - 1, 0, 1.0
        for i, mult in enumerate(c.dim_mult):
            features, down = c.base_dim * mult, i < last
            temporal = down and c.temperal_downsample[i]
            if c.is_residual:
                x = ResidualDown(features, c.num_res_blocks, down, temporal, name=f"down_blocks.{i}")(x)
                x = lay_out(x, self.split)
                continue
            for _ in range(c.num_res_blocks):
                x = ResidualBlock(features, name=f"down_blocks.{index}")(x)
                index += 1
                if scale in c.attn_scales:
                    x = SpatialAttention(self.split, name=f"down_blocks.{index}")(x)
                    index += 1
            if down:
                x = lay_out(Downsample(temporal, name=f"down_blocks.{index}")(x), self.split)
                index, scale = index + 1, scale / 2
        x = MidBlock(self.split, name="mid_block")(x)
        x = nn.silu(ChannelNorm(name="norm_out")(x))
        return CausalConv(2 * c.z_dim, name="conv_out")(x)


class Decoder(nn.Module):
    """Latents to patchified pixels."""

    config: VAEConfig
    split: Split

    @nn.compact
    def __call__(self, z: Float[Array, "B f h w z"]) -> Float[Array, "B F H W C"]:
        c = self.config
        base = c.decoder_base_dim or c.base_dim
        joined = CausalConv(base * c.dim_mult[-1], name="conv_in")
        start = self.get_variable("cache", "started") is None
        if self.is_mutable_collection("cache") and not self.is_initializing():
            self.put_variable("cache", "started", jnp.ones((), bool))
        x = MidBlock(self.split, name="mid_block")(joined(lay_out(z, self.split)))
        last = len(c.dim_mult) - 1
        for i, mult in enumerate(reversed(c.dim_mult)):
            up = i < last
            temporal = up and c.temperal_downsample[last - 1 - i]
            x = UpStage(base * mult, c.num_res_blocks, up, temporal, c.is_residual, name=f"up_blocks.{i}")(x, start)
            x = lay_out(x, self.split)
        x = nn.silu(ChannelNorm(name="norm_out")(x))
        return CausalConv(c.out_channels, name="conv_out")(x)


class Autoencoder(nn.Module):
    """The autoencoder. Use the functions below; they carry the cache."""

    config: VAEConfig
    split: Split = (None, None)

    def setup(self):
        self.encoder = Encoder(self.config, self.split)
        self.decoder = Decoder(self.config, self.split)
        self.quant_conv = CausalConv(2 * self.config.z_dim, (1, 1, 1))
        self.post_quant_conv = CausalConv(self.config.z_dim, (1, 1, 1))

    def __call__(self, x: Float[Array, "B F H W 3"]) -> Float[Array, "B F H W 3"]:
        return self.decode(self.encode(x)[0])

    def encode(self, x: Float[Array, "B F H W 3"]) -> tuple[Array, Array]:
        """Mean and log-variance [B, f, h, w, z] of pixels in [-1, 1]."""
        moments = self.quant_conv(self.encoder(patchify(x, self.config.patch_size or 1)))
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def decode(self, z: Float[Array, "B f h w z"]) -> Float[Array, "B F H W 3"]:
        """Pixels, not yet clamped."""
        return unpatchify(self.decoder(self.post_quant_conv(z)), self.config.patch_size or 1)


def patchify(x: Float[Array, "B F H W C"], p: int) -> Float[Array, "B F h w D"]:
    """Fold ``p x p`` pixels into channels, ordered (colour, column, row) as published."""
    B, F, H, W, C = x.shape
    x = x.reshape(B, F, H // p, p, W // p, p, C).transpose(0, 1, 2, 4, 6, 5, 3)
    return x.reshape(B, F, H // p, W // p, C * p * p)


def unpatchify(x: Float[Array, "B F h w D"], p: int) -> Float[Array, "B F H W C"]:
    """Inverse of :func:`patchify`."""
    B, F, h, w, D = x.shape
    x = x.reshape(B, F, h, w, D // (p * p), p, p).transpose(0, 1, 2, 6, 3, 5, 4)
    return x.reshape(B, F, h * p, w * p, D // (p * p))


def init(config: VAEConfig, key: Array) -> Params:
    """Random parameters."""
    size = config.spatial_factor
    x = jnp.zeros((1, 1 + config.temporal_factor, size, size, config.in_channels // (config.patch_size or 1) ** 2))
    return Autoencoder(config).init(key, x)["params"]


def encode_chunk(
    config: VAEConfig, params: Params, cache: PyTree | None, frames: Float[Array, "B F H W 3"]
) -> tuple[tuple[Array, Array], PyTree]:
    """Encode the next frames: (mean, log-variance) of the new latent frames, and the cache to go on with.

    ``cache`` is None at the start of a clip, where ``F = 1 + 4 k``; afterwards ``F = 4 k``. Latents are raw: see
    :func:`normalize`.
    """
    return _apply(config, params, cache, frames, "encode")


def decode_chunk(
    config: VAEConfig, params: Params, cache: PyTree | None, latents: Float[Array, "B f h w z"]
) -> tuple[Float[Array, "B F H W 3"], PyTree]:
    """Decode the next raw latent frames to pixels in [-1, 1], and the cache to go on with.

    ``cache`` is None at the start of a clip, whose first latent frame is one frame; every later one is four.
    """
    frames, cache = _apply(config, params, cache, latents, "decode")
    return jnp.clip(frames, -1.0, 1.0), cache


def _apply(config: VAEConfig, params: Params, cache: PyTree | None, x: Array, method: str) -> tuple[Any, PyTree]:
    size = 1 if method == "decode" else config.spatial_factor
    split = choose_split(x.shape[2] // size, x.shape[3] // size)
    variables = {"params": params} if cache is None else {"params": params, "cache": cache}
    out, state = Autoencoder(config, split).apply(variables, lay_out(x, split), method=method, mutable=["cache"])
    # Laid out as it comes in the next time, or the next piece would be another program.
    cache = jax.tree.map(lambda y: lay_out(y, split) if y.ndim == 5 else y, state["cache"])
    return jax.tree.map(lambda y: lay_out(y, split), out), cache


def encode(config: VAEConfig, params: Params, frames: Float[Array, "B F H W 3"]) -> tuple[Array, Array]:
    """Mean and log-variance of a whole clip, four frames at a time: memory does not grow with length."""
    first, cache = encode_chunk(config, params, None, frames[:, :1])
    step = config.temporal_factor
    rest = frames[:, 1:].reshape(frames.shape[0], -1, step, *frames.shape[2:]).swapaxes(0, 1)

    def body(cache, chunk):
        moments, cache = encode_chunk(config, params, cache, chunk)
        return cache, moments

    _, moments = lax.scan(body, cache, rest)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, _unchunk(b)], axis=1), first, moments)


def decode(config: VAEConfig, params: Params, latents: Float[Array, "B f h w z"]) -> Float[Array, "B F H W 3"]:
    """Pixels of a whole clip of raw latents, one latent frame at a time."""
    first, cache = decode_chunk(config, params, None, latents[:, :1])

    def body(cache, chunk):
        frames, cache = decode_chunk(config, params, cache, chunk)
        return cache, frames

    _, frames = lax.scan(body, cache, latents[:, 1:, None].swapaxes(0, 1))
    return jnp.concatenate([first, _unchunk(frames)], axis=1)


def _unchunk(x: Float[Array, "chunks B F H W C"]) -> Float[Array, "B F2 H W C"]:
    return x.swapaxes(0, 1).reshape(x.shape[1], -1, *x.shape[3:])


def normalize(config: VAEConfig, z: Float[Array, "... z"]) -> Float[Array, "... z"]:
    """Raw latents to the unit-variance space in which the denoiser works."""
    return (z - _constants(config.latents_mean)) / _constants(config.latents_std)


def denormalize(config: VAEConfig, z: Float[Array, "... z"]) -> Float[Array, "... z"]:
    """Inverse of :func:`normalize`."""
    return z * _constants(config.latents_std) + _constants(config.latents_mean)


def _constants(values: Sequence[float]) -> np.ndarray:
    return np.asarray(values, np.float32)
