"""What a denoiser is trained on: times, given frames, captions left out; and that all of it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.config import load_config
from vidjax.data.buckets import Bucket
from vidjax.data.shapes import parse, scene_to_json, training_scene
from vidjax.data.source import ClipData
from vidjax.errors import InputError
from vidjax.model import bundled
from vidjax.training import denoiser, places, probe
from vidjax.training.denoiser import DenoiserTask
from vidjax.training.task import TaskConfig


@pytest.fixture
def task(tiny, monkeypatch):
    """A task around the tiny model: its tokenizer learns from as many captions."""
    monkeypatch.setattr(denoiser, "TOKENIZER_CAPTIONS", 200)
    config = tiny.config
    data = ClipData(num_clips=32)
    return DenoiserTask("", config.transformer, config.text_encoder, config.sampling, data=data, text_steps=2)


def params_of(tiny, task):
    return {
        "transformer": tiny.params["transformer"],
        "text_encoder": tiny.params["text_encoder"],
        "probe": probe.init(task.text.d_model, jax.random.key(0)),
    }


def batch_of(task, count=4, frames=3, value=0.0):
    tokenizer, latents = task.tokenizer(), np.full((frames, 1, 2, 4), value, np.float16)
    rows = [
        task.transform(tokenizer, {"latents": latents, "scene": scene_to_json(training_scene(0, i))}, rng)
        for i, rng in enumerate(np.random.default_rng(0).spawn(count))
    ]
    return jax.tree.map(lambda *row: jnp.asarray(np.stack(row)), *rows)


def test_transform_is_a_function_of_its_generator(task):
    """A resumed run must see the captions that the uninterrupted one saw."""
    tokenizer, scene = task.tokenizer(), training_scene(0, 3)
    example = {"latents": np.ones((3, 1, 2, 4), np.float16), "scene": scene_to_json(scene)}
    rows = [task.transform(tokenizer, example, np.random.default_rng(seed)) for seed in (5, 5, 6, 7, 8)]
    for name, value in rows[0].items():
        np.testing.assert_array_equal(rows[1][name], value)
    assert len({row["tokens"].tobytes() for row in rows}) > 2, "one scene is told in several ways"
    assert rows[0]["latents"].dtype == np.float32
    np.testing.assert_array_equal(rows[0]["factors"], probe.labels(scene))


def test_captions_are_left_out_at_the_right_rate(task):
    """Guidance is the difference to a model without words: it must see the empty caption, as sampling gives it."""
    tokenizer = task.tokenizer()
    example = {"latents": np.zeros((3, 1, 2, 4), np.float16), "scene": scene_to_json(training_scene(0, 0))}
    rng = np.random.default_rng(0)
    rows = [task.transform(tokenizer, example, rng) for _ in range(1000)]
    empty = [row for row in rows if row["length"] == 1]
    assert 70 < len(empty) < 130
    assert all((row["factors"] == -1).all() and row["tokens"][0] == 1 for row in empty)
    assert all((row["factors"] >= 0).all() for row in rows if row["length"] > 1)


def test_words_are_left_out_of_captions_at_the_right_rate(task):
    """One that was never trained without an action makes noise of a prompt that says none."""
    task = dataclasses.replace(task, caption_dropout=0.0, untold_share=0.2)
    tokenizer, rng = task.tokenizer(), np.random.default_rng(0)
    example = {"latents": np.zeros((3, 1, 2, 4), np.float16), "scene": scene_to_json(training_scene(0, 0))}
    rows = [task.transform(tokenizer, example, rng) for _ in range(1000)]
    out = np.stack([row["factors"] for row in rows]) == -1
    assert 160 < out.any(axis=1).sum() < 240
    names = [*probe.SUBJECT, *probe.SUBJECT, *probe.SCENE]
    assert {names[i] for i in np.flatnonzero(out.any(axis=0))} == {"size", "action", "place"}
    shortest = min(rows, key=lambda row: row["length"])
    assert (shortest["factors"] == -1).sum() >= 3


def test_loss_is_the_velocitys_and_given_frames_do_not_count(task, tiny):
    """With a model that says zero the loss is known: the mean square of noise minus latents."""
    params = params_of(tiny, task)
    params["transformer"] = params["transformer"] | {
        "proj_out": jax.tree.map(jnp.zeros_like, tiny.params["transformer"]["proj_out"])
    }
    always = dataclasses.replace(task, given_share=1.0)
    batch = batch_of(task, 16, value=3.0)
    batch["latents"] = batch["latents"].at[:, 0].set(1e4)
    batch["later"] = jnp.ones(16, bool)  # of such windows the first frame is always given
    flow = jax.jit(lambda batch, key: always.loss(params, batch, key)[1]["flow"])(batch, jax.random.key(0))
    np.testing.assert_allclose(flow, 1 + 3.0**2, rtol=0.1)


def test_gradients_reach_denoiser_text_encoder_and_probe(task, tiny):
    """A part without a gradient would be published as it was drawn."""
    params, batch = params_of(tiny, task), batch_of(task)
    (loss, metrics), grads = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(params, batch, jax.random.key(0))
    np.testing.assert_allclose(loss, metrics["flow"] + task.probe_weight * metrics["probe"], rtol=1e-5)
    still = [jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(grads) if not g.any()]
    assert not still


def test_new_model_predicts_nothing(task):
    """The last projection starts at zero: the first steps would otherwise unlearn a random velocity."""
    last = jax.jit(lambda key: task.init(key)["transformer"]["proj_out"])(jax.random.key(0))
    assert not last["kernel"].any()
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    assert shapes["text_encoder"]["shared"]["embedding"].shape[0] == task.text_config().vocab_size
    assert shapes.keys() == {"transformer", "text_encoder", "probe"}


def test_configuration_is_a_task(pytestconfig):
    """The shipped configuration must describe a model that its own text encoder and autoencoder fit."""
    config = load_config(pytestconfig.rootpath / "configs" / "shapes_denoiser.py")
    vae = load_config(pytestconfig.rootpath / "configs" / "shapes_vae.py").task.model
    task = config.task
    assert isinstance(task, TaskConfig)
    assert task.model.in_channels == task.model.out_channels == vae.z_dim
    assert task.model.text_dim == task.text.d_model
    assert (task.sampling.height, task.sampling.num_frames) == (task.data.height, task.data.num_frames)
    small = task.smoke()
    assert small.data.num_clips < task.data.num_clips
    assert small.model.dim < task.model.dim
    assert parse(task.data.captions(1)[0]).subjects


def test_latents_of_other_clips_have_another_name(task):
    """Latents of other clips under the same name would be read for these."""
    data = task.data
    changed = [dataclasses.replace(data, **{field: 5}) for field in
               ("num_clips", "num_test_clips", "num_frames", "height", "width", "seed")]  # fmt: skip
    assert len({data.name(), *(other.name() for other in changed)}) == 7


def test_places_are_told_to_some_and_left_behind(task, tiny):
    """The table learns of the clips that are told alone; what says nothing of it is answered without."""
    told = dataclasses.replace(task, place_share=0.5)
    params = params_of(tiny, task) | {"places": places.init(task.model.dim, jax.random.key(1))}
    batch = batch_of(told, 16)
    assert 2 < batch["placed"].sum() < 14
    x, t = jax.random.normal(jax.random.key(2), batch["latents"].shape), jnp.full((16, 3), 0.8)
    plain = {name: value for name, value in batch.items() if name != "placed"}
    with_places, without = (told.velocity(params, each, x, t) for each in (batch, plain))
    np.testing.assert_array_equal(without, task.velocity(params_of(tiny, task), plain, x, t))
    differ = jnp.abs(with_places - without).max(axis=(1, 2, 3, 4)) > 1e-4
    np.testing.assert_array_equal(differ, batch["placed"])
    gradient = jax.grad(lambda params: told.loss(params, batch, jax.random.key(3))[0])(params)["places"]["table"]
    _, h, w = batch["latents"].shape[1:4]
    used = jnp.zeros(gradient.shape[:2], bool).at[: h // task.model.patch_size[1], : w // task.model.patch_size[2]]
    np.testing.assert_array_equal(jnp.abs(gradient).max(axis=-1) > 0, used.set(True))


def test_places_beside_what_else_is_added():
    """Frames of pictures come before those that the camera's rays belong to."""
    table = places.init(4, jax.random.key(0))
    rays = jnp.arange(2 * 2 * 6 * 4.0).reshape(2, 2, 6, 4)
    out = places.add(table, jnp.array([True, False]), (3, 2, 3), rays)
    expected = table["table"][:2, :3].reshape(6, 4)
    np.testing.assert_allclose(out[0, 0], expected)
    np.testing.assert_allclose(out[0, 1:], expected + rays[0])
    np.testing.assert_array_equal(out[1, 0], 0)
    np.testing.assert_allclose(out[1, 1:], rays[1])


def test_places_that_the_table_lacks_are_refused():
    """A share is one, and a picture of more tokens has no place in the table."""
    with pytest.raises(InputError, match=r"place_share=1\.5"):
        places.check_places(1.5, [], (16, 16))
    large = [Bucket(17, 64, 528)]
    places.check_places(0.0, large, (16, 16))
    with pytest.raises(InputError, match="more than 32 rows or columns"):
        places.check_places(0.5, large, (16, 16))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.model.in_channels=5", "model.in_channels=5: latents of .* have"),
        ("task.sampling.num_frames=16", "sampling.num_frames=16: must be 1 .* nearest: 17"),
        ("task.sampling.max_text_length=0", "sampling.max_text_length=0: must lie between 1"),
        ("task.time_shift=inf", "time_shift=inf: must be a finite number"),
        ("task.eval_clips=0", "eval_clips=0: must lie between 1"),
        ("task.caption_dropout=7", "caption_dropout=7.0: must lie between 0 and 1"),
        ("task.model.attention_head_dim=7", "attention_head_dim=7: must be even; nearest: 8"),
        ("task.model.num_layers=0", "num_layers=0: must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_before_clips_are_rendered(pytestconfig, tmp_path, override, message):
    """A model trained with frames that no clip can have was exported, and refused its own default."""
    places = f"task.vae={bundled()}", f"task.data.folder={tmp_path / 'data'}"
    config = load_config(pytestconfig.rootpath / "configs" / "shapes_denoiser.py", [*places, override])
    with pytest.raises(InputError, match=message):
        config.task.make(config)
    assert not (tmp_path / "data").exists()
