"""Training on a folder of clips: what has no scenes trains, is judged and resumes all the same."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from vidjax import config as configs
from vidjax import tokenizer as tokenizers
from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.data.buckets import Bucket, Bucketed
from vidjax.data.folder import prepare_folder
from vidjax.data.prepare import Settings
from vidjax.data.source import ClipData, DataConfig, FolderData, SceneData, TfdsData
from vidjax.errors import InputError
from vidjax.training import denoiser, train
from vidjax.training.autoencoder import AutoencoderTask
from vidjax.training.denoiser import DenoiserTask
from vidjax.training.finetune import FinetuneTask
from vidjax.training.lora import LoRAConfig
from vidjax.video import Video

WORDS = ("a red square", "a green square", "a blue square", "a white square")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> FolderData:
    """Eight clips and four pictures."""
    place, out = tmp_path_factory.mktemp("clips"), tmp_path_factory.mktemp("data") / "made"
    colours = np.asarray([(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 200)], np.uint8)
    for i in range(8):
        Video(np.broadcast_to(colours[i % 4], (5, 16, 16, 3)).copy(), 8).save(place / f"{i}.mp4")
        (place / f"{i}.txt").write_text(WORDS[i % 4])
    for i in range(4):
        Image.new("RGB", (32, 32), tuple(colours[i].tolist())).save(place / f"still-{i}.png")
        (place / f"still-{i}.txt").write_text(f"a picture of {WORDS[i]}")
    prepare_folder(place, out, Settings((Bucket(5, 16, 16),), test_share=0.3), progress=False)
    return FolderData(str(out))


@pytest.fixture
def task(tiny, tiny_folder, data) -> DenoiserTask:
    config = tiny.config
    return DenoiserTask(
        str(tiny_folder), config.transformer, config.text_encoder, config.sampling, data=data, eval_clips=4
    )


def test_all_kinds_of_data_are_one_interface(data):
    """A task must not have to know what it is trained on; only a rendered world has scenes."""
    for config in (data, ClipData(), TfdsData("tfds:x")):
        assert isinstance(config, DataConfig)
        assert configs.from_text(configs.to_text(config)) == config
    assert isinstance(ClipData(), SceneData)
    assert not isinstance(data, SceneData)


def run(task, steps=4) -> TrainConfig:
    optimizer = OptimizerConfig(learning_rate=1e-3, warmup_steps=1)
    return TrainConfig(task, steps, batch_size=2, optimizer=optimizer, log_every=1, eval_every=4, save_every=2)


def test_text_encoder_is_not_kept_for_fine_tuning(tiny_folder, data, tmp_path):
    """A text encoder of billions of parameters would lie in memory, and run, for captions that do not change."""
    config = run(FinetuneTask(str(tiny_folder), LoRAConfig(4), data=data, eval_clips=4))
    assert list(config.task.make(config).frozen) == ["transformer"]
    before = config.task.make(config).init(jax.random.key(0))
    state = train(config, tmp_path / "run")
    moved = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), before, state.params)
    assert max(jax.tree.leaves(moved)) > 1e-5
    assert all(np.isfinite(jax.tree.leaves(moved)))


@pytest.mark.slow
def test_a_folder_of_clips_trains_a_denoiser(task, tmp_path):
    """From mp4 files to a model: clips and pictures in turns, judged on held-out ones, without what needs scenes."""
    state = train(run(task), tmp_path)
    assert "probe" not in state.params
    assert (tmp_path / "export" / "model_index.json").exists()
    [evaluated] = [line for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if "loss_0.8" in line]
    assert "swap_" not in evaluated


@pytest.mark.slow
def test_a_run_on_buckets_goes_on_bit_for_bit(task, tmp_path):
    """A resumed run that took its turns between the buckets from the beginning would train on other clips."""
    whole = train(run(task), tmp_path / "whole")
    train(run(task, steps=2), tmp_path / "parts")
    resumed = train(run(task), tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)


def test_words_of_the_clips_make_the_vocabulary(task):
    """A word that the tokenizer never saw is spelt letter by letter."""
    pieces = tokenizers.processor(task.tokenizer()).encode("a green picture", out_type=str)
    assert pieces == ["▁a", "▁green", "▁picture"]


def test_evaluation_sees_each_bucket_and_all_captions(task, monkeypatch):
    """Pictures alone, or clips without their words, would say nothing of how well clips are learnt."""
    seen = []
    monkeypatch.setattr(
        denoiser, "held_out_losses", lambda velocity, params, batches, *rest: seen.extend(batches) or {}
    )
    clip = {"captions": ["a red square"], "latents": np.zeros((2, 1, 1, 4), np.float16)}
    still = {"captions": ["a red square"], "latents": np.zeros((1, 1, 1, 4), np.float16)}
    always = dataclasses.replace(task, caption_dropout=1.0)
    always.evaluate({}, task.tokenizer(), Bucketed(([clip] * 2, [still])), jax.random.key(0))
    assert [batch["latents"].shape for batch in seen] == [(2, 2, 1, 1, 4), (1, 1, 1, 1, 4)]
    assert all((batch["length"] == 4).all() for batch in seen)


def test_an_autoencoder_learns_from_pieces_of_each_bucket(tiny, data):
    """A picture is shorter than the pieces that clips are cut to."""
    task = AutoencoderTask(tiny.config.vae, data, crop_frames=5).smoke()
    made = task.make(TrainConfig(task, steps=1, batch_size=1))
    shapes = {made.transform(made.source[i], np.random.default_rng(i))["video"].shape for i in range(len(made.source))}
    assert shapes == {(5, 16, 16, 3), (1, 16, 16, 3)}


def test_clips_that_do_not_fit_start_no_run(task, data, tiny, tmp_path):
    """Found by the compiler, after the latents of all clips, it would be hours late and hard to read."""
    large = dataclasses.replace(task.model, patch_size=(1, 2, 2))
    with pytest.raises(InputError, match="height=16: must be a multiple of 32; nearest: 32"):
        train(TrainConfig(dataclasses.replace(task, model=large), steps=1, batch_size=1), tmp_path / "run")
    with pytest.raises(InputError, match=r"crop_frames=9: .* at most num_frames=5; nearest: 5"):
        AutoencoderTask(tiny.config.vae, data, crop_frames=9).make(TrainConfig(task, steps=1, batch_size=1))
    missing = dataclasses.replace(task, data=FolderData(str(tmp_path / "none")))
    with pytest.raises(InputError, match="is no dataset: make one with"):
        train(TrainConfig(missing, steps=1, batch_size=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()
