"""3D convolutions, causal in time: a clip comes in pieces, and each convolution keeps the last frames of its own.

XLA's 3D convolution is slow on CPU, so there are forms of it, picked for the device that is lowered for.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from vidjax.typing import Array, Float


def recall(module: nn.Module, x: Float[Array, "B F H W C"], frames: int) -> tuple[Array, bool]:
    """``x`` with the ``frames`` frames before it in front, and whether it starts the clip (then they are zeros).

    The last ``frames`` frames are kept for the next piece where the ``cache`` collection is mutable.
    """
    past = module.get_variable("cache", "past")
    start = past is None
    if start:
        past = jnp.zeros((x.shape[0], frames, *x.shape[2:]), x.dtype)
    joined = jnp.concatenate([past, x], axis=1)
    if module.is_mutable_collection("cache") and not module.is_initializing():
        module.put_variable("cache", "past", joined[:, -frames:])
    return joined, start


class Conv3D(nn.Module):
    """A 3D convolution without padding in time."""

    features: int
    kernel_size: tuple[int, int, int] = (3, 3, 3)
    time_stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F2 H W D"]:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if x.shape[1] < self.kernel_size[0]:
            return jnp.zeros((x.shape[0], 0, *x.shape[2:4], self.features), x.dtype)
        return conv3d(x, kernel.astype(x.dtype), self.time_stride) + bias.astype(x.dtype)


class CausalConv(Conv3D):
    """A 3D convolution whose window in time ends at the present frame."""

    @nn.compact
    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F H W D"]:
        if self.kernel_size[0] > 1:
            x, _ = recall(self, x, self.kernel_size[0] - 1)
        return super().__call__(x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv3d(
    x: Float[Array, "B F H W C"], kernel: Float[Array, "t h w C D"], time_stride: int = 1
) -> Float[Array, "B F2 H W D"]:
    """Convolution over space (zero padding, same size) and time (no padding: the past is already in front).

    Its gradient is spelled out, so that it too is picked for the device it is lowered for.
    """
    return lax.platform_dependent(
        x, kernel, cpu=_form(_folded_conv, kernel, time_stride), default=_form(_direct_conv, kernel, time_stride)
    )


def _form(conv: Callable[..., Array], kernel: Array, time_stride: int) -> Callable[[Array, Array], Array]:
    space = tuple(((k - 1) // 2, k // 2) for k in kernel.shape[1:3])
    return functools.partial(conv, time_stride=time_stride, space=space)


def _conv3d_forward(x: Array, kernel: Array, time_stride: int) -> tuple[Array, tuple[Array, Array]]:
    return conv3d(x, kernel, time_stride), (x, kernel)


def _conv3d_backward(time_stride: int, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    def pull_back(conv: Callable[..., Array]) -> Callable[..., tuple[Array, Array]]:
        return lambda x, kernel, g: jax.vjp(_form(conv, kernel, time_stride), x, kernel)[1](g)

    return lax.platform_dependent(*saved, gradient, cpu=pull_back(_matrix_conv), default=pull_back(_direct_conv))


conv3d.defvjp(_conv3d_forward, _conv3d_backward)


def _direct_conv(x: Array, kernel: Array, time_stride: int, space: Sequence[tuple[int, int]]) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (time_stride, 1, 1), [(0, 0), *space], dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def _folded_conv(x: Array, kernel: Array, time_stride: int, space: Sequence[tuple[int, int]]) -> Array:
    # The taps in time folded into channels, a 2D convolution.
    taps = kernel.shape[0]
    F = (x.shape[1] - taps) // time_stride + 1
    parts = [x[:, i : i + (F - 1) * time_stride + 1 : time_stride] for i in range(taps)]
    frames = jnp.concatenate(parts, axis=-1).reshape(-1, *x.shape[2:4], taps * x.shape[4])
    flat = kernel.transpose(1, 2, 0, 3, 4).reshape(*kernel.shape[1:3], -1, kernel.shape[4])
    y = lax.conv_general_dilated(frames, flat, (1, 1), space, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y.reshape(x.shape[0], F, *y.shape[1:])


def _matrix_conv(x: Array, kernel: Array, time_stride: int, space: Sequence[tuple[int, int]]) -> Array:
    # The window in space as inputs of one matrix product, the taps in time as its outputs: more memory than
    # `_folded_conv`, but its gradient is two matrix products, half again as fast on CPU.
    taps, kh, kw, C, D = kernel.shape
    B, T, H, W, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (0, 0), *space, (0, 0)))
    window = [padded[:, :, i : i + H, j : j + W] for i in range(kh) for j in range(kw)]
    flat = kernel.transpose(1, 2, 3, 0, 4).reshape(kh * kw * C, taps * D)
    y = (jnp.concatenate(window, axis=-1).reshape(-1, kh * kw * C) @ flat).reshape(B, T, H, W, taps, D)
    F = (T - taps) // time_stride + 1
    return sum(y[:, i : i + (F - 1) * time_stride + 1 : time_stride, :, :, i] for i in range(taps))
