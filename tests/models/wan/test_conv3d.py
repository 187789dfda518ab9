"""The forms of the 3D convolution are one convolution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.models.wan import conv3d


@pytest.mark.parametrize(
    ("window", "time_stride"),
    [((3, 3, 3), 1), ((3, 3, 3), 2), ((3, 1, 1), 2), ((1, 3, 3), 1), ((1, 1, 1), 1), ((2, 4, 3), 1)],
)
def test_convolution_forms_agree(window, time_stride):
    """CPUs run forms of their own, TPUs and GPUs the direct one: tested here, they must be the same there."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 4, 3))
    kernel = jax.random.normal(jax.random.key(1), (*window, 3, 5))

    def value(form, x, kernel):
        y = form(x, kernel, time_stride)
        return jnp.mean(jnp.sin(y)), y  # each place has a gradient of its own

    def outcome(form):
        return form(x, kernel, time_stride), jax.value_and_grad(functools.partial(value, form), (0, 1), True)(x, kernel)

    for expected, found in zip(*map(jax.tree.leaves, map(outcome, (conv3d._direct_conv, conv3d.conv3d))), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * float(jnp.abs(expected).max()))
