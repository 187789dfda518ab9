"""3D convolutions, causal in time: a clip comes in pieces, and each convolution keeps the last frames of its own.

XLA's 3D convolution is slow on CPU, so there are forms of it, picked for the device that is lowered for.
"""

import functools
from collections.abc import Callable

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


def of_the_present(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """Of a kernel only what meets the present frame: clips begin as their frames one by one.

    So what was learned from pictures is a beginning for clips (Wan, arXiv 2503.20314, trains its autoencoder so).
    """
    return jnp.zeros(shape, dtype).at[-1].set(nn.initializers.lecun_normal()(key, shape[1:], dtype))


def copy_of_the_present(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """A kernel over time alone that passes the present frame on, as often as there are outputs for it."""
    del key
    _, _, _, C, D = shape
    return jnp.zeros(shape, dtype).at[-1, 0, 0].set(jnp.tile(jnp.eye(C, dtype=dtype), D // C))


class Conv3D(nn.Module):
    """A 3D convolution without padding in time."""

    features: int
    kernel_size: tuple[int, int, int] = (3, 3, 3)
    time_stride: int = 1
    kernel_init: nn.initializers.Initializer = of_the_present

    @nn.compact
    def __call__(self, x: Float[Array, "B F H W C"], taps: int | None = None) -> Float[Array, "B F2 H W D"]:
        """``taps``: how many of the kernel's, the last of them; None: all."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel = kernel if taps is None else kernel[-taps:]
        if x.shape[1] < kernel.shape[0]:
            return jnp.zeros((x.shape[0], 0, *x.shape[2:4], self.features), x.dtype)
        return conv3d(x, kernel.astype(x.dtype), self.time_stride) + bias.astype(x.dtype)


class CausalConv(Conv3D):
    """A 3D convolution whose window in time ends at the present frame."""

    @nn.compact
    def __call__(self, x: Float[Array, "B F H W C"]) -> Float[Array, "B F H W D"]:
        frames, taps = x.shape[1], self.kernel_size[0]
        if taps == 1:
            return super().__call__(x)
        x, start = recall(self, x, taps - 1)
        # What would only meet the nothing before the clip is left out: of a picture that is most of the work.
        taps = min(taps, frames) if start else taps
        return super().__call__(x[:, -(frames + taps - 1) :], taps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv3d(
    x: Float[Array, "B F H W C"], kernel: Float[Array, "t h w C D"], time_stride: int = 1
) -> Float[Array, "B F2 H W D"]:
    """Convolution over space (zero padding, same size) and time (no padding: the past is already in front).

    Its gradient is spelled out, so that it too is picked for the device it is lowered for. Where there is to be one,
    the CPU computes frame by frame: more than twice as fast for the pictures of training, but with the windows of a
    whole frame in memory, which are too large in large pictures.
    """
    cpu = functools.partial(_folded_conv, time_stride=time_stride)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=functools.partial(_direct_conv, time_stride=time_stride))


def _conv3d_forward(x: Array, kernel: Array, time_stride: int) -> tuple[Array, tuple[Array, Array]]:
    direct = functools.partial(_direct_conv, time_stride=time_stride)
    cpu = _framed_conv if time_stride == 1 else functools.partial(_folded_conv, time_stride=time_stride)
    return lax.platform_dependent(x, kernel, cpu=cpu, default=direct), (x, kernel)


def _conv3d_backward(time_stride: int, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    def pull_back(conv: Callable[..., Array]) -> Callable[..., tuple[Array, Array]]:
        return lambda x, kernel, g: jax.vjp(functools.partial(conv, time_stride=time_stride), x, kernel)[1](g)

    cpu = _framed_pull_back if time_stride == 1 else pull_back(_folded_conv)
    return lax.platform_dependent(*saved, gradient, cpu=cpu, default=pull_back(_direct_conv))


conv3d.defvjp(_conv3d_forward, _conv3d_backward)


def _padding(size: int) -> tuple[int, int]:
    return (size - 1) // 2, size // 2


def _direct_conv(x: Array, kernel: Array, time_stride: int) -> Array:
    padding = [(0, 0), *map(_padding, kernel.shape[1:3])]
    return lax.conv_general_dilated(
        x, kernel, (time_stride, 1, 1), padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def _folded_conv(x: Array, kernel: Array, time_stride: int) -> Array:
    # The taps in time folded into channels, a 2D convolution.
    taps = kernel.shape[0]
    F = (x.shape[1] - taps) // time_stride + 1
    parts = [x[:, i : i + (F - 1) * time_stride + 1 : time_stride] for i in range(taps)]
    frames = jnp.concatenate(parts, axis=-1).reshape(-1, *x.shape[2:4], taps * x.shape[4])
    flat = kernel.transpose(1, 2, 0, 3, 4).reshape(*kernel.shape[1:3], -1, kernel.shape[4])
    padding = [_padding(size) for size in kernel.shape[1:3]]
    y = lax.conv_general_dilated(frames, flat, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y.reshape(x.shape[0], F, *y.shape[1:])


def _framed_conv(x: Array, kernel: Array) -> Array:
    # A frame at a time, whose parts of the products stay in cache: its window in space as inputs of a matrix product,
    # the taps in time as outputs, which are added up to the frames they belong to.
    taps, *window, _, D = kernel.shape
    flat = kernel[::-1].transpose(1, 2, 3, 0, 4).reshape(-1, taps * D)

    def step(sums: Array, frame: Array) -> tuple[Array, Array]:
        return _add_taps(sums, (_windows(frame, *map(_padding, window)) @ flat).reshape(*frame.shape[:3], taps, D))

    sums = jnp.zeros((x.shape[0], *x.shape[2:4], taps, D), x.dtype)
    return lax.scan(step, sums, x.swapaxes(0, 1))[1][taps - 1 :].swapaxes(0, 1)


def _framed_pull_back(x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    # The windows of the gradient's frames serve for both: turned round they meet the kernel, and the frames they saw.
    taps, *window, C, D = kernel.shape
    flat = kernel[:, ::-1, ::-1].transpose(1, 2, 4, 0, 3).reshape(-1, taps * C)
    frames = x.swapaxes(0, 1)

    def step(state: tuple[Array, Array], given: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        (sums, total), (place, g) = state, given
        seen = jnp.moveaxis(lax.dynamic_slice_in_dim(frames, place, taps), 0, -2)
        windows = _windows(g, *(_padding(size)[::-1] for size in window))
        total += seen.reshape(-1, taps * C).T @ windows.reshape(-1, flat.shape[0])
        sums, done = _add_taps(sums, (windows @ flat).reshape(*g.shape[:3], taps, C))
        return (sums, total), done

    sums = jnp.zeros((x.shape[0], *x.shape[2:4], taps, C), x.dtype)
    start = sums, jnp.zeros((taps * C, flat.shape[0]), x.dtype)
    places = jnp.arange(gradient.shape[1])
    (sums, total), done = lax.scan(step, start, (places, gradient.swapaxes(0, 1)))
    last = jnp.moveaxis(sums, -2, 0)[: taps - 1]
    total = total.reshape(taps, C, *window, D)[:, :, ::-1, ::-1].transpose(0, 2, 3, 1, 4)
    return jnp.concatenate([done, last]).swapaxes(0, 1), total


def _windows(frame: Float[Array, "B H W C"], *padding: tuple[int, int]) -> Float[Array, "B H W E"]:
    """What each place sees around it, row by row."""
    H, W = frame.shape[1:3]
    padded = jnp.pad(frame, ((0, 0), *padding, (0, 0)))
    rows, columns = (range(sum(sides) + 1) for sides in padding)
    return jnp.concatenate([padded[:, i : i + H, j : j + W] for i in rows for j in columns], axis=-1)


def _add_taps(
    sums: Float[Array, "B H W t D"], new: Float[Array, "B H W t D"]
) -> tuple[Float[Array, "B H W t D"], Float[Array, "B H W D"]]:
    """The sums of the frames to come, after ``new`` is added to this one's and theirs, and this one's."""
    sums += new
    return jnp.concatenate([sums[..., 1:, :], jnp.zeros_like(sums[..., :1, :])], axis=-2), sums[..., 0, :]
