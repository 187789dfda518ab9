"""Prompt to token ids, by sentencepiece, cleaned as the published text encoders expect."""

import functools
import html
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidjax.errors import InputError, WeightsError

PAD, EOS, UNK = 0, 1, 2

CHARACTERS = "\u2581abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"-()/&%"
"""What a trained tokenizer spells unknown words with; the first is the mark of a word's beginning."""

MAX_CHARACTERS = 100_000
"""Longer prompts are cut before they are cleaned: no model reads so much."""


class Tokenizer(NamedTuple):
    """A sentencepiece model (its bytes) and the number of tokens the text encoder reads, end mark included."""

    spiece: bytes
    max_length: int


class Tokens(NamedTuple):
    """``ids`` int32 [B, L], padded with 0; ``lengths`` int32 [B]; ``truncated``: tokens that were cut off, a text."""

    ids: np.ndarray
    lengths: np.ndarray
    truncated: tuple[int, ...]


def load(path: Path, max_length: int) -> Tokenizer:
    """A tokenizer from a ``spiece.model`` file.

    Raises:
      WeightsError: missing, or not a sentencepiece model.
    """
    try:
        tokenizer = Tokenizer(path.read_bytes(), max_length)
        processor(tokenizer)
    except OSError as error:
        raise WeightsError(f"{path} is missing: the tokenizer's sentencepiece model is expected there") from error
    except RuntimeError as error:
        raise WeightsError(f"{path} is not a sentencepiece model") from error
    return tokenizer


@functools.lru_cache(maxsize=8)
def processor(tokenizer: Tokenizer):
    """The sentencepiece processor, built once: training encodes one caption at a time."""
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=tokenizer.spiece)


def clean(text: str) -> str:
    """Mended encoding, HTML entities resolved twice, runs of white space made one space."""
    import ftfy

    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(text)))).strip()


def tokenize(tokenizer: Tokenizer, prompts: Sequence[str]) -> Tokens:
    """Ids of each prompt, cut to ``max_length`` with the end mark kept.

    Raises:
      InputError: a prompt that is not text.
    """
    encoder = processor(tokenizer)
    rows, cut = [], []
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise InputError(f"a prompt must be text, not {type(prompt).__name__}")
        ids = encoder.encode(clean(prompt[:MAX_CHARACTERS]))
        kept = ids[: tokenizer.max_length - 1]
        cut.append(len(ids) - len(kept))
        rows.append([*kept, EOS])
    return Tokens(*pad(rows, tokenizer.max_length), tuple(cut))


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
