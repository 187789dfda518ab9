"""How fast a denoiser is trained, beside the same step of the PyTorch reference where that is installed."""

import dataclasses
import importlib.util
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from vidjax.config import OptimizerConfig
from vidjax.errors import InputError
from vidjax.models.wan import denoiser
from vidjax.models.wan.denoiser import DenoiserConfig
from vidjax.training.flow_matching import flow_loss
from vidjax.training.state import make_optimizer, start_state
from vidjax.training.step import make_train_step
from vidjax.typing import Array, Params

MODEL = DenoiserConfig(
    num_attention_heads=6, attention_head_dim=128, text_dim=512, ffn_dim=3072, num_layers=7, rope_max_seq_len=64
)
"""About 70M parameters, of the published form."""

LATENTS = (5, 32, 32, 16)
"""[f, h, w, c]: 1,280 tokens."""

TEXT = 64
"""Tokens of text."""


@dataclasses.dataclass(frozen=True)
class TrainReport:
    """Seconds of each step, without the first (which compiles). ``reference_seconds``: the same step (forward,
    backward, AdamW) of diffusers' module in PyTorch; None where it is not installed. ``ratio`` is of the medians,
    below 1 where ours is faster."""

    parameters: int
    tokens: int
    batch: int
    seconds: tuple[float, ...]
    tokens_per_second: float
    reference_seconds: tuple[float, ...] | None
    ratio: float | None

    def __str__(self) -> str:
        listed = ", ".join(f"{s:.2f}" for s in self.seconds)
        lines = [
            f"{self.parameters / 1e6:.1f}M parameters, {self.tokens} tokens, batch {self.batch}, float32",
            f"a step: {statistics.median(self.seconds):.2f} s ({listed}), {self.tokens_per_second:.0f} tokens/s",
        ]
        if self.reference_seconds is None:
            lines.append("the PyTorch reference is not installed: pip install 'vidjax[parity]' to compare")
        else:
            listed = ", ".join(f"{s:.2f}" for s in self.reference_seconds)
            lines.append(
                f"PyTorch: {statistics.median(self.reference_seconds):.2f} s ({listed}); ratio {self.ratio:.2f}"
            )
        return "\n".join(lines)


def train(steps: int = 5, batch: int = 2, model: DenoiserConfig = MODEL) -> TrainReport:
    """Steps of training a denoiser in float32, one of ours and one of the reference in turn.

    Raises:
      InputError: a number below 1.
    """
    for name, value in (("steps", steps), ("batch", batch)):
        if value < 1:
            raise InputError(f"{name}={value}: must be at least 1")
    ours = _ours(model, batch)
    installed = all(importlib.util.find_spec(name) for name in ("torch", "diffusers"))
    theirs = None
    if installed:
        from vidjax.benchmark.reference import make_step

        theirs = make_step(model, (batch, *LATENTS), TEXT)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(steps + 1):
        seconds[0].append(_timed(ours))
        if theirs is not None:
            seconds[1].append(_timed(theirs))
    own, other = (tuple(times[1:]) for times in seconds)
    tokens = int(np.prod(LATENTS[:3])) // int(np.prod(model.patch_size))
    median = statistics.median(own)
    return TrainReport(
        parameters=sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(_abstract(model))),
        tokens=tokens,
        batch=batch,
        seconds=own,
        tokens_per_second=batch * tokens / median,
        reference_seconds=other or None,
        ratio=median / statistics.median(other) if other else None,
    )


def _abstract(model: DenoiserConfig) -> Params:
    return jax.eval_shape(lambda key: denoiser.init(model, key), jax.random.key(0))


def _ours(model: DenoiserConfig, batch: int) -> Callable[[], None]:
    def velocity(params: Params, rows: dict[str, Array], x: Array, t: Array) -> Array:
        return denoiser.velocity(model, params, x, t, denoiser.context(model, params, rows["text"]))

    def loss(params: Params, rows: dict[str, Array], key: Array) -> tuple[Array, dict[str, Array]]:
        return flow_loss(velocity, params, rows, key, shift=0.0, given_share=0.0), {}

    optimizer = make_optimizer(OptimizerConfig(), 1000)
    step = jax.jit(make_train_step(loss, optimizer, ema_decay=0.999), donate_argnums=0)
    rows = {
        "latents": jax.random.normal(jax.random.key(1), (batch, *LATENTS)),
        "text": jax.random.normal(jax.random.key(2), (batch, TEXT, model.text_dim)),
    }
    state = jax.jit(lambda key: start_state(denoiser.init(model, key), optimizer))(jax.random.key(0))

    def run() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(step(state, rows, jax.random.key(3), {}))

    return run


def _timed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
