"""The diffusion transformer of Wan: latents at per-frame times, and a text, to a velocity.

Submodules carry the published tensor names (a path joined by dots is the published name); the blocks are stacked
and run under a scan. Keys and values of the text are computed once per clip: :func:`context`, then :func:`velocity`.

On a mesh the tokens ``s`` of each frame are split over ``context``: so the modulation, one for each frame, is at hand
everywhere. Heads and hidden features are split over ``tensor``.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from vidjax.errors import InputError
from vidjax.models.attention import attention
from vidjax.models.layers import LayerNorm, RMSNorm, modulate, rotary_tables_3d, rotate, sinusoidal_embedding, spread
from vidjax.parallel.mesh import BATCH_AXES
from vidjax.parallel.rules import constrain, free_axes, gathered
from vidjax.typing import Array, Bool, Float, Int, Params, PyTree

TIME_SCALE = 1000.0
"""Published weights were trained with times from 0 to 1000."""

Remat = Literal["none", "full", "dots", "offload"]
"""What a layer keeps for the backward pass: everything; its input; its matrix products too; or these in host memory."""


VIDEO = (BATCH_AXES, None, "context")
"""The axes of the mesh that split ``B f s``."""

INTO_HEADS = ("fsdp", "tensor")
OUT_OF_HEADS = ("tensor", "fsdp")
"""Those that split the kernel of a layer from the width to heads or hidden features, and back."""


@dataclasses.dataclass(frozen=True)
class DenoiserConfig:
    """Configuration, under the published names."""

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = 40
    attention_head_dim: int = 128
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    ffn_dim: int = 13824
    num_layers: int = 40
    cross_attn_norm: bool = True
    qk_norm: str = "rms_norm_across_heads"
    eps: float = 1e-6
    rope_max_seq_len: int = 1024
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None
    pos_embed_seq_len: int | None = None

    @property
    def dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim


def check_config(config: DenoiserConfig) -> None:
    """Whether layers of these sizes can be built, which no type shows.

    Raises:
      InputError: they cannot.
    """
    sizes = ("num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "text_dim", "ffn_dim")
    for name in (*sizes, "freq_dim", "num_layers"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}={getattr(config, name)}: must be at least 1")
    for name in ("attention_head_dim", "freq_dim"):  # rotated in pairs; sines and cosines
        if getattr(config, name) % 2:
            raise InputError(f"{name}={getattr(config, name)}: must be even; nearest: {getattr(config, name) + 1}")


class Angles(NamedTuple):
    """Of the rotary embedding: cosines and sines, of frames [f, a] and of the places in a frame [s, b].

    There may be more tokens than places: those only fill up, so that every device has as many.
    """

    cos: tuple[Array, Array]
    sin: tuple[Array, Array]


class Past(NamedTuple):
    """Earlier frames that a frame attends to: their keys, before rotation, and values in each layer, in slots.

    The first ``count`` slots are filled. ``places`` are the positions in time of the slots, and last of the frame.
    """

    keys: Float[Array, "L B slots s heads d"]
    values: Float[Array, "L B slots s heads d"]
    count: Int[Array, ""]
    places: Int[Array, "places"]


class TimeEmbedder(nn.Module):
    dim: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x):
        x = nn.silu(nn.Dense(self.dim, dtype=self.dtype, name="linear_1")(x))
        return nn.Dense(self.dim, dtype=self.dtype, name="linear_2")(x)


class TextEmbedder(nn.Module):
    dim: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.Dense(self.dim, dtype=self.dtype, name="linear_1")(x))
        return nn.Dense(self.dim, dtype=self.dtype, name="linear_2")(x)


class ImageEmbedder(nn.Module):
    """Image tokens to the denoiser's width; two pictures share one position table when there is one."""

    config: DenoiserConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B I E"]) -> Float[Array, "B I D"]:
        c = self.config
        if c.pos_embed_seq_len is not None:
            x = x + self.param("pos_embed", nn.initializers.zeros, (1, c.pos_embed_seq_len, c.image_dim))
        x = LayerNorm(eps=1e-5, name="norm1")(x)
        x = nn.gelu(nn.Dense(c.image_dim, dtype=self.dtype, name="ff.net.0.proj")(x), approximate=False)
        return LayerNorm(eps=1e-5, name="norm2")(nn.Dense(c.dim, dtype=self.dtype, name="ff.net.2")(x))


class ConditionEmbedder(nn.Module):
    config: DenoiserConfig
    dtype: DTypeLike

    def setup(self):
        c = self.config
        self.time_embedder = TimeEmbedder(c.dim, self.dtype)
        self.time_proj = nn.Dense(6 * c.dim, dtype=self.dtype)
        self.text_embedder = TextEmbedder(c.dim, self.dtype)
        if c.image_dim is not None:
            self.image_embedder = ImageEmbedder(c, self.dtype)

    def time(self, t: Float[Array, "B f"]) -> tuple[Float[Array, "B f D"], Float[Array, "B f 6 D"]]:
        embedding = self.time_embedder(sinusoidal_embedding(t * TIME_SCALE, self.config.freq_dim))
        modulation = self.time_proj(nn.silu(embedding)).reshape(*t.shape, 6, -1)
        return constrain(embedding, BATCH_AXES), constrain(modulation, BATCH_AXES)

    def text(self, x):
        return self.text_embedder(x)

    def image(self, x):
        return self.image_embedder(x)


def dense(features: int, dtype: DTypeLike, axes: tuple[str | None, ...], name: str | None = None) -> nn.Dense:
    """A dense layer whose kernel is stored split over ``axes`` of the mesh."""

    def dot(x: Array, kernel: Array, *args, **kwargs) -> Array:
        return jax.lax.dot_general(x, gathered(kernel, axes), *args, **kwargs)

    return nn.Dense(features, dtype=dtype, dot_general=dot, name=name)


class Attention(nn.Module):
    """Multi-head attention with RMS-normed queries and keys; the norm runs across all heads."""

    config: DenoiserConfig
    dtype: DTypeLike
    image: bool = False

    def setup(self):
        c = self.config
        self.to_q, self.to_k, self.to_v = (dense(c.dim, self.dtype, INTO_HEADS) for _ in range(3))
        self.to_out = dense(c.dim, self.dtype, OUT_OF_HEADS, name="to_out.0")
        self.norm_q, self.norm_k = RMSNorm(c.eps), RMSNorm(c.eps)
        if self.image:
            self.add_k_proj, self.add_v_proj = (dense(c.dim, self.dtype, INTO_HEADS) for _ in range(2))
            self.norm_added_k = RMSNorm(c.eps)

    def heads(self, x: Float[Array, "B *N D"]) -> Float[Array, "B *N heads d"]:
        x = x.reshape(*x.shape[:-1], self.config.num_attention_heads, self.config.attention_head_dim)
        return constrain(x, *(VIDEO if x.ndim == 5 else (BATCH_AXES, None)), "tensor")

    def out(self, x: Float[Array, "B f s heads d"]) -> Float[Array, "B f s D"]:
        return constrain(self.to_out(x.reshape(*x.shape[:-2], -1)), *VIDEO)

    def self_attend(
        self,
        x: Float[Array, "B f s D"],
        angles: Angles,
        causal: Bool[Array, ""] | None = None,
        past: tuple[Array, Array] | None = None,
        count: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B f s D"], tuple[Array, Array]]:
        """Also the keys, before rotation, and the values of ``x``; the first ``count`` of those in ``past`` count."""
        f, s = x.shape[1:3]
        valid = angles.cos[1].shape[0]
        fill = lambda places: jnp.pad(places, ((0, s - valid), (0, 0)))  # noqa: E731
        cos, sin = (spread(times, fill(places)) for times, places in angles)
        q = rotate(self.heads(self.norm_q(self.to_q(x))), cos[-f:], sin[-f:])
        k, v = own = self.heads(self.norm_k(self.to_k(x))), self.heads(self.to_v(x))
        attend = functools.partial(attention, valid=valid)
        if past is not None:
            k, v = (jnp.concatenate(pair, axis=1) for pair in zip(past, own, strict=True))
            out = _attend_filled(attend, count, q, rotate(k, cos, sin), v)
        elif causal is not None:
            out = lax.cond(causal, functools.partial(attend, causal=True), attend, q, rotate(k, cos, sin), v)
        else:
            out = attend(q, rotate(k, cos, sin), v)
        return self.out(out), own

    def keys_values(self, text: Float[Array, "B L D"], image: Float[Array, "B I D"] | None) -> PyTree:
        pairs = {"text": (self.heads(self.norm_k(self.to_k(text))), self.heads(self.to_v(text)))}
        if image is not None:
            key = self.heads(self.norm_added_k(self.add_k_proj(image)))
            pairs["image"] = (key, self.heads(self.add_v_proj(image)))
        # All layers at once would be much: kept split, and whole in the layer that is at work.
        return jax.tree.map(lambda x: constrain(x, BATCH_AXES, "context", "tensor"), pairs)

    def cross_attend(self, x: Float[Array, "B f s D"], pairs: PyTree) -> Float[Array, "B f s D"]:
        q = self.heads(self.norm_q(self.to_q(x)))
        return self.out(sum(attention(q, k, v) for k, v in pairs.values()))


def _attend_filled(attend: Callable[..., Array], count: Int[Array, ""], q: Array, k: Array, v: Array) -> Array:
    """Attention to the first ``count`` frames of keys and to the last one.

    A branch for each count: any kernel will do, as none needs a mask.
    """

    def to_first(n: int) -> Callable[..., Array]:
        def branch(q: Array, k: Array, v: Array) -> Array:
            return attend(q, *(jnp.concatenate([x[:, :n], x[:, -1:]], axis=1) for x in (k, v)))

        return branch

    slots = k.shape[1] - 1
    return lax.switch(count, [*map(to_first, range(slots)), attend], q, k, v)


class FeedForward(nn.Module):
    config: DenoiserConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x):
        x = constrain(dense(self.config.ffn_dim, self.dtype, INTO_HEADS, name="net.0.proj")(x), *VIDEO, "tensor")
        return constrain(dense(self.config.dim, self.dtype, OUT_OF_HEADS, name="net.2")(nn.gelu(x)), *VIDEO)


class Block(nn.Module):
    """Self-attention, cross-attention and feed-forward; the first and last are modulated and gated by the time."""

    config: DenoiserConfig
    dtype: DTypeLike

    def setup(self):
        c = self.config
        self.attn1 = Attention(c, self.dtype)
        self.attn2 = Attention(c, self.dtype, image=c.added_kv_proj_dim is not None)
        self.ffn = FeedForward(c, self.dtype)
        self.norm1, self.norm3 = LayerNorm(affine=False, eps=c.eps), LayerNorm(affine=False, eps=c.eps)
        self.norm2 = LayerNorm(affine=c.cross_attn_norm, eps=c.eps)
        scale = nn.initializers.normal(c.dim**-0.5)
        self.scale_shift_table = self.param("scale_shift_table", scale, (1, 6, c.dim))

    def keys_values(self, carry, text, image):
        return carry, self.attn2.keys_values(text, image)

    def __call__(
        self,
        x: Float[Array, "B f s D"],
        pairs: PyTree,
        past: tuple[Array, Array] | None,
        time: Float[Array, "B f 6 D"],
        angles: Angles,
        causal: Bool[Array, ""] | None,
        count: Int[Array, ""] | None,
    ):
        modulation = self.scale_shift_table + time.astype(jnp.float32)
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation[:, :, i, None] for i in range(6))
        y = modulate(self.norm1(x.astype(jnp.float32)), shift1, scale1).astype(self.dtype)
        y, own = self.attn1.self_attend(y, angles, causal, past, count)
        x = (x + y * gate1).astype(self.dtype)
        y = x if not self.config.cross_attn_norm else self.norm2(x)
        x = x + self.attn2.cross_attend(y.astype(self.dtype), pairs)
        y = modulate(self.norm3(x.astype(jnp.float32)), shift2, scale2).astype(self.dtype)
        x = (x + self.ffn(y) * gate2).astype(self.dtype)
        return constrain(x, *VIDEO), None if past is None else own


def stack(config: DenoiserConfig, remat: Remat) -> type[nn.Module]:
    """The block, scanned over layers."""
    policies = {
        "full": None,
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        "offload": jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
    }
    block = Block
    if remat != "none":
        block = nn.remat(Block, prevent_cse=False, policy=policies[remat], methods=["__call__"])
    shared = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "length": config.num_layers}
    return nn.scan(
        block,
        methods={
            "__call__": {**shared, "in_axes": (0, 0, *[nn.broadcast] * 4)},
            "keys_values": {**shared, "in_axes": nn.broadcast},
        },
    )


class Denoiser(nn.Module):
    """The whole transformer. Use :func:`context` and :func:`velocity`."""

    config: DenoiserConfig
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"

    def setup(self):
        c = self.config
        check_mesh(c, free_axes())
        self.patch_embedding = PatchEmbedding((*c.patch_size, c.in_channels, c.dim), self.dtype)
        self.condition_embedder = ConditionEmbedder(c, self.dtype)
        self.blocks = stack(c, self.remat)(c, self.dtype)
        self.norm_out = LayerNorm(affine=False, eps=c.eps)
        self.proj_out = dense(int(np.prod(c.patch_size)) * c.out_channels, self.dtype, ("fsdp", None))
        self.scale_shift_table = self.param("scale_shift_table", nn.initializers.normal(c.dim**-0.5), (1, 2, c.dim))

    def context(self, text, image=None):
        text = self.condition_embedder.text(text.astype(self.dtype))
        image = None if image is None else self.condition_embedder.image(image.astype(self.dtype))
        return self.blocks.keys_values(None, text, image)[1]

    def __call__(self, x, t, context, frames=None, causal=None, trained=None, added=None):
        f, h, w = (n // p for n, p in zip(x.shape[1:4], self.config.patch_size, strict=True))
        angles = self.angles(np.arange(f) if frames is None else np.asarray(frames), h, w, trained)
        return self.run(x, t, context, angles, causal=causal, added=added)[0]

    def follow(self, x, t, context, past):
        """What is said of one frame behind those of ``past``, and its own keys and values in each layer."""
        _, ph, pw = self.config.patch_size
        angles = self.angles(np.arange(len(past.places)), x.shape[2] // ph, x.shape[3] // pw)
        angles = Angles(*((times[past.places], places) for times, places in angles))
        return self.run(x, t, context, angles, past=past)

    def angles(self, frames, h, w, trained=None):
        tables = rotary_tables_3d(frames, h, w, self.config.attention_head_dim, trained)
        return Angles(*(tuple(jnp.asarray(g(a), jnp.float32) for a in tables) for g in (np.cos, np.sin)))

    def run(self, x, t, context, angles, causal=None, past=None, added=None):
        c = self.config
        pt, ph, pw = c.patch_size
        f, h, w = (n // p for n, p in zip(x.shape[1:4], c.patch_size, strict=True))
        time, modulation = self.condition_embedder.time(t[:, ::pt])
        # Split while a token is but a patch: nothing of the full length and width exists anywhere.
        fill = -(h * w) % free_axes().get("context", 1)
        patches = jnp.pad(patchify(x.astype(self.dtype), c.patch_size), ((0, 0), (0, 0), (0, fill), (0, 0)))
        y = constrain(self.patch_embedding(constrain(patches, *VIDEO)), *VIDEO)
        if added is not None:
            before = y.shape[1] - added.shape[1]
            filled = jnp.pad(added.astype(self.dtype), ((0, 0), (before, 0), (0, fill), (0, 0)))
            y = y + constrain(filled, *VIDEO)
        kept, count = (None, None) if past is None else ((past.keys, past.values), past.count)
        y, own = self.blocks(y, context, kept, modulation, angles, causal, count)
        table = self.scale_shift_table + time.astype(jnp.float32)[:, :, None]
        y = modulate(self.norm_out(y.astype(jnp.float32)), table[:, :, :1], table[:, :, 1:]).astype(self.dtype)
        y = constrain(self.proj_out(constrain(y, *VIDEO)), *VIDEO)
        y = constrain(y, BATCH_AXES)[:, :, : h * w]
        y = y.reshape(-1, f, h, w, pt, ph, pw, c.out_channels).transpose(0, 1, 4, 2, 5, 3, 6, 7)
        return y.reshape(-1, f * pt, h * ph, w * pw, c.out_channels).astype(jnp.float32), own

    def initialize(self, x, t, text, image=None):
        return self(x, t, self.context(text, image))


def patchify(x: Float[Array, "B f h w c"], size: tuple[int, int, int]) -> Float[Array, "B f2 s P"]:
    """Patches of each frame, one after another, their values ordered (time, row, column, channel)."""
    B, f, h, w, c = x.shape
    pt, ph, pw = size
    x = x.reshape(B, f // pt, pt, h // ph, ph, w // pw, pw, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(B, f // pt, (h // ph) * (w // pw), pt * ph * pw * c)


class PatchEmbedding(nn.Module):
    """Patches to tokens; the kernel has the form of a convolution whose stride is its size."""

    shape: tuple[int, int, int, int, int]
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B f s P"]) -> Float[Array, "B f s D"]:
        fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=(0, 1, 2, 3))
        kernel = self.param("kernel", fan_in, self.shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, self.shape[-1:]).astype(self.dtype)
        return x @ gathered(kernel.reshape(-1, self.shape[-1]), (None, "fsdp")) + bias


def check_mesh(config: DenoiserConfig, sizes: Mapping[str, int]) -> None:
    """See, before anything is compiled, that the heads can be split as a mesh of these sizes has it.

    Raises:
      InputError: they do not divide over ``tensor``.
    """
    heads, parts = config.num_attention_heads, sizes.get("tensor", 1)
    if heads % parts:
        choices = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise InputError(f"mesh tensor={parts} does not divide the {heads} heads of the denoiser; choose {choices}")


def init(config: DenoiserConfig, key: Array) -> Params:
    """Random parameters."""
    c = config
    x = jnp.zeros((1, *c.patch_size, c.in_channels))
    image = None if c.image_dim is None else jnp.zeros((1, c.pos_embed_seq_len or 1, c.image_dim))
    text = jnp.zeros((1, 1, c.text_dim))
    t = jnp.zeros(x.shape[:2])
    return Denoiser(c).init(key, x, t, text, image, method="initialize")["params"]


def context(
    config: DenoiserConfig,
    params: Params,
    text: Float[Array, "B L T"],
    image: Float[Array, "B I E"] | None = None,
    dtype: DTypeLike = jnp.float32,
) -> PyTree:
    """Keys and values of the text (and of image tokens) for every layer: computed once per clip."""
    return Denoiser(config, dtype).apply({"params": params}, text, image, method="context")


def velocity(
    config: DenoiserConfig,
    params: Params,
    x: Float[Array, "B f h w c"],
    t: Float[Array, "B f"],
    context: PyTree,
    frames: np.ndarray | None = None,
    dtype: DTypeLike = jnp.float32,
    remat: Remat = "none",
    causal: bool | Bool[Array, ""] = False,
    trained: int | None = None,
    added: Float[Array, "B f2 s D"] | None = None,
) -> Float[Array, "B f h w c2"]:
    """Velocity ``noise - x_0`` of latents ``x`` whose frame ``i`` is at diffusion time ``t[:, i]`` in [0, 1].

    ``frames`` overrides the positions in time of the latent frames; ``added`` is added to the tokens of the patches, of
    as many frames at the end as it has, as the camera's are. The result is float32.

    Where it is ``causal``, a frame attends to itself and to those before it. That may be known only when it runs: one
    program does both then, with one copy of all but the attention. With ``trained``, the number of latent frames of the
    clips in training, positions of longer ones are RIFLEx's.
    """
    causal = None if causal is False else jnp.asarray(causal)
    return Denoiser(config, dtype, remat).apply({"params": params}, x, t, context, frames, causal, trained, added)


def follow(
    config: DenoiserConfig,
    params: Params,
    x: Float[Array, "B 1 h w c"],
    t: Float[Array, "B 1"],
    context: PyTree,
    past: Past,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Float[Array, "B 1 h w c2"], tuple[Array, Array]]:
    """The velocity of one latent frame behind those of ``past``; and its own keys and values [L, B, 1, s, heads, d]."""
    return Denoiser(config, dtype).apply({"params": params}, x, t, context, past, method="follow")
