"""The gauge must move for the word that is wrong, and for no other."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax import tokenizer as tokenizers
from vidjax.data.shapes import Scene, Subject, actions_with, caption, scene_to_json, training_scene
from vidjax.data.source import ClipData
from vidjax.training import caption_swap
from vidjax.training.flow_matching import BANDS
from vidjax.training.texts import token_row

FACTORS = ("colour", "shape", "size", "action", "place", "camera", "style")


@pytest.mark.parametrize("factor", FACTORS)
def test_one_factor_is_swapped(factor):
    """A swap that changes nothing, or two things, or tells of two subjects of one colour, measures something else."""
    for i in range(100):
        scene = training_scene(0, i)
        other = caption_swap.swapped(scene, factor, np.random.default_rng(i))
        if factor in ("colour", "shape", "size"):
            assert dataclasses.replace(other, subjects=scene.subjects) == scene
            assert other.subjects[1:] == scene.subjects[1:]
            value = getattr(scene.subjects[0], factor)
            assert dataclasses.replace(other.subjects[0], **{factor: value}) == scene.subjects[0]
        else:
            assert dataclasses.replace(other, **{factor: getattr(scene, factor)}) == scene
        assert other != scene
        assert len({s.colour for s in other.subjects}) == len(other.subjects)
        assert other.action in actions_with(other.camera) or factor == "camera"
        assert caption(other, np.random.default_rng(i)) != ""


def test_two_exchange_one_factor():
    """An exchange that changes the set of the words would show that a model knows words, not whose they are."""
    scene = Scene(subjects=(Subject("red", "circle", "small"), Subject("blue", "star", "large")))
    other = caption_swap.exchanged(scene, "shape")
    assert other == Scene(subjects=(Subject("red", "star", "small"), Subject("blue", "circle", "large")))
    words = [sorted(caption(each, np.random.default_rng(0)).split()) for each in (scene, other)]
    assert words[0] == words[1]


def knows_shapes(params, batch, x, t):
    """A model that does twice as badly where the caption names no circle."""
    told = (batch["tokens"] == params["circle"]).any(axis=1, keepdims=True)
    error = jnp.where(told, 1.0, 2.0) * (1 + t)
    # Of latents that are zero, x is t times the noise, which is the velocity.
    t, error = (v[..., None, None, None] for v in (t, error))
    return x / t + jnp.sqrt(error)


def test_gauge_moves_for_the_wrong_word_alone():
    """It decides how long a model is trained: it must name the factor that the model reads, in percent."""
    tokenizer = tokenizers.train(ClipData().captions(200), max_length=32)
    [word] = tokenizers.processor(tokenizer).encode("circle")
    scenes = [
        Scene(subjects=(Subject(colour, "circle", "small"),), camera="pans left", style="anime")
        for colour in ("red", "green", "blue", "pink")
    ]
    examples = [{"scene": scene_to_json(s), "latents": np.zeros((3, 1, 1, 2), np.float16)} for s in scenes]
    params, row = {"circle": jnp.float32(word)}, functools.partial(token_row, tokenizer)
    scores = caption_swap.evaluate(knows_shapes, params, ClipData(), row, examples, jax.random.key(0))
    expected = {f"loss_{t}": 1 + t for t in BANDS} | {f"swap_{factor}": 0.0 for factor in FACTORS}
    assert scores.keys() == expected.keys()
    for name, value in (expected | {"swap_shape": 100.0}).items():
        assert scores[name] == pytest.approx(value, abs=1e-3), name


def test_gauge_of_two_subjects():
    """A model that takes a caption for a set of words, and one that reads which comes first."""
    tokenizer = tokenizers.train(ClipData().captions(200), max_length=32)
    circle, star = (word for (word,) in (tokenizers.processor(tokenizer).encode(s) for s in ("circle", "star")))
    alone = Scene(subjects=(Subject("pink", "circle", "small"),))
    pair = Scene(subjects=(Subject("red", "circle", "small"), Subject("blue", "star", "small")))
    examples = [{"scene": scene_to_json(s), "latents": np.zeros((3, 1, 1, 2), np.float16)} for s in (alone, pair)]

    def knows_order(params, batch, x, t):
        first, second = (jnp.argmax(batch["tokens"] == word, axis=1)[:, None] for word in (circle, star))
        t, error = (v[..., None, None, None] for v in (t, jnp.where(first < second, 1.0, 3.0) * jnp.ones_like(t)))
        return x / t + jnp.sqrt(error)

    row, key = functools.partial(token_row, tokenizer), jax.random.key(0)
    for velocity, expected in ((knows_order, 200.0), (knows_shapes, 0.0)):
        scores = caption_swap.evaluate(velocity, {"circle": jnp.float32(circle)}, ClipData(), row, examples, key)
        assert scores["exchange_shape"] == pytest.approx(expected, abs=1e-2)
        assert scores["exchange_colour"] == pytest.approx(0.0, abs=1e-2)
