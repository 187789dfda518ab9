"""The CLIP vision encoder (Radford et al., 2103.00020; ViT of Dosovitskiy et al., 2010.11929) behind Wan 2.1.

Submodules carry the published tensor names (a path joined by dots is the published name); the layers are stacked.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from vidjax.errors import InputError
from vidjax.models.attention import attention
from vidjax.models.layers import LayerNorm
from vidjax.typing import Array, Float, Params

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures in [0, 1] that CLIP was trained on, by colour."""


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Configuration, under the published names; sizes in pixels.

    Raises:
      InputError: another activation than the exact GELU.
    """

    hidden_size: int = 1280
    intermediate_size: int = 5120
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self):
        if self.hidden_act != "gelu":
            raise InputError(f"image encoder with hidden_act={self.hidden_act!r}: only 'gelu' is known")

    @property
    def num_tokens(self) -> int:
        """Patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


class Embeddings(nn.Module):
    """The class token and the patches, each at its position."""

    config: CLIPConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B S S 3"]) -> Float[Array, "B I D"]:
        c = self.config
        p = (c.patch_size, c.patch_size)
        D = c.hidden_size
        patches = nn.Conv(D, p, p, "VALID", use_bias=False, dtype=self.dtype, name="patch_embedding")(x)
        token = self.param("class_embedding", nn.initializers.normal(D**-0.5), (D,)).astype(self.dtype)
        tokens = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, D)), patches.reshape(len(x), -1, D)], axis=1)
        positions = nn.Embed(c.num_tokens, D, dtype=self.dtype, name="position_embedding")
        return tokens + positions(jnp.arange(c.num_tokens))


class SelfAttention(nn.Module):
    config: CLIPConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B I D"]) -> Float[Array, "B I D"]:
        heads = self.config.num_attention_heads

        def project(name):
            return nn.Dense(x.shape[-1], dtype=self.dtype, name=name)(x).reshape(*x.shape[:2], heads, -1)

        y = attention(project("q_proj"), project("k_proj"), project("v_proj"))
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="out_proj")(y.reshape(x.shape))


class Layer(nn.Module):
    """One layer of the scan, which carries its result and what came in."""

    config: CLIPConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, carry: tuple[Float[Array, "B I D"], Float[Array, "B I D"]], _) -> tuple:
        c = self.config
        before = x = carry[0]
        x = x + SelfAttention(c, self.dtype, name="self_attn")(LayerNorm(eps=c.layer_norm_eps, name="layer_norm1")(x))
        y = LayerNorm(eps=c.layer_norm_eps, name="layer_norm2")(x)
        y = nn.gelu(nn.Dense(c.intermediate_size, dtype=self.dtype, name="mlp.fc1")(y), approximate=False)
        return (x + nn.Dense(c.hidden_size, dtype=self.dtype, name="mlp.fc2")(y), before), None


class ImageEncoder(nn.Module):
    """Preprocessed pictures to the tokens before the last layer, and the normed class token after it."""

    config: CLIPConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B S S 3"]) -> tuple[Float[Array, "B I D"], Float[Array, "B D"]]:
        c = self.config
        x = Embeddings(c, self.dtype, name="vision_model.embeddings")(x.astype(self.dtype))
        x = LayerNorm(eps=c.layer_norm_eps, name="vision_model.pre_layrnorm")(x)
        layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=c.num_hidden_layers)(
            c, self.dtype, name="vision_model.encoder.layers"
        )
        (last, tokens), _ = layers((x, x), None)
        return tokens, LayerNorm(eps=c.layer_norm_eps, name="vision_model.post_layernorm")(last[:, 0])


def init(config: CLIPConfig, key: Array) -> Params:
    """Random parameters."""
    return ImageEncoder(config).init(key, jnp.zeros((1, config.image_size, config.image_size, 3)))["params"]


def encode(
    config: CLIPConfig, params: Params, images: Float[Array, "B S S 3"], dtype: DTypeLike = jnp.float32
) -> Float[Array, "B I D"]:
    """Image tokens of preprocessed pictures, the class token first: the second to last hidden state, as Wan uses it."""
    return ImageEncoder(config, dtype).apply({"params": params}, images)[0]


def preprocess(images: Float[Array, "B H W 3"], size: int = 224, whole: bool = False) -> Float[Array, "B size size 3"]:
    """Pictures in [-1, 1] as the encoder takes them: bicubic to ``size`` pixels square, by CLIP's mean and deviation.

    The published folders' image processor brings the shorter side to ``size``, antialiased and in 8 bits, and keeps
    the middle; the original repository (``whole``) squashes the whole picture, without antialiasing.
    """
    H, W = images.shape[1:3]
    height, width = (size, size) if whole else (size * H // min(H, W), size * W // min(H, W))
    rows, columns = _cubic_weights(H, height, not whole), _cubic_weights(W, width, not whole)
    top, left = (height - size) // 2, (width - size) // 2
    rows, columns = rows[top : top + size], columns[left : left + size]
    settle = (lambda x: x) if whole else (lambda x: jnp.round(255 * jnp.clip(x, 0, 1)) / 255)
    x = settle(jnp.einsum("tw,bhwc->bhtc", columns, images / 2 + 0.5, precision="highest"))
    x = settle(jnp.einsum("sh,bhtc->bstc", rows, x, precision="highest"))
    return (x - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)


def _cubic_weights(source: int, target: int, antialias: bool) -> np.ndarray:
    # [target, source] of the cubic convolution (Keys, 1981); the antialiased form widens with the reduction. The free
    # coefficient and the treatment of borders differ between the two forms just as they do in PyTorch.
    a = -0.5 if antialias else -0.75
    width = max(source / target, 1.0) if antialias else 1.0
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    reach = int(np.ceil(2 * width)) + 1
    taps = np.floor(centres)[:, None].astype(int) + np.arange(-reach, reach + 1)
    x = np.abs(taps - centres[:, None]) / width
    inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
    outer = a * (x**3 - 5 * x**2 + 8 * x - 4)
    weights = np.where(x <= 1, inner, np.where(x < 2, outer, 0))
    if antialias:  # what lies outside does not count
        weights = np.where((taps >= 0) & (taps < source), weights, 0)
    result = np.zeros((target, source))
    np.add.at(result, (np.arange(target)[:, None], np.clip(taps, 0, source - 1)), weights)  # or: the border goes on
    return (result / result.sum(1, keepdims=True)).astype(np.float32)
