"""Who learns from what, where one step trains two that are against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidjax.training import adversarial
from vidjax.training.adversarial import Adversarial

CONFIG = Adversarial(base_dim=4, num_layers=2)
REAL, FAKE = (jax.random.normal(jax.random.key(i), (2, 5, 16, 16, 3)) for i in (1, 2))


@pytest.fixture(scope="module")
def params():
    return adversarial.init(CONFIG, jax.random.key(0))


def gradients(params, part):
    def loss(params, fake):
        return adversarial.losses(CONFIG, params, REAL, fake)[part]

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(params, FAKE)


def test_each_learns_from_its_own_part(params):
    """A discriminator that also follows the generator's part would help it, and both would be content."""
    of_params, of_fake = gradients(params, 0)
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_params))
    assert of_fake.any()
    of_params, of_fake = gradients(params, 1)
    leaves = jax.tree_util.tree_leaves_with_path(of_params)
    still = {jax.tree_util.keystr(path) for path, leaf in leaves if not leaf.any()}
    assert still <= {"['head']['bias']"}  # pushed as far up as down, while no verdict is beyond the hinge
    assert not of_fake.any()


def test_the_parts_are_the_hinge_loss(params):
    """With a verdict that is the bias alone, both parts are known."""
    for bias in (-2.0, 0.25, 3.0):
        head = {"kernel": jnp.zeros_like(params["head"]["kernel"]), "bias": jnp.full(1, bias)}
        generator, judge = adversarial.losses(CONFIG, {**params, "head": head}, REAL, FAKE)
        np.testing.assert_allclose(generator, -bias, rtol=1e-6)
        np.testing.assert_allclose(judge, 0.5 * (max(0, 1 - bias) + max(0, 1 + bias)), rtol=1e-6)


def test_generator_follows_the_verdict(params):
    """With the sign turned round it would learn to look less real."""
    _, of_fake = gradients(params, 0)

    def verdict(fake):
        return -adversarial.losses(CONFIG, params, REAL, fake)[0]

    assert verdict(FAKE - 0.1 * of_fake / jnp.abs(of_fake).max()) > verdict(FAKE)


def test_discriminator_learns_to_tell(params):
    """One that cannot tell noise from what is smooth has nothing to teach."""
    smooth = jnp.broadcast_to(jnp.linspace(-1, 1, 16)[:, None], (2, 5, 16, 16))[..., None] * jnp.ones(3)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, moments):
        value, grads = jax.value_and_grad(lambda p: adversarial.losses(CONFIG, p, smooth, FAKE)[1])(params)
        updates, moments = optimizer.update(grads, moments)
        return optax.apply_updates(params, updates), moments, value

    moments, values = optimizer.init(params), []
    for _ in range(20):
        params, moments, value = step(params, moments)
        values.append(float(value))
    assert values[-1] < 0.2 * values[0]


def test_a_picture_is_judged_too(params):
    """Clips and pictures are trained on together."""
    picture = REAL[:, :1]
    assert all(np.isfinite(part) for part in adversarial.losses(CONFIG, params, picture, -picture))
