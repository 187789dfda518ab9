"""Embeddings computed ahead are those of the encoder in the step, and it is not needed again."""

import jax
import numpy as np

from vidjax.parallel.mesh import make_mesh
from vidjax.training import texts
from vidjax.training.samples import stack

CAPTIONS = ["", "a red circle", "a blue star bounces in the snow"]


def test_ahead_as_in_the_step(tiny, tiny_folder, tmp_path, monkeypatch):
    """A denoiser that learns with other embeddings than it is used with would not understand its prompts."""
    step = texts.encoded_in_step(tiny_folder, tiny.config, make_mesh(fsdp=2, devices=jax.devices()[:2]))
    ahead = texts.encoded_ahead(tiny_folder, tiny.config, CAPTIONS, tmp_path)
    assert not ahead.frozen
    found, expected = (
        np.asarray(jax.jit(one.encode)(one.frozen, stack([one.row(text) for text in CAPTIONS])))
        for one in (ahead, step)
    )
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-3)
    monkeypatch.setattr(texts.folder, "read_part", None)
    again = texts.encoded_ahead(tiny_folder, tiny.config, CAPTIONS, tmp_path)
    np.testing.assert_array_equal(again.row("a red circle")["text"], ahead.row("a red circle")["text"])


def test_of_another_encoder(tiny_folder, tiny, tmp_path):
    """Embeddings of an encoder that has changed would be taken for those of the new one."""
    before = texts._fingerprint(tiny_folder, tiny.config)
    assert before == texts._fingerprint(tiny_folder, tiny.config)
    changed = tmp_path / "changed"
    for part in ("text_encoder", "tokenizer"):
        (changed / part).mkdir(parents=True)
        for file in (tiny_folder / part).iterdir():
            (changed / part / file.name).write_bytes(file.read_bytes())
    assert texts._fingerprint(changed, tiny.config) == before
    weights = changed / "text_encoder" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert texts._fingerprint(changed, tiny.config) != before
