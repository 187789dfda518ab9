"""A denoiser that moves to the latents of another autoencoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidjax
from vidjax.data.source import ClipData
from vidjax.errors import InputError
from vidjax.model import bundled, read_config
from vidjax.models.wan import denoiser, vae
from vidjax.models.wan.denoiser import patchify
from vidjax.training.adapt import Linear, adapt, fit, in_parts, move
from vidjax.weights import folder

OTHER = vae.VAEConfig(
    base_dim=8,
    z_dim=4,
    dim_mult=(1, 1, 1),
    num_res_blocks=0,
    temperal_downsample=(True, True),
    is_residual=True,
    in_channels=12,
    out_channels=12,
    patch_size=2,
    scale_factor_spatial=8,
    latents_mean=(0.0,) * 4,
    latents_std=(1.0,) * 4,
)


@pytest.fixture
def autoencoder(tmp_path):
    folder.write_part(tmp_path / "other", "vae", OTHER, vae.init(OTHER, jax.random.key(0)))
    return tmp_path / "other"


def test_fit_finds_a_linear_map():
    rng = np.random.default_rng(0)
    x, weight, bias = rng.normal(size=(2000, 6)), rng.normal(size=(6, 3)), rng.normal(size=3)
    found = fit(x, x @ weight + bias, 1e-9)
    np.testing.assert_allclose(found.weight, weight, atol=1e-6)
    np.testing.assert_allclose(found.bias, bias, atol=1e-6)
    assert found.explained > 0.999999
    # Against noise as strong as what is to be seen, half of it is believed (Wiener).
    np.testing.assert_allclose(fit(x, x @ weight, 1.0).weight, weight / 2, atol=0.1)


def test_moved_denoiser_says_the_same():
    """Where one latent is an invertible map of the other, the velocity is that of the first, mapped."""
    config = denoiser.DenoiserConfig(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=16, in_channels=3, out_channels=3,
        text_dim=8, freq_dim=16, ffn_dim=32, num_layers=1, rope_max_seq_len=64,
    )  # fmt: skip
    params = denoiser.init(config, jax.random.key(0))
    rng = np.random.default_rng(1)
    there = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    offset = rng.normal(size=12)
    given = Linear(there, offset, 1.0)
    said = Linear(there.T, -offset @ there.T, 1.0)
    x = jnp.asarray(rng.normal(size=(1, 2, 4, 4, 3)), jnp.float32)
    mapped = _unpatchify((np.asarray(patchify(x, (1, 2, 2))) - offset) @ there.T, x.shape)
    text = jnp.asarray(rng.normal(size=(1, 5, 8)), jnp.float32)
    t = jnp.full((1, 2), 0.7)

    def velocity(params, x):
        return denoiser.velocity(config, params, x, t, denoiser.context(config, params, text))

    moved = move(config, params, given, said)
    before, after = velocity(params, x), velocity(moved, jnp.asarray(mapped, jnp.float32))
    before, after = (np.asarray(patchify(each, (1, 2, 2))) for each in (before, after))
    # The latents of the one are those of the other less their mean: of velocities the mean has the opposite sign.
    np.testing.assert_allclose(after, before @ there.T + offset @ there.T, atol=2e-5)


def test_adapted_model_is_whole(tmp_path, autoencoder):
    """It reads, has the other latents with tokens of as many pixels, and makes a clip."""
    data = ClipData(str(tmp_path / "data"), 4, 2)
    explained = adapt(None, autoencoder, tmp_path / "new" / "model", data, num_clips=3)
    assert explained < 1
    model = vidjax.load(str(tmp_path / "new" / "model"))
    own = read_config(bundled())
    assert model.config.vae == OTHER
    assert model.config.size_multiple == own.size_multiple
    assert model.config.camera_adapter == own.camera_adapter is not None  # its rays meet tokens, not latents
    assert model.config.sampling == own.sampling
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]
    video = vidjax.generate(model, "a red heart at sea", num_frames=5, num_inference_steps=1)
    assert video.frames.shape == (5, 64, 64, 3)


def test_halved_tokens_are_mapped_from_those_they_are_of(tmp_path, autoencoder):
    """Four tokens of one, each of its own quarter of the same pixels: others would be mapped to noise."""
    data = ClipData(str(tmp_path / "data"), 4, 2)
    explained = adapt(None, autoencoder, tmp_path / "model", data, num_clips=3, halvings=1)
    config = read_config(tmp_path / "model")
    own = read_config(bundled())
    assert config.size_multiple == tuple(n // 2 for n in own.size_multiple)
    assert config.camera_adapter is None
    assert explained < 1
    video = vidjax.generate(
        vidjax.load(str(tmp_path / "model")), "a red heart at sea", num_frames=5, num_inference_steps=1
    )
    assert video.frames.shape == (5, 64, 64, 3)
    latents = np.arange(2 * 4 * 8 * 3, dtype=np.float32).reshape(1, 2, 4, 8, 3)
    large = np.asarray(patchify(jnp.asarray(latents), (1, 4, 4)))
    parts = in_parts(large.reshape(-1, large.shape[-1]), (1, 2, 2), 2)
    corner = latents[0, 1, 2:4, 4:6].reshape(-1)  # lower left of the second frame's right token
    np.testing.assert_array_equal(parts[3 * 4 + 2], corner)


def test_refused_before_anything_is_read(tmp_path, autoencoder):
    data = ClipData(str(tmp_path / "data"), 4, 2)
    with pytest.raises(InputError, match="choose another folder"):
        adapt(None, autoencoder, tmp_path, data)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/x/model: no folder can be made there"):
        adapt(None, autoencoder, tmp_path / "file" / "x" / "model", data)
    with pytest.raises(InputError, match="num_clips=0"):
        adapt(None, autoencoder, tmp_path / "new", data, num_clips=0)
    for halvings in (-1, 4):
        with pytest.raises(InputError, match=f"halvings={halvings}: a token of .* latents of the other autoencoder"):
            adapt(None, autoencoder, tmp_path / "new", data, halvings=halvings)
    coarse = tmp_path / "coarse"
    # Its latents are of two frames.
    folder.write_config(coarse, "vae", OTHER.__class__(**{**vars(OTHER), "temperal_downsample": (True, False)}))
    with pytest.raises(InputError, match="the frames must be the same"):
        adapt(None, coarse, tmp_path / "new", data)
    assert not (tmp_path / "data").exists()


def _unpatchify(patches, shape):
    B, f, h, w, c = shape
    return patches.reshape(B, f, h // 2, w // 2, 2, 2, c).transpose(0, 1, 2, 4, 3, 5, 6).reshape(shape)
