"""What an autoencoder is trained on, and the statistics that are published with it."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from vidjax.config import TrainConfig, load_config
from vidjax.data.buckets import Bucketed, parts_of
from vidjax.data.pipeline import make_loader
from vidjax.data.source import ClipData
from vidjax.errors import InputError
from vidjax.models.wan import vae
from vidjax.training import autoencoder, perceptual, train
from vidjax.training.adversarial import Adversarial
from vidjax.training.autoencoder import AutoencoderTask, clips_of, with_frames
from vidjax.training.loop import fit
from vidjax.training.perceptual import Perceptual
from vidjax.video import from_uint8
from vidjax.weights import folder

CLIPS = np.random.default_rng(0).integers(0, 256, (3, 9, 16, 32, 3), np.uint8)
CLIPS[1] //= 4


class ThreeClips(ClipData):
    """Always the same three."""

    def open(self, split):
        return [{"video": clip} for clip in CLIPS]


@pytest.fixture(scope="module")
def moments(tiny):
    """Mean and log-variance of the three clips' latents."""
    encode = jax.jit(vae.encode_chunk, static_argnums=0)
    found = [encode(tiny.config.vae, tiny.params["vae"], None, from_uint8(clip[None]))[0] for clip in CLIPS]
    return tuple(np.concatenate(values).astype(np.float64) for values in zip(*found, strict=True))


def test_pieces_are_whole_and_some_mirrored(tiny):
    """A crop must keep the order of frames, reach every start, and be mirrored left to right, never in time."""
    task = AutoencoderTask(tiny.config.vae, crop_frames=5)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(100):
        piece = task.transform({"video": CLIPS[0]}, rng)["video"]
        found = [
            (start, mirrored)
            for start in range(5)
            for mirrored in (False, True)
            if np.array_equal(piece, CLIPS[0][start : start + 5, :, :: -1 if mirrored else 1])
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 10
    first, second = (task.transform({"video": CLIPS[0]}, np.random.default_rng(4))["video"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_single_frames_between_clips(tiny):
    """Of all clips, any frame, mirrored as pieces are; a batch of them has as many frames as one of pieces."""
    task = AutoencoderTask(tiny.config.vae, ThreeClips(num_frames=9, height=16, width=32), 5, picture_share=0.5)
    source = with_frames(task.data.open("train"), task.crop_frames, task.picture_share)
    loader, seen, shapes = make_loader(source, task.transform, 2, seed=0), set(), []
    for _ in range(24):
        video = next(loader)["video"]
        shapes.append(video.shape[:2])
        if video.shape[1] > 1:
            continue
        for frame in video[:, 0]:
            same = (frame == CLIPS).all((2, 3, 4)) | (CLIPS[:, :, :, ::-1] == frame).all((2, 3, 4))
            assert same.sum() == 1
            seen.add(int(same.argmax()))
    assert sorted(set(shapes)) == [(2, 5), (10, 1)]
    assert 8 <= shapes.count((10, 1)) <= 16
    assert len(seen) > 20
    assert with_frames(source, 5, 0.0) is source


def test_pictures_of_other_sizes():
    """A batch of large ones of as many rows as small ones would need four times the memory."""
    sizes = {"clips": (9, 16, 32), "large": (1, 32, 64), "small": (1, 16, 32)}
    sources = {name: [{"video": np.zeros((*size, 3), np.uint8)}] * 10 for name, size in sizes.items()}
    parts = parts_of(with_frames(Bucketed(tuple(sources.values())), 9, 0.3))
    assert [part.multiple for part in parts] == [1, 9, 2, 9]
    assert [part.weight for part in parts] == pytest.approx([0.7, 0.1, 0.1, 0.1])
    assert parts[2].source is sources["large"]
    pictures = Bucketed((sources["large"], sources["small"]))
    assert with_frames(pictures, 1, 0.3) is pictures
    assert clips_of(pictures) is pictures
    assert len(clips_of(Bucketed(tuple(sources.values())))) == 10


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["task.picture_share=1"], r"picture_share=1.*: must lie in \[0, 1\); all single: crop_frames=1"),
        (["task.crop_frames=21"], r"crop_frames=21: .* at most num_frames=17; nearest: 17"),
        (["task.crop_frames=8"], r"crop_frames=8: must be 1 \+ a multiple of 4, .* nearest: 9"),
        (["task.data.num_frames=9", "task.crop_frames=0"], r"crop_frames=0: .* nearest: 1"),
        (["task.model.dim_mult=(1, 2, 2)"], r"num_res_blocks=0 with dim_mult"),
        (["task.data.height=42"], r"height=42: must be a multiple of 8; nearest: 40"),
    ],
)
def test_what_does_not_fit_starts_no_run(pytestconfig, tmp_path, changes, said):
    """Found while reading the first batch, after the compiling, it would be a traceback out of a worker."""
    config = load_config(pytestconfig.rootpath / "configs" / "shapes_vae.py", changes)
    with pytest.raises(InputError, match=said):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_published_statistics(tiny, moments, tmp_path):
    """The denoiser works in latents of mean 0 and deviation 1; wrong numbers here spoil every later training."""
    mean, log_variance = moments
    axes = (0, 1, 2, 3)
    sampled = mean.var(axis=axes) + np.exp(log_variance).mean(axis=axes)
    beside = {"discriminator": {"head": {"bias": np.zeros(1)}}}  # nothing of it is published
    AutoencoderTask(tiny.config.vae, ThreeClips()).export({**tiny.params["vae"], **beside}, tmp_path)
    config = folder.read_config(tmp_path, "vae")
    np.testing.assert_allclose(config.latents_mean, mean.mean(axis=axes), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(config.latents_std, np.sqrt(sampled), rtol=1e-3)
    assert (config.scale_factor_spatial, config.scale_factor_temporal) == (16, 4)
    params = folder.read_part(tmp_path, "vae", config)
    jax.tree.map(np.testing.assert_array_equal, params, tiny.params["vae"])


@pytest.fixture
def judged(tiny, tiny_folder, tmp_path):
    """A task with every term, from the tiny model on."""
    rng = np.random.default_rng(0)
    tensors = {}
    for before, n in zip([3, *[2] * 12], itertools.chain(*perceptual.STAGES), strict=True):
        tensors[f"features.{n}.weight"] = rng.normal(size=(2, before, 3, 3)).astype(np.float32)
        tensors[f"features.{n}.bias"] = rng.random(2, np.float32)
    save_file(tensors, tmp_path / "vgg.safetensors")
    return AutoencoderTask(
        tiny.config.vae,
        ThreeClips(num_frames=9, height=16, width=32),
        crop_frames=5,
        perceptual=Perceptual(str(tmp_path / "vgg.safetensors"), 0.5),
        adversarial=Adversarial(0.25, base_dim=4, num_layers=2),
        start=str(tiny_folder),
    )


@pytest.mark.slow
def test_every_term_counts_and_teaches_whom_it_should(judged, tiny, tmp_path):
    """A term that is left out, or trains the frozen network, or a discriminator that learns nothing, shows late."""
    config = TrainConfig(judged, steps=1, batch_size=2, ema_decay=0.0)
    made = judged.make(config)
    state = fit(made._replace(evaluate=None), config, tmp_path / "run")
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    expected = line["absolute"] + judged.mse_weight * 4 / 10 ** (line["psnr"] / 10) + judged.kl_weight * line["kl"]
    expected += 0.5 * line["perceptual"] + 0.25 * line["generator"] + line["discriminator"]
    np.testing.assert_allclose(line["loss"], expected, rtol=1e-4)
    assert line["perceptual"] > 0
    assert state.params.keys() == {*tiny.params["vae"], "discriminator"}
    # One step moves every parameter by about the rate, 1e-4, from where the folder has it.
    for (path, before), after in zip(
        jax.tree_util.tree_leaves_with_path(tiny.params["vae"]),
        jax.tree.leaves({k: v for k, v in state.params.items() if k != "discriminator"}),
        strict=True,
    ):
        change = np.abs(np.asarray(after) - np.asarray(before, np.float32))
        assert 0 < change.max() < 2e-4, jax.tree_util.keystr(path)


def test_clips_to_look_at_are_beside_what_came_back(tiny):
    """Without the original beside it nobody sees what was lost."""
    clips = autoencoder.reconstructions(tiny.config.vae, tiny.params["vae"], ThreeClips().open("test"))
    assert list(clips) == ["clip 0", "clip 1", "clip 2"]
    for clip, source in zip(clips.values(), CLIPS, strict=True):
        assert clip.frames.shape == (9, 16, 64, 3)
        np.testing.assert_array_equal(clip.frames[:, :, :32], source)
        back = from_uint8(clip.frames[:, :, 32:])
        psnr = 10 * np.log10(4 / np.mean((np.asarray(back) - np.asarray(from_uint8(source))) ** 2))
        scored = autoencoder.evaluate(tiny.config.vae, tiny.params["vae"], [{"video": source}], 1)["psnr"]
        np.testing.assert_allclose(psnr, scored, atol=0.1)


def test_pictures_too_small_for_the_perceptual_term(judged, tmp_path):
    """Halved four times, nothing would be left to compare, and the loss would not be a number."""
    small = dataclasses.replace(judged, data=ThreeClips(num_frames=9, height=16, width=8))
    with pytest.raises(InputError, match="9x16x8: the perceptual term needs sides of 16 pixels at least"):
        small.make(TrainConfig(small, 1, 8))


def test_psnr():
    """A wrong peak (1 in place of 2) would flatter nobody but move every number by 6 dB."""
    np.testing.assert_allclose(autoencoder.psnr_of(jnp.float32(0.004)), 30.0, rtol=1e-5)
    np.testing.assert_allclose(from_uint8(jnp.asarray(CLIPS[0])), CLIPS[0] / 127.5 - 1.0, atol=1e-6)


def test_configuration_is_a_task(pytestconfig):
    """The shipped configuration must fit its own clips: the crop is 1 + 4 n frames of a size that divides."""
    task = load_config(pytestconfig.rootpath / "configs" / "shapes_vae.py").task
    assert (task.crop_frames - 1) % task.model.temporal_factor == 0
    assert task.crop_frames <= task.data.num_frames
    assert task.data.height % task.model.spatial_factor == 0
    assert task.model.spatial_factor == task.model.scale_factor_spatial
    small = task.smoke()
    assert (small.data.num_clips, small.model.base_dim) < (task.data.num_clips, task.model.base_dim)
    widths = {name: getattr(task.model, name) for name in ("base_dim", "decoder_base_dim")}
    assert dataclasses.replace(small.model, **widths) == task.model
