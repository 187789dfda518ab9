"""Windows of longer clips: a model that is rolled out must have seen what it is then given."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.config import TrainConfig
from vidjax.data.buckets import Bucketed
from vidjax.data.shapes import scene_to_json, training_scene
from vidjax.data.source import ClipData
from vidjax.errors import InputError
from vidjax.training import denoiser
from vidjax.training.conditioning import filled_batches
from vidjax.training.denoiser import DenoiserTask
from vidjax.training.flow_matching import flow_loss, given_frames
from vidjax.training.references import Beside
from vidjax.training.windows import cut_window, first_windows

CLIP = np.arange(9, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 2, 4), np.float32)


def test_windows_begin_everywhere():
    """Samples that only began with their clip would never show a later latent frame at position 0."""
    rng = np.random.default_rng(0)
    cuts = [cut_window(CLIP, 5, 0.5, rng) for _ in range(4000)]
    starts = np.asarray([window[0, 0, 0, 0] for window, _ in cuts])
    for window, start in cuts[:100]:
        np.testing.assert_array_equal(np.diff(window[:, 0, 0, 0]), 1)
        assert window.shape == (5, 1, 2, 4)
        assert start == window[0, 0, 0, 0]
    shares = np.bincount(starts.astype(int), minlength=5) / len(cuts)
    np.testing.assert_allclose(shares, [0.5, *[0.125] * 4], atol=0.03)


@pytest.mark.parametrize("frames", [9, 12])
def test_clip_that_fits_is_whole(frames):
    """Called later, its first latent frame would teach that such a one can follow others."""
    window, start = cut_window(CLIP, frames, 1.0, np.random.default_rng(0))
    np.testing.assert_array_equal(window, CLIP)
    assert start == 0


def test_later_windows_are_given_something():
    """With nothing given the model would learn that clips begin with a latent frame of four frames."""
    later = jnp.arange(30_000) % 2 == 1
    count = np.asarray(given_frames(jax.random.key(0), 30_000, 5, 0.3, later)).sum(axis=1)
    np.testing.assert_allclose(np.bincount(count[1::2], minlength=5) / 15_000, [0, *[0.25] * 4], atol=0.02)
    np.testing.assert_array_equal(count[::2], np.asarray(given_frames(jax.random.key(0), 30_000, 5, 0.3)).sum(1)[::2])


def test_loss_knows_later_windows():
    """The batch says which they are; with nothing else given, they alone have frames at time 0."""
    times = []

    def velocity(params, batch, x, t):
        times.append(np.asarray(t))
        return x

    batch = {"latents": jnp.ones((8, 5, 1, 2, 4)), "later": jnp.arange(8) < 3}
    flow_loss(velocity, {}, batch, jax.random.key(0), 0.7, 0.0)
    np.testing.assert_array_equal((times[0] == 0).any(axis=1), batch["later"])


def test_what_later_windows_go_on_from_is_noisy():
    """Trained at another time than what is sampled, a model would not know how far to trust what it goes on from."""
    seen = []

    def velocity(params, batch, x, t):
        seen.append((np.asarray(x), np.asarray(t)))
        return x

    batch = {"latents": jnp.zeros((64, 5, 4, 4, 4)), "later": jnp.arange(64) < 32}
    flow_loss(velocity, {}, batch, jax.random.key(0), 0.7, 1.0, past_noise=0.25)
    (x, t), first = seen[0], np.zeros(64, bool)
    first[32:] = True
    assert ((t == 0).any(axis=1) == first).all()
    assert (t[:32, 0] == 0.25).all()
    assert (t[32:] != 0.25).all()
    np.testing.assert_allclose(x[:32, 0].std(), 0.25, rtol=0.05)


@pytest.fixture
def task(tiny, monkeypatch):
    monkeypatch.setattr(denoiser, "TOKENIZER_CAPTIONS", 200)
    config, data = tiny.config, ClipData(num_clips=32)
    return DenoiserTask(
        "", config.transformer, config.text_encoder, config.sampling, data=data, window=3, later_share=0.5
    )


def test_task_cuts_its_samples(task):
    """Each sample is of the window's length, and a function of its generator alone."""
    tokenizer = task.tokenizer()
    example = {"latents": CLIP.astype(np.float16), "scene": scene_to_json(training_scene(0, 0))}
    rows = [task.transform(tokenizer, example, np.random.default_rng(seed)) for seed in (0, 0, 1, 2, 3, 4, 5)]
    np.testing.assert_array_equal(rows[0]["latents"], rows[1]["latents"])
    assert {row["latents"].shape for row in rows} == {(3, 1, 2, 4)}
    assert {bool(row["later"]) for row in rows} == {False, True}
    whole = dataclasses.replace(task, window=None).transform(tokenizer, example, np.random.default_rng(0))
    assert "later" not in whole
    np.testing.assert_array_equal(whole["latents"], CLIP)
    np.testing.assert_array_equal(whole["tokens"], rows[0]["tokens"])


def test_a_picture_is_no_window(task):
    """It has nothing to go on from: called the beginning of a clip, it would be noised as a causal window is."""
    example = {"latents": CLIP[:1].astype(np.float16), "scene": scene_to_json(training_scene(0, 0))}
    row = dataclasses.replace(task, causal_share=0.5).transform(task.tokenizer(), example, np.random.default_rng(0))
    np.testing.assert_array_equal(row["latents"], CLIP[:1])
    assert not {"later", "first"} & row.keys()


def test_batches_of_pictures_are_filled():
    """A picture has a fraction of a clip's tokens: in batches of as many rows they would cost more than they teach."""
    clips, long, pictures = ([{"latents": CLIP[:frames]}] * 2 for frames in (3, len(CLIP), 1))
    filled = filled_batches(Bucketed((clips, long, [], pictures), (1, 1, 1, 2)), window=3)
    assert filled.multiples == (1, 1, 1, 3)
    assert filled.weights == (1, 1, 1, 2)
    assert filled_batches(Bucketed((clips, pictures, long)), window=None).multiples == (1, len(CLIP), 1)
    # Beside three pictures each, as many latent frames as a clip beside three.
    shown = Beside(pictures, np.arange(2), references=2, style=True)
    assert filled_batches(Bucketed((long, shown)), window=5).multiples == (1, 2)
    for plain in (clips, pictures, Bucketed((clips, long))):
        assert filled_batches(plain, window=3) is plain


def test_window_is_what_is_sampled(task, tiny_folder):
    """A model that is sampled in other windows than it learnt would go on badly."""
    wrong = dataclasses.replace(task, vae=str(tiny_folder), window=4)
    with pytest.raises(InputError, match=r"window=4: .* sampling.num_frames=9, .* nearest: 3"):
        wrong.make(TrainConfig(wrong, steps=1, batch_size=1))


def test_judged_on_beginnings():
    """Held-out losses must not depend on where a window was cut."""
    source = [{"latents": CLIP, "scene": "a"}, {"latents": CLIP[:2], "scene": "b"}]
    for wrapped in (first_windows(source, 3), first_windows(Bucketed((source[:1], source[1:])), 3)):
        assert len(wrapped) == 2
        np.testing.assert_array_equal(wrapped[0]["latents"], CLIP[:3])
        assert wrapped[1]["latents"].shape[0] == 2
        assert [wrapped[i]["scene"] for i in range(2)] == ["a", "b"]


def test_long_clips_are_for_training_alone(tmp_path):
    """Judged on beginnings of long clips, in which zooms are slow, a model would seem worse than it is."""
    data = ClipData(str(tmp_path), 4, 2, num_frames=5, height=16, width=16, num_long_clips=3, long_frames=9)
    train, test = data.open("train"), data.open("test")
    assert [train[i]["video"].shape[0] for i in range(len(train))] == [5, 5, 5, 5, 9, 9, 9]
    assert [test[i]["video"].shape[0] for i in range(len(test))] == [5, 5]
    assert [bucket.num_frames for bucket in data.buckets()] == [5, 9]
    assert data.name() != dataclasses.replace(data, num_long_clips=0).name()
    few = dataclasses.replace(data, num_long_clips=4000).smoke()
    assert few.num_long_clips == 8
    assert data.smoke().num_long_clips == 3
