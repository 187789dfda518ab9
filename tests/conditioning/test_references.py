"""Pictures beside a clip enter clean, at places of their own, and are no part of the result."""

import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.conditioning.references import with_references

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(2, 3, 1, 2, 4)), jnp.float32)
REFERENCES = jnp.asarray(RNG.normal(size=(2, 2, 1, 2, 4)), jnp.float32)
STYLE = jnp.asarray(RNG.normal(size=(2, 1, 1, 2, 4)), jnp.float32)
T = jnp.asarray([[0.0, 0.7, 0.7], [0.3, 0.3, 0.3]])


@pytest.mark.parametrize(
    ("references", "style", "places"),
    [(REFERENCES, None, [-1, -2]), (None, STYLE, [-4]), (REFERENCES, STYLE, [-1, -2, -4])],
    ids=["references", "style", "both"],
)
def test_pictures_are_seen_in_front_and_cut_off(references, style, places):
    """At a position of the clip's, or at its time, a picture would be a frame of it; left in, the clip is longer."""
    seen = {}

    def denoise(x, t, frames):
        seen.update(x=x, t=t, frames=frames)
        return 2 * x

    out = with_references(denoise, references, style)(X, T)
    np.testing.assert_array_equal(out, 2 * X)
    count = len(places)
    np.testing.assert_array_equal(seen["frames"], [*places, 0, 1, 2])
    np.testing.assert_array_equal(seen["x"][:, count:], X)
    pictures = [each for each in (references, style) if each is not None]
    np.testing.assert_array_equal(seen["x"][:, :count], jnp.concatenate(pictures, axis=1))
    np.testing.assert_array_equal(seen["t"], jnp.concatenate([jnp.zeros((2, count)), T], axis=1))


def test_without_pictures_nothing_changes():
    """The program of a clip from words must stay the one that it was."""
    out = with_references(lambda x, t, frames: (x, t, frames), None, None)(X, T)
    assert out[0] is X
    assert out[1] is T
    assert out[2] is None
