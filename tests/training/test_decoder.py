"""A decoder that learns on alone: what must stay, and what must not."""

import dataclasses

import jax
import numpy as np
import pytest

from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.data.source import ClipData
from vidjax.errors import InputError, WeightsError
from vidjax.models.wan import vae
from vidjax.training import train
from vidjax.training.adversarial import Adversarial
from vidjax.training.decoder import DecoderTask
from vidjax.weights import folder

CLIPS = np.random.default_rng(1).integers(0, 256, (2, 5, 16, 32, 3), np.uint8)


class TwoClips(ClipData):
    """Always the same two."""

    def open(self, split):
        return [{"video": clip} for clip in CLIPS]


@pytest.fixture
def task(tiny_folder):
    return DecoderTask(str(tiny_folder), data=TwoClips(num_frames=5, height=16, width=32), crop_frames=5, eval_clips=1)


@pytest.fixture
def config(task):
    return TrainConfig(task, steps=1, batch_size=1, ema_decay=0.0, optimizer=OptimizerConfig(warmup_steps=0))


@pytest.mark.slow
def test_latents_stay_what_they_are(tiny, tiny_folder, config, tmp_path):
    """A denoiser that was trained on them would paint other colours, and no error would say so."""
    train(
        dataclasses.replace(config, task=dataclasses.replace(config.task, adversarial=Adversarial(0.1, 4, 1))), tmp_path
    )
    stored, written = (folder.read_config(place, "vae") for place in (tiny_folder, tmp_path / "export"))
    assert written == stored
    params = folder.read_part(tmp_path / "export", "vae", written)
    assert params.keys() == tiny.params["vae"].keys()
    for name, before in tiny.params["vae"].items():
        moved = jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), params[name], before))
        # One step of about the rate, 1e-4, from where the folder has it.
        low, high = (0, 0) if name in vae.ENCODER else (1e-6, 1e-3)
        assert low <= min(moved) <= max(moved) <= high, name


@pytest.mark.slow
def test_a_wider_decoder(tiny, config, tmp_path):
    """One of another width is new; it fits the old encoder, and what it was made from is not written over."""
    wide = 2 * tiny.config.vae.base_dim
    train(dataclasses.replace(config, task=dataclasses.replace(config.task, decoder_base_dim=wide)), tmp_path)
    written = folder.read_config(tmp_path / "export", "vae")
    assert written == dataclasses.replace(tiny.config.vae, decoder_base_dim=wide)
    params = folder.read_part(tmp_path / "export", "vae", written)
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], tiny.params["vae"]["encoder"])


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"crop_frames": 4}, InputError, r"crop_frames=4: .* nearest: 5"),
        ({"vae": "nowhere"}, WeightsError, "nowhere"),
    ],
)
def test_refused_before_it_starts(config, tmp_path, changes, error, said):
    task = dataclasses.replace(config.task, **changes)
    with pytest.raises(error, match=said):
        train(dataclasses.replace(config, task=task), tmp_path / "run")
    assert not (tmp_path / "run").exists()
