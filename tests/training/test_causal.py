"""Causal steps: noised as clips are made frame by frame, beside the others in one training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidjax
from vidjax.config import TrainConfig
from vidjax.data.source import ClipData
from vidjax.errors import InputError
from vidjax.model import read_config
from vidjax.training import denoiser
from vidjax.training.causal import causal_noising, one_noisy
from vidjax.training.denoiser import DenoiserTask
from vidjax.training.finetune import FinetuneTask
from vidjax.training.flow_matching import CAUSAL_BANDS, flow_loss, held_out_losses
from vidjax.training.lora import LoRAConfig
from vidjax.training.windows import window_row

CLIP = np.arange(9, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 2, 4), np.float32)


def test_past_is_clean_as_when_sampled():
    """With clean frames behind noisy ones, or a past that is always noisy, sampling would show what was never seen."""
    noising = causal_noising(jax.random.key(0), {"latents": jnp.ones((20_000, 5, 1, 1, 1))}, 0.7, (0.0, 1.0))
    clean = np.asarray(noising.times) == 0
    np.testing.assert_array_equal(noising.counts, ~clean)
    assert (clean[:, :-1] >= clean[:, 1:]).all(), "clean frames are the first ones"
    counts = np.bincount(clean.sum(axis=1), minlength=6) / len(clean)
    np.testing.assert_allclose(counts, [0.25 + 0.15, 0.15, 0.15, 0.15, 0.15, 0], atol=0.02)
    times = np.asarray(noising.times)[counts.argmax() == clean.sum(axis=1)]
    assert abs(np.corrcoef(times[:, 0], times[:, 1])[0, 1]) < 0.05, "each frame has a time of its own"


def test_later_windows_are_seen_behind_the_first_frame():
    """A long clip is seen as its first frame and the last ones; what comes next to the first one cannot be learnt."""
    rng = np.random.default_rng(0)
    rows = [window_row(CLIP, 5, 0.5, True, rng)[0] for _ in range(400)]
    batch = {name: jnp.asarray(np.stack([row[name] for row in rows])) for name in rows[0]}
    noising = causal_noising(jax.random.key(0), batch, 0.7, (0.0, 1.0))
    later, seen = np.asarray(batch["later"]), np.asarray(noising.latents)[:, :, 0, 0, 0]
    assert 0 < later.sum() < 400
    np.testing.assert_array_equal(seen[~later], np.tile(np.arange(5.0), (np.sum(~later), 1)))
    assert (seen[later, 0] == 0).all()
    np.testing.assert_array_equal(np.diff(seen[later, 1:]), 1)
    assert set(seen[later, 1]) == {2.0, 3.0, 4.0, 5.0}
    clean = np.asarray(noising.times)[later] == 0
    assert clean[:, :2].all()
    assert set(clean.sum(axis=1)) == {2, 3, 4}
    np.testing.assert_array_equal(np.diff(np.asarray(batch["latents"])[later, :, 0, 0, 0]), 1)  # of other steps
    assert "first" not in window_row(CLIP, 5, 0.5, False, rng)[0]


def test_windows_of_two_have_no_first_frame():
    """There the cache is a ring of one frame: the frame before is all that is seen."""
    batch = {"latents": jnp.ones((8, 2, 1, 1, 1)), "first": jnp.zeros((8, 1, 1, 1, 1)), "later": jnp.ones(8, bool)}
    noising = causal_noising(jax.random.key(0), batch, 0.7, (0.0, 1.0))
    assert (noising.latents == 1).all()
    np.testing.assert_array_equal(noising.times == 0, np.tile([True, False], (8, 1)))


def test_share_of_the_steps_is_causal():
    """Whole steps are of one kind, which the model is told; the others are as they were without causal ones."""
    batch = {"latents": jnp.ones((16, 5, 1, 1, 2))}

    def velocity(params, batch, x, t, causal=False):
        # Causal steps are told by their loss; times, which must be of that kind, by the place of the point.
        alike = jnp.all(jnp.where(t > 0, t == t.max(axis=1, keepdims=True), True))
        return x * 0 + jnp.where(causal, 1000.0, 0.0) + jnp.where(alike, 100.0, 0.0)

    def run(key, share):
        return flow_loss(velocity, {}, batch, key, 0.7, 0.3, causal_share=share)

    keys = jax.random.split(jax.random.key(0), 200)
    losses = np.asarray(jax.jit(jax.vmap(lambda key: run(key, 0.4)))(keys))
    causal = losses > 500**2
    assert 0.3 < causal.mean() < 0.5
    assert (np.abs(losses[causal] - 1000**2) < 1e4).all()
    plain = np.asarray(jax.jit(jax.vmap(lambda key: run(key, 0.0)))(keys))
    np.testing.assert_allclose(losses[~causal], plain[~causal], rtol=1e-5)


def test_one_in_turn_is_noisy():
    """The held-out loss is of frames behind a clean past, of each place alike."""
    times, noisy = one_noisy(jnp.float32(0.5), 6, 3)
    np.testing.assert_array_equal(noisy, [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(times[:3], [[0.5, 0.5, 0.5], [0, 0.5, 0.5], [0, 0, 0.5]])


def test_held_out_loss_is_of_the_noisy_frame():
    """An error of clean frames, which nobody asks for, must not be seen; that of the noisy one must."""

    def velocity(params, batch, x, t, causal=False):
        v = x / jnp.maximum(t, 1e-9)[..., None, None, None]
        return jnp.where(causal, v + jnp.where(t > 0, 2.0, 1e3)[..., None, None, None], v)

    batch = {"latents": np.zeros((6, 3, 1, 2, 4), np.float32)}
    found = held_out_losses(velocity, {}, [batch], jax.random.key(0), causal=True)
    for band in CAUSAL_BANDS:
        np.testing.assert_allclose(found[f"causal_loss_{band}"], 4.0, rtol=1e-3)
    assert not [name for name in held_out_losses(velocity, {}, [batch], jax.random.key(0)) if "causal" in name]


@pytest.fixture
def task(tiny, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(denoiser, "TOKENIZER_CAPTIONS", 200)
    config = tiny.config
    data = ClipData(folder=str(tmp_path), num_clips=16, num_test_clips=4, num_frames=9, height=16, width=32)
    return DenoiserTask(
        str(tiny_folder), config.transformer, config.text_encoder, config.sampling, data=data,
        text_steps=0, eval_clips=4, window=3, causal_share=0.5,
    )  # fmt: skip


def test_training_from_scratch_is_told_apart(task, tmp_path):
    """The step is one program; its export says that the model makes clips frame by frame, and does."""
    made = task.make(TrainConfig(task, steps=1, batch_size=2))
    params = made.init(jax.random.key(0))
    rows = [made.transform(made.source[i], np.random.default_rng(i)) for i in range(2)]
    assert rows[0]["first"].shape == (1, 1, 2, 4)
    batch = {name: jnp.asarray(np.stack([row[name] for row in rows])) for name in rows[0]}
    step = jax.jit(lambda params, key: jax.value_and_grad(made.loss, has_aux=True)(params, batch, key))
    for seed in range(3):
        (value, _), gradients = step(params, jax.random.key(seed))
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert {"causal_loss_0.5", "causal_loss_0.8"} < made.evaluate(params, jax.random.key(0)).keys()
    made.export(params, tmp_path / "out")
    assert read_config(tmp_path / "out").sampling.causal
    clip = vidjax.generate(vidjax.load(tmp_path / "out"), "a red circle", causal=True, num_frames=13, progress=False)
    assert clip.frames.shape == (13, 16, 32, 3)


def test_fine_tuned_model_says_so(tiny, tiny_folder, tmp_path):
    """A model that was trained for it and does not say so would refuse; the other way round it would show noise."""
    task = FinetuneTask(model=str(tiny_folder), lora=None, causal_share=0.3)
    for share, given in ((0.3, 0.0), (0.0, 0.3)):
        out = tmp_path / f"{share}"
        own = dataclasses.replace(task, causal_share=share, given_share=given)
        own._export(tiny_folder, tiny.config, {"transformer": tiny.params["transformer"]}, out)
        assert read_config(out).sampling.causal == (share > 0)
        assert read_config(out).sampling.given == ("any" if given else "first")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"causal_share": 1.5}, "causal_share=1.5: must lie between 0 and 1"),
        ({"lora": LoRAConfig()}, "causal_share=0.3 with lora: .* give lora=none"),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_refused(tiny_folder, asked, said):
    """Before a dataset is made for it."""
    task = dataclasses.replace(FinetuneTask(model=str(tiny_folder), lora=None, causal_share=0.3), **asked)
    with pytest.raises(InputError, match=said):
        task.make(TrainConfig(task, steps=1, batch_size=1))
