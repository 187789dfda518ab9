"""Text embeddings computed ahead: once each, the right ones, going on where they were cut off."""

import numpy as np
import pytest

from vidjax.data import embeddings
from vidjax.data.embeddings import open_embeddings
from vidjax.errors import InputError


class Encoder:
    """A token for each letter; remembers what it was asked, and fails at one text."""

    def __init__(self, fails_at=None):
        self.fails_at, self.asked = fails_at, []

    def __call__(self, texts):
        if self.fails_at in texts:
            raise KeyboardInterrupt
        self.asked.append(list(texts))
        found = np.zeros((len(texts), 12, 2), np.float32)
        for row, text in zip(found, texts, strict=True):
            row[: len(text)] = np.reshape([(ord(letter), 1) for letter in text], (-1, 2))
        return found, np.asarray([len(text) for text in texts])


def said(found, text):
    return "".join(chr(int(code)) for code in found[text][:, 0])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(embeddings, "BLOCK", 3)


def test_each_caption_has_its_own(tmp_path):
    """Words of another clip would be learnt for this one."""
    texts = ["a fox", "", "the sea", "a fox", "snow", "rain"]
    encoder = Encoder()
    found = open_embeddings(lambda: encoder, texts, tmp_path, batch_size=2)
    assert len(found) == 5, "a caption of several clips is encoded once"
    assert all(len(batch) == 2 for batch in encoder.asked), "one shape, one compilation"
    for text in texts:
        assert said(found, text) == text
    padded = found.padded("snow", 6)
    assert (padded.shape, padded.dtype) == ((6, 2), np.float16)
    assert padded[3].any()
    assert not padded[4:].any()
    assert found.padded("the sea", 3).shape == (3, 2)
    with pytest.raises(InputError, match="no embedding of 'wind'"):
        found["wind"]


def test_cut_off_goes_on_and_more_are_added(tmp_path):
    """Hours of a large encoder would start over; what is new must not displace what is there."""
    texts = [f"text {i}" for i in range(8)]
    with pytest.raises(KeyboardInterrupt):
        open_embeddings(lambda: Encoder(fails_at="text 5"), texts, tmp_path, batch_size=1)
    encoder = Encoder()
    found = open_embeddings(lambda: encoder, texts, tmp_path, batch_size=1)
    assert encoder.asked == [[text] for text in texts[3:]]
    again = Encoder()
    open_embeddings(pytest.fail, texts, tmp_path)  # an encoder may be larger than the device's memory
    more = open_embeddings(lambda: again, ["new", *texts], tmp_path, batch_size=1)
    assert again.asked == [["new"]]
    assert [said(more, text) for text in ["new", *texts]] == ["new", *texts]
    assert [said(found, text) for text in texts] == texts
