"""From words and pictures to what a clip is made from."""

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidjax import tokenizer as tokenizers
from vidjax.chunks import CONTEXT, by_latent_frame, encode_chunk, encode_frames
from vidjax.conditioning.condition import Condition, nothing_given
from vidjax.conditioning.poses import Poses
from vidjax.conditioning.rays import make_rays, pack
from vidjax.decoding import decode_tiling, tile_by_tile
from vidjax.image import fit_image, pad_image
from vidjax.long import window_overlap
from vidjax.model import Model, ModelConfig, spread_batch
from vidjax.models.wan.vae import VAEConfig
from vidjax.request import Request
from vidjax.tiles import Tiling, blend
from vidjax.typing import Array, Bool, Float, Params, PyTree, UInt8
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


class Clip(NamedTuple):
    """Of a clip that is painted over: the latents of a window, and which of their places stay."""

    latents: Float[Array, "B f h w z"]
    keep: Bool[np.ndarray, "B f h w"] | None


def make_condition(
    model: Model,
    window: Request,
    texts: Texts | None = None,
    past: Array | np.ndarray | None = None,
    clip: Clip | None = None,
) -> Condition:
    """What a clip of one window is made from: text embeddings, and what is given.

    That is what the window has, with the camera's rays; ``past``, the latents [B, k, h, w, z] or frames, uint8
    [B, H, W, 3], that the window before it ends with; and what is kept of ``clip``. Where the model goes on from noisy
    frames, their ``noise`` is still to be drawn.
    """
    config = model.config
    texts = encode_texts(model, *text_key(window)) if texts is None else texts
    given, mask = nothing_given(window.batch, config.latent_shape(window.num_frames, window.height, window.width))
    references, style = _reference_latents(model, window)
    condition = Condition(texts.positive, texts.negative, given, mask, references=references, style=style)
    if config.pictures == "frames":
        if past is not None and config.sampling.past_noise:
            own = np.arange(mask.shape[1]) < past.shape[1]
            # Pictures are right as they are.
            own[[picture.place for picture in window.given.pictures]] = False
            condition = condition._replace(times=jnp.broadcast_to(config.sampling.past_noise * own, mask.shape))
        for place, latents in _given_latents(model, window, past):
            there = slice(place, place + latents.shape[1])
            condition = condition._replace(
                given=condition.given.at[:, there].set(latents), mask=condition.mask.at[:, there].set(True)
            )
    elif window.given.pictures or past is not None:
        clips = [[p.fitted for p in window.given.pictures]] if past is None else [[frame] for frame in past]
        if config.pictures == "channels":
            channels = jnp.concatenate([_picture_channels(model, window, pictures) for pictures in clips])
            condition = condition._replace(channels=_batch(channels, window.batch))
        if config.image_encoder is not None:
            seen = [[p.original for p in window.given.pictures]] if past is None else clips
            tokens = jnp.concatenate([_picture_tokens(model, pictures) for pictures in seen])
            condition = condition._replace(image=_batch(tokens, window.batch))
    if window.poses is not None:
        rays = _rays(model.config, window.poses, *given.shape[2:4])
        condition = condition._replace(rays=_batch(rays, window.batch))
    if clip is not None and clip.keep is not None:
        condition = condition._replace(kept=clip.latents, keep=jnp.asarray(clip.keep))
    return jax.tree.map(functools.partial(spread_batch, model), condition)


def _given_latents(model: Model, window: Request, past: Array | np.ndarray | None) -> Iterator[tuple[int, Array]]:
    """Latent frames, and from where on they are given."""
    config, given = model.config, window.given
    if past is not None:
        yield 0, jnp.asarray(past)
    for picture in given.pictures:
        # Behind the first latent frame each one is several frames: there a picture is held.
        frames = 1 if picture.place == 0 else 1 + CONTEXT * config.vae.temporal_factor
        held = np.stack([picture.fitted] * frames)
        latents = encode_clip(model, held) if window.base is None else _encode_large(model, held)
        yield picture.place, latents[:, -1:]
    if given.extend == "before":
        latents = encode_beginning(model, given.clip, window_overlap(config))
        yield window.rollout.size - latents.shape[1], latents


def _reference_latents(model: Model, window: Request) -> tuple[Array | None, Array | None]:
    """[B, R, h, w, z] of the pictures of the subject, and [B, 1, h, w, z] of that of the style; None where none is.

    Each is a clip of one frame, of the size of what the model sees at once: of a larger clip, a tile.
    """
    size = window.height, window.width
    if window.tiles is not None:
        size = window.tiles.scaled(model.config.vae.spatial_factor).tile
    references = [pad_image(picture, *size) for picture in window.given.references]
    style = [] if window.given.style is None else [fit_image(window.given.style, *size)]
    return _frames_apart(model, references, window.batch), _frames_apart(model, style, window.batch)


def _frames_apart(model: Model, pictures: Sequence[np.ndarray], batch: int) -> Float[Array, "B n h w z"] | None:
    """Latents of pictures, each as a clip of its own."""
    if not pictures:
        return None
    return _batch(jnp.concatenate([encode_clip(model, picture[None]) for picture in pictures], axis=1), batch)


def encode_clip(model: Model, frames: UInt8[np.ndarray, "F H W 3"]) -> Float[Array, "1 f h w z"]:
    """Normalized latents of a clip."""
    return encode_frames(model, frames[None])


Part = tuple[int, int, int, int]
"""Of a frame, in pixels: first row and column, rows and columns."""


def encode_tiles(
    model: Model,
    frames: Callable[[Part], Iterator[UInt8[np.ndarray, "B _ h w 3"]]],
    caches: PyTree | None,
    tiling: Tiling,
    last: bool = False,
) -> tuple[Float[np.ndarray, "B f H W z"], PyTree]:
    """Normalized latents of the next frames, and the caches to go on with: one tile after another, as of ``decode``.

    Args:
      frames: what is to be seen in a part of the frame, those of one latent frame at a time.
      caches: what the call before returned, at the start of a clip None. They wait in the host's memory.
      tiling: in pixels.
      last: nothing will follow: no caches are kept.
    """
    encode = functools.partial(encode_chunk, model.config, model.params["vae"])
    kept = {}
    tiles = tile_by_tile(encode, lambda corner: frames((*corner, *tiling.tile)), tiling.corners, caches, kept, last)
    return np.concatenate(list(blend(tiling.reduced(model.config.vae.spatial_factor), tiles)), axis=2), kept


def encode_tiling(model: Model, height: int, width: int) -> Tiling:
    """How a large frame is encoded. It is not how it is decoded: that is for memory, and changes nothing sampled."""
    return decode_tiling(model.config, height, width, None)


def _encode_large(model: Model, frames: UInt8[np.ndarray, "F H W 3"]) -> Float[Array, "1 f h w z"]:
    def part(of: Part) -> Iterator[np.ndarray]:
        top, left, rows, columns = of
        return by_latent_frame(model.config.vae, frames[None, :, top : top + rows, left : left + columns])

    return jnp.asarray(encode_tiles(model, part, None, encode_tiling(model, *frames.shape[1:3]), last=True)[0])


def encode_end(model: Model, clip: UInt8[np.ndarray, "F H W 3"], count: int) -> Float[Array, "1 f h w z"]:
    """The end of a clip as a clip of its own: a first latent frame, and ``count`` of several frames each.

    A clip that is too short for these stands still before it begins.
    """
    ratio = model.config.vae.temporal_factor
    frames = clip[-1 - ratio * count :]
    before = np.repeat(frames[:1], 1 + ratio * count - len(frames), axis=0)
    return encode_clip(model, np.concatenate([before, frames]))


def encode_beginning(model: Model, clip: UInt8[np.ndarray, "F H W 3"], count: int) -> Float[Array, "1 f h w z"]:
    """The first ``count`` latent frames of a clip as if something were before it: each of several frames.

    A clip that is too short for these stands still when it has ended.
    """
    frames = clip[np.minimum(np.arange(count * model.config.vae.temporal_factor), len(clip) - 1)]
    return encode_clip(model, np.concatenate([frames[:1], frames]))[:, 1:]


def kept_places(config: VAEConfig, mask: Bool[np.ndarray, "F H W"]) -> Bool[np.ndarray, "f h w"]:
    """Which places of the latents stay: those none of whose pixels are painted over."""
    ratio, s = config.temporal_factor, config.spatial_factor
    F, H, W = mask.shape
    # The first latent frame holds one frame only.
    mask = np.concatenate([np.repeat(mask[:1], ratio - 1, axis=0), mask])
    return ~mask.reshape((F - 1) // ratio + 1, ratio, H // s, s, W // s, s).any(axis=(1, 3, 5))


def _picture_channels(model: Model, window: Request, pictures: Sequence[np.ndarray]) -> Array:
    """[1, f, h, w, e]: the pictures in an otherwise grey clip, encoded, and which frames they are."""
    given = np.zeros(window.num_frames, bool)
    frames = np.zeros((window.num_frames, window.height, window.width, 3), np.float32)
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


def _rays(config: ModelConfig, poses: Poses, height: int, width: int) -> Float[Array, "1 f H W C"]:
    """The packed rays of a window whose latents are of this size."""
    finer = config.camera_adapter.downscale_factor
    matrices, intrinsics = (jnp.asarray(x[None], jnp.float32) for x in (poses.camera_to_world, poses.intrinsics))
    return _packed(matrices, intrinsics, finer * height, finer * width, config.vae.temporal_factor)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _packed(matrices: Array, intrinsics: Array, height: int, width: int, ratio: int) -> Array:
    return pack(make_rays(matrices, intrinsics, height, width), ratio)


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
