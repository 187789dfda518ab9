"""The probe tells the factors of a scene from its caption."""

import jax
import jax.numpy as jnp
import numpy as np

from vidjax.data.shapes import ACTIONS, CAMERAS, COLOURS, PLACES, SHAPES, SIZES, STYLES, Scene, Subject, training_scene
from vidjax.training import probe

SCENE = Scene(
    subjects=(Subject("green", "star", "small"),), action="spins", place="sea", camera="zooms in", style="anime"
)
PAIR = Scene(subjects=(Subject("red", "heart", "large"), Subject("pink", "square", "small")))


def test_labels_name_the_scene():
    """A label in the place of another would train the text encoder to confuse them."""
    first, absent = [COLOURS.index("green"), SHAPES.index("star"), SIZES.index("small")], [7, 5, 2]
    rest = [ACTIONS.index("spins"), PLACES.index("sea"), CAMERAS.index("zooms in"), STYLES.index("anime")]
    np.testing.assert_array_equal(probe.labels(SCENE), [*first, *absent, *rest])
    second = [COLOURS.index("pink"), SHAPES.index("square"), SIZES.index("small")]
    np.testing.assert_array_equal(probe.labels(PAIR)[3:6], second)
    left_out = probe.labels(SCENE, ("size", "place"))
    assert [i for i, label in enumerate(left_out) if label == -1] == [2, 7], "a second subject is still absent"
    drawn = np.stack([probe.labels(training_scene(0, i)) for i in range(300)])
    assert drawn.min() == 0
    assert (drawn.max(axis=0) < probe.HEADS).all(), "a label beyond its head would be clamped in silence"


def test_loss_of_a_guess_and_of_certainty():
    """Knowing nothing costs the logarithm of each head's size; a head that is sure and right costs nothing."""
    factors = jnp.asarray(np.stack([probe.labels(SCENE), probe.labels(SCENE)]))
    text, lengths = jnp.ones((2, 4, 3)), jnp.array([4, 2])
    nothing = {"kernel": jnp.zeros((3, sum(probe.HEADS))), "bias": jnp.zeros(sum(probe.HEADS))}
    loss, _ = probe.loss(nothing, text, lengths, factors)
    np.testing.assert_allclose(loss, np.log(probe.HEADS).mean(), rtol=1e-5)

    offsets = np.concatenate([[0], np.cumsum(probe.HEADS)[:-1]])
    sure = nothing | {"bias": nothing["bias"].at[offsets + probe.labels(SCENE)].set(50.0)}
    loss, share = probe.loss(sure, text, lengths, factors)
    np.testing.assert_allclose((loss, share), (0.0, 1.0), atol=1e-6)


def test_left_out_captions_do_not_count():
    """Nothing can be told from an empty caption: counted, it would pull every head to the mean."""
    params = probe.init(3, jax.random.key(0))
    text, lengths = jax.random.normal(jax.random.key(1), (3, 4, 3)), jnp.array([4, 1, 2])
    labels = probe.labels(SCENE)
    some = jnp.asarray(np.stack([labels, np.full_like(labels, -1), labels]))
    expected = probe.loss(params, text[::2], lengths[::2], some[::2])
    np.testing.assert_allclose(probe.loss(params, text, lengths, some), expected, rtol=1e-5)
    none = probe.loss(params, text, lengths, jnp.full_like(some, -1))
    np.testing.assert_array_equal(none, (0.0, 0.0))


def test_pretraining_makes_an_encoder_tell_the_factors():
    """Without it the denoiser meets words that all mean the same, and learns to leave them alone."""
    rng = np.random.default_rng(0)
    factors = jnp.asarray(np.stack([probe.labels(training_scene(0, i)) for i in range(64)]))
    tokens = jnp.cumsum(jnp.array([0, *probe.HEADS[:-1]])) + factors  # one word for each factor
    lengths = jnp.full(64, tokens.shape[1])
    params = {
        "text_encoder": jnp.asarray(0.02 * rng.standard_normal((sum(probe.HEADS), 32)), jnp.float32),
        "probe": probe.init(32, jax.random.key(0)),
    }

    def encode(params, tokens, lengths):
        return params["text_encoder"][tokens]

    def share(params):
        return probe.loss(params["probe"], encode(params, tokens, lengths), lengths, factors)[1]

    captions, key = probe.Captions(tokens, lengths, factors), jax.random.key(1)
    learnt = jax.jit(lambda p: probe.pretrain(encode, p, captions, key, steps=150, learning_rate=0.03))(params)
    assert share(params) < 0.4
    assert share(learnt) > 0.95
    assert not np.allclose(learnt["text_encoder"], params["text_encoder"])
