"""From words and pictures to what a clip is made from."""

import functools
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidjax import tokenizer as tokenizers
from vidjax.conditioning.condition import Condition, nothing_given
from vidjax.model import Model, ModelConfig, spread_batch
from vidjax.request import Request
from vidjax.typing import Array, Float, Params
from vidjax.video import from_uint8


class Texts(NamedTuple):
    """Embeddings of prompts and of negative prompts."""

    positive: Float[Array, "B L D"]
    negative: Float[Array, "B L D"]


TextKey = tuple[tuple[str, ...], tuple[str, ...]]


def text_key(window: Request) -> TextKey:
    return window.prompts, window.negative_prompts


def encode_texts(model: Model, prompts: Sequence[str], negative_prompts: Sequence[str]) -> Texts:
    """Embeddings; says so where a text is longer than what the model reads."""
    texts = [*prompts, *negative_prompts]
    tokens = tokenizers.tokenize(model.tokenizer, texts)
    for text, cut in zip(texts, tokens.truncated, strict=True):
        if cut:
            least = "at least " if len(text) > tokenizers.MAX_CHARACTERS else ""
            warnings.warn(
                f"prompt {text[:40] + '...'!r} is longer than the {model.tokenizer.max_length} tokens that "
                f"{model.name} reads: {least}{cut} at its end are left out",
                stacklevel=2,
            )
    embeddings = _encode_text(model.config, model.params["text_encoder"], tokens.ids, tokens.lengths)
    return Texts(*jnp.split(embeddings, 2))


def make_condition(
    model: Model, request: Request, texts: Texts | None = None, past: Array | np.ndarray | None = None
) -> Condition:
    """What a clip of one window is made from: text embeddings, and what is given.

    That is the pictures of the request; or ``past``, the latents [B, k, h, w, z] or frames, uint8 [B, H, W, 3], that
    the window before it ends with.
    """
    config = model.config
    texts = encode_texts(model, *text_key(request)) if texts is None else texts
    given, mask = nothing_given(request.batch, config.latent_shape(request.num_frames, request.height, request.width))
    condition = Condition(texts.positive, texts.negative, given, mask)
    if config.pictures == "frames":
        if request.pictures:
            past = _encode_frames(config, model.params["vae"], from_uint8(jnp.asarray(request.pictures[0]))[None])
        if past is not None:
            k = past.shape[1]
            condition = condition._replace(given=given.at[:, :k].set(past), mask=mask.at[:, :k].set(True))
    elif request.pictures or past is not None:
        clips = [request.pictures] if past is None else [(frame,) for frame in past]
        if config.pictures == "channels":
            channels = jnp.concatenate([_picture_channels(model, request, pictures) for pictures in clips])
            condition = condition._replace(channels=_batch(channels, request.batch))
        if config.image_encoder is not None:
            seen = [request.originals] if past is None else clips
            tokens = jnp.concatenate([_picture_tokens(model, pictures) for pictures in seen])
            condition = condition._replace(image=_batch(tokens, request.batch))
    return jax.tree.map(functools.partial(spread_batch, model), condition)


def _picture_channels(model: Model, request: Request, pictures: Sequence[np.ndarray]) -> Array:
    """[1, f, h, w, e]: the pictures in an otherwise grey clip, encoded, and which frames they are."""
    given = np.zeros(request.num_frames, bool)
    frames = np.zeros((request.num_frames, request.height, request.width, 3), np.float32)
    for i, picture in zip((0, -1), pictures, strict=False):
        given[i], frames[i] = True, from_uint8(picture)
    latents = _encode_frames(model.config, model.params["vae"], frames)
    return model.config.modules.image_channels(latents, given, model.config.vae.temporal_factor)


def _picture_tokens(model: Model, pictures: Sequence[np.ndarray]) -> Array:
    """[1, I, E]: the image encoder's tokens of each picture, one after another."""
    config, clip = model.config, model.config.modules.image_encoder
    size = config.image_encoder.image_size
    seen = jnp.concatenate([clip.preprocess(from_uint8(jnp.asarray(o))[None], size) for o in pictures])
    tokens = _encode_pictures(config, model.params["image_encoder"], seen)
    return tokens.reshape(1, -1, tokens.shape[-1])


def _batch(x: Array, batch: int) -> Array:
    return jnp.broadcast_to(x, (batch, *x.shape[1:]))


@functools.partial(jax.jit, static_argnames="config")
def _encode_text(config: ModelConfig, params: Params, ids: Array, lengths: Array) -> Array:
    return config.modules.text_encoder.encode(config.text_encoder, params, ids, lengths, jnp.dtype(config.dtype))


@functools.partial(jax.jit, static_argnames="config")
def _encode_frames(config: ModelConfig, params: Params, frames: Array) -> Array:
    """Normalized latents [1, f, h, w, z] of frames [F, H, W, 3] in [-1, 1]."""
    vae = config.modules.vae
    mean, _ = vae.encode(config.vae, params, frames[None])
    return vae.normalize(config.vae, mean)


@functools.partial(jax.jit, static_argnames="config")
def _encode_pictures(config: ModelConfig, params: Params, pictures: Array) -> Array:
    encoder = config.modules.image_encoder
    return encoder.encode(config.image_encoder, params, pictures, jnp.dtype(config.dtype))
