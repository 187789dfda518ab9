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
        ("1 < 2 &amp;amp; 3", "1 < 2 & 3"),
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


def first_ids(words: tokenizer.Tokenizer, text: str) -> list[int]:
    tokens = tokenizer.tokenize(words, [text])
    return tokens.ids[0, : tokens.lengths[0]].tolist()


@pytest.mark.parametrize("text", ["red{}circle", "red {} circle", "{} red circle{}", "{}{}", "red  {}", "&lt;{}&gt;"])
@pytest.mark.parametrize("special", ["</s>", "<pad>", "<unk>", "<extra_id_0>", "<extra_id_2>"])
def test_special_pieces_in_a_prompt_are_single_tokens(special, text):
    """The published programs cut them out before they encode what is between: the same prompt must mean the same."""
    words = small()._replace(extra_ids=3)
    count = tokenizer.processor(small()).vocab_size()
    marks = {"</s>": tokenizer.EOS, "<pad>": tokenizer.PAD, "<unk>": tokenizer.UNK, "<extra_id_0>": count + 2}
    expected = []
    for i, part in enumerate(text.split("{}")):
        # The last of the extra marks comes first.
        expected += [marks.get(special, count)] if i else []
        expected += first_ids(words, part)[:-1]
    assert first_ids(words, text.format(special, special)) == [*expected, tokenizer.EOS]


@pytest.mark.parametrize("text", ["<extra_id_3>", "< /s>", "<s>", "<extra_id_0"])
def test_other_marks_stay_text(text):
    """Only what the tokenizer has as a mark is one: the rest of what looks alike is spelled."""
    words = small()._replace(extra_ids=3)
    assert max(first_ids(words, text)) < tokenizer.processor(small()).vocab_size()
    assert len(first_ids(words, text)) > 3


def test_unknown_characters_are_not_spelled_in_bytes():
    """Sentencepiece would, but the published programs read one unknown token: other tokens are another prompt."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(small().spiece)
    model.trainer_spec.byte_fallback = True
    for byte in range(256):
        model.pieces.add(piece=f"<0x{byte:02X}>", score=0.0, type=model.SentencePiece.BYTE)
    words = tokenizer.Tokenizer(model.SerializeToString(), 16)
    assert first_ids(words, "red \U0001f600円 a") == first_ids(small(), "red \U0001f600円 a")
    assert first_ids(words, "red \U0001f600円 a").count(tokenizer.UNK) == 1


def test_same_sentences_same_bytes():
    """Two hosts that train their own tokenizer must agree, or their tokens mean different words."""
    assert tokenizer.train(SENTENCES, 16) == small()
    assert tokenizer.train([*SENTENCES, "a quagga"], 16) != small()


def test_load(tmp_path):
    path = tmp_path / "spiece.model"
    path.write_bytes(small().spiece)
    assert tokenizer.load(path, 16) == small()._replace(extra_ids=tokenizer.EXTRA_IDS)
    with pytest.raises(WeightsError, match=r"nothing.model is missing"):
        tokenizer.load(tmp_path / "nothing.model", 16)
    path.write_bytes(b"no model")
    with pytest.raises(WeightsError, match=r"spiece.model is not a sentencepiece model"):
        tokenizer.load(path, 16)


def test_load_reads_the_number_of_extra_marks(tmp_path):
    """With another number every ``<extra_id_N>`` is another row of the embedding."""
    path, config = tmp_path / "spiece.model", tmp_path / "tokenizer_config.json"
    path.write_bytes(small().spiece)
    config.write_text('{"extra_ids": 300}')
    assert tokenizer.load(path, 16) == small()._replace(extra_ids=300)
    config.write_text("{}")
    assert tokenizer.load(path, 16).extra_ids == tokenizer.EXTRA_IDS
    config.write_text("[]")
    with pytest.raises(WeightsError, match=r"tokenizer_config.json is not a tokenizer's configuration"):
        tokenizer.load(path, 16)
    config.write_text('{"extra_ids": -1}')
    with pytest.raises(WeightsError, match=r"must be a number of marks, not -1"):
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
