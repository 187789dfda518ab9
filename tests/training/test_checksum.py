"""Checksums change with any one bit, and with nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vidjax.parallel import make_mesh
from vidjax.training.checksum import checksum, checksums, differing


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_every_bit_counts(dtype):
    """Also those that a sum of values would lose: the lowest of a small number beside a large one."""
    rng = np.random.default_rng(0)
    values = np.asarray(rng.normal(scale=100, size=(3, 5)).astype(np.float32).astype(jnp.dtype(dtype)))
    before = int(checksum(jnp.asarray(values)))
    raw = values.tobytes()
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        changed = np.frombuffer(bytes(flipped), values.dtype).reshape(values.shape)
        assert int(checksum(jnp.asarray(changed))) != before


def test_order_counts():
    """Rows that changed places are damage too."""
    x = jnp.arange(12.0).reshape(3, 4)
    assert checksum(x) != checksum(x[::-1])


def test_layout_does_not():
    """A checkpoint may come back on another mesh."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 8)), jnp.float32)
    expected = checksums({"a": {"b": x}})
    assert list(expected) == ["a/b"]
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    for spec in (PartitionSpec("data"), PartitionSpec(("fsdp", "tensor"), "data")):
        spread = {"a": {"b": jax.device_put(x, NamedSharding(mesh, spec))}}
        assert checksums(spread) == expected
        assert differing(spread, expected) == []
    assert differing({"a": {"b": x.at[3, 3].add(1e-6)}}, expected) == ["a/b"]
    assert differing({"a": {}}, expected) == ["a/b"]
