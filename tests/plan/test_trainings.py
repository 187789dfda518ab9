"""What is planned of a training is its largest step."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from vidjax.config import TrainConfig, load_config
from vidjax.plan.trainings import of_config


@pytest.mark.parametrize(
    ("shares", "more"),
    [({}, {}), ({"reference_share": 0.3, "style_share": 0.1}, {"references": 3}), ({"style_share": 0.1}, {"style": 1})],
)
def test_pictures_beside_examples_are_planned(pytestconfig, shares, more):
    """They lengthen the sequence: a plan without them would fit where the training does not."""
    config = load_config(pytestconfig.rootpath / "configs" / "shapes_given.py")
    task = dataclasses.replace(config.task, **shares)
    training, _, latent, _ = of_config(TrainConfig(task, 1, 2), None, None, None)
    found = {name: shape.shape for name, shape in training.example.items() if name in ("references", "style")}
    assert found == {name: (count, *latent[1:]) for name, count in more.items()}
    params = {**jax.eval_shape(training.init, jax.random.key(0)), **training.frozen(None)}
    batch = {name: jax.ShapeDtypeStruct((2, *row.shape), row.dtype) for name, row in training.example.items()}
    loss, _ = jax.eval_shape(training.loss, params, batch, jax.random.key(0))
    assert (loss.shape, loss.dtype) == ((), jnp.float32)
