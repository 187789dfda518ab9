"""Prompts to token ids, with a small tokenizer trained on the spot."""

import functools

import numpy as np
import pytest

from vidjax import tokenizer
from vidjax.errors import InputError, WeightsError

SENTENCES = ["a small red circle moves right on grass", "two large blue squares spin at night", "a circle, a square"]


@functools.cache
def small() -> tokenizer.Tokenizer:
    return tokenizer.train(SENTENCES, 16)


def pieces(text: str) -> list[str]:
    encoder = tokenizer.processor(small())
    return [encoder.id_to_piece(i) for i in encoder.encode(text)]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("  a\tred \n circle ", "a red circle"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("&lt;b&gt;", "<b>"),
        ("schÃ¶n", "schön"),
        ("", ""),
    ],
)
def test_clean(raw, expected):
    """Published text encoders saw cleaned text only: other bytes are other tokens."""
    assert tokenizer.clean(raw) == expected


def test_words_are_single_tokens():
    """A small text encoder learns words, not spellings; letter case must not matter to it."""
    assert pieces("A Small RED circle") == ["▁a", "▁small", "▁red", "▁circle"]


def test_unknown_words_are_spelled():
    """A word never seen must keep its letters: unknown ones all look the same to the encoder."""
    assert pieces("quagga 7!") == ["▁", *"quagga", "▁", "7", "!"]
    assert tokenizer.UNK not in tokenizer.tokenize(small(), ["zebra (fast)"]).ids


def test_what_cannot_be_spelled_is_unknown():
    assert tokenizer.UNK in tokenizer.tokenize(small(), ["円"]).ids


def test_padding_and_lengths():
    """The end mark counts into the length, zeros follow: the encoder masks by length."""
    tokens = tokenizer.tokenize(small(), ["a red circle", "", "grass"])
    assert tokens.ids.shape == (3, 16)
    assert tokens.ids.dtype == tokens.lengths.dtype == np.int32
    np.testing.assert_array_equal(tokens.lengths, [4, 1, 2])
    for row, length in zip(tokens.ids, tokens.lengths, strict=True):
        assert row[length - 1] == tokenizer.EOS
        assert (row[length:] == tokenizer.PAD).all()
        assert (row[: length - 1] > tokenizer.UNK).all()
    assert tokens.truncated == (0, 0, 0)


def test_truncation_keeps_the_end_mark():
    """A text without its end is one the encoder was not trained on; and the user is told how much was cut."""
    tokens = tokenizer.tokenize(small(), ["circle " * 40, "circle " * 15])
    np.testing.assert_array_equal(tokens.lengths, [16, 16])
    np.testing.assert_array_equal(tokens.ids[:, -1], [tokenizer.EOS] * 2)
    np.testing.assert_array_equal(tokens.ids[0], tokens.ids[1])
    assert tokens.truncated == (25, 0)


@pytest.mark.parametrize("special", ["</s>", "<pad>", "<unk>"])
def test_special_pieces_in_a_prompt_stay_text(special):
    """A prompt must not be able to end itself: what is typed is spelled, never a control token."""
    tokens = tokenizer.tokenize(small(), [f"red {special} circle"])
    inside = tokens.ids[0, : tokens.lengths[0] - 1]
    assert tokenizer.EOS not in inside
    assert tokenizer.PAD not in inside


def test_same_sentences_same_bytes():
    """Two hosts that train their own tokenizer must agree, or their tokens mean different words."""
    assert tokenizer.train(SENTENCES, 16) == small()
    assert tokenizer.train([*SENTENCES, "a quagga"], 16) != small()


def test_load(tmp_path):
    path = tmp_path / "spiece.model"
    path.write_bytes(small().spiece)
    assert tokenizer.load(path, 16) == small()
    with pytest.raises(WeightsError, match=r"nothing.model is missing"):
        tokenizer.load(tmp_path / "nothing.model", 16)
    path.write_bytes(b"no model")
    with pytest.raises(WeightsError, match=r"spiece.model is not a sentencepiece model"):
        tokenizer.load(path, 16)


@pytest.mark.parametrize("given", [None, 7, b"red"])
def test_prompt_must_be_text(given):
    with pytest.raises(InputError, match=f"a prompt must be text, not {type(given).__name__}"):
        # Without the type checks that tests put around every function.
        tokenizer.tokenize.__wrapped__(small(), [given])


def test_a_very_long_prompt_is_cut_early():
    """A pasted book must neither stall the cleaning nor change the tokens that are read."""
    long = "circle " * 200_000
    np.testing.assert_array_equal(
        tokenizer.tokenize(small(), [long]).ids, tokenizer.tokenize(small(), ["circle " * 40]).ids
    )
