"""One step of training: gradients, a guard against non-finite ones, the update, the average."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vidjax.training.state import TrainState
from vidjax.typing import Array, Params, PyTree

Step = Callable[[TrainState, dict[str, Any], Array, dict[str, Params]], tuple[TrainState, dict[str, Array]]]


def make_train_step(
    loss: Callable, optimizer: optax.GradientTransformation, ema_decay: float, accumulation: int = 1
) -> Step:
    """`(state, batch, seed_key, frozen) -> (state, metrics)`, pure; the noise is `fold_in(seed_key, step)`.

    `loss` sees the state's parameters and the frozen ones as one tree; gradients are taken of the former.

    Where the loss or the gradient is not finite, parameters, moments and average stay as they were; only the
    counters move. Metrics: `loss`, the loss's own, `grad_norm` (before clipping), `learning_rate`, `skipped`
    (1 or 0) and `skipped_in_row`.

    With `accumulation` the batch is walked in that many parts, whose gradients and metrics are averaged: the memory
    of one part.
    """

    def gradients(params: Params, batch: dict[str, Any], key: Array, frozen: dict[str, Params]) -> tuple[Any, Params]:
        def total(params: Params) -> tuple[Array, dict[str, Array]]:
            return loss({**params, **frozen}, batch, key)

        return jax.value_and_grad(total, has_aux=True)(params)

    def averaged(params: Params, batch: dict[str, Any], key: Array, frozen: dict[str, Params]) -> tuple[Any, Params]:
        if accumulation == 1:
            return gradients(params, batch, key, frozen)

        # Part i takes every accumulation-th row, so that each device keeps its own.
        def split(x: Array) -> Array:
            return x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1)

        def add(sums: PyTree, part: PyTree) -> tuple[PyTree, None]:
            rows, i = part
            new = gradients(params, rows, jax.random.fold_in(key, i), frozen)
            return jax.tree.map(jnp.add, sums, new), None

        parts = jax.tree.map(split, batch), jnp.arange(accumulation)
        shapes = jax.eval_shape(gradients, params, jax.tree.map(lambda x: x[0], parts[0]), key, frozen)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.tree.map(lambda x: x / accumulation, jax.lax.scan(add, zeros, parts)[0])

    def train_step(
        state: TrainState, batch: dict[str, Any], seed_key: Array, frozen: dict[str, Params]
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(seed_key, state.step)
        (value, extra), grads = averaged(state.params, batch, key, frozen)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # The average starts quickly: early parameters are not worth remembering.
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, params)

        new = (params, opt_state, ema)
        old = (state.params, state.opt_state, state.ema)
        params, opt_state, ema = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        state = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema=ema,
            skipped=state.skipped + ~finite,
            skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
        )
        metrics = {
            "loss": value,
            **extra,
            "grad_norm": grad_norm,
            "learning_rate": optax.tree.get(opt_state, "learning_rate"),
            "skipped": 1.0 - finite,
            "skipped_in_row": state.skipped_in_row,
        }
        return state, metrics

    return train_step
