"""Attention: one call, with the kernel picked for the device it is lowered for."""

import functools

import jax
from jax import lax

from vidjax.models import chunked, splash
from vidjax.parallel.context import Kernel, attention_over_mesh
from vidjax.typing import Array, Float

PLAIN = 2**20
"""With at most so many weights (queries x keys, a head) they are simply computed, on any device."""


def attention(
    q: Float[Array, "B *N heads D"],
    k: Float[Array, "B *M heads D"],
    v: Float[Array, "B *M heads D"],
    bias: Float[Array, "#B heads #queries keys"] | None = None,
    scale: float | None = None,
    valid: int | None = None,
    causal: bool = False,
) -> Float[Array, "B *N heads D"]:
    """softmax(q k^T scale + bias) v.

    Video has two axes of tokens, ``[B, f, s, heads, D]``, of which the second is split over the mesh's ``context``;
    only the first ``valid`` tokens of each frame count as keys. Queries may be of fewer frames than keys; of as many,
    ``causal`` ones attend to their own frame and to those before it. Text has one, and is whole on every device.
    ``scale`` defaults to ``D ** -0.5``. The softmax runs in float32. With a ``bias`` (short text only) the weights
    are materialised; without one, memory is linear in ``N + M``, forward and backward.
    """
    if q.ndim == 4 and (bias is not None or q.shape[1] * k.shape[1] <= PLAIN):
        return jax.nn.dot_product_attention(q, k, v, bias=bias, scale=scale)
    kernel = Kernel(
        functools.partial(attend, scale=scale),
        functools.partial(forward, scale=scale),
        functools.partial(chunked.backward, scale=scale),
    )
    if q.ndim == 5:
        return attention_over_mesh(kernel, q, k, v, valid, causal)
    # A long sequence is split as one frame is.
    k, v = (k[:, None], v[:, None]) if k.shape == q.shape else (k, v)
    return attention_over_mesh(kernel, q[:, None], k, v)[:, 0]


def attend(
    q: Float[Array, "B N heads D"],
    k: Float[Array, "B M heads D"],
    v: Float[Array, "B M heads D"],
    scale: float | None = None,
) -> Float[Array, "B N heads D"]:
    """Attention on one device."""
    if q.shape[1] * k.shape[1] <= PLAIN:
        return jax.nn.dot_product_attention(q, k, v, scale=scale)
    forms = {"tpu": splash.splash_attention}
    cudnn = functools.partial(jax.nn.dot_product_attention, implementation="cudnn", scale=scale)
    if _traces(cudnn, q, k, v):
        forms["cuda"] = cudnn
    forms = {platform: functools.partial(form, scale=scale) for platform, form in forms.items()}
    return lax.platform_dependent(q, k, v, **forms, default=functools.partial(chunked.chunked_attention, scale=scale))


def forward(
    q: Float[Array, "B N heads D"],
    k: Float[Array, "B M heads D"],
    v: Float[Array, "B M heads D"],
    mask: Array | None,
    scale: float | None = None,
) -> tuple[Array, Array]:
    """Attention to a part of the keys: ``out`` and ``lse`` of :class:`vidjax.parallel.context.Kernel`."""
    forms = (functools.partial(form, scale=scale) for form in (splash.forward, chunked.forward))
    return lax.platform_dependent(q, k, v, mask, tpu=next(forms), default=next(forms))


def _traces(cudnn, q: Array, k: Array, v: Array) -> bool:
    # jax itself knows what its cuDNN takes, if there is one: half precision, some sizes of heads.
    try:
        jax.eval_shape(cudnn, q, k, v)
    except (RuntimeError, NotImplementedError, ValueError):
        return False
    return True
