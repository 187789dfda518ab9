"""A model is loaded as its folder says, and what is exported is what was there."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import vidjax
from vidjax.errors import InputError, WeightsError
from vidjax.model import read_config
from vidjax.parallel import make_mesh
from vidjax.training.denoiser import DenoiserTask

PROMPT = "a small red circle moves right on grass"


@pytest.fixture
def copy(tiny_folder, tmp_path):
    """A copy of the tiny model's folder, to be damaged."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_load_takes_everything_from_the_folder(tiny, tiny_folder):
    """Sizes, defaults and types come from the files, whatever this version's own defaults are."""
    assert (tiny.name, tiny.mesh, tiny.config.dtype) == (str(tiny_folder), None, "float32")
    assert tiny.config.sampling.num_inference_steps == 3
    assert tiny.config.expand_timesteps
    assert (tiny.config.size_multiple, tiny.config.latent_shape(9, 16, 32)) == ((16, 16), (3, 1, 2, 4))
    assert {leaf.dtype for leaf in jax.tree.leaves(tiny.params)} == {np.dtype("float32")}
    assert "tiny" in repr(tiny)
    assert "M parameters" in repr(tiny)


def test_exported_model_makes_the_same_clip(tiny, tmp_path):
    """What goes out must come back: a transposed or rounded tensor would show in the very first clip."""
    config = tiny.config
    task = DenoiserTask("", config.transformer, config.text_encoder, config.sampling)
    vocabulary = config.text_encoder.vocab_size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DenoiserTask, "text_config", lambda self: dataclasses.replace(self.text, vocab_size=vocabulary))
        task.export(tiny.params, tmp_path / "out", tiny.tokenizer, config.vae, tiny.params["vae"])
    again = vidjax.load(tmp_path / "out")
    # It was trained to be given any frames; all else is as it was.
    assert again.config == dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, given="any"))
    expected = vidjax.generate(tiny, PROMPT, progress=False).frames
    np.testing.assert_array_equal(vidjax.generate(again, PROMPT, progress=False).frames, expected)


def test_bfloat16_rounds_the_denoiser_only(tiny, tiny_folder):
    """Half precision is for speed: nearly the same latents; pixels are decoded in full precision."""
    half = vidjax.load(tiny_folder, dtype=jax.numpy.bfloat16)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.params["transformer"])} == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.params["vae"])} == {"float32"}
    asked = {"output_type": "latent", "progress": False}
    exact, rounded = (vidjax.generate(model, PROMPT, **asked) for model in (tiny, half))
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()


def test_mesh_spreads_parameters(tiny_folder):
    """A large model would be copied whole to every device, and not fit."""
    spread = vidjax.load(tiny_folder, mesh=make_mesh(fsdp=4, tensor=2))
    kernel = spread.params["transformer"]["blocks"]["ffn"]["net.0.proj"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 6, 8)


def test_mesh_that_does_not_divide_is_refused(tiny_folder):
    """In place of the sharding's own traceback: what does not divide, and what would."""
    with pytest.raises(InputError, match="tensor=8 does not divide the 2 heads of the denoiser; choose 1, 2"):
        vidjax.load(tiny_folder, mesh=make_mesh(tensor=8))


def test_what_cannot_be_loaded_is_said(copy, tmp_path, unchecked):
    """Folders come from anywhere; the message names the file and what was expected."""
    with pytest.raises(InputError, match="dtype='float16': choose float32 or bfloat16"):
        vidjax.load(copy, dtype="float16")
    with pytest.raises(WeightsError, match="no model folder"):
        vidjax.load(tmp_path / "nowhere")
    for wrong, said in (
        ({"loras": "style.safetensors"}, "loras='style.safetensors': files with their strengths are expected"),
        ({"loras": {"a.safetensors": "b"}}, r"loras\['a.safetensors'\]='b': must be a finite number"),
        ({"mesh": "data=1"}, "mesh='data=1': a mesh is expected"),
        ({"offload": "no"}, "offload='no': must be True or False"),
        ({"dtype": None}, "dtype=None: choose float32 or bfloat16"),
    ):
        with pytest.raises(InputError, match=said):
            vidjax.load(copy, **wrong)
    with pytest.raises(InputError, match=r"model='': give a folder or a hub id"):
        vidjax.load("")
    (copy / "sampling.json").write_text('{"height": "x"}')
    with pytest.raises(WeightsError, match=r'sampling\.json: height is "x", not a whole number'):
        vidjax.load(copy)
    (copy / "sampling.json").unlink()
    with pytest.raises(WeightsError, match=r"model_index\.json is missing"):
        vidjax.load(tmp_path)
    (copy / "tokenizer" / "spiece.model").write_bytes(b"no tokenizer")
    with pytest.raises(WeightsError, match=r"spiece\.model is not a sentencepiece model"):
        vidjax.load(copy)
    edit(copy / "model_index.json", transformer_2=["diffusers", "WanTransformer3DModel"])
    with pytest.raises(WeightsError, match="two denoisers"):
        vidjax.load(copy)
    edit(copy / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(WeightsError, match="holds a FluxPipeline; these can be loaded: WanPipeline"):
        vidjax.load(copy)


def test_two_denoisers(copy, tiny):
    """Models with an expert for high noise and one for low: both are read, and each gets its own changes."""
    shutil.copytree(copy / "transformer", copy / "transformer_2")
    edit(copy / "model_index.json", transformer_2=["diffusers", "WanTransformer3DModel"], boundary_ratio=0.8)
    model = vidjax.load(copy, offload=True)
    assert model.config.boundary_ratio == 0.8
    assert sorted(model.params) == ["text_encoder", "transformer", "transformer_2", "vae"]
    jax.tree.map(np.testing.assert_array_equal, model.params["transformer_2"], tiny.params["transformer"])
    edit(copy / "transformer_2" / "config.json", num_layers=3)
    with pytest.raises(WeightsError, match="transformer and transformer_2 differ"):
        vidjax.load(copy)


def test_second_changes_need_a_second_denoiser(tiny_folder):
    """Left out in silence, they would be missed only in the clip."""
    with pytest.raises(InputError, match="has one denoiser; give them as loras"):
        vidjax.load(tiny_folder, loras_2={"low.safetensors": 1.0})


def test_defaults_without_sampling_json(copy):
    """Published folders have none: the scheduler's shift counts, and unknown models are not given frames."""
    (copy / "sampling.json").unlink()
    edit(copy / "scheduler" / "scheduler_config.json", flow_shift=7.0)
    edit(copy / "model_index.json", expand_timesteps=False)
    config = read_config(copy)
    assert config.sampling.flow_shift == 7.0
    assert not config.expand_timesteps


def test_bundled_model_makes_a_clip():
    """The first thing anyone does: without any argument, offline."""
    model = vidjax.load()
    assert model.name == "bundled"
    clip = vidjax.generate(model, "a small red circle moves right on grass", num_inference_steps=2, progress=False)
    assert clip.frames.shape == (17, 64, 64, 3)
    assert clip.fps == 8.0
