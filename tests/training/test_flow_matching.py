"""What a denoiser is asked for: which frames are given, and at which times it is judged."""

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.diffusion.flow import initial_noise
from vidjax.training.flow_matching import BANDS, flow_loss, given_frames, held_out_losses


def test_given_frames_have_their_shares():
    """Too few given frames and image to video is never learnt; too many and text to video is not."""
    given = np.asarray(given_frames(jax.random.key(0), 60_000, 5, 0.3))
    patterns, counts = np.unique(given @ (1 << np.arange(5)), return_counts=True)
    found = dict(zip(patterns.tolist(), counts / len(given), strict=True))
    # Any: each of the 31 with something given as often as its own frames are the one that is always given.
    scattered = lambda n: 0.3 / 8 * n / 5 / 16  # noqa: E731
    several = 0.3 / 8 / 4
    expected = {pattern: scattered(pattern.bit_count()) for pattern in range(31)}
    expected[0] = 0.7
    expected[0b00001] += 0.3 / 2 + several
    expected[0b10000] += several
    expected[0b10001] += 0.3 / 8
    for count in (2, 3, 4):
        expected[(1 << count) - 1] += several
        expected[0b11111 - (1 << 5 - count) + 1] += several
    expected[0b01111] += scattered(5)  # all of them, but for the last
    assert found.keys() == expected.keys()
    for pattern, share in expected.items():
        np.testing.assert_allclose(found[pattern], share, atol=0.006, err_msg=f"{pattern:05b}")


def test_one_frame_is_never_given():
    """A picture that is given whole leaves nothing to predict: the loss would be zero over zero."""
    assert not given_frames(jax.random.key(0), 100, 1, 1.0).any()


def test_loss_counts_the_frames_that_are_not_given():
    """A model that is right but for frames that are given has nothing to learn."""
    seen = []

    def velocity(params, batch, x, t):
        seen.append(t)
        # Of latents that are zero, x is t times the noise, which is the velocity; given frames are at time 0.
        v = x / jnp.maximum(t, 1e-9)[..., None, None, None]
        return v + jnp.where(t > 0, params["wrong"], 1e3)[..., None, None, None]

    batch = {"latents": jnp.zeros((64, 3, 2, 2, 4))}
    key = jax.random.key(0)
    all_given = flow_loss(velocity, {"wrong": 0.0}, batch, key, 0.7, 1.0)
    np.testing.assert_allclose(all_given, 0, atol=1e-8)
    none_given = flow_loss(velocity, {"wrong": 3.0}, batch, key, 0.7, 0.0)
    np.testing.assert_allclose(none_given, 3.0**2, rtol=1e-4)
    assert (np.asarray(seen[0]) == 0).any(axis=1).all()
    assert (np.asarray(seen[1]) > 0).all()


def test_held_out_loss_of_batches_of_several_shapes():
    """Each clip counts as much as any other, whatever batch it is in; and each is judged at the time that is said."""

    def velocity(params, batch, x, t):
        return x / t[..., None, None, None] + jnp.sqrt(batch["size"] * t)[..., None, None, None]

    sizes = np.arange(1.0, 12.0, dtype=np.float32)[:, None]
    batches = [
        {"latents": np.zeros((9, 2, 1, 1, 4), np.float32), "size": sizes[:9]},
        {"latents": np.zeros((2, 1, 2, 1, 4), np.float32), "size": sizes[9:]},
    ]
    found = held_out_losses(velocity, {}, batches, jax.random.key(0))
    assert found.keys() == {f"loss_{t}" for t in BANDS}
    for t in BANDS:
        np.testing.assert_allclose(found[f"loss_{t}"], sizes.mean() * t, rtol=1e-3)


def test_noise_of_held_out_clips_is_the_keys():
    """Losses are compared over a run: other noise each time would hide what is learnt."""
    noise = []

    def velocity(params, batch, x, t):
        jax.debug.callback(lambda x: noise.append(np.asarray(x)), x)
        return x

    batch = {"latents": np.zeros((2, 1, 1, 1, 4), np.float32)}
    held_out_losses(velocity, {}, [batch], jax.random.key(3))
    expected = initial_noise(jax.random.fold_in(jax.random.key(3), 0), (2, 1, 1, 1, 4))
    for t, x in zip(BANDS, noise, strict=True):
        np.testing.assert_allclose(x, t * expected, rtol=1e-6)
