import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidjax.errors import CheckpointError
from vidjax.training import checkpoint
from vidjax.training.state import start_state


def make_state(step: int):
    state = start_state({"w": jnp.arange(3.0)}, optax.adam(0.1))
    return state._replace(step=jnp.int32(step), ema={"w": jnp.full(3, float(step))})


def test_save_and_restore(tmp_path):
    """The position in the data must come back with the state it belongs to, and old steps must make room."""
    with checkpoint.open_checkpoints(tmp_path, keep_last=2) as checkpointer:
        for step in (1, 2, 3):
            window = {"loss": [0.1 * step, step], "grad/norm": [1e-30, 2]}
            checkpoint.save(checkpointer, make_state(step), {"batches": 10 * step, "window": window})
            checkpoint.confirm(checkpointer, step)
        assert checkpoint.steps(checkpointer) == [2, 3]
    with checkpoint.open_checkpoints(tmp_path, keep_last=2) as checkpointer:
        abstract = jax.eval_shape(lambda: make_state(0))
        device = jax.sharding.SingleDeviceSharding(jax.devices()[3])
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), abstract)
        state, progress = checkpoint.restore(checkpointer, abstract)
        ema = checkpoint.restore_ema(checkpointer, abstract.params)
    # Bit for bit, through JSON or not.
    assert progress == {"batches": 30, "window": {"loss": [0.1 * 3, 3], "grad/norm": [1e-30, 2]}}
    assert int(state.step) == 3
    assert state.params["w"].devices() == {jax.devices()[3]}
    np.testing.assert_array_equal(ema["w"], np.full(3, 3.0))


def test_lost_save_is_noticed(tmp_path):
    """A save that fails in the background would be found out only at the next preemption."""
    with checkpoint.open_checkpoints(tmp_path, keep_last=2) as checkpointer:
        checkpoint.save(checkpointer, make_state(1), {"batches": 1, "window": {}})
        checkpointer.wait()
        shutil.rmtree(tmp_path / "1")
        with pytest.raises(CheckpointError, match="step 1 is missing"):
            checkpoint.confirm(checkpointer, 1)


def test_nothing_saved(tmp_path):
    with checkpoint.open_checkpoints(tmp_path, keep_last=2) as checkpointer:
        assert checkpoint.restore(checkpointer, jax.eval_shape(lambda: make_state(0))) is None
        with pytest.raises(CheckpointError, match="no checkpoint"):
            checkpoint.restore_ema(checkpointer, {"w": jax.ShapeDtypeStruct((3,), jnp.float32)})
