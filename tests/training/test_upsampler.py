"""Training the latent upsampler."""

import json

import numpy as np
import pytest

from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.data.source import ClipData
from vidjax.errors import InputError
from vidjax.models.wan.upsampler import UpsamplerConfig
from vidjax.training import export, train
from vidjax.training.sensitivity import pixel_metric
from vidjax.training.upsampler import UpsamplerTask, half_size
from vidjax.weights import folder

CONFIG = UpsamplerConfig(z_dim=4, dim=8, num_res_blocks=1)


def test_halved_pixels_are_means():
    video = np.zeros((1, 2, 4, 3), np.uint8)
    video[0, 0, 0], video[0, :, 2:] = 102, 255
    np.testing.assert_array_equal(half_size(video)[0, 0, :, 0], [26, 255])  # 25.5 goes up


def test_training_goes_towards_the_large_latents(tiny, tiny_folder, tmp_path):
    """Half a minute of it beats what the nearest latents decode to, and what is exported loads."""
    task = UpsamplerTask(
        vae=str(tiny_folder),
        model=CONFIG,
        data=ClipData(folder=str(tmp_path / "data"), num_clips=16, num_test_clips=4, num_frames=5, height=64, width=64),
    )
    config = TrainConfig(
        task=task,
        steps=80,
        batch_size=4,
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=5),
        ema_decay=0.5,
        eval_every=80,
        log_every=20,
        save_every=80,
    )
    train(config, tmp_path / "run")
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    made = config.task.make(config)
    test = [made.source[i] for i in range(4)]
    small, large = (np.stack([e[name] for e in test]).astype(np.float32) for name in ("small", "latents"))
    nearest = np.repeat(np.repeat(small, 2, 2), 2, 3) - large
    metric = pixel_metric(tiny.config.vae, tiny.params["vae"], large)
    assert min(m["loss"] for m in metrics if "loss" in m) < 0.7 * np.mean(nearest * (nearest @ metric))
    export(tmp_path / "run", tmp_path / "export")
    assert folder.read_config(tmp_path / "export", "upsampler") == CONFIG
    folder.read_part(tmp_path / "export", "upsampler", CONFIG)


def test_latents_of_other_channels_are_refused_before_clips_are_rendered(tiny_folder, tmp_path):
    """What does not fit would be found by the first step, after minutes of rendering."""
    z_dim = folder.read_config(tiny_folder, "vae").z_dim
    task = UpsamplerTask(str(tiny_folder), UpsamplerConfig(z_dim=z_dim + 1), ClipData(str(tmp_path / "data")))
    with pytest.raises(InputError, match=f"model.z_dim={z_dim + 1}: latents of .* have {z_dim} channels"):
        task.make(TrainConfig(task, steps=1, batch_size=1))
    assert not (tmp_path / "data").exists()
