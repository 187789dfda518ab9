"""The forms of the 3D convolution are one convolution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.models.wan import conv3d


@pytest.mark.parametrize("time_stride", [1, 2])
def test_convolution_forms_agree(time_stride):
    """CPUs run the folded form, TPUs and GPUs the direct one: tested here, they must be the same there."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 4, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 3, 5))
    space = ((1, 1), (1, 1))

    def value(form, x, kernel):
        y = form(x, kernel)
        return jnp.mean(y**2), y

    def direct(x, kernel):
        return conv3d._direct_conv(x, kernel, time_stride, space)

    def chosen(x, kernel):
        return conv3d.conv3d(x, kernel, time_stride)

    outcomes = [
        jax.value_and_grad(functools.partial(value, f), (0, 1), has_aux=True)(x, kernel) for f in (direct, chosen)
    ]
    for expected, found in zip(*map(jax.tree.leaves, outcomes), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * float(jnp.abs(expected).max()))
