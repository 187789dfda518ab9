"""The training loop: mesh, state, data, then step after step; run again, it goes on."""

import collections
import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vidjax import config as configs
from vidjax.config import TrainConfig
from vidjax.data.pipeline import indices, make_loader
from vidjax.errors import CheckpointError, InputError
from vidjax.parallel.mesh import batch_shard, batch_sharding, make_mesh
from vidjax.parallel.rules import AnyMesh, shardings
from vidjax.training import checkpoint
from vidjax.training.boards import open_tensorboard, open_wandb
from vidjax.training.interval import Clock, Wait, Window
from vidjax.training.metrics import MetricsFile, compiling_line, last_steps, progress_line
from vidjax.training.signals import Interrupted, watch_signals
from vidjax.training.state import TrainState, init_state, make_optimizer, start_state, state_specs
from vidjax.training.step import make_train_step
from vidjax.training.task import Task
from vidjax.training.utilization import peak_flops, work_of

MAY_DIFFER = (
    *("steps", "log_every", "eval_every", "sample_every", "save_every"),
    *("keep_last", "keep_every", "mesh", "data_workers", "wandb"),
)
"""What a resumed run may change; anything else would make it another run."""

MAX_SKIPPED_IN_ROW = 20

STEPS_AHEAD = 2
"""Steps given to the device before the host waits for the oldest: it stays busy, batches do not pile up."""


def fit(task: Task, config: TrainConfig, workdir: Any) -> TrainState:
    """Train up to `config.steps`, from the newest checkpoint in `workdir` if it has one.

    `workdir` is a folder or a `gs://` address.

    Raises:
      InputError: mesh, batch and devices do not fit; W&B is asked for and cannot be had; or 20 steps in a row were
        not finite.
      CheckpointError: the folder belongs to another configuration or to other data, or a checkpoint cannot be read or
        saved.
      Interrupted: SIGTERM or SIGINT came; the state is saved.
    """
    workdir = epath.Path(workdir)
    mesh = make_mesh(**dataclasses.asdict(config.mesh))
    check_batch(config, mesh)
    key = jax.random.key(config.seed)
    init_key, eval_key = jax.random.split(jax.random.fold_in(key, 2**32 - 1))
    optimizer = make_optimizer(config.optimizer, config.steps)

    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        checkpointer = stack.enter_context(
            checkpoint.open_checkpoints(workdir / "checkpoints", config.keep_last, config.keep_every)
        )
        resuming = bool(checkpoint.steps(checkpointer))
        claim(workdir, config, resuming)
        settings, written = json.loads(configs.to_text(config)), last_steps(workdir) if resuming else None
        boards = stack.enter_context(open_wandb(config.wandb, workdir, settings, written))

        abstract = abstract_state(task, optimizer, mesh)
        state, progress = checkpoint.restore(checkpointer, abstract) or (
            fresh_state(task, optimizer, abstract, init_key),
            {"batches": 0, "window": {}},
        )
        check_data(task, progress, workdir)
        batches = stack.enter_context(contextlib.closing(make_batches(task, config, mesh, progress["batches"])))
        train_step = jit_step(task, config, optimizer, abstract, mesh)

        step = saved = int(state.step)
        boards = [*boards, *stack.enter_context(open_tensorboard(workdir, step))]
        metrics = MetricsFile(workdir, step, boards)
        done = {kind: from_first(metrics.last(kind)) for kind in ("eval", "sample")}
        peak = peak_flops(mesh.devices.flat[0].device_kind)
        work = work_of(task, abstract.params, flops=peak is not None)
        window, clock = Window(progress["window"]), Clock(peak and peak * mesh.size)
        in_flight: collections.deque = collections.deque()
        signals = stack.enter_context(watch_signals())
        compiled: set[tuple] = set()

        def save() -> None:
            nonlocal saved
            with clock.waiting("save"):
                if saved > 0:
                    checkpoint.confirm(checkpointer, saved)
                if saved < step:
                    checkpoint.save(
                        checkpointer, state, {"batches": step, "window": window.as_json(), "data": task.data}
                    )
                saved = step

        def due(kind: str, every: int) -> bool:
            return step > max(done[kind], 0) and (step >= config.steps or step % every == 0)

        @contextlib.contextmanager
        def aside(on: Wait) -> Iterator[None]:
            # A step is saved before it is looked at; a resumed run makes up for a look that was lost.
            save()
            if saved > 0:
                checkpoint.confirm(checkpointer, saved)
            with clock.waiting(on), signals.saved():
                yield

        while True:
            if task.evaluate is not None and due("eval", config.eval_every):
                with aside("eval"):
                    scores = task.evaluate(state.ema, eval_key)
                metrics.write("eval", step, scores)
            if task.sample is not None and config.sample_every and due("sample", config.sample_every):
                with aside("eval"):
                    clips = task.sample(state.ema, eval_key)
                metrics.write_clips(step, clips)
            if step >= config.steps:
                break

            with clock.waiting("data"):
                batch = next(batches)
            form = tuple((name, rows.shape) for name, rows in sorted(batch.items()))
            if form not in compiled and jax.process_index() == 0:
                compiling_line(step + 1, batch)
            with contextlib.nullcontext() if form in compiled else aside("compile"):
                state, scalars = train_step(state, batch, key, dict(task.frozen))
            compiled.add(form)
            step += 1
            clock.tick(work(batch))
            in_flight.append(scalars.pop("skipped_in_row"))
            window.add(scalars)
            if len(in_flight) > STEPS_AHEAD:
                check_finite(task, config, in_flight.popleft(), step - STEPS_AHEAD)

            signum = signals.received(step)
            ends = step == config.steps
            if ends or step % config.log_every == 0:
                means = window.means()
                speed = clock.read()
                metrics.write("train", step, {**means, **speed})
                if jax.process_index() == 0:
                    progress_line(step, config.steps, means["loss"], speed)
            if ends or signum or step % config.save_every == 0:
                save()
            if signum:
                checkpoint.confirm(checkpointer, saved)
                raise Interrupted(signum)

        while in_flight:
            check_finite(task, config, in_flight.popleft(), step - len(in_flight))
        if saved > 0:
            checkpoint.confirm(checkpointer, saved)
    return state


def check_batch(config: TrainConfig, mesh: Mesh) -> None:
    """See that the batch divides over the mesh."""
    blocks = mesh.shape["data"] * mesh.shape["fsdp"]
    if config.batch_size % blocks:
        near = max(round(config.batch_size / blocks), 1) * blocks
        raise InputError(
            f"batch_size={config.batch_size} does not divide over data * fsdp = {blocks} devices; "
            f"the nearest that does is {near}"
        )
    if config.batch_size % (blocks * config.accumulation):
        near = max(round(config.batch_size / blocks / config.accumulation), 1) * blocks * config.accumulation
        raise InputError(
            f"batch_size={config.batch_size} does not divide into accumulation={config.accumulation} parts "
            f"over {blocks} devices; the nearest that does is {near}"
        )


def claim(workdir: epath.Path, config: TrainConfig, resuming: bool) -> None:
    """Write the configuration into the folder; where a run is to go on, see first that it is the same one."""
    path, text = workdir / "config.json", configs.to_text(config)
    if resuming and path.exists():
        differ = configs.differences(path.read_text(), text, ignore=MAY_DIFFER)
        if differ:
            listed = ", ".join(f"{name} was {old!r} and is now {new!r}" for name, (old, new) in differ.items())
            raise CheckpointError(f"{workdir} holds a run of another configuration: {listed}; choose another --workdir")
    from_first(0)  # nobody reads while it is written
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def check_data(task: Task, progress: dict[str, Any], workdir: Any) -> None:
    """See that a run that goes on does so with its own examples: others would be counted as those."""
    before = progress.get("data", task.data)
    if before != task.data:
        raise CheckpointError(
            f"{workdir} was trained on {before}, and now there is {task.data}; choose another --workdir"
        )


def abstract_state(task: Task, optimizer: optax.GradientTransformation, mesh: AnyMesh) -> TrainState:
    """Shapes, dtypes and shardings of the state; nothing is allocated."""
    shapes = jax.eval_shape(lambda: init_state(task, optimizer, jax.random.key(0)))
    layout = shardings(mesh, state_specs(task.rules, shapes), shapes)
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, layout)


def fresh_state(
    task: Task, optimizer: optax.GradientTransformation, abstract: TrainState, key: jax.Array
) -> TrainState:
    """The state before the first step, each device making its own part; or from where the task starts."""
    layout = jax.tree.map(lambda a: a.sharding, abstract)
    if task.start is not None:
        return jax.jit(lambda p: start_state(p, optimizer), out_shardings=layout)(task.start(abstract.params, key))
    return jax.jit(lambda k: init_state(task, optimizer, k), out_shardings=layout)(key)


def jit_step(
    task: Task, config: TrainConfig, optimizer: optax.GradientTransformation, abstract: TrainState, mesh: Mesh
) -> Callable:
    """The compiled step; the state is donated."""
    layout = jax.tree.map(lambda a: a.sharding, abstract)
    whole = NamedSharding(mesh, PartitionSpec())
    frozen = jax.tree.map(lambda a: a.sharding, dict(task.frozen))
    return jax.jit(
        make_train_step(task.loss, optimizer, config.ema_decay, config.accumulation),
        in_shardings=(layout, batch_sharding(mesh), whole, frozen),
        out_shardings=(layout, whole),
        donate_argnums=0,
    )


def make_batches(
    task: Task, config: TrainConfig, mesh: Mesh, start: int
) -> Generator[dict[str, jax.Array], None, None]:
    """Global batches from batch `start` on, laid out over the mesh."""
    blocks, count = batch_shard(mesh)
    loader = make_loader(
        task.source, task.transform, config.batch_size, config.seed, blocks, count, config.data_workers, start
    )
    place = batch_sharding(mesh)
    with contextlib.closing(loader):
        for rows in loader:
            yield {
                name: jax.make_array_from_process_local_data(
                    place, value, (len(value) // len(blocks) * count, *value.shape[1:])
                )
                for name, value in rows.items()
            }


def check_finite(task: Task, config: TrainConfig, skipped_in_row: jax.Array, step: int) -> None:
    """Name the examples of a step that was not applied; end the run when nothing but such steps comes."""
    skipped = int(skipped_in_row)
    if not skipped:
        return
    rows = ", ".join(map(str, indices(task.source, config.batch_size, config.seed, step - 1)))
    if skipped >= MAX_SKIPPED_IN_ROW:
        raise InputError(
            f"the loss or the gradient was not finite for {MAX_SKIPPED_IN_ROW} steps in a row, up to step {step}, "
            f"of the training examples {rows}; lower optimizer.learning_rate or look at the data"
        )
    if jax.process_index() == 0:
        print(f"step {step} was not applied: not finite; its training examples are {rows}", file=sys.stderr)


def from_first(value: int) -> int:
    """What process 0 has, so that all take the same branches; also a meeting point."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
