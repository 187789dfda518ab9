import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vidjax.config import OptimizerConfig
from vidjax.training.state import make_optimizer, make_schedule, start_state
from vidjax.training.step import make_train_step


def quadratic(params, batch, key):
    return jnp.sum((params["w"] - batch["y"]) ** 2) * batch["factor"], {"noise": jax.random.uniform(key)}


def run_steps(factors, ema_decay=0.999):
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, warmup_steps=0), 100)
    step = jax.jit(make_train_step(quadratic, optimizer, ema_decay))
    states, seen = [start_state({"w": jnp.ones(3)}, optimizer)], []
    for factor in factors:
        batch = {"y": jnp.zeros(3), "factor": jnp.float32(factor)}
        state, metrics = step(states[-1], batch, jax.random.key(0), {})
        states.append(state)
        seen.append(metrics)
    return states, seen


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_step_is_skipped(bad):
    """One bad batch would turn every parameter and moment into NaN for good."""
    states, metrics = run_steps([1, bad, bad, 1])
    for name in ("params", "opt_state", "ema"):
        before, after = getattr(states[1], name), getattr(states[3], name)
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))
    assert [int(m["skipped_in_row"]) for m in metrics] == [0, 1, 2, 0]
    assert [float(m["skipped"]) for m in metrics] == [0, 1, 1, 0]
    assert int(states[4].skipped) == 2
    assert not np.array_equal(states[4].params["w"], states[3].params["w"])
    assert int(states[4].step) == 4


def test_noise_follows_the_step():
    """The same key at every step would train on one draw of the noise."""
    _, metrics = run_steps([1, 1])
    expected = [jax.random.uniform(jax.random.fold_in(jax.random.key(0), i)) for i in range(2)]
    assert [float(m["noise"]) for m in metrics] == [float(e) for e in expected]


def test_average_warms_up():
    """An average that starts at its full decay keeps the random initial weights for thousands of steps."""
    states, _ = run_steps([1, 1, 1])
    ema = np.ones(3)
    for step in range(3):
        decay = (1 + step) / (10 + step)
        ema = decay * ema + (1 - decay) * np.asarray(states[step + 1].params["w"])
    np.testing.assert_allclose(states[-1].ema["w"], ema, rtol=1e-6)


def test_reported_learning_rate_is_the_one_used():
    """The rate is applied apart from AdamW; the pair must do what optax.adamw does with the same schedule."""
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=3, schedule="cosine", clip_norm=1.0, weight_decay=0.1)
    ours = make_optimizer(config, 20)
    schedule = make_schedule(config, 20)
    decayed = {"block": {"kernel": True, "bias": False, "norm_scale": False}}
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b1=config.b1, b2=config.b2, weight_decay=0.1, mask=decayed),
    )
    params = {"block": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones((4, 3)), "norm_scale": jnp.ones((4, 3))}}
    grads = jax.tree.map(lambda x: 0.3 * x, params)
    a, b = ours.init(params), theirs.init(params)
    ours_step, theirs_step = jax.jit(ours.update), jax.jit(theirs.update)
    for i in range(5):
        ours_update, a = ours_step(grads, a, params)
        theirs_update, b = theirs_step(grads, b, params)
        for x, y in zip(jax.tree.leaves(ours_update), jax.tree.leaves(theirs_update), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-8)
        assert float(optax.tree.get(a, "learning_rate")) == pytest.approx(float(schedule(i)))


def test_schedule_ends():
    """Peak after the warm-up, a tenth at the end of a cosine, never zero at the first update."""
    schedule = make_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=10, schedule="cosine"), 100)
    np.testing.assert_allclose([schedule(0), schedule(9), schedule(10), schedule(100)], [0.1, 1.0, 1.0, 0.1], rtol=1e-6)
    constant = make_schedule(OptimizerConfig(learning_rate=2.0, warmup_steps=0), 100)
    np.testing.assert_allclose([constant(0), constant(99)], [2.0, 2.0])


def test_muon_orthogonalises_hidden_matrices_layer_by_layer():
    """Stacked layers must not be mixed, and embeddings and vectors must not be orthogonalised."""
    key = jax.random.key(1)
    params = {
        "blocks": {"mlp": {"kernel": jax.random.normal(key, (2, 8, 8)), "bias": jnp.zeros((2, 8))}},
        "patch_embedding": {"kernel": jax.random.normal(key, (8, 8))},
    }
    grads = jax.tree.map(lambda x: jax.random.normal(key, x.shape), params)
    config = OptimizerConfig(name="muon", learning_rate=1.0, warmup_steps=0, weight_decay=0.0, clip_norm=0.0)
    optimizer = make_optimizer(config, 10)
    updates, _ = jax.jit(optimizer.update)(grads, jax.jit(optimizer.init)(params), params)

    def spread(x):
        values = np.linalg.svd(np.asarray(x), compute_uv=False)
        return values.max() / values.min()

    for layer in range(2):
        assert spread(updates["blocks"]["mlp"]["kernel"][layer]) < 2.5 < spread(grads["blocks"]["mlp"]["kernel"][layer])
    assert spread(updates["patch_embedding"]["kernel"]) > 2.5
    # AdamW's first update has the size of the rate, and Muon's is scaled to a fifth of it.
    assert np.sqrt(np.mean(np.square(updates["blocks"]["mlp"]["kernel"]))) == pytest.approx(0.2, rel=0.2)


def test_accumulated_step_is_the_whole_one():
    """A batch walked in parts must give the gradient of the batch; and every row must be in one part."""

    def loss(params, batch, key):
        del key
        return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2), {"mean": jnp.mean(batch["y"])}

    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, warmup_steps=0), 100)
    start = start_state({"w": jnp.ones(3)}, optimizer)
    batch = {"x": jax.random.normal(jax.random.key(1), (8, 3)), "y": jnp.arange(8.0)}
    results = [
        jax.jit(make_train_step(loss, optimizer, 0.9, parts))(start, batch, jax.random.key(0), {}) for parts in (1, 4)
    ]
    (whole, seen), (parts, seen_in_parts) = results
    np.testing.assert_allclose(parts.params["w"], whole.params["w"], rtol=1e-6)
    for name in ("loss", "mean", "grad_norm"):
        np.testing.assert_allclose(seen_in_parts[name], seen[name], rtol=1e-6)


def test_parts_have_noise_of_their_own():
    """The same draw in every part would make a large batch as noisy as a small one."""
    optimizer = make_optimizer(OptimizerConfig(), 100)
    start = start_state({"w": jnp.ones(3)}, optimizer)

    def loss(params, batch, key):
        noise = jax.random.uniform(key)
        return jnp.sum(params["w"] * batch["y"].sum()), {"noise": noise, "squared": noise**2}

    step = jax.jit(make_train_step(loss, optimizer, 0.9, 2))
    _, seen = step(start, {"y": jnp.ones((4, 1))}, jax.random.key(0), {})
    assert seen["squared"] - seen["noise"] ** 2 > 1e-4


def test_frozen_parameters_are_used_and_left_alone():
    """They must reach the loss, and neither the optimizer nor the average."""

    def loss(params, batch, key):
        del key
        return jnp.sum((params["w"] * params["held"]["v"] - batch["y"]) ** 2), {}

    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, warmup_steps=0), 100)
    step = jax.jit(make_train_step(loss, optimizer, 0.9))
    state, seen = step(
        start_state({"w": jnp.ones(3)}, optimizer),
        {"y": jnp.zeros(3)},
        jax.random.key(0),
        {"held": {"v": jnp.full(3, 2.0)}},
    )
    assert seen["loss"] == 12
    assert list(state.params) == list(state.ema) == ["w"]
