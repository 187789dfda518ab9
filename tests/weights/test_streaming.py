"""Large weights on their way to the device: never whole on the host; and refused before they set out."""

import functools
import struct
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, SingleDeviceSharding
from safetensors.numpy import load_file, save_file

import vidjax
from vidjax.errors import WeightsError
from vidjax.models.t5 import T5Config
from vidjax.models.wan.denoiser import DenoiserConfig
from vidjax.models.wan.sharding import DENOISER_RULES
from vidjax.models.wan.weights import abstract_params
from vidjax.parallel import make_mesh
from vidjax.parallel.rules import match_rules, shardings
from vidjax.weights import folder
from vidjax.weights.tensor_file import all_finite, read_tensor

TINY = DenoiserConfig(
    num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8, freq_dim=8, ffn_dim=32,
    num_layers=3,
)  # fmt: skip


@functools.cache
def params():
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), abstract_params("transformer", TINY))


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A folder whose stacked parameters all count as large."""
    folder.write_part(tmp_path, "transformer", TINY, params())
    monkeypatch.setattr(folder, "STREAMED_BYTES", 0)
    return tmp_path


def weights(path, part="transformer"):
    return next((path / part).glob("*.safetensors"))


def elsewhere(part="transformer", config=TINY):
    """Shardings that ask for a device; without, on a CPU, all is read to where it stays."""
    return jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[1]), abstract_params(part, config))


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_streamed_equals_stacked(stored, monkeypatch, dtype):
    """Which way a parameter takes depends on its size and the device alone."""
    streamed = folder.read_part(stored, "transformer", TINY, dtype, elsewhere())
    monkeypatch.undo()
    stacked = folder.read_part(stored, "transformer", TINY, dtype, elsewhere())
    in_place = folder.read_part(stored, "transformer", TINY, dtype)
    jax.tree.map(np.testing.assert_array_equal, streamed, stacked)
    jax.tree.map(np.testing.assert_array_equal, streamed, in_place)
    expected = jax.tree.map(lambda x: x.astype(dtype or np.float32), params())
    jax.tree.map(np.testing.assert_array_equal, stacked, expected)


def test_read_in_pieces(stored, monkeypatch):
    """Where a piece ends must leave no trace."""
    for name, value in {"BLOCK_BYTES": 5 * 4 * 24, "CACHED_ROWS": 2, "CACHED_VALUES": 3}.items():
        monkeypatch.setattr(folder, name, value)
    jax.tree.map(np.testing.assert_array_equal, folder.read_part(stored, "transformer", TINY), params())


def test_parameters_can_be_donated(stored):
    """They may lie in memory of numpy's, which a program that updates them in place must not hand back twice."""
    found = folder.read_part(stored, "transformer", TINY)
    doubled = jax.jit(lambda p: jax.tree.map(lambda x: 2 * x, p), donate_argnums=0)(found)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, 2 * y), doubled, params())


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_stored_in_half_precision(stored, kind):
    path = weights(stored)
    tensors = {name: x.astype(kind) for name, x in load_file(path).items()}
    save_file(tensors, path)
    found = folder.read_part(stored, "transformer", TINY, "float32")
    expected = jax.tree.map(lambda x: x.astype(kind).astype(np.float32), params())
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_split_over_devices(stored):
    """Each device gets its own piece of each parameter, and the pieces are the whole."""
    mesh = make_mesh(fsdp=4, tensor=2)
    abstract = abstract_params("transformer", TINY)
    layout = shardings(mesh, match_rules(DENOISER_RULES, abstract), abstract)
    found = folder.read_part(stored, "transformer", TINY, "float32", layout)
    jax.tree.map(np.testing.assert_array_equal, found, params())
    assert jax.tree.map(lambda x: x.sharding, found) == layout
    kernel = found["blocks"]["ffn"]["net.2"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (3, 32 // 2, 24 // 4)
    assert isinstance(kernel.sharding, NamedSharding)


@pytest.mark.parametrize("layout", [elsewhere, lambda: None], ids=["streamed", "in place"])
def test_not_finite(stored, layout):
    """One NaN makes a black video after minutes of work."""
    path = weights(stored)
    tensors = load_file(path)
    tensors["blocks.2.ffn.net.0.proj.weight"][3, 4] = np.nan
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"not finite: blocks.2.ffn.net.0.proj.weight"):
        folder.read_part(stored, "transformer", TINY, shardings=layout())


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_kind_of_not_finite(kind):
    """Told from the bits, which every type lays out in its own way."""
    largest = np.array([[0, -1], [ml_dtypes.finfo(kind).max, ml_dtypes.finfo(kind).min]], kind)
    assert all_finite(largest)
    assert all_finite(np.empty((0, 2), kind))
    for wrong in (np.inf, -np.inf, np.nan, -np.nan):
        values = largest.copy()
        values[1, 0] = wrong
        assert not all_finite(values)


def test_cut_short_while_being_read(stored):
    """A download that is still going on may replace a file after its header was read."""
    entry = folder.check_part(stored, "transformer", TINY)["proj_out.weight"]
    path = weights(stored)
    path.write_bytes(path.read_bytes()[: entry.offset + 1])
    with pytest.raises(WeightsError, match="has become shorter than its header says"):
        read_tensor(entry)
    path.unlink()
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        read_tensor(entry)


def test_host_holds_one_tensor(tmp_path, monkeypatch):
    """The 14B model is larger than the memory of the hosts that feed its devices."""
    config = T5Config(vocab_size=2, d_model=512, d_kv=4, d_ff=4096, num_layers=4, num_heads=2)
    largest = 2 * 512 * 4096
    ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), abstract_params("text_encoder", config))
    folder.write_part(tmp_path, "text_encoder", config, ones)
    # What the readers have in hand does not grow with the tensors: small here, so that it does not hide a second one.
    for name, value in {"STREAMED_BYTES": largest, "READERS": 1, "CACHED_ROWS": 4, "CACHED_VALUES": 64}.items():
        monkeypatch.setattr(folder, name, value)
    read = functools.partial(folder.read_part, tmp_path, "text_encoder", config, "bfloat16")
    layout = elsewhere("text_encoder", config)
    read(shardings=layout)  # compiled outside of what is measured
    tracemalloc.start()
    found = read(shardings=layout)
    peak = tracemalloc.get_traced_memory()[1]
    size = sum(x.nbytes for x in jax.tree.leaves(found))
    assert size > 12 * largest
    assert peak < 1.2 * largest
    # Where the host's memory is the device's: the result, and what the readers have in hand.
    tracemalloc.reset_peak()
    read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size + 1.2 * largest


def header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + bytes(200), "is a PyTorch pickle, which can run code"),
        (b"\x80\x02}q\x00." + bytes(200), "is a PyTorch pickle, which can run code"),
        (header(b"{}", 2**63), "is damaged or not a safetensors file"),
        (header(b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}}') + bytes(4), "is damaged"),
        (header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'), "is damaged"),
    ],
    ids=["zip", "pickle", "length", "shape", "truncated"],
)
def test_refused_at_once(stored, content, message):
    """Files from strangers: none may run code, or ask for memory that is not there."""
    weights(stored).write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        folder.read_part(stored, "transformer", TINY)


def test_types_that_are_not_read(stored):
    """Eight bit weights come with scales elsewhere: cast alone, they would be noise."""
    path = weights(stored)
    tensors = load_file(path)
    tensors["proj_out.weight"] = tensors["proj_out.weight"].astype(np.int8)
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"of a type that is not read: proj_out.weight I8"):
        folder.read_part(stored, "transformer", TINY)


def test_twice(stored):
    """Two variants of the same weights side by side: which one is meant cannot be known."""
    path = weights(stored)
    path.with_name("another.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(WeightsError, match=r"holds what another.safetensors holds too: blocks.0"):
        folder.read_part(stored, "transformer", TINY)


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae"])
def test_nothing_is_moved_before_all_is_checked(tiny_folder, tmp_path, monkeypatch, part):
    """A damaged last part is found before minutes are spent on the first."""
    copy = tmp_path / "model"
    for file in tiny_folder.rglob("*.*"):
        target = copy / file.relative_to(tiny_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    path = weights(copy, part)
    path.write_bytes(path.read_bytes()[:-1])
    moved = []
    monkeypatch.setattr(folder, "read_rows", lambda entry, *rows: moved.append(entry))
    with pytest.raises(WeightsError, match="is damaged"):
        vidjax.load(copy)
    assert not moved
