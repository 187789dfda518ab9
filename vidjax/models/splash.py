"""Attention on TPU: the splash kernel of JAX (Pallas), for any number of tokens."""

import functools

import jax
import jax.numpy as jnp

from vidjax.typing import Array, Bool, Float

LANES = 128
BLOCK_BYTES = 2**19
"""Of queries, and of keys, at a time in the vector memory; at most 1024 tokens."""


def splash_attention(
    q: Float[Array, "B N heads D"],
    k: Float[Array, "B M heads D"],
    v: Float[Array, "B M heads D"],
    scale: float | None = None,
    interpret: bool = False,
) -> Float[Array, "B N heads D"]:
    """Attention, differentiable. ``interpret`` runs it anywhere, slowly."""
    return _splash(q, k, v, None, scale, interpret, with_lse=False)


def forward(
    q: Float[Array, "B N heads D"],
    k: Float[Array, "B M heads D"],
    v: Float[Array, "B M heads D"],
    mask: Bool[Array, "M"] | None = None,
    scale: float | None = None,
    interpret: bool = False,
) -> tuple[Float[Array, "B N heads D"], Float[Array, "B heads N"]]:
    """The result in float32, and the log of the softmax's denominator; ``mask`` says which keys count."""
    out, (lse,) = _splash(q, k, v, mask, scale, interpret, with_lse=True)
    return out.astype(jnp.float32), lse[..., : q.shape[1]]


def _splash(q: Array, k: Array, v: Array, mask: Array | None, scale: float | None, interpret: bool, with_lse: bool):
    # Pallas takes half a second to import.
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    _, N, heads, D = q.shape
    M = k.shape[1]
    rows, columns = (_block(n, D * q.dtype.itemsize) for n in (N, M))
    inner = columns // 2 if columns % (2 * LANES) == 0 else columns
    sizes = kernels.BlockSizes(
        block_q=rows, block_kv=columns, block_kv_compute=inner,
        block_q_dkv=rows, block_kv_dkv=columns, block_kv_dkv_compute=inner,
        block_q_dq=rows, block_kv_dq=columns,
    )  # fmt: skip
    q = (q.astype(jnp.float32) * (D**-0.5 if scale is None else scale)).astype(q.dtype)
    q, k, v = _pad(q, rows), _pad(k, columns), _pad(v, columns)

    segments = None
    if mask is not None or k.shape[1] != M:
        counts = jnp.ones(M, jnp.int32) if mask is None else mask.astype(jnp.int32)
        ones = jnp.ones(q.shape[1], jnp.int32)
        segments = kernels.SegmentIds(ones, jnp.pad(counts, (0, k.shape[1] - M)))
    everything = kernels.MultiHeadMask([kernels.FullMask((q.shape[1], k.shape[1]))] * heads)
    kernel = kernels.make_splash_mha(
        everything, block_sizes=sizes, head_shards=1, q_seq_shards=1, save_residuals=with_lse, interpret=interpret
    )
    run = jax.vmap(functools.partial(kernel, segment_ids=segments))
    found = run(*(x.swapaxes(1, 2) for x in (q, k, v)))
    cut = lambda out: out.swapaxes(1, 2)[:, :N]  # noqa: E731
    return (cut(found[0]), found[1]) if with_lse else cut(found)


def _block(tokens: int, bytes_per_token: int) -> int:
    """Tokens in a block: a multiple of the lanes, of even share so that little is padded."""
    most = min(max(BLOCK_BYTES // bytes_per_token // LANES, 1) * LANES, 1024)
    count = -(-tokens // most)
    return -(-tokens // (count * LANES)) * LANES


def _pad(x: Float[Array, "B N heads D"], block: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0)))
