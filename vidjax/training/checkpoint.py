"""Checkpoints of a run (Orbax): state and position in the data in one commit, saved in the background."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from vidjax.errors import CheckpointError
from vidjax.training.checksum import checksums, differing
from vidjax.training.state import TrainState
from vidjax.training.workdir import is_local
from vidjax.typing import Params, PyTree
from vidjax.weights.tensor_file import listed

Checkpointer = ocp.training.Checkpointer

CHECKSUMS = "checksums"
"""Where `progress` keeps them."""


@contextlib.contextmanager
def open_checkpoints(directory: Any, keep_last: int, keep_every: int | None = None) -> Iterator[Checkpointer]:
    """The checkpoints in a folder (local or `gs://`): the newest `keep_last` are kept, and those of every
    `keep_every`-th step.

    Raises:
      CheckpointError: it is no folder, and cannot become one.
    """
    # Orbax takes absolute paths only; an address is one.
    directory = epath.Path(os.path.abspath(directory) if is_local(directory) else directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{directory} cannot be made: {error.strerror or error}; choose another folder"
        ) from error
    policies = ocp.training.preservation_policies
    kept = [policies.LatestN(keep_last)] + ([policies.EveryNSteps(keep_every)] if keep_every else [])
    checkpointer = Checkpointer(
        directory,
        # The loop decides when; a policy here would silently skip what it asks for.
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        preservation_policy=policies.AnyPreservationPolicy(kept),
        cleanup_tmp_directories=True,
    )
    try:
        yield checkpointer
    finally:
        checkpointer.close()


def save(checkpointer: Checkpointer, state: TrainState, progress: dict[str, Any]) -> None:
    """Start saving `state` under its step, with `progress`, a dict of JSON values. `confirm` it later.

    The arrays are copied out before this returns, so the next step may reuse (donate) their memory. Their checksums
    are saved too.
    """
    step, parts = int(state.step), _parts(state)
    progress = {**progress, CHECKSUMS: {name: checksums(part) for name, part in parts.items()}}
    started = checkpointer.save_checkpointables_async(step, {**parts, "progress": progress}, force=True)
    if started is None:
        raise CheckpointError(f"checkpoint of step {step} in {checkpointer.directory} was not started")


def confirm(checkpointer: Checkpointer, step: int) -> None:
    """Wait for the save of `step` and see that it lies in the folder.

    Raises:
      CheckpointError: it does not. A save that fails in the background may otherwise go unnoticed.
    """
    try:
        checkpointer.wait()
    except Exception as error:
        raise CheckpointError(
            f"checkpoint of step {step} in {checkpointer.directory} failed to save: {error}"
        ) from error
    checkpointer.reload()
    if step not in steps(checkpointer):
        raise CheckpointError(f"checkpoint of step {step} is missing from {checkpointer.directory} after its save")


def steps(checkpointer: Checkpointer) -> list[int]:
    """The saved steps, ascending."""
    return [checkpoint.step for checkpoint in checkpointer.checkpoints]


def restore(checkpointer: Checkpointer, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
    """The newest readable `(state, progress)`, or None where nothing is saved.

    Laid out as `abstract` asks, on whatever mesh it was saved. A damaged newest checkpoint is named on
    standard error and moved aside, and the one before it is taken.

    Raises:
      CheckpointError: the one before is damaged too, or there is none.
    """
    if not steps(checkpointer):
        return None
    loaded, damaged = _newest_readable(checkpointer, _parts(abstract))
    for step in damaged:
        _move_aside(checkpointer, step)
    return TrainState(**loaded["state"], ema=loaded["ema"]), loaded["progress"]


def restore_ema(checkpointer: Checkpointer, abstract_params: PyTree) -> Params:
    """The averaged parameters of the newest readable checkpoint, alone; a damaged one stays where it is.

    Raises:
      CheckpointError: nothing is saved, or neither of the two newest can be read.
    """
    if not steps(checkpointer):
        raise CheckpointError(f"no checkpoint in {checkpointer.directory}")
    return _newest_readable(checkpointer, {"ema": abstract_params})[0]["ema"]


def _newest_readable(checkpointer: Checkpointer, wanted: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    """What is wanted of the newest checkpoint or of the one before, and which step was found damaged."""
    saved = steps(checkpointer)[::-1]
    failed: dict[int, str] = {}
    for step in saved[:2]:
        try:
            loaded = checkpointer.load_checkpointables(step, {**wanted, "progress": None})
            _verify(loaded)
            error = None
        except Exception as caught:
            error = caught
        if _all_agree(error is None):
            return loaded, list(failed)
        failed[step] = " ".join(str(error or "another process could not read it").split())[:160]
        print(
            f"checkpoint of step {step} in {checkpointer.directory} is damaged: {failed[step]}",
            file=sys.stderr,
        )
        if step == saved[0] and len(saved) > 1:
            print(f"going back to the checkpoint of step {saved[1]}", file=sys.stderr)
    listed = "; ".join(f"step {step}: {message}" for step, message in failed.items())
    raise CheckpointError(f"no readable checkpoint in {checkpointer.directory} ({listed})")


def _verify(loaded: dict[str, Any]) -> None:
    """See that what was read is what was saved; `progress` loses the checksums."""
    for part, expected in loaded["progress"].pop(CHECKSUMS, {}).items():
        if part in loaded and (changed := differing(loaded[part], expected)):
            raise CheckpointError(f"{part}: not what was saved: {listed(changed)}")


def _parts(state: TrainState) -> dict[str, Any]:
    # The average lies apart, so that an export reads nothing else.
    rest = state._asdict()
    return {"ema": rest.pop("ema"), "state": rest}


def _all_agree(readable: bool) -> bool:
    if jax.process_count() == 1:
        return readable
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.array(readable))))


def _move_aside(checkpointer: Checkpointer, step: int) -> None:
    # Left in place it would count as the newest, and its number could not be saved again.
    directory = epath.Path(checkpointer.directory)
    target = directory.parent / f"{directory.name}-damaged"
    if jax.process_index() == 0:
        target.mkdir(parents=True, exist_ok=True)
        place = target / str(step)
        if place.exists():
            place.rmtree()
        (directory / str(step)).rename(place)
        print(f"the damaged checkpoint now lies in {place}", file=sys.stderr)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("damaged checkpoint moved")
    checkpointer.reload()
