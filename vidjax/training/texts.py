"""Embeddings of captions for a text encoder that stays as it is: computed ahead where captions can be listed."""

import functools
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vidjax import tokenizer as tokenizers
from vidjax.data import embeddings
from vidjax.data.embeddings import Embeddings, open_embeddings
from vidjax.model import ModelConfig, part_layout
from vidjax.parallel.mesh import make_mesh
from vidjax.parallel.rules import AnyMesh
from vidjax.training.samples import Encode, Row
from vidjax.typing import Array, Float, Params
from vidjax.weights import folder

PART = "text_encoder"

SAMPLES, SAMPLE = 64, 65_536
"""Pieces of a file, and bytes of each, that tell it from others."""


class Texts(NamedTuple):
    """How captions come to a training step; ``encode`` is traceable, and needs the parameters ``frozen``."""

    row: Row
    encode: Encode
    frozen: Params


def encoded_in_step(path: Path, model: ModelConfig, mesh: AnyMesh) -> Texts:
    """The text encoder of the model folder ``path`` runs in every step: where captions are made up anew each time."""
    row = functools.partial(token_row, _load_tokenizer(path, model))
    params = folder.read_part(path, PART, model.parts[PART], model.dtype, part_layout(PART, model, mesh))
    return Texts(row, functools.partial(encode_rows, model), {PART: params})


def encoded_ahead(path: Path, model: ModelConfig, captions: Sequence[str], place: Path) -> Texts:
    """Embeddings of these captions, kept below ``place``: the text encoder is in memory at the first call only."""
    found = open_embeddings(functools.partial(_make_encoder, path, model), captions, place / _fingerprint(path, model))
    return Texts(functools.partial(_embedding, found, model.sampling.max_text_length), text_of_rows, {})


def _load_tokenizer(path: Path, model: ModelConfig) -> tokenizers.Tokenizer:
    return tokenizers.load(path / "tokenizer" / "spiece.model", model.sampling.max_text_length)


def token_row(tokenizer: tokenizers.Tokenizer, caption: str) -> dict[str, np.ndarray]:
    """A caption as the ids of its tokens, for a text encoder in the step."""
    tokens = tokenizers.tokenize(tokenizer, [caption])
    return {"tokens": tokens.ids[0], "length": tokens.lengths[0]}


def encode_rows(model: ModelConfig, params: Params, rows: dict[str, Array]) -> Float[Array, "B L D"]:
    """Text embeddings of rows that have tokens."""
    encode = model.modules.text_encoder.encode
    return encode(model.text_encoder, params[PART], rows["tokens"], rows["length"], jnp.dtype(model.dtype))


def _embedding(found: Embeddings, length: int, caption: str) -> dict[str, np.ndarray]:
    return {"text": found.padded(caption, length)}


def text_of_rows(params: Params, rows: dict[str, Array]) -> Float[Array, "B L D"]:
    """Those that rows have, computed ahead."""
    del params
    return rows["text"].astype(jnp.float32)


def _fingerprint(path: Path, model: ModelConfig) -> str:
    """Twelve hexadecimal digits that change with the text encoder: of what a large file holds, a sample counts."""
    digest = hashlib.sha256(repr((model.dtype, model.sampling.max_text_length)).encode())
    for file in sorted(file for part in (PART, "tokenizer") for file in (path / part).iterdir() if file.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as stream:
            for start in range(0, size, max(size // SAMPLES, SAMPLE)):
                stream.seek(start)
                digest.update(stream.read(SAMPLE))
    return digest.hexdigest()[:12]


def _make_encoder(path: Path, model: ModelConfig) -> embeddings.Encode:
    # Over this process's devices alone: of several processes only one computes.
    devices = jax.local_devices()
    mesh = make_mesh(fsdp=-1, devices=devices[: math.gcd(len(devices), model.text_encoder.d_model)])
    tokenizer = _load_tokenizer(path, model)
    params = folder.read_part(path, PART, model.parts[PART], model.dtype, part_layout(PART, model, mesh))
    encode = jax.jit(functools.partial(encode_rows, model))

    def embed(captions: Sequence[str]) -> tuple[Array, np.ndarray]:
        tokens = tokenizers.tokenize(tokenizer, captions)
        with jax.set_mesh(mesh):
            return encode({PART: params}, {"tokens": tokens.ids, "length": tokens.lengths}), tokens.lengths

    return embed
