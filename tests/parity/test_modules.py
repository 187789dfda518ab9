"""Every part with fresh random weights against the PyTorch one, through the published folder layout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.diffusion import flow, sampling, solvers
from vidjax.models import clip, t5
from vidjax.models.wan import denoiser, vae
from vidjax.weights import folder

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.parity

SEED = 7


def close(found, expected, tolerance: float = 2e-5) -> None:
    """Within ``tolerance`` of the largest expected value."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * float(np.abs(expected).max()))


def load(references, reference, path):
    """The configuration and parameters that the reference saves, and its arrays."""
    references.save(reference, path)
    config = folder.read_config(path, reference.part)
    params = folder.read_part(path, reference.part, config)
    return config, params, {k: jnp.asarray(v) for k, v in reference.arrays.items()}


VAES = {
    "2.1": lambda r: r.vae_2_1(SEED),
    "2.2": lambda r: r.vae_2_2(SEED),
    "patches of four": lambda r: r.autoencoder(
        SEED, 16, 32, dim_mult=[1, 2, 2], temperal_downsample=[True, True], is_residual=True, patch_size=4,
        in_channels=48, out_channels=48, scale_factor_spatial=16,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", VAES)
def test_vae(references, tmp_path, kind):
    """Latents of published programs must decode here, and the other way round."""
    config, params, a = load(references, VAES[kind](references), tmp_path)
    mean, log_variance = jax.jit(functools.partial(vae.encode, config))(params, a["frames"])
    close(mean, a["mean"])
    close(log_variance, a["log_variance"])
    close(jax.jit(functools.partial(vae.decode, config))(params, a["latents"]), a["decoded"])


DENOISERS = {
    "text": lambda r: r.denoiser_text(SEED),
    "two pictures": lambda r: r.denoiser_image(SEED),
    "one picture": lambda r: r.denoiser(SEED, 512, in_channels=9, image_dim=20, added_kv_proj_dim=32),
    "published head": lambda r: r.denoiser(SEED, 7, attention_head_dim=128, num_attention_heads=1),
    "patches of one": lambda r: r.denoiser(SEED, 7, patch_size=(1, 1, 1)),
    "no norm before the text": lambda r: r.denoiser(SEED, 7, cross_attn_norm=False),
}


@pytest.mark.parametrize("kind", DENOISERS)
def test_denoiser(references, tmp_path, kind):
    """Published weights must mean here what they mean there, at any time of any frame."""
    config, params, a = load(references, DENOISERS[kind](references), tmp_path)
    context = denoiser.context(config, params, a["text"], a.get("image"))
    velocity = jax.jit(functools.partial(denoiser.velocity, config))
    close(velocity(params, a["x"], a["t"], context), a["velocity"])


def test_text_encoder(references, tmp_path):
    """The same sentence must be the same condition."""
    config, params, a = load(references, references.text_encoder(SEED), tmp_path)
    close(jax.jit(functools.partial(t5.encode, config))(params, a["tokens"], a["lengths"]), a["text"])


def test_image_encoder(references, tmp_path):
    """The same picture must be the same condition."""
    config, params, a = load(references, references.image_encoder(SEED), tmp_path)
    close(jax.jit(functools.partial(clip.encode, config))(params, a["pictures"]), a["tokens"])


@pytest.mark.parametrize("grid", flow.GRIDS)
def test_euler(references, grid):
    """The flow's own solver, on either published grid: theirs is told the grid, and shifts it."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    n, shift = 8, 5.0
    first, last = {"folder": (1.0, 0.001), "original": (0.999, 0.0)}[grid]
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=np.linspace(first, last, n + 1)[:-1])
    make = references.numbers(SEED)
    x, mix = make(1, 2, 2, 2, 3), make(3, 3)
    expected = torch.tensor(x)
    schedule = flow.make_schedule(n, shift, grid)
    for i, t in enumerate(theirs.timesteps):
        # Theirs would tell the model fractions of a thousandth, which published weights do not know.
        time = float(schedule.times[i])
        expected = theirs.step(
            torch.tanh(expected @ torch.tensor(mix)) * time + 0.1 * expected, t, expected
        ).prev_sample
    np.testing.assert_allclose(schedule.sigmas, theirs.sigmas, atol=2e-6)
    velocity = lambda x, t: jnp.tanh(x @ mix) * t + 0.1 * x  # noqa: E731
    close(sampling.sample(velocity, jnp.asarray(x), schedule, solvers.euler), expected.numpy())


@pytest.mark.parametrize("shift", [1.0, 3.0, 16.0])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 25])
def test_solver(references, n, shift):
    """The same velocity must be walked to the same video."""
    make = references.numbers(SEED)
    x, mix = make(1, 2, 2, 2, 3), make(3, 3)
    expected = references.walk(n, shift, x, mix)
    schedule = flow.make_schedule(n, shift)
    np.testing.assert_allclose(schedule.sigmas, expected["sigmas"], atol=1e-7)
    np.testing.assert_allclose(schedule.times * 1000, expected["timesteps"], atol=1e-4)
    velocity = lambda x, t: jnp.tanh(x @ mix) * t + 0.1 * x  # noqa: E731
    close(sampling.sample(velocity, jnp.asarray(x), schedule, solvers.unipc), expected["x"])


def test_exported_parts_load_there(references, tmp_path):
    """What is trained here must open in the published programs, with the same weights."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import UMT5EncoderModel

    kinds = {"vae_2_2": AutoencoderKLWan, "denoiser_image": WanTransformer3DModel, "text_encoder": UMT5EncoderModel}
    for name, kind in kinds.items():
        reference = references.REFERENCES[name](SEED)
        config, params, _ = load(references, reference, tmp_path / name)
        folder.write_part(tmp_path / "ours" / name, reference.part, config, params)
        again = kind.from_pretrained(tmp_path / "ours" / name / reference.part).state_dict()
        expected = reference.module.state_dict()
        assert again.keys() == expected.keys()
        assert all((again[k] == expected[k]).all() for k in expected), name
