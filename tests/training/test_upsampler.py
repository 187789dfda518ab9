"""Training the spatial upsampler."""

import json

import jax
import numpy as np
import pytest

from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.data.source import ClipData
from vidjax.errors import InputError
from vidjax.models import upsampler
from vidjax.models.upsampler import UpsamplerConfig
from vidjax.training import export, train
from vidjax.training.upsampler import UpsamplerTask, half_size
from vidjax.weights import folder

CONFIG = UpsamplerConfig(dim=8, num_res_blocks=1)


def test_halved_pixels_are_means():
    video = np.zeros((1, 2, 4, 3), np.uint8)
    video[0, 0, 0], video[0, :, 2:] = 102, 255
    np.testing.assert_array_equal(half_size(video)[0, 0, :, 0], [26, 255])  # 25.5 goes up


@pytest.mark.parametrize("sharp_share", [0.0, 1.0])
def test_training_beats_interpolation(tiny_folder, tmp_path, sharp_share):
    """On frames as the autoencoder makes them; and on sharp ones nothing is learned of its faults."""
    task = UpsamplerTask(
        vae=str(tiny_folder),
        model=CONFIG,
        data=ClipData(folder=str(tmp_path / "data"), num_clips=16, num_test_clips=4, num_frames=5, height=64, width=64),
        sharp_share=sharp_share,
    )
    config = TrainConfig(
        task=task,
        steps=60,
        batch_size=4,
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=5),
        ema_decay=0.5,
        eval_every=60,
        log_every=20,
        save_every=60,
    )
    made = task.make(config)
    untrained = made.evaluate(upsampler.init(CONFIG, jax.random.key(0)), jax.random.key(0))["psnr"]
    train(config, tmp_path / "run")
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    gained = next(line["psnr"] for line in metrics if "psnr" in line) - untrained
    assert gained > 1.0 if sharp_share == 0 else gained < 1.0, gained
    export(tmp_path / "run", tmp_path / "export")
    assert folder.read_config(tmp_path / "export", "upsampler") == CONFIG
    folder.read_part(tmp_path / "export", "upsampler", CONFIG)


def test_what_cannot_be_is_refused_before_clips_are_rendered(tiny_folder, tmp_path):
    """It would be found by the first step, after minutes of rendering."""
    data = ClipData(str(tmp_path / "data"))
    for wrong, told in (({"sharp_share": 1.5}, "sharp_share=1.5"), ({"noise": -1.0}, "noise=-1")):
        task = UpsamplerTask(str(tiny_folder), CONFIG, data, **wrong)
        with pytest.raises(InputError, match=told):
            task.make(TrainConfig(task, steps=1, batch_size=1))
    assert not (tmp_path / "data").exists()
