"""Model FLOPs: what a gradient needs, however it is computed."""

import jax
import jax.numpy as jnp
import pytest

from vidjax.arithmetic import training_flops
from vidjax.models.wan import denoiser
from vidjax.training import lora
from vidjax.training.flow_matching import flow_loss
from vidjax.training.lora import LoRAConfig
from vidjax.training.task import Task
from vidjax.training.utilization import Work, peak_flops, work_of

N = 16
PRODUCT = 2 * N**3


def square(*shape):
    return jax.ShapeDtypeStruct((*shape, N, N), jnp.float32)


def flops(loss, trained, frozen):
    return training_flops(
        lambda params, batch, key: (loss(params, batch["x"]).sum(), {}), trained, frozen, {"x": square()}
    )


def through(w, h):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h, w)[0]


@pytest.mark.parametrize(
    ("loss", "trained", "frozen", "products"),
    [
        # The input needs no gradient.
        (lambda p, x: x @ p["w"], {"w": square()}, {}, 2),
        (lambda p, x: (x @ p["w"]) @ p["v"], {"w": square(), "v": square()}, {}, 2 + 3),
        # Frozen before what is trained: forward only; after it: the gradient passes through.
        (lambda p, x: (x @ p["v"]) @ p["w"], {"w": square()}, {"v": square()}, 1 + 2),
        (lambda p, x: (x @ p["w"]) @ p["v"], {"w": square()}, {"v": square()}, 2 + 2),
        (lambda p, x: x @ jax.lax.stop_gradient(p["w"]) @ p["v"], {"w": square(), "v": square()}, {}, 1 + 2),
        # Layers under a scan count as often as they run, and what is computed again once.
        (lambda p, x: through(p["w"], x @ p["v"]), {"w": square(5), "v": square()}, {}, 2 + 5 * 3),
        (lambda p, x: jax.checkpoint(through)(p["w"], x @ p["v"]), {"w": square(5), "v": square()}, {}, 2 + 5 * 3),
        # The first layer is reached only round the loop.
        (lambda p, x: through(p["w"], x), {"w": square(5)}, {}, 5 * 3),
    ],
)
def test_products_of_a_gradient(loss, trained, frozen, products):
    """A utilization that counts what is not computed, or is computed twice, flatters or blames the wrong thing."""
    assert flops(loss, trained, frozen) == products * PRODUCT


def test_a_denoiser_is_thrice_its_forward_pass(tiny):
    """The rule that everybody reckons by; and memory saved by recomputing must not look like work done."""
    config = tiny.config.transformer
    params = jax.eval_shape(lambda key: denoiser.init(config, key), jax.random.key(0))
    batch = {
        "latents": jax.ShapeDtypeStruct((2, 3, 4, 4, 4), jnp.float32),
        "text": jax.ShapeDtypeStruct((2, 8, 16), jnp.float32),
    }

    def loss(remat, changed=lambda params: params["denoiser"]):
        def velocity(params, batch, x, t):
            context = denoiser.context(config, changed(params), batch["text"])
            return denoiser.velocity(config, changed(params), x, t, context, remat=remat)

        return lambda params, batch, key: (flow_loss(velocity, params, batch, key, 0.0, 0.0), {})

    whole = training_flops(loss("none"), {"denoiser": params}, {}, batch)
    forward = training_flops(loss("none"), {}, {"denoiser": params}, batch)
    assert 2.8 * forward < whole <= 3 * forward
    assert training_flops(loss("full"), {"denoiser": params}, {}, batch) == whole

    changes = jax.eval_shape(lambda key: lora.init(LoRAConfig(2), params, key), jax.random.key(0))
    merged = loss("none", lambda p: lora.merged(p["denoiser"], p["lora"], 1.0))
    assert forward < training_flops(merged, {"lora": changes}, {"denoiser": params}, batch) < whole


def test_a_split_over_devices_is_no_more_work(tiny):
    """Under a mesh each device has its share, and the count must be of all."""
    loss = lambda params, x: x @ params["w"]  # noqa: E731
    alone = flops(loss, {"w": square()}, {})
    with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))):
        assert flops(loss, {"w": square()}, {}) == alone


def test_each_shape_is_counted_once():
    """Tracing a large model takes seconds; and a batch of another bucket is other work."""
    seen = []

    def loss(params, batch, key):
        seen.append(batch["x"].shape)
        return jnp.sum(batch["x"] @ params["w"]), {}

    task = Task(None, loss, None, None, tokens=lambda batch: batch["x"].shape[0])
    work = work_of(task, {"w": square()}, flops=True)
    found = [work({"x": jnp.zeros((rows, N))}) for rows in (4, 8, 4)]
    assert found == [Work(rows, 2 * 2 * rows * N * N) for rows in (4, 8, 4)]
    assert seen == [(4, N), (8, N)]
    assert work_of(task, {"w": square()}, flops=False)({"x": jnp.zeros((4, N))}) == Work(4, 0.0)


@pytest.mark.parametrize(
    ("kind", "flops"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v4 lite", None),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA L40S", None),
        ("cpu", None),
    ],
)
def test_peaks(kind, flops):
    """Against another device's peak, a utilization is wrong by a factor and looks right."""
    assert peak_flops(kind) == flops
