"""The same seed and weights on any mesh: the same clip, and the same training."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import vidjax
from vidjax.conditioning.condition import Condition
from vidjax.config import OptimizerConfig, TrainConfig
from vidjax.diffusion.flow import initial_noise, interpolate
from vidjax.errors import InputError
from vidjax.models.wan import denoiser
from vidjax.models.wan.sharding import DENOISER_RULES
from vidjax.parallel.mesh import batch_sharding, make_mesh
from vidjax.parallel.rules import shard
from vidjax.sampler import make_sampler
from vidjax.training.loop import abstract_state, fresh_state, jit_step
from vidjax.training.state import make_optimizer
from vidjax.training.task import Task

CONFIG = denoiser.DenoiserConfig(
    patch_size=(1, 1, 1), num_attention_heads=8, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
    freq_dim=8, ffn_dim=32, num_layers=2,
)  # fmt: skip
FEW_HEADS = dataclasses.replace(CONFIG, num_attention_heads=4, attention_head_dim=24)
"""Eight devices along `context` have no head each: a ring."""

BATCH, SIZE = 8, (2, 3, 5)
"""Frames of 15 tokens, which no mesh of the test divides along `context`."""

MESHES = [(8, 1, 1, 1), (1, 8, 1, 1), (1, 1, 8, 1), (1, 1, 1, 8), (2, 2, 2, 1), (1, 1, 2, 4)]
CASES = [*((sizes, CONFIG) for sizes in MESHES), ((1, 1, 8, 1), FEW_HEADS)]
NAMES = ["x".join(map(str, sizes)) + ("-ring" if config is FEW_HEADS else "") for sizes, config in CASES]
cases = pytest.mark.parametrize(("sizes", "config"), CASES, ids=NAMES)

QUICK = ((1, 1, 8, 1), (2, 2, 2, 1))
"""Training, which compiles for long, is tried on these meshes by default and on all with ``-m slow``."""

training_cases = pytest.mark.parametrize(
    ("sizes", "config"),
    [
        pytest.param(*case, id=name, marks=[] if case[0] in QUICK else [pytest.mark.slow])
        for case, name in zip(CASES, NAMES, strict=True)
    ],
)


@functools.cache
def parameters(config):
    rng = np.random.default_rng(0)
    abstract = jax.eval_shape(functools.partial(denoiser.init, config), jax.random.key(0))
    return jax.tree.map(lambda x: np.float32(0.15 * rng.standard_normal(x.shape)), abstract)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * float(np.abs(expected).max()))


def sampled(tiny, sizes, config):
    """Latents of three guided steps of a model that lies on the mesh."""
    mesh = make_mesh(*sizes)
    model = dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, transformer=config), mesh=mesh)
    sample = jax.jit(make_sampler(model, num_inference_steps=3, guidance_scale=3.0))
    params = {"transformer": shard(parameters(config), mesh, DENOISER_RULES)}
    mask = np.arange(SIZE[0]) < np.array([[1], [0]] * (BATCH // 2))
    condition = Condition(draw(1, BATCH, 5, 16), draw(2, BATCH, 5, 16), draw(3, BATCH, *SIZE, 4), mask)
    condition = jax.device_put(condition, batch_sharding(mesh))
    return np.asarray(sample(params, jax.random.key(7), condition))


@pytest.fixture(scope="module")
def on_one_device(tiny):
    return functools.cache(functools.partial(sampled, tiny, (1, 1, 1, 1)))


@cases
def test_latents_agree(tiny, on_one_device, sizes, config):
    """A clip must not depend on the machine: padding tokens that count as keys, or a device that sees the wrong part
    of heads, tokens or parameters, would show here."""
    expected = on_one_device(config)
    assert np.isfinite(expected).all()
    close(sampled(tiny, sizes, config), expected)


def loss(config, params, batch, key):
    """Flow matching."""
    t = jax.random.uniform(jax.random.fold_in(key, 0), (BATCH, 1)) * jnp.ones(SIZE[0])
    x, target = interpolate(batch["x0"], initial_noise(jax.random.fold_in(key, 1), batch["x0"].shape), t)
    context = denoiser.context(config, params, batch["text"])
    v = denoiser.velocity(config, params, x, t, context, remat="full")
    return jnp.mean((v - target) ** 2), {}


@functools.cache
def losses(sizes, config):
    """Of ten steps, on a different batch each."""
    mesh = make_mesh(*sizes)
    task = Task(
        lambda key: jax.tree.map(jnp.asarray, parameters(config)),
        functools.partial(loss, config),
        None,
        None,
        rules=DENOISER_RULES,
    )
    fast = OptimizerConfig(learning_rate=1e-3, warmup_steps=1)
    run = TrainConfig(task=None, steps=10, batch_size=BATCH, optimizer=fast)
    optimizer = make_optimizer(run.optimizer, run.steps)
    found = []
    with jax.set_mesh(mesh):
        abstract = abstract_state(task, optimizer, mesh)
        state = fresh_state(task, optimizer, abstract, jax.random.key(0))
        step = jit_step(task, run, optimizer, abstract, mesh)
        key = jax.device_put(jax.random.key(1), NamedSharding(mesh, PartitionSpec()))
        for i in range(run.steps):
            batch = {"x0": draw(10 + i, BATCH, *SIZE, 4), "text": draw(50 + i, BATCH, 5, 16)}
            state, metrics = step(state, jax.device_put(batch, batch_sharding(mesh)), key, {})
            found.append(float(metrics["loss"]))
    return np.array(found)


@training_cases
def test_training_agrees(sizes, config):
    """Ten steps: a gradient that is summed over an axis twice, or not at all, leads away within two."""
    expected = losses((1, 1, 1, 1), config)
    assert expected[-1] < expected[0]
    close(losses(sizes, config), expected)


def test_heads_must_divide(tiny_folder):
    """Found before anything is compiled, with what to choose."""
    # JAX adds a note of its own below the message when it is raised within a transformation.
    message = r"mesh tensor=8 does not divide the 4 heads of the denoiser; choose 1, 2, 4(\n|$)"
    mesh = make_mesh(tensor=8)
    with pytest.raises(InputError, match=message):
        denoiser.check_mesh(FEW_HEADS, mesh.shape)
    with jax.set_mesh(mesh), pytest.raises(InputError, match=message):
        jax.eval_shape(functools.partial(denoiser.init, FEW_HEADS), jax.random.key(0))
    with pytest.raises(InputError, match="mesh tensor=4 does not divide the 2 heads"):
        vidjax.load(tiny_folder, mesh=make_mesh(data=2, tensor=4))
