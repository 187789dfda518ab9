"""What happened since the last log: the means of what steps report, and where the time went."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

import jax
import numpy as np

from vidjax.training.utilization import Work

Wait = Literal["data", "save", "eval", "compile"]
WAITS: tuple[Wait, ...] = get_args(Wait)


class Window:
    """Step metrics since the last log, kept on the device until asked for: recording does not wait.

    Its sums travel through checkpoints (`as_json`), so that the mean over an interrupted interval is that of
    the whole interval.
    """

    def __init__(self, sums: Mapping[str, Sequence[float]] | None = None):
        self._sums = {name: list(pair) for name, pair in (sums or {}).items()}
        self._pending: list[dict[str, jax.Array]] = []

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Record one step's scalars, possibly not computed yet."""
        self._pending.append(metrics)

    def as_json(self) -> dict[str, list[float]]:
        """`{name: [sum, count]}` over the finite values; waits for the steps recorded."""
        for metrics in jax.device_get(self._pending):
            for name, value in metrics.items():
                total = self._sums.setdefault(name, [0.0, 0])
                if np.isfinite(value):
                    total[0] += float(value)
                    total[1] += 1
        self._pending.clear()
        return {name: list(pair) for name, pair in self._sums.items()}

    def means(self) -> dict[str, float]:
        """The mean of every metric (nan where none was finite), and starts afresh."""
        sums = self.as_json()
        self._sums.clear()
        return {name: total / count if count else math.nan for name, (total, count) in sums.items()}


class Clock:
    """Where the time goes between two calls of `read`. It starts at the end of the first step.

    `peak` is what all devices together can do, in FLOPs per second.
    """

    def __init__(self, peak: float | None = None):
        self._peak, self._steps = peak, None

    def tick(self, work: Work) -> None:
        """A step was started."""
        if self._steps is None:
            self._restart()
        else:
            self._steps, self._tokens = self._steps + 1, self._tokens + work.tokens
            self._flops += work.flops

    def _restart(self) -> None:
        self._steps, self._tokens, self._flops = 0, 0, 0.0
        self._waited, self._since = dict.fromkeys(WAITS, 0.0), time.perf_counter()

    @contextlib.contextmanager
    def waiting(self, on: Wait) -> Iterator[None]:
        """The time inside is spent on data, checkpoints, evaluations and samples, or on compiling a step."""
        start = time.perf_counter()
        yield
        if self._steps is not None:
            self._waited[on] += time.perf_counter() - start

    def read(self) -> dict[str, float]:
        """The measures (nan where no step was timed), and a new start.

        `steps_per_second`; `tokens_per_second`, where tokens are counted; `mfu`, the model's FLOPs over those of the
        devices, where these are known; the shares `data_wait`, `save_wait`, `eval_wait`, `compile_wait` of the time,
        and `goodput`, what they leave to the steps. Speeds leave evaluations and compilations out, shares do not.
        """
        total = max(time.perf_counter() - self._since, 1e-9)
        seconds = max(total - self._waited["eval"] - self._waited["compile"], 1e-9)
        shares = {f"{on}_wait": waited / total for on, waited in self._waited.items()}
        measures = {"steps_per_second": self._steps / seconds if self._steps else math.nan}
        if self._tokens:
            measures["tokens_per_second"] = self._tokens / seconds
        if self._flops and self._peak:
            measures["mfu"] = self._flops / seconds / self._peak
        self._restart()
        return {**measures, **shares, "goodput": 1.0 - sum(shares.values())}
