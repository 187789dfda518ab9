import dataclasses

import jax
import pytest

from vidjax.errors import InputError
from vidjax.parallel.mesh import arrange, batch_shard, make_mesh, parse_mesh


def test_free_axis_takes_the_rest():
    assert dict(make_mesh(data=-1, context=2).shape) == {"data": 4, "fsdp": 1, "context": 2, "tensor": 1}
    assert dict(make_mesh(2, 2, 1, 2).shape) == {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}


def test_default_is_one_device():
    """The default configuration runs on any single machine."""
    assert make_mesh().size == 1


def test_given_devices():
    assert list(make_mesh(fsdp=-1, devices=jax.devices()[2:4]).devices.flat) == jax.devices()[2:4]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": -1, "fsdp": -1}, "only one axis may be -1, but data and fsdp are"),
        ({"data": -1, "tensor": 3}, "does not divide 8 devices; choose a product among 1, 2, 4, 8"),
        ({"data": 4}, "needs 4 devices and there are 8"),
        ({"data": 16}, "needs 16 devices and there are 8"),
        ({"context": 0}, "'context' must be a positive number"),
    ],
)
def test_misfit_is_refused(sizes, message):
    """Idle devices, or jax's own error about array shapes."""
    with pytest.raises(InputError, match=message):
        make_mesh(**sizes)


def test_one_process_reads_the_whole_batch():
    assert batch_shard(make_mesh(data=2, fsdp=2, tensor=2)) == ((0,), 1)


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU v4 chip as mesh_utils sees it."""

    slice_index: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v4"


def test_slices_lie_behind_one_another_along_data():
    """Any other axis over the network between slices would slow every layer down, not the gradients alone."""
    chips = [Chip(s, (x, y, z)) for x in range(2) for s in (1, 0) for y in range(2) for z in range(2)]
    placed = arrange((4, 2, 2, 1), chips)
    assert [{chip.slice_index for chip in row.flat} for row in placed] == [{0}, {0}, {1}, {1}]
    assert set(placed.flat) == set(chips)
    with pytest.raises(InputError, match="data=3: must be a multiple of the 2 slices; nearest: 4"):
        arrange((3, 1, 1, 1), chips)


def test_axis_of_the_mesh_may_take_a_part_of_the_torus():
    """Such a mesh is legal, and jax.make_mesh refuses it."""
    chips = [Chip(0, (x, y, z)) for x in range(4) for y in range(4) for z in range(1)]
    assert arrange((2, 8, 1, 1), chips).shape[:2] == (2, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((text, "is not AXIS=SIZE, as in data=4") for text in ("data", "data=", "data=x", "", "data=--1")),
        ("rows=2", "there is no axis 'rows'"),
        ("data=1,data=2", "'data' is given twice"),
    ],
)
def test_mesh_as_text(text, message):
    """A typing error must not leave an axis at 1."""
    assert parse_mesh("data=-1, fsdp=4") == {"data": -1, "fsdp": 4}
    with pytest.raises(InputError, match=message + "; the axes are data, fsdp, context, tensor"):
        parse_mesh(text)


@pytest.mark.parametrize(
    ("owners", "expected"),
    [
        ([0, 0, 1, 1], ((0,), 2)),
        ([0, 1, 0, 1], ((0, 2), 4)),  # a host's chips need not be neighbours
        ([1, 0, 0, 1], ((1, 2), 4)),
    ],
)
def test_a_process_reads_the_rows_of_its_devices(owners, expected, monkeypatch):
    """On a pod each host would otherwise read the rows of another, or refuse to start."""
    mesh = make_mesh(data=4, devices=jax.devices()[:4])
    monkeypatch.setattr("vidjax.parallel.mesh._owner", lambda device: owners[device.id])
    assert batch_shard(mesh) == expected


def test_rows_shared_in_part_are_refused(monkeypatch):
    """Three processes over two rows: no process could say which rows it has."""
    mesh = make_mesh(data=2, context=3, devices=jax.devices()[:6])
    monkeypatch.setattr("vidjax.parallel.mesh._owner", lambda device: device.id // 2)
    with pytest.raises(InputError, match="a multiple of the 3 processes"):
        batch_shard(mesh)
