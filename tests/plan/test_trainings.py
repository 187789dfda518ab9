"""What is planned of a training is its largest step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.config import TrainConfig, load_config
from vidjax.data.shapes import scene_to_json, training_scene
from vidjax.data.source import FolderData
from vidjax.model import bundled, read_config
from vidjax.plan.trainings import finetuning, of_config
from vidjax.training.lora import LoRAConfig


@pytest.mark.parametrize(
    ("shares", "more"),
    [({}, {}), ({"reference_share": 0.3, "style_share": 0.1}, {"references": 3}), ({"style_share": 0.1}, {"style": 1})],
)
def test_pictures_beside_examples_are_planned(pytestconfig, shares, more):
    """They lengthen the sequence: a plan without them would fit where the training does not."""
    config = load_config(pytestconfig.rootpath / "configs" / "shapes_adapted.py")
    task = dataclasses.replace(config.task, **{"reference_share": 0.0, "style_share": 0.0, **shares})
    training, _, latent, _ = of_config(TrainConfig(task, 1, 2), None, None, None)
    found = {name: shape.shape for name, shape in training.example.items() if name in ("references", "style")}
    assert found == {name: (count, *latent[1:]) for name, count in more.items()}
    params = {**jax.eval_shape(training.init, jax.random.key(0)), **training.frozen(None)}
    batch = {name: jax.ShapeDtypeStruct((2, *row.shape), row.dtype) for name, row in training.example.items()}
    loss, _ = jax.eval_shape(training.loss, params, batch, jax.random.key(0))
    assert (loss.shape, loss.dtype) == ((), jnp.float32)


def test_what_is_planned_is_what_is_trained(pytestconfig):
    """Rays, frames for causal steps and shorter windows are part of a batch; the plan would be of another training."""
    config = load_config(pytestconfig.rootpath / "configs" / "shapes_conditioning.py", ["task.reference_share=0"])
    task = dataclasses.replace(config.task, style_share=0.0)
    training, _, latent, _ = of_config(TrainConfig(task, 1, 2), None, None, None)
    example = {"latents": np.zeros(latent, np.float16), "scene": scene_to_json(training_scene(0, 0))}
    words = {"tokens": np.zeros(32, np.int32), "length": np.int32(3)}
    row = task.example(lambda text: words, None, example, np.random.default_rng(0)).row
    found = {name: (np.shape(value), np.asarray(value).dtype) for name, value in row.items()}
    assert {name: (shape.shape, shape.dtype) for name, shape in training.example.items()} == found
    params = {**jax.eval_shape(training.init, jax.random.key(0)), **training.frozen(None)}
    assert params.keys() == {"transformer", "camera_adapter", "text_encoder"}
    batch = {name: jax.ShapeDtypeStruct((2, *row.shape), row.dtype) for name, row in training.example.items()}
    loss, _ = jax.eval_shape(training.loss, params, batch, jax.random.key(0))
    assert loss.shape == ()


def test_captions_that_are_encoded_ahead_need_no_encoder(pytestconfig):
    """Of the largest models it is as large as the denoiser; nor is there an optimizer's state of one that is frozen."""
    config = load_config(pytestconfig.rootpath / "configs" / "lora.py")
    task = dataclasses.replace(config.task, data=FolderData("nowhere"), lora=LoRAConfig(4))
    model = read_config(bundled())
    training = finetuning(task, model, (5, 8, 8, 12))
    trained, frozen = jax.eval_shape(training.init, jax.random.key(0)), training.frozen(None)
    assert (trained.keys(), frozen.keys()) == ({"lora"}, {"transformer"})
    batch = {name: jax.ShapeDtypeStruct((2, *row.shape), row.dtype) for name, row in training.example.items()}
    assert batch.keys() == {"latents", "text"}
    loss, _ = jax.eval_shape(training.loss, {**trained, **frozen}, batch, jax.random.key(0))
    assert loss.shape == ()
