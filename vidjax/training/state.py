"""What a training run carries from step to step, and the optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from vidjax.config import OptimizerConfig
from vidjax.parallel.rules import Rules, leaf_path, match_rules, match_state
from vidjax.training.task import Task
from vidjax.typing import Array, Int, Params, PyTree


class TrainState(NamedTuple):
    """Everything a run needs to go on. Parameters, their average and the moments are float32.

    `skipped` counts the steps whose update was left out because the loss or the gradient was not finite;
    `skipped_in_row` those since the last good one.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: PyTree
    ema: Params
    skipped: Int[Array, ""]
    skipped_in_row: Int[Array, ""]


class LearningRateState(NamedTuple):
    """Number of updates so far, and the learning rate of the latest."""

    count: Array
    learning_rate: Array


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Update number -> learning rate: linear warm-up, then constant, or a cosine down to a tenth."""
    peak, warmup = config.learning_rate, min(config.warmup_steps, steps)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, max(steps - warmup, 1), alpha=0.1)
    else:
        after = optax.constant_schedule(peak)
    # The first update is at peak / warmup, not at zero, where it would be wasted.
    rise = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping, then AdamW (Loshchilov & Hutter 2019) or Muon (Jordan et al. 2024), then the learning rate.

    Weight decay acts on matrices only. Muon takes the hidden matrices, dense `[in, out]` or stacked
    `[layers, in, out]`, and convolutions; its updates are scaled to AdamW's size (Liu et al. 2025), so both take
    the same learning rate. Embeddings, the last projection and vectors follow AdamW.
    """
    # They run at rate 1 and `_scale_by_schedule` applies the rate, so that it can be reported.
    if config.name == "muon":
        inner = contrib.muon(
            1.0,
            weight_decay=config.weight_decay,
            adam_b1=config.b1,
            adam_b2=config.b2,
            muon_weight_dimension_numbers=_muon_dimensions,
            consistent_rms=0.2,
        )
    else:
        inner = optax.adamw(1.0, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=_decayed)
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm > 0 else []
    return optax.chain(*clip, inner, _scale_by_schedule(make_schedule(config, steps)))


def init_state(task: Task, optimizer: optax.GradientTransformation, key: Array) -> TrainState:
    """The state before the first step; traceable."""
    return start_state(task.init(key), optimizer)


def start_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step from these parameters; traceable."""
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    zero = jnp.zeros((), jnp.int32)
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(zero, params, optimizer.init(params), ema, zero, zero)


def state_specs(rules: Rules, abstract: TrainState) -> TrainState:
    """The `PartitionSpec`s of a state: moments and averages are split as their parameters."""
    specs = match_rules(rules, abstract.params)
    return match_state(specs, abstract)._replace(params=specs, ema=specs)


def _scale_by_schedule(schedule: optax.Schedule) -> optax.GradientTransformation:
    def init(params: Params) -> LearningRateState:
        del params
        return LearningRateState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32))

    def update(updates: Params, state: LearningRateState, params: Params | None = None) -> Any:
        del params
        rate = jnp.asarray(schedule(state.count), jnp.float32)
        return jax.tree.map(lambda u: rate * u, updates), LearningRateState(state.count + 1, rate)

    return optax.GradientTransformation(init, update)


def _is_matrix(name: str, leaf: Any) -> bool:
    # Stacked layers give vectors a second axis, so rank alone does not tell.
    return leaf.ndim >= 2 and not any(word in name.split("/")[-1] for word in ("bias", "scale", "modulation", "norm"))


def _decayed(params: Params) -> PyTree:
    return jax.tree_util.tree_map_with_path(lambda path, x: _is_matrix(leaf_path(path), x), params)


def _muon_dimensions(params: Params) -> PyTree:
    def dimensions(path: tuple[Any, ...], x: Any) -> contrib.MuonDimensionNumbers | None:
        name = leaf_path(path)
        outer = any(word in name for word in ("embed", "head", "proj_out", "time"))
        if outer or not _is_matrix(name, x):
            return None
        # A convolution [window..., in, out] is the matrix [window * in, out].
        inputs = tuple(range(x.ndim - 1)) if x.ndim > 3 else x.ndim - 2
        return contrib.MuonDimensionNumbers(reduction_axis=inputs, output_axis=x.ndim - 1)

    return jax.tree_util.tree_map_with_path(dimensions, params)
