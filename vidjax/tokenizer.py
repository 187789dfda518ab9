"""Prompt to token ids, by sentencepiece, cleaned as the published text encoders expect."""

import functools
import html
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidjax.errors import InputError, WeightsError

PAD, EOS, UNK = 0, 1, 2

CHARACTERS = "\u2581abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"-()/&%"
"""What a trained tokenizer spells unknown words with; the first is the mark of a word's beginning."""

MAX_CHARACTERS = 100_000
"""Longer prompts are cut before they are cleaned: no model reads so much."""

EXTRA_IDS = 100
"""T5's number of marks ``<extra_id_N>``, where ``tokenizer_config.json`` gives none; UMT5 has 300."""


class Tokenizer(NamedTuple):
    """A sentencepiece model (its bytes) and the number of tokens the text encoder reads, end mark included.

    ``extra_ids``: marks ``<extra_id_N>`` whose ids follow the model's own, the last mark first.
    """

    spiece: bytes
    max_length: int
    extra_ids: int = 0


class Tokens(NamedTuple):
    """``ids`` int32 [B, L], padded with 0; ``lengths`` int32 [B]; ``truncated``: tokens that were cut off, a text."""

    ids: np.ndarray
    lengths: np.ndarray
    truncated: tuple[int, ...]


def load(path: Path, max_length: int) -> Tokenizer:
    """A tokenizer from a ``spiece.model`` file, and ``extra_ids`` of the ``tokenizer_config.json`` beside it.

    Raises:
      WeightsError: missing, or not a sentencepiece model, or a configuration that cannot be read.
    """
    from google.protobuf.message import DecodeError

    try:
        spiece = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} is missing: the tokenizer's sentencepiece model is expected there") from error
    tokenizer = Tokenizer(spiece, max_length, _extra_ids(path.with_name("tokenizer_config.json")))
    try:
        processor(tokenizer)
    except (DecodeError, RuntimeError) as error:
        raise WeightsError(f"{path} is not a sentencepiece model") from error
    return tokenizer


def _extra_ids(path: Path) -> int:
    """The number of marks ``<extra_id_N>`` in a tokenizer's configuration; T5's own where there is none."""
    if not path.exists():
        return EXTRA_IDS
    try:
        count = json.loads(path.read_text(encoding="utf-8")).get("extra_ids", EXTRA_IDS)
    except (AttributeError, ValueError) as error:
        raise WeightsError(f"{path} is not a tokenizer's configuration: a JSON object is expected there") from error
    if not isinstance(count, int) or count < 0:
        raise WeightsError(f"extra_ids of {path} must be a number of marks, not {count!r}")
    return count


def processor(tokenizer: Tokenizer):
    """The sentencepiece processor: encodes text in which no special piece is left."""
    return _model(tokenizer)[0]


@functools.lru_cache(maxsize=8)
def _model(tokenizer: Tokenizer) -> tuple[Any, dict[str, int]]:
    """The processor and the ids of the special pieces, built once: training encodes one caption at a time.

    The published pipeline loads transformers' fast tokenizer, which differs from sentencepiece: a run of unknown
    characters is one unknown token, not bytes, and every other piece can be matched, bytes and marks too. The unknown
    token is the model's own, 3 in UMT5, as with transformers 4; transformers 5 has 2 built in, ``<s>`` in UMT5.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.spiece)
    model.trainer_spec.byte_fallback = False
    kind = sentencepiece_model_pb2.ModelProto.SentencePiece
    for i in reversed(range(tokenizer.extra_ids)):
        model.pieces.add(piece=f"<extra_id_{i}>", score=0.0, type=kind.CONTROL)
    special = {p.piece: i for i, p in enumerate(model.pieces) if p.type in (kind.CONTROL, kind.UNKNOWN)}
    for piece in model.pieces:
        if piece.type != kind.UNKNOWN:
            piece.type = kind.NORMAL
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString()), special


def clean(text: str) -> str:
    """Mended encoding, HTML entities resolved twice, runs of white space made one space."""
    import ftfy

    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(text)))).strip()


def tokenize(tokenizer: Tokenizer, prompts: Sequence[str]) -> Tokens:
    """Ids of each prompt, cut to ``max_length`` with the end mark kept.

    Raises:
      InputError: a prompt that is not text.
    """
    rows, cut = [], []
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise InputError(f"a prompt must be text, not {type(prompt).__name__}")
        ids = _encode(tokenizer, clean(prompt[:MAX_CHARACTERS]))
        kept = ids[: tokenizer.max_length - 1]
        cut.append(len(ids) - len(kept))
        rows.append([*kept, EOS])
    return Tokens(*pad(rows, tokenizer.max_length), tuple(cut))


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of clean text, without the end mark. A special piece is one token wherever it is typed, inside a word too."""
    encoder, special = _model(tokenizer)
    ids = []
    for part in re.split(f"({'|'.join(map(re.escape, special))})", text):
        if part in special:
            ids.append(special[part])
        else:
            # One by one: the float32 sum of scores over a long text would round, and break near ties differently.
            for word in part.split():
                ids += encoder.encode(word)
    return ids


def pad(rows: Sequence[Sequence[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids to int32 [B, length], and their lengths."""
    ids = np.full((len(rows), length), PAD, np.int32)
    for row, values in zip(ids, rows, strict=True):
        row[: len(values)] = values
    return ids, np.asarray([len(row) for row in rows], np.int32)


def train(sentences: Iterable[str], max_length: int) -> Tokenizer:
    """A tokenizer of whole words, letter case ignored; the same sentences give the same one.

    A unigram model (Kudo, 1804.10959) whose pieces are the words of the sentences, and letters, digits and marks to
    spell any other word with.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    sentences = list(sentences)
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=out,
        model_type="unigram",
        vocab_size=2 * len(CHARACTERS),
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc_cf",
        pad_id=PAD,
        eos_id=EOS,
        unk_id=UNK,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    model = sentencepiece_model_pb2.ModelProto.FromString(out.getvalue())
    normalizer = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    words = Counter(word for text in sentences for word in re.findall("\u2581\\w+", normalizer.normalize(text)))
    ranked = sorted(words, key=lambda word: (-words[word], word))
    # Any word costs less than its spelling.
    pieces = [(word, -1.0 - i / len(ranked)) for i, word in enumerate(ranked)] + [(c, -10.0) for c in CHARACTERS]
    del model.pieces[EOS + 2 :]
    for piece, score in pieces:
        model.pieces.add(piece=piece, score=score)
    model.trainer_spec.vocab_size = len(model.pieces)
    return Tokenizer(model.SerializeToString(deterministic=True), max_length)
