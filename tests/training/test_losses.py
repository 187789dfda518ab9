"""Losses against their closed forms."""

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.training.losses import gaussian_kl, logit_normal_times, reconstruction


def test_kl_of_two_normals():
    """Zero for the prior itself; else the textbook formula, in nats per number."""
    zero = jnp.zeros((2, 3))
    assert gaussian_kl(zero, zero) == 0
    mean, std = 1.5, 0.3
    expected = np.log(1 / std) + (std**2 + mean**2) / 2 - 0.5
    np.testing.assert_allclose(gaussian_kl(zero + mean, zero + 2 * np.log(std)), expected, rtol=1e-6)


def test_reconstruction_errors():
    """Absolute first, squared second: swapped, the weights would mean something else."""
    absolute, squared = reconstruction(jnp.array([1.0, -2.0, 0.0]), jnp.array([0.0, 0.0, 0.0]))
    np.testing.assert_allclose((absolute, squared), (1.0, 5 / 3), rtol=1e-6)


def test_times_follow_the_logit_normal():
    """The training would otherwise see too little of the noise levels that decide what there is to see."""
    times = np.asarray(logit_normal_times(jax.random.key(0), (20_000,), shift=0.7))
    assert times.min() > 0
    assert times.max() < 1
    logits = np.log(times) - np.log1p(-times)
    np.testing.assert_allclose((logits.mean(), logits.std()), (0.7, 1.0), atol=0.03)


def test_times_within_a_range():
    """A denoiser of two is used for its own times only; others would be training for nothing."""
    key = jax.random.key(0)
    all_of_them = np.asarray(logit_normal_times(key, (50_000,), 1.0))
    for low, high in ((0.9, 1.0), (0.0, 0.9), (0.3, 0.4)):
        t = np.asarray(logit_normal_times(key, (50_000,), 1.0, (low, high)))
        assert low <= t.min()
        assert t.max() <= high
        kept = all_of_them[(all_of_them >= low) & (all_of_them <= high)]
        np.testing.assert_allclose(t.mean(), kept.mean(), atol=0.005)
