"""The autoencoder against the published one, in chunks and whole."""

import dataclasses
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.errors import InputError
from vidjax.models.wan import vae
from vidjax.parallel.mesh import make_mesh
from vidjax.weights import folder

GOLDEN = Path(__file__).parents[2] / "golden"

TINY = vae.VAEConfig(
    base_dim=4,
    z_dim=2,
    dim_mult=(1, 2, 2),
    num_res_blocks=1,
    temperal_downsample=(True, True),
    is_residual=True,
    patch_size=2,
    in_channels=12,
    out_channels=12,
)


def close(found, expected, tolerance: float) -> None:
    """Within ``tolerance`` of the largest expected value."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * float(np.abs(expected).max()))


@pytest.fixture(scope="module", params=["vae_2_1", "vae_2_2"])
def golden(request):
    """Configuration, parameters and arrays of a published form."""
    path = GOLDEN / request.param
    config = folder.read_config(path, "vae")
    params = folder.read_part(path, "vae", config, dtype=np.float32)
    with np.load(path / "arrays.npz") as arrays:
        return config, params, {k: jnp.asarray(v, jnp.float32) for k, v in arrays.items()}


def test_encode_equals_published(golden):
    """A difference shifts the picture of every image-to-video clip, and the latents that the denoiser is trained on."""
    config, params, arrays = golden
    mean, log_variance = jax.jit(functools.partial(vae.encode, config))(params, arrays["frames"])
    close(mean, arrays["mean"], 2e-5)
    close(log_variance, arrays["log_variance"], 2e-5)


def test_decode_equals_published(golden):
    """A difference is seen in every frame of every clip."""
    config, params, arrays = golden
    frames = jax.jit(functools.partial(vae.decode, config))(params, arrays["latents"])
    close(frames, arrays["decoded"], 2e-5)
    assert (np.abs(arrays["decoded"]) < 1).mean() > 0.9, "mostly clamped pixels would compare nothing"


def test_whole_clip_equals_published():
    """The 2.1 form in one large piece; in small pieces it is what the tests above run."""
    path = GOLDEN / "vae_2_1"
    config = folder.read_config(path, "vae")
    params = folder.read_part(path, "vae", config, dtype=np.float32)
    with np.load(path / "arrays.npz") as a:
        frames, latents, mean, decoded = (
            jnp.asarray(a[k], jnp.float32) for k in ("frames", "latents", "mean", "decoded")
        )
    close(jax.jit(functools.partial(vae.encode_chunk, config))(params, None, frames)[0][0], mean, 2e-5)
    close(jax.jit(functools.partial(vae.decode_chunk, config))(params, None, latents)[0], decoded, 2e-5)


def random_params(config: vae.VAEConfig):
    """Every parameter drawn, biases and norms too; not by ``init``, whose compilation takes longer than the tests."""
    rng = np.random.default_rng(0)
    abstract = jax.eval_shape(functools.partial(vae.init, config), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32), abstract)


@functools.cache
def tiny():
    """Parameters, frames and latents of the 2.2 form, and its two codes."""
    params = random_params(TINY)
    frames = jax.random.uniform(jax.random.key(1), (2, 9, 16, 24, 3), minval=-1)
    latents = jax.random.normal(jax.random.key(2), (2, 3, 2, 3, 2))
    encode = jax.jit(functools.partial(vae.encode_chunk, TINY))
    decode = jax.jit(functools.partial(vae.decode_chunk, TINY))
    return params, frames, latents, encode, decode


def in_chunks(code, params, x, sizes):
    """All pieces coded in turn, each with the cache of the one before."""
    cache, pieces, start = None, [], 0
    for size in sizes:
        out, cache = code(params, cache, x[:, start : start + size])
        pieces.append(out)
        start += size
    assert start == x.shape[1]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *pieces)


@pytest.mark.parametrize("sizes", [(1, 4, 4), (5, 4), (1, 8)])
def test_encode_in_chunks_equals_whole(sizes):
    """A cache that forgets or repeats a frame shows as a jump at every chunk of a long clip."""
    params, frames, _, encode, _ = tiny()
    whole, _ = encode(params, None, frames)
    for found, expected in zip(in_chunks(encode, params, frames, sizes), whole, strict=True):
        close(found, expected, 1e-5)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1), (1, 2)])
def test_decode_in_chunks_equals_whole(sizes):
    """A stream of chunks must be the clip: a seam here is a flicker in every streamed video."""
    params, _, latents, _, decode = tiny()
    whole, _ = decode(params, None, latents)
    assert whole.shape == (2, 9, 16, 24, 3)
    close(in_chunks(decode, params, latents, sizes), whole, 1e-5)


@pytest.mark.parametrize("residual", [False, True])
def test_clips_begin_as_pictures(residual):
    """What was learned from single frames would be lost to weights of time that were never trained."""
    config = dataclasses.replace(TINY, is_residual=residual)
    params = jax.jit(functools.partial(vae.init, config))(jax.random.key(0))
    frames = jax.random.uniform(jax.random.key(1), (1, 9, 16, 16, 3), minval=-1)
    # The last frame of four is what is encoded of them.
    seen = frames[0, ::4][:, None]
    (alone, _), _ = vae.encode_chunk(config, params, None, seen)
    if not residual:  # whose shortcut averages the four
        (clip, _), _ = vae.encode_chunk(config, params, None, frames)
        close(clip[0], alone[:, 0], 1e-5)
    pictures, _ = vae.decode_chunk(config, params, None, alone)
    clip, _ = vae.decode_chunk(config, params, None, alone[:, 0][None])
    close(clip[0, 1:], pictures[1:, 0].repeat(4, axis=0), 1e-5)


def test_encode_is_causal():
    """Latents of a clip's beginning must not change with what follows: extension of a clip rests on it."""
    params, frames, _, encode, _ = tiny()
    (whole, _), _ = encode(params, None, frames)
    (changed, _), _ = encode(params, None, frames.at[:, 5:].set(-frames[:, 5:]))
    np.testing.assert_array_equal(changed[:, :2], whole[:, :2])
    assert not np.allclose(changed[:, 2:], whole[:, 2:], atol=1e-3)
    close(encode(params, None, frames[:, :5])[0][0], whole[:, :2], 1e-5)


def test_one_frame_is_a_clip():
    """A picture is encoded alone for image to video, and decoded alone for a preview."""
    params, frames, latents, encode, decode = tiny()
    close(encode(params, None, frames[:, :1])[0][0], encode(params, None, frames)[0][0][:, :1], 1e-5)
    close(decode(params, None, latents[:, :1])[0], decode(params, None, latents)[0][:, :1], 1e-5)


@pytest.mark.parametrize(
    ("blocks", "dims", "fits"),
    [
        (0, (1, 1, 1), True),
        (0, (1, 2, 2), False),
        (0, (2, 2, 2), False),
        (1, (1, 2, 2), True),
        (1, (1, 8, 4), True),
        (1, (1, 2, 4), False),
        (1, (1, 3, 3), False),
        (1, (1, 4, 32, 32), False),
    ],
)
def test_stages_that_do_not_fit_are_refused(blocks, dims, fits):
    """Just what would end in a shape error inside a shortcut, of the encoder or, in the last one, of the decoder."""
    config = dataclasses.replace(TINY, base_dim=2, dim_mult=dims, num_res_blocks=blocks)
    config = dataclasses.replace(config, temperal_downsample=(False, True, True)[: len(dims) - 1])
    build = functools.partial(jax.eval_shape, functools.partial(vae.init, config), jax.random.key(0))
    if fits:
        vae.check_config(config)
        build()
        return
    with pytest.raises(InputError, match="give num_res_blocks=1" if blocks == 0 else "as in"):
        vae.check_config(config)
    with pytest.raises((TypeError, ValueError)):
        build()


@pytest.mark.parametrize("p", [1, 2, 4])
def test_patchify_inverts(p):
    """Pixels out of place after decoding."""
    x = jax.random.normal(jax.random.key(0), (1, 2, 8, 12, 3))
    np.testing.assert_array_equal(vae.unpatchify(vae.patchify(x, p), p), x)


def test_normalize_inverts(golden):
    """Latents that come back scaled decode to washed-out colours."""
    config, _, arrays = golden
    z = arrays["latents"]
    expected = (np.asarray(z) - np.array([0.25, -0.5, 0.0, 1.0])) / np.array([1.5, 2.0, 0.5, 1.0])
    close(vae.normalize(config, z), expected, 1e-6)
    close(vae.denormalize(config, vae.normalize(config, z)), z, 1e-6)


def test_gradients_reach_every_parameter():
    """A parameter without a gradient stays at its random start for a whole training."""
    config = vae.VAEConfig(base_dim=4, z_dim=2, dim_mult=(1, 2), num_res_blocks=1, temperal_downsample=(True,))
    frames = jax.random.uniform(jax.random.key(1), (1, 5, 8, 8, 3), minval=-1)

    @jax.jit
    def gradient(params):
        def loss(params):
            (mean, log_variance), _ = vae.encode_chunk(config, params, None, frames)
            pixels, _ = vae.decode_chunk(config, params, None, mean)
            return jnp.mean((pixels - frames) ** 2) + jnp.mean(log_variance**2)

        return jax.grad(loss)(params)

    gradients = jax.tree_util.tree_leaves_with_path(gradient(random_params(config)))
    assert not [jax.tree_util.keystr(path) for path, g in gradients if not g.any()]


@pytest.mark.parametrize(("name", "rows", "columns"), [("vae_2_1", 4, 6), ("vae_2_2", 3, 4)])
def test_split_picture_is_the_whole_picture(name, rows, columns):
    """Over 4 devices, by rows or else by columns. A seam would show in every clip from a large machine;
    and devices exchange borders only: whole pictures would take the memory that splitting is to save."""
    path = GOLDEN / name
    config = folder.read_config(path, "vae")
    params = folder.read_part(path, "vae", config, dtype=np.float32)
    size = config.spatial_factor
    frames = jax.random.uniform(jax.random.key(1), (2, 5, rows * size, columns * size, 3), minval=-1)
    latents = jax.random.normal(jax.random.key(2), (2, 2, rows, columns, config.z_dim))

    def both(params, frames, latents):
        return vae.encode(config, params, frames), vae.decode(config, params, latents)

    expected = jax.jit(both)(params, frames, latents)
    with jax.set_mesh(make_mesh(data=2, context=4)):
        compiled = jax.jit(both).lower(params, frames, latents).compile()
        found = compiled(params, frames, latents)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        close(b, a, 1e-5)
    kinds = set(re.findall(r" (all-gather|all-to-all|collective-permute|all-reduce)", compiled.as_text()))
    assert kinds == {"collective-permute"}


@pytest.mark.parametrize(("rows", "columns"), [(2, 4), (3, 3), (4, 2)])
def test_two_parts_of_few_rows(rows, columns):
    """A row each gave garbage: small clips on two devices, with nothing that said so."""
    params = random_params(TINY)
    latents = jax.random.normal(jax.random.key(2), (2, 2, rows, columns, TINY.z_dim))
    decode = lambda params, latents: vae.decode(TINY, params, latents)  # noqa: E731
    expected = jax.jit(decode)(params, latents)
    with jax.set_mesh(make_mesh(data=4, context=2)):
        close(jax.jit(decode)(params, latents), expected, 1e-5)
