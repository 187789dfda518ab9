"""Latents computed ahead: once, for the right autoencoder, going on where they were cut off."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.data import latents
from vidjax.data.buckets import Bucketed
from vidjax.data.latents import Latents, fingerprint, open_latents
from vidjax.models.wan import vae
from vidjax.video import from_uint8


class Clips:
    """Counts what is read, and fails from clip ``broken`` on."""

    def __init__(self, count, shape, broken=None):
        self.videos = np.random.default_rng(0).integers(0, 256, (count, *shape, 3), np.uint8)
        self.broken, self.read = broken, []

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, index):
        if self.broken is not None and index >= self.broken:
            raise KeyboardInterrupt
        self.read.append(index)
        return {"video": self.videos[index], "scene": b"{}", "index": index}


@pytest.fixture
def quick(monkeypatch):
    """An autoencoder that compiles at once: the mean colour of each frame, one clip a batch."""

    def encode(config, params, frames):
        mean = frames.mean(axis=(2, 3), keepdims=True) * params["encoder"]
        return mean, mean

    monkeypatch.setattr(latents.vae, "encode", encode)
    monkeypatch.setattr(latents, "BATCH", 2)
    return vae.VAEConfig(z_dim=3, latents_mean=(0.0,) * 3, latents_std=(0.5,) * 3)


def test_latents_are_the_autoencoders(tiny, tmp_path):
    """The denoiser would learn a world that the decoder does not know: order, rounding and normalization count."""
    config, params = tiny.config.vae, tiny.params["vae"]
    source = Clips(3, (9, 16, 32))
    found = open_latents(config, params, source, tmp_path / "new", "three")
    assert len(found) == 3
    assert found[1].keys() == {"scene", "index", "latents"}
    assert (found[1]["index"], found[1]["latents"].dtype) == (1, np.float16)
    (mean, _), _ = jax.jit(vae.encode_chunk, static_argnums=0)(config, params, None, from_uint8(source.videos))
    expected = vae.normalize(config, mean)
    stored = np.stack([found[i]["latents"] for i in range(3)])
    np.testing.assert_allclose(stored, expected, rtol=2e-3, atol=2e-3)


def test_cut_off_goes_on(quick, tmp_path):
    """Hours of encoding would start over, or leave zeros where it stopped."""
    params = {"encoder": jnp.float32(2.0)}
    with pytest.raises(KeyboardInterrupt):
        open_latents(quick, params, Clips(205, (1, 2, 2), broken=150), tmp_path, "clips")
    assert not list(tmp_path.glob("clips-" + "?" * 12 + ".npy")), "half a file must not pass for a whole one"
    source = Clips(205, (1, 2, 2))
    resumed = open_latents(quick, params, source, tmp_path, "clips")
    assert min(set(source.read) - {0}) == 100, "clip 0 tells the shape; those before the cut are not encoded again"
    expected = 4 * from_uint8(source.videos).mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(resumed.latents, expected, rtol=2e-3, atol=1e-3)
    left = [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"]
    assert left == [f"clips-{fingerprint(quick, params)}.npy"]


def test_computed_once_for_each_autoencoder(quick, tmp_path):
    """Read again they cost nothing; another autoencoder's latents must never be taken for these."""
    ones, twos = {"encoder": jnp.float32(1.0)}, {"encoder": jnp.float32(2.0)}
    first = open_latents(quick, ones, Clips(5, (1, 2, 2)), tmp_path, "clips")
    again = Clips(5, (1, 2, 2))
    np.testing.assert_array_equal(open_latents(quick, ones, again, tmp_path, "clips").latents, first.latents)
    assert again.read == []
    other = open_latents(quick, twos, Clips(5, (1, 2, 2)), tmp_path, "clips")
    np.testing.assert_allclose(other.latents, 2 * first.latents, rtol=2e-3)


def test_a_new_decoder_has_the_latents_of_the_old(quick, tmp_path):
    """A better decoder changes no latent: encoding 40,000 clips again would buy nothing."""
    encoder = {"encoder": jnp.float32(1.0)}
    open_latents(quick, {**encoder, "decoder": jnp.float32(1.0)}, Clips(5, (1, 2, 2)), tmp_path, "clips")
    again, wider = Clips(5, (1, 2, 2)), dataclasses.replace(quick, decoder_base_dim=7)
    open_latents(wider, {**encoder, "decoder": jnp.float32(2.0)}, again, tmp_path, "clips")
    assert again.read == []


def test_named_clips_are_encoded_once_whatever_they_are_joined_with(quick, tmp_path):
    """Adding a few pictures to a dataset would encode its 40,000 clips again."""
    params = {"encoder": jnp.float32(1.0)}

    def named(name):
        clips = Clips(5, (1, 2, 2))
        clips.name = name
        return clips

    open_latents(quick, params, named("clips"), tmp_path, "alone")
    pictures, again = named("pictures"), named("clips")
    open_latents(quick, params, Bucketed((pictures, again)), tmp_path, "joined")
    assert pictures.read
    assert not again.read


def test_buckets_have_latents_of_their_own(quick, tmp_path):
    """Clips of several shapes do not fit one array; latents beside another clip's caption would teach wrong words."""
    shapes = ((5, 2, 2), (1, 4, 2), (5, 2, 2))
    sources = [Clips(3 + i, shape) for i, shape in enumerate(shapes)]
    found = open_latents(quick, {"encoder": jnp.float32(1.0)}, Bucketed(tuple(sources)), tmp_path, "clips")
    assert len(found) == 12
    for index, (source, i) in enumerate((s, i) for s in sources for i in range(len(s))):
        example = found[index]
        assert example["index"] == i
        expected = 2 * from_uint8(source.videos[i]).mean(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(example["latents"], expected, rtol=2e-3, atol=1e-3)


def test_frames_are_not_read_for_latents(quick, tmp_path):
    """Reading a clip to drop its frames would cost more than the latents save."""

    class Told(Clips):
        def about(self, index):
            return {"index": index}

    source = Told(4, (1, 2, 2))
    found = open_latents(quick, {"encoder": jnp.float32(1.0)}, source, tmp_path, "clips")
    source.read.clear()
    assert [found[i]["index"] for i in range(4)] == list(range(4))
    assert source.read == []


def test_workers_map_the_file(quick, tmp_path):
    """Each worker would be sent, and keep, all latents: gigabytes."""
    found = open_latents(quick, {"encoder": jnp.float32(1.0)}, Clips(300, (9, 2, 2)), tmp_path, "clips")
    packed = pickle.dumps(Latents(found.latents, None))
    assert len(packed) < 1000 < found.latents.nbytes
    np.testing.assert_array_equal(pickle.loads(packed).latents, found.latents)
