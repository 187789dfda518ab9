import jax
import pytest

from vidjax.errors import InputError
from vidjax.parallel.mesh import batch_shard, make_mesh


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
    assert batch_shard(make_mesh(data=2, fsdp=2, tensor=2)) == (0, 1)
