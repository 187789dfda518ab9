"""One step of training: gradients, a guard against non-finite ones, the update, the average."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vidjax.training.state import TrainState
from vidjax.typing import Array

Step = Callable[[TrainState, dict[str, Any], Array], tuple[TrainState, dict[str, Array]]]


def make_train_step(loss: Callable, optimizer: optax.GradientTransformation, ema_decay: float) -> Step:
    """`(state, batch, seed_key) -> (state, metrics)`, pure; the noise is `fold_in(seed_key, step)`.

    Where the loss or the gradient is not finite, parameters, moments and average stay as they were; only the
    counters move. Metrics: `loss`, the loss's own, `grad_norm` (before clipping), `learning_rate`, `skipped`
    (1 or 0) and `skipped_in_row`.
    """

    def train_step(state: TrainState, batch: dict[str, Any], seed_key: Array) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(seed_key, state.step)
        (value, extra), grads = jax.value_and_grad(loss, has_aux=True)(state.params, batch, key)
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
