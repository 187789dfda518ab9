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


def test_any_flipped_byte_is_noticed_or_harmless(tmp_path):
    """A disk that lies must not change a run: what is read is what was saved, or it is called damaged."""
    state = make_state(5)
    with checkpoint.open_checkpoints(tmp_path / "good", keep_last=1) as checkpointer:
        checkpoint.save(checkpointer, state, {"batches": 5, "window": {}})
        checkpoint.confirm(checkpointer, 5)
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)
    files = [path for path in (tmp_path / "good" / "5").rglob("*") if path.is_file() and path.stat().st_size]
    rng, noticed = np.random.default_rng(0), 0
    for i in range(40):
        bad = tmp_path / f"bad{i}"
        shutil.copytree(tmp_path / "good", bad)
        victim = bad / files[rng.integers(len(files))].relative_to(tmp_path / "good")
        data = bytearray(victim.read_bytes())
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        victim.write_bytes(data)
        with checkpoint.open_checkpoints(bad, keep_last=1) as checkpointer:
            try:
                found, progress = checkpoint.restore(checkpointer, abstract)
            except CheckpointError:
                noticed += 1
                continue
        assert progress == {"batches": 5, "window": {}}
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(a, b)
    assert noticed > 5


@pytest.mark.parametrize("cut", [False, True], ids=["missing", "cut"])
@pytest.mark.parametrize("name", ["state/manifest.ocdbt", "ema/manifest.ocdbt", "progress/_METADATA", "state/d/*"])
def test_a_file_that_is_missing_or_cut(tmp_path, capsys, name, cut):
    """The checkpoint before must be taken, by its own values, with a word on the newest; and training can go on."""
    state = make_state(5)
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)
    with checkpoint.open_checkpoints(tmp_path / "all", keep_last=2) as checkpointer:
        for step in (4, 5):
            checkpoint.save(checkpointer, make_state(step), {"batches": step, "window": {}})
            checkpoint.confirm(checkpointer, step)
    (victim,) = (tmp_path / "all" / "5").glob(name)
    if cut:
        victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    else:
        victim.unlink()
    with checkpoint.open_checkpoints(tmp_path / "all", keep_last=2) as checkpointer:
        if not name.startswith("state"):  # which an export does not read
            ema = checkpoint.restore_ema(checkpointer, abstract.ema)
            np.testing.assert_array_equal(ema["w"], make_state(4).ema["w"])
            assert "going back to the checkpoint of step 4" in capsys.readouterr().err
            assert checkpoint.steps(checkpointer) == [4, 5], "an export moves nothing"
        found, progress = checkpoint.restore(checkpointer, abstract)
        said = capsys.readouterr().err
        assert "checkpoint of step 5" in said
        assert "going back to the checkpoint of step 4" in said
        assert progress == {"batches": 4, "window": {}}
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(make_state(4)), strict=True):
            np.testing.assert_array_equal(a, b)
        checkpoint.save(checkpointer, state, {"batches": 5, "window": {}})
        checkpoint.confirm(checkpointer, 5)


def test_values_that_are_not_those_saved(tmp_path, monkeypatch):
    """Storage may give back other numbers without a word: the checksums must not agree with them."""
    with checkpoint.open_checkpoints(tmp_path, keep_last=1) as checkpointer:
        wrong = {"state": {}, "ema": {"w": 1}}
        monkeypatch.setattr(checkpoint, "checksums", lambda part: wrong["ema" if "w" in part else "state"])
        checkpoint.save(checkpointer, make_state(5), {"batches": 5, "window": {}})
        checkpoint.confirm(checkpointer, 5)
        with pytest.raises(CheckpointError, match="ema: not what was saved: w"):
            checkpoint.restore_ema(checkpointer, jax.eval_shape(lambda: make_state(5)).ema)


def test_every_so_many_are_kept(tmp_path):
    """Evaluations of a long run need its early checkpoints, which the newest would push out."""
    with checkpoint.open_checkpoints(tmp_path, keep_last=1, keep_every=4) as checkpointer:
        for step in range(2, 14, 2):
            checkpoint.save(checkpointer, make_state(step), {"batches": step, "window": {}})
            checkpoint.confirm(checkpointer, step)
        assert checkpoint.steps(checkpointer) == [4, 8, 12]


def test_folder_that_cannot_be(tmp_path):
    """Found before anything is compiled, in a line."""
    (tmp_path / "run").write_text("")
    with (
        pytest.raises(CheckpointError, match=r"run/checkpoints cannot be made: Not a directory"),
        checkpoint.open_checkpoints(tmp_path / "run" / "checkpoints", 2),
    ):
        pass
