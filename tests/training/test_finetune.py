"""Fine-tuning starts at the model, teaches it, and leaves what the model can be loaded with again."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidjax
from vidjax.config import MeshConfig, OptimizerConfig, TrainConfig
from vidjax.data.source import ClipData
from vidjax.diffusion.flow import initial_noise
from vidjax.errors import InputError
from vidjax.parallel.mesh import make_mesh
from vidjax.training import lora, probe, train
from vidjax.training.finetune import LORA_FILE, FinetuneTask
from vidjax.training.loop import make_batches


@pytest.fixture
def task(tiny_folder, tmp_path):
    data = ClipData(str(tmp_path / "data"), num_clips=8, num_test_clips=4, num_frames=9, height=16, width=32)
    return FinetuneTask(str(tiny_folder), lora.LoRAConfig(4), data=data, eval_clips=4, caption_dropout=0.0)


def run(task, workdir, steps=30, rate=1e-2):
    optimizer = OptimizerConfig(learning_rate=rate, warmup_steps=1, weight_decay=0.0)
    config = TrainConfig(task, steps, 8, optimizer=optimizer, ema_decay=0.5, log_every=5, eval_every=steps)
    return train(config, workdir)


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def test_low_rank_changes_learn_and_load(task, tiny, tiny_folder, tmp_path):
    """The exported file must make the model what it was at the end of training, and training must teach it."""
    state = run(task, tmp_path / "run")
    assert list(state.params) == ["lora"], "the model itself is frozen"
    assert losses(tmp_path / "run")[-1] < 0.9 * losses(tmp_path / "run")[0]
    loaded = vidjax.load(tiny_folder, loras={tmp_path / "run" / "export" / LORA_FILE: 1.0})
    trained = lora.merged(tiny.params["transformer"], jax.device_get(state.ema["lora"]), 1.0)
    for a, b in zip(jax.tree.leaves(loaded.params["transformer"]), jax.tree.leaves(trained), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    changed = vidjax.generate(loaded, "a red circle", output_type="latent", progress=False)
    assert not np.allclose(changed, vidjax.generate(tiny, "a red circle", output_type="latent", progress=False))


def test_whole_denoiser_starts_at_the_model(task, tiny, tmp_path):
    """Random weights in place of the published ones would be training from nothing, unnoticed."""
    state = run(dataclasses.replace(task, lora=None), tmp_path / "run", steps=1, rate=1e-12)
    for a, b in zip(
        jax.tree.leaves(state.params["transformer"]), jax.tree.leaves(tiny.params["transformer"]), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)
    exported = vidjax.load(tmp_path / "run" / "export")
    # It was trained to be given any frames; all else is as it was.
    sampling = dataclasses.replace(tiny.config.sampling, given="any")
    assert exported.config == dataclasses.replace(tiny.config, sampling=sampling)
    frames = vidjax.generate(exported, "a red circle", progress=False).frames
    np.testing.assert_array_equal(frames, vidjax.generate(tiny, "a red circle", progress=False).frames)


def test_times_of_a_model_with_one_denoiser(task, tiny):
    """Half of the times left out would leave half of the sampling untaught."""
    assert task._times(tiny.config) == (0.0, 1.0)
    two = dataclasses.replace(tiny.config, boundary_ratio=0.9)
    assert task._times(two) == (0.9, 1.0)
    assert dataclasses.replace(task, part="transformer_2")._times(two) == (0.0, 0.9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"part": "transformer_2"}, "has one denoiser"),
        ({"model": "no/such/folder"}, "no model folder"),
        ({"lora": lora.LoRAConfig(4, None, ("to_x",))}, "modules of a block"),
    ],
)
def test_refused(task, change, message, tmp_path):
    """Found before anything is rendered or compiled."""
    with pytest.raises(InputError, match=message):
        run(dataclasses.replace(task, **change), tmp_path / "run")
    assert not (tmp_path / "data").exists()


def test_clips_that_do_not_fit(task, tmp_path):
    """A size that the model cannot cut into tokens, said with the nearest that it can."""
    data = dataclasses.replace(task.data, height=24)
    with pytest.raises(InputError, match="height=24: must be a multiple of 16; nearest: 32"):
        run(dataclasses.replace(task, data=data), tmp_path / "run")


@pytest.mark.slow
def test_clips_to_look_at_are_those_that_the_model_makes(task, tiny):
    """Clips made in another way than the model's own would show faults that it has not, or hide those that it has."""
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    made, key = task.make(TrainConfig(task, 1, 8, mesh=mesh)), jax.random.key(1)
    with jax.set_mesh(make_mesh(**dataclasses.asdict(mesh))):
        start = jax.jit(made.init)(jax.random.key(0))
        clips = made.sample(start, key)
    captions, noise = list(clips), initial_noise(key, (len(clips), 3, 1, 2, 4))
    assert len(clips) == 4
    expected = vidjax.generate(tiny, captions, latents=np.asarray(noise), progress=False)
    for text, video in zip(captions, expected, strict=True):
        assert clips[text].fps == video.fps
        error = np.abs(clips[text].frames.astype(int) - video.frames.astype(int))
        assert error.max() <= 2, text


def test_windows_of_longer_clips(task):
    """Fine-tuned on beginnings alone a model would forget how to go on; of another length it is never sampled."""
    data = dataclasses.replace(task.data, num_clips=4, num_long_clips=4, long_frames=17)
    windows = dataclasses.replace(task, data=data, window=3, later_share=1.0)
    made = windows.make(TrainConfig(windows, 1, 8))
    rows = [made.transform(made.source[i], np.random.default_rng(i)) for i in range(8)]
    assert {row["latents"].shape for row in rows} == {(3, 1, 2, 4)}
    assert [bool(row["later"]) for row in rows] == [False] * 4 + [True] * 4
    wrong = dataclasses.replace(windows, window=4)
    with pytest.raises(InputError, match=r"window=4: .* sampling.num_frames=9, .* nearest: 3"):
        wrong.make(TrainConfig(wrong, 1, 8))


def test_how_noisy_a_model_goes_on(task, tmp_path, tiny):
    """Exported without a word it would go on from clean frames, as it was not trained; a LoRA can say no word."""
    data = dataclasses.replace(task.data, num_clips=4, num_long_clips=4, long_frames=17)
    windows = dataclasses.replace(task, data=data, window=3, later_share=1.0, past_noise=0.25)
    with pytest.raises(InputError, match=r"past_noise=0.25 with lora: the model goes on from 0.0; give none, or lora="):
        windows.make(TrainConfig(windows, 1, 8))
    wrong = dataclasses.replace(windows, lora=None, past_noise=1.5)
    with pytest.raises(InputError, match=r"past_noise=1.5: must lie between 0 and 1"):
        wrong.make(TrainConfig(wrong, 1, 8))
    whole = dataclasses.replace(windows, lora=None)
    made = whole.make(TrainConfig(whole, 1, 8))
    made.export(jax.jit(made.init)(jax.random.key(0)), tmp_path / "out")
    assert vidjax.load(tmp_path / "out").config.sampling.past_noise == 0.25
    assert dataclasses.replace(whole, past_noise=None).past_time(tiny.config.sampling) == 0.0


def test_tokens_of_a_batch(task):
    """Tokens per second would be those of other clips."""
    made = task.make(TrainConfig(task, 1, 8))
    assert made.tokens({"latents": jax.ShapeDtypeStruct((8, 3, 1, 2, 4), jnp.float32)}) == 8 * 3 * 2


@pytest.mark.parametrize("causal_share", [0.0, 0.5])
def test_pictures_beside_clips(task, tmp_path, causal_share):
    """Batches of several sizes, each step of one: a step that took a batch for another's would end the run."""
    data = dataclasses.replace(task.data, num_pictures=24)
    learning = dataclasses.replace(task, lora=None, data=data, causal_share=causal_share, window=3)
    state = run(learning, tmp_path / "run", steps=6)
    assert int(state.step) == 6
    assert np.isfinite(losses(tmp_path / "run")).all()
    config = TrainConfig(learning, 6, 8)
    batches = make_batches(learning.make(config), config, make_mesh(), 0)
    shapes = {next(batches)["latents"].shape[:2] for _ in range(8)}
    assert shapes == {(8, 3), (24, 1)}


def test_held_out_loss_is_of_the_trained_parameters(task, tiny_folder, tmp_path):
    """Judging the frozen model would show a flat line whatever is learnt."""
    config = TrainConfig(task, 1, 8)
    made = task.make(config)
    abstract = jax.eval_shape(made.init, jax.random.key(0))
    start = made.init(jax.random.key(0))
    moved = jax.tree.map(lambda a: jnp.full(a.shape, 0.3), abstract)
    first, again, other = (made.evaluate(params, jax.random.key(1)) for params in (start, start, moved))
    assert first == again
    assert all(first[name] != other[name] for name in first)
    swaps = [f"swap_{name}" for name in (*probe.SUBJECT, *probe.SCENE)]
    exchanges = ["exchange_colour", "exchange_shape"]  # one of these clips is of two subjects
    assert list(first) == ["loss_0.2", "loss_0.5", "loss_0.8", "loss_0.95", *swaps, *exchanges]
