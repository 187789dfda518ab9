"""Given frames enter clean, at time 0, and leave as they came."""

import jax.numpy as jnp
import numpy as np

from vidjax.conditioning.condition import nothing_given, paste, with_given

RNG = np.random.default_rng(0)
GIVEN = jnp.asarray(RNG.normal(size=(2, 3, 1, 2, 4)), jnp.float32)
X = jnp.asarray(RNG.normal(size=(2, 3, 1, 2, 4)), jnp.float32)
MASK = jnp.array([[True, False, False], [False, True, True]])
NOISE, TIMES = jnp.ones(GIVEN.shape), jnp.array([[0.25, 0.0, 0.0], [0.0, 0.5, 0.0]])


def seen_at(t):
    """The frames, and their times, that a denoiser sees of what is gone on from, when the walk is at ``t``."""
    seen = {}

    def denoise(x, t):
        seen.update(x=x, t=t)
        return x

    with_given(denoise, GIVEN, MASK, TIMES, NOISE)(X, jnp.float32(t))
    return seen


def test_paste_puts_each_frame_in_its_place():
    """A frame too many or too few would overwrite what was sampled, or lose what was given."""
    pasted = np.asarray(paste(GIVEN, MASK, X))
    for clip, frame in np.ndindex(2, 3):
        expected = GIVEN if MASK[clip, frame] else X
        np.testing.assert_array_equal(pasted[clip, frame], expected[clip, frame])


def test_given_frames_are_seen_clean_at_time_zero():
    """A denoiser that sees a given frame as noise, or noise as given, makes a video of something else."""
    seen = {}

    def denoise(x, t):
        seen.update(x=x, t=t)
        return 2 * x

    out = with_given(denoise, GIVEN, MASK)(X, jnp.float32(0.7))
    np.testing.assert_array_equal(seen["t"], np.where(MASK, 0.0, np.float32(0.7)))
    np.testing.assert_array_equal(seen["x"], paste(GIVEN, MASK, X))
    np.testing.assert_array_equal(out, 2 * seen["x"])


def test_what_is_gone_on_from_is_seen_noisy():
    """Told of more noise than there is, or of less, a denoiser takes away what is there, or keeps what is wrong."""
    seen = seen_at(0.7)
    np.testing.assert_array_equal(seen["t"], np.where(MASK, TIMES, np.float32(0.7)))
    np.testing.assert_allclose(seen["x"][0, 0], 0.75 * GIVEN[0, 0] + 0.25, rtol=1e-6)
    np.testing.assert_allclose(seen["x"][1, 1], 0.5 * GIVEN[1, 1] + 0.5, rtol=1e-6)
    np.testing.assert_array_equal(seen["x"][1, 2], GIVEN[1, 2])
    np.testing.assert_array_equal(seen["x"][0, 1:], X[0, 1:])


def test_what_is_gone_on_from_is_walked_from_its_time_on():
    """Held to the end it would come out as it went in, and the frames behind it go on from something else."""
    seen = seen_at(0.25)
    np.testing.assert_array_equal(seen["x"][0, 0], X[0, 0])
    np.testing.assert_array_equal(seen["x"][1, 1], X[1, 1])
    np.testing.assert_array_equal(seen["x"][1, 2], GIVEN[1, 2])
    np.testing.assert_array_equal(seen["t"], [[0.25, 0.25, 0.25], [0.25, 0.25, 0.0]])
    seen = seen_at(0.3)
    np.testing.assert_allclose(seen["x"][0, 0], 0.75 * GIVEN[0, 0] + 0.25, rtol=1e-6)


def test_nothing_given_changes_nothing():
    """Words alone: every frame is noise at the clip's time."""
    given, mask = nothing_given(2, (3, 1, 2, 4))
    np.testing.assert_array_equal(paste(given, mask, X), X)
    velocity = with_given(lambda x, t: x * t[..., None, None, None], given, mask)
    np.testing.assert_allclose(velocity(X, jnp.float32(0.5)), 0.5 * X)
