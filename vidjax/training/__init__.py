"""Training: `train` runs a configuration, `export` publishes what came of it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidjax.config import TrainConfig
    from vidjax.training.state import TrainState

__all__ = ["export", "train"]


def train(config: "TrainConfig", workdir: Any, smoke: bool = False) -> "TrainState":
    """Run a configuration in `workdir`, or go on with it; `smoke` shrinks it to seconds. See `loop.fit`.

    A run that ends on a local folder leaves what it made in `workdir/export`; others are published by `export`.
    """
    import jax

    from vidjax.config import shrink
    from vidjax.parallel.gathering import to_first
    from vidjax.training.boards import import_wandb
    from vidjax.training.loop import fit
    from vidjax.training.workdir import is_local, open_workdir

    if smoke:
        asked, config = config.mesh, shrink(config, jax.device_count())
        if config.mesh != asked and jax.process_index() == 0:
            print(f"smoke: {jax.device_count()} devices do not make {asked}; all share the batch", file=sys.stderr)
    workdir = open_workdir(workdir)
    if config.wandb is not None:
        import_wandb()  # or say that it is missing, before the task reads or renders its data
    task = config.task.make(config)
    state = fit(task, config, workdir)
    if task.export is not None and is_local(workdir):
        params = to_first(state.ema)
        if jax.process_index() == 0:
            out = Path(workdir) / "export"
            task.export(params, out)
            print(f"{out}: exported", file=sys.stderr)
    return state


def export(workdir: Any, out: str | Path, config: "TrainConfig | None" = None) -> None:
    """Write the averaged parameters of the newest checkpoint in `workdir` as a published folder, `out`.

    `config` is needed only where the run's task was defined outside vidjax.

    Raises:
      CheckpointError: `workdir` holds no readable run.
      InputError: this task publishes nothing, or `out` holds something already.
    """
    import jax

    from vidjax.config import TrainConfig, from_text
    from vidjax.errors import CheckpointError, InputError
    from vidjax.training import checkpoint
    from vidjax.training.workdir import check_new, open_workdir

    workdir, out = open_workdir(workdir), Path(out)
    stored = workdir / "config.json"
    if not stored.exists():
        raise CheckpointError(f"{workdir} holds no training run: there is no {stored}")
    check_new(out)
    config = config or from_text(stored.read_text())
    if not isinstance(config, TrainConfig):
        raise InputError(f"{stored} is no training configuration; give the configuration file")
    task = config.task.make(config)
    if task.export is None:
        raise InputError(f"a task of type {type(config.task).__name__} has nothing to export")
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, "float32", sharding=device),
        jax.eval_shape(task.init, jax.random.key(0)),
    )
    with checkpoint.open_checkpoints(workdir / "checkpoints", config.keep_last) as checkpointer:
        params = checkpoint.restore_ema(checkpointer, abstract)
    task.export(params, out)
