"""What is trained: the few functions that the loop calls, whatever the model and the data.

A configuration's `task` is a frozen dataclass, a `TaskConfig`, whose `make` returns the `Task`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jax.sharding import PartitionSpec

from vidjax.config import TrainConfig
from vidjax.typing import Params, PyTree
from vidjax.video import Video


class Task(NamedTuple):
    """Functions and data of one kind of training.

    init: `key -> params`, traceable.
    loss: `(params, batch, key) -> (scalar, {name: scalar})`, traceable; a batch is a dict of `[B, ...]`.
    source: `len(source)`, and `source[i]`, a dict of numpy arrays, always the same for the same `i`.
    transform: `(example, rng) -> example`, random through the Generator alone; then stacked into batches.
    evaluate: `(EMA params, key) -> {name: float}`, now and then and at the end, with the same key every time.
    rules: `(path regex, PartitionSpec)` of the parameters, first match wins.
    export: `(EMA params, folder)`, writes the published layout.
    start: `(abstract params, key) -> params`, in place of `init` where a run does not start from what that draws;
      the abstract arrays carry shape, dtype and sharding. A run that goes on does without.
    tokens: `batch -> number` of tokens that a step works on, from its shapes, for tokens per second.
    sample: `(EMA params, key) -> {what it shows: Video}`, to look at, with the same key every time. All processes call
      it, and each gets all of it.
    frozen: parameters that are not trained, laid out over the mesh; `loss` finds them in its `params`, beside the
      trained ones and under names of their own.
    data: a name that changes with what `source` gives; a run goes on with the same alone.
    """

    init: Callable[[Any], Params]
    loss: Callable[[Params, dict[str, Any], Any], tuple[Any, dict[str, Any]]]
    source: Any
    transform: Callable[[dict[str, Any], Any], dict[str, Any]]
    evaluate: Callable[[Params, Any], dict[str, float]] | None = None
    rules: tuple[tuple[str, PartitionSpec], ...] = ((".*", PartitionSpec()),)
    export: Callable[[Params, Path], None] | None = None
    start: Callable[[PyTree, Any], Params] | None = None
    tokens: Callable[[dict[str, Any]], int] | None = None
    sample: Callable[[Params, Any], dict[str, Video]] | None = None
    frozen: Mapping[str, Params] = MappingProxyType({})
    data: str = ""


@runtime_checkable
class TaskConfig(Protocol):
    """A frozen dataclass of plain values that describes a task."""

    def make(self, config: TrainConfig) -> Task:
        """The task, for this run."""
        ...

    def smoke(self) -> "TaskConfig":
        """A copy shrunk so that tens of steps take seconds."""
        ...
