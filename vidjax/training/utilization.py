"""How much of the devices' arithmetic a training uses: the model's own FLOPs over what the devices could do (MFU)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from vidjax.arithmetic import training_flops
from vidjax.training.task import Task
from vidjax.typing import PyTree

PEAK_FLOPS = {
    # cloud.google.com/tpu/docs, a page for each; of tpu7x a device is half a chip.
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    # NVIDIA's data sheets, without sparsity.
    "NVIDIA L4": 121e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}
"""bfloat16 matrix products of one device, in FLOPs per second."""


class Work(NamedTuple):
    """What a step does: tokens of the batch (0: the task has none), and FLOPs, where they are measured."""

    tokens: int = 0
    flops: float = 0.0


def peak_flops(kind: str) -> float | None:
    """What a device of this `jax.Device.device_kind` can do in a second, or None where that is not known."""
    known = [name for name in PEAK_FLOPS if kind == name]
    if kind.startswith("NVIDIA"):  # followed by its form and memory
        known += [name for name in PEAK_FLOPS if kind.startswith((f"{name} ", f"{name}-"))]
    return PEAK_FLOPS[max(known, key=len)] if known else None


def work_of(task: Task, params: PyTree, flops: bool) -> Callable[[dict[str, Any]], Work]:
    """``batch -> Work`` of a step; counted once for each shape, and FLOPs only if asked for: that traces the loss."""

    @functools.cache
    def of(shapes: tuple[tuple[str, tuple[int, ...], Any], ...]) -> Work:
        batch = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in shapes}
        tokens = task.tokens(batch) if task.tokens is not None else 0
        return Work(tokens, training_flops(task.loss, params, dict(task.frozen), batch) if flops else 0.0)

    return lambda batch: of(tuple((name, x.shape, x.dtype) for name, x in batch.items()))
