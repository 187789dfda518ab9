"""Training with rays: which samples see them, of which frames; and a model that has learnt from them is whole."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidjax
from vidjax.config import OptimizerConfig, TrainConfig, from_text, load_config, to_text
from vidjax.data.shapes import CAMERAS, Scene, drifting_scene, scene_to_json, training_scene
from vidjax.data.source import ClipData, FolderData
from vidjax.errors import InputError
from vidjax.models.wan.camera_adapter import CameraAdapterConfig
from vidjax.training import camera, denoiser, probe, train
from vidjax.training.camera import CameraTraining
from vidjax.training.denoiser import DenoiserTask
from vidjax.training.finetune import LORA_FILE, FinetuneTask
from vidjax.training.lora import LoRAConfig

FEW = CameraTraining(downscale_factor=2)


@pytest.fixture
def data(tmp_path):
    return ClipData(
        str(tmp_path / "data"), num_clips=8, num_test_clips=4, num_frames=9, height=16, width=32, num_camera_clips=4
    )


@pytest.fixture
def task(tiny_folder, data):
    return FinetuneTask(str(tiny_folder), None, data=data, eval_clips=4, camera=FEW)


@pytest.fixture
def from_nothing(tiny, tiny_folder, data, monkeypatch):
    monkeypatch.setattr(denoiser, "TOKENIZER_CAPTIONS", 200)
    c = tiny.config
    return DenoiserTask(
        str(tiny_folder), c.transformer, c.text_encoder, c.sampling, data=data, text_steps=2, camera=FEW
    )


def example(scene, frames=3):
    return {"latents": np.zeros((frames, 1, 2, 4), np.float16), "scene": scene_to_json(scene)}


def rows_of(task, scene, count=200, frames=3):
    tokenizer = task.tokenizer()
    return [task.transform(tokenizer, example(scene, frames), np.random.default_rng(i)) for i in range(count)]


def test_shares(from_nothing):
    """Without rays in some samples the model would need them, without words left out it would not heed them."""
    task = dataclasses.replace(from_nothing, camera=dataclasses.replace(FEW, share=0.6, untold=0.5))
    pan = Scene(action="spins", camera="pans left")
    rows = rows_of(task, pan, 600)
    known = np.array([row["rays_known"] for row in rows])
    told = np.array([row["factors"][-2] == CAMERAS.index("pans left") for row in rows if row["length"] > 1])
    shown = known[[row["length"] > 1 for row in rows]]
    assert 0.52 < known.mean() < 0.68
    assert told[~shown].all(), "words alone tell of it where rays do not"
    assert 0.4 < told[shown].mean() < 0.6
    drifting = rows_of(task, drifting_scene(0, 0), 50)
    assert all(row["rays_known"] for row in drifting), "nothing else tells of it"
    assert all(row["factors"][-2] == -1 for row in drifting)
    # Rays are shown beside no words too: guidance has them on both sides.
    assert any(row["rays_known"] and row["length"] == 1 for row in rows)


def test_poses_are_those_of_the_window(from_nothing):
    """Rays of other frames than those of the latents teach a camera that lags behind."""
    task = dataclasses.replace(from_nothing, window=3, later_share=0.5, camera=dataclasses.replace(FEW, share=1.0))
    rows = rows_of(task, Scene(action="spins", camera="pans left"), 100, frames=5)
    for row in rows:
        assert row["camera_to_world"].shape == (12, 3, 4)
        assert row["camera_to_world"].dtype == row["intrinsics"].dtype == np.float32
        np.testing.assert_allclose(row["camera_to_world"][0], np.eye(3, 4), atol=1e-6)
        # A first latent frame is one frame four times, a later one is four.
        moved = np.abs(np.diff(row["camera_to_world"], axis=0)).max(axis=(1, 2)) > 1e-3
        np.testing.assert_array_equal(moved, [row["later"]] * 3 + [True] * 8)
    assert {bool(row["later"]) for row in rows} == {True, False}
    ways = {bool(row["camera_to_world"][-1, :, 3].any()) for row in rows}
    assert ways == {True, False}, "a pan is told as turning and as moving"


def test_without_a_camera_nothing_is_drawn(from_nothing):
    """Runs that were begun before there were rays go on with the same samples."""
    plain = dataclasses.replace(from_nothing, camera=None)
    row = rows_of(plain, training_scene(0, 1), 1)[0]
    assert row.keys() == {"latents", "tokens", "length", "factors"}
    rng = np.random.default_rng(0)
    assert rng.random() >= plain.caption_dropout
    text = plain.data.caption(example(training_scene(0, 1)), rng)
    np.testing.assert_array_equal(row["tokens"], denoiser.token_row(plain.tokenizer(), text)["tokens"])


def test_samples_without_rays_are_as_without_an_adapter(tiny):
    """Known for one clip of a batch, rays must not reach another."""
    config = FEW.adapter(tiny.config.transformer)
    assert config == CameraAdapterConfig(24, 24, (1, 1), 2)
    assert CameraTraining(num_residual_blocks=0).adapter(tiny.config.transformer).num_residual_blocks == 0
    params = jax.tree.map(jnp.ones_like, camera.camera_adapter.init(config, jax.random.key(0)))
    pose = jnp.tile(jnp.eye(3, 4), (2, 12, 1, 1))
    batch = {
        "latents": jnp.zeros((2, 3, 1, 2, 4)), "camera_to_world": pose,
        "intrinsics": jnp.tile(jnp.array([0.5, 1, 0.5, 0.5]), (2, 12, 1)), "rays_known": jnp.array([True, False]),
    }  # fmt: skip
    added = camera.added_tokens(config, {"camera_adapter": params}, batch, jnp.float32)
    assert added.shape == (2, 3, 2, 24)
    assert added[0].any()
    assert not added[1].any()
    assert camera.added_tokens(config, {}, {"latents": batch["latents"]}, jnp.float32) is None


def run(task, workdir, steps=3, rate=1e-2):
    optimizer = OptimizerConfig(learning_rate=rate, warmup_steps=1, weight_decay=0.0)
    return train(TrainConfig(task, steps, 8, optimizer=optimizer, ema_decay=0.5, eval_every=steps), workdir)


def changed(model, plain):
    asked = {"output_type": "latent", "progress": False, "num_inference_steps": 2}
    panned = vidjax.generate(model, "a red circle", camera="pan left", **asked)
    return float(np.abs(panned - vidjax.generate(plain, "a red circle", **asked)).max())


def test_finetuned_model_has_an_adapter(task, tiny, tmp_path):
    """Trained with the denoiser, exported with it, and gone on with from where it was."""
    run(task, tmp_path / "run")
    loaded = vidjax.load(tmp_path / "run" / "export")
    assert loaded.config.camera_adapter == FEW.adapter(tiny.config.transformer)
    assert loaded.params["camera_adapter"]["control_adapter.conv"]["kernel"].any()
    assert changed(loaded, loaded) > 1e-4
    # Another downscale_factor is that of new adapters: this model has one.
    on = dataclasses.replace(task, model=str(tmp_path / "run" / "export"), camera=CameraTraining())
    state = run(on, tmp_path / "on", steps=1, rate=1e-12)
    for a, b in zip(
        jax.tree.leaves(state.params["camera_adapter"]), jax.tree.leaves(loaded.params["camera_adapter"]), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_low_rank_changes_with_an_adapter(task, tmp_path):
    """A large model's adapter is trained beside changes that are small."""
    state = run(dataclasses.replace(task, lora=LoRAConfig(4)), tmp_path / "run")
    assert state.params.keys() == {"lora", "camera_adapter"}
    assert {path.name for path in (tmp_path / "run" / "export").iterdir()} == {LORA_FILE, "camera_adapter"}


@pytest.mark.slow
def test_from_nothing(from_nothing, tmp_path):
    """Denoiser, text encoder and adapter in one run, and a folder that has all of them."""
    task = dataclasses.replace(from_nothing, eval_clips=4)
    config = TrainConfig(task, 2, 8, eval_every=2)
    assert from_text(to_text(config)) == config
    state = train(config, tmp_path / "run")
    assert state.params.keys() == {"transformer", "text_encoder", "probe", "camera_adapter"}
    loaded = vidjax.load(tmp_path / "run" / "export")
    assert loaded.config.camera_adapter == FEW.adapter(task.model)


def test_gradients_reach_the_adapter(from_nothing, tiny):
    """A part without a gradient would be published as it was drawn."""
    task = dataclasses.replace(from_nothing, camera=dataclasses.replace(FEW, share=1.0))
    adapter = jax.tree.map(lambda x: x + 0.1, task.init(jax.random.key(0))["camera_adapter"])
    params = {
        "transformer": tiny.params["transformer"],
        "text_encoder": tiny.params["text_encoder"],
        "probe": probe.init(task.text.d_model, jax.random.key(0)),
        "camera_adapter": adapter,
    }
    rows = rows_of(task, training_scene(0, 0), 4)
    batch = {name: jnp.asarray(np.stack([row[name] for row in rows])) for name in rows[0]}
    grads = jax.jit(jax.grad(lambda p: task.loss(p, batch, jax.random.key(0))[0]))(params)
    leaves = jax.tree_util.tree_leaves_with_path(grads["camera_adapter"])
    still = [jax.tree_util.keystr(path) for path, g in leaves if not g.any()]
    assert not still


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": FolderData("nowhere")}, "the cameras of a FolderData are not known; train on ClipData"),
        ({"camera": CameraTraining(share=1.5)}, r"camera.share=1.5: must lie between 0 and 1"),
        ({"camera": CameraTraining(num_residual_blocks=-1)}, r"camera.num_residual_blocks=-1: must be at least 0"),
    ],
)
def test_refused(task, change, said):
    """Found before anything is rendered or compiled."""
    changed = dataclasses.replace(task, **change)
    with pytest.raises(InputError, match=said):
        changed.make(TrainConfig(changed, 1, 8))


def test_camera_clips_are_a_bucket_of_their_own(data):
    """Other clips under the same name would be read for these; in the test split there are none."""
    source = data.open("train")
    assert [len(one) for one in source.sources] == [8, 4]
    assert all((data.scene(source[i]).drift is not None) == (i >= 8) for i in range(12))
    assert source[8]["video"].shape == source[0]["video"].shape
    assert len(data.open("test")) == 4
    plain = dataclasses.replace(data, num_camera_clips=0)
    assert plain.name() != data.name()
    assert plain.name() == "shapes-9x16x32-8-4-seed0"
    assert data.smoke().num_camera_clips == 4


def test_configuration(pytestconfig):
    """The shipped configuration must be of the bundled model."""
    config = load_config(pytestconfig.rootpath / "configs" / "shapes_conditioning.py")
    assert config.task.camera.adapter(vidjax.model.read_config(vidjax.model.bundled()).transformer).dim == 256
    assert config.task.data.num_camera_clips > 0
