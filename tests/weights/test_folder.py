"""Parts written and read in the published layout; and every way in which a folder can be wrong."""

import functools
import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vidjax.errors import WeightsError
from vidjax.models.t5 import T5Config
from vidjax.models.wan.denoiser import DenoiserConfig
from vidjax.models.wan.presets import PRESETS
from vidjax.models.wan.vae import VAEConfig
from vidjax.models.wan.weights import abstract_params
from vidjax.weights import folder

CONFIGS = {
    "transformer": DenoiserConfig(
        num_attention_heads=1, attention_head_dim=12, in_channels=3, out_channels=2, text_dim=8, freq_dim=6, ffn_dim=10,
        num_layers=2, image_dim=7, added_kv_proj_dim=12, pos_embed_seq_len=4,
    ),
    "vae": VAEConfig(base_dim=2, z_dim=3, dim_mult=(1, 2), num_res_blocks=1, temperal_downsample=(True,)),
    "text_encoder": T5Config(vocab_size=9, d_model=6, d_kv=2, d_ff=5, num_layers=2, num_heads=3),
}  # fmt: skip


@functools.cache
def params(part: str, dtype=np.float32):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(dtype), abstract_params(part, CONFIGS[part]))


def write(path: Path, part: str = "text_encoder") -> Path:
    """A sound part; its weight file."""
    folder.write_part(path, part, CONFIGS[part], params(part))
    return next((path / part).glob("*.safetensors"))


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("transformer", {"num_layers": "12"}, 'num_layers is "12", not a whole number'),
        ("transformer", {"num_layers": True}, "num_layers is true, not a whole number"),
        ("transformer", {"eps": None}, "eps is null, not a number"),
        ("transformer", {"patch_size": [1, 2]}, r"patch_size is \[1, 2\], not a tuple"),
        ("transformer", {"image_dim": 1.5}, "image_dim is 1.5, not a whole number or none"),
        (
            "vae",
            {"temperal_downsample": [0, 1], "z_dim": "3"},
            r'z_dim is "3", .*; temperal_downsample is \[0, 1\], not a tuple such as true',
        ),
    ],
)
def test_values_of_another_type(tmp_path, part, values, message):
    """Found deep in a module, the message would be about an operator and two types."""
    path = write(tmp_path, part).with_name("config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(WeightsError, match=f"config.json: {message}") as error:
        folder.read_config(tmp_path, part)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", PRESETS)
def test_published_values_are_of_their_types(tmp_path, name):
    """A check that is too strict would refuse published models."""
    for part in ("transformer", "vae", "text_encoder"):
        folder.write_config(tmp_path, part, PRESETS[name].part(part))
        assert folder.read_config(tmp_path, part) == PRESETS[name].part(part)


def change(path: Path, edit) -> None:
    """The weight file with ``edit`` applied to its tensors."""
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def read(path: Path, part: str = "text_encoder"):
    return folder.read_part(path, part, folder.read_config(path, part))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("part", CONFIGS)
def test_round_trip(tmp_path, part, dtype):
    """What was trained must be, bit for bit, what is loaded; and the configuration with it."""
    folder.write_part(tmp_path, part, CONFIGS[part], params(part, dtype))
    assert folder.read_config(tmp_path, part) == CONFIGS[part]
    found = read(tmp_path, part)
    expected = params(part, dtype)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == b.tobytes()


def test_casts(tmp_path):
    """Weights may be stored in half precision and used in full, and the other way round."""
    folder.write_part(tmp_path, "vae", CONFIGS["vae"], params("vae"), dtype=ml_dtypes.bfloat16)
    found = folder.read_part(tmp_path, "vae", CONFIGS["vae"], dtype=np.float32)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(params("vae")), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_shards(tmp_path, monkeypatch):
    """Published models come in several files with an index."""
    monkeypatch.setattr(folder, "MAX_SHARD_BYTES", 400)
    write(tmp_path)
    files = sorted((tmp_path / "text_encoder").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "text_encoder" / "model.safetensors.index.json").read_text())
    assert {name: path.name for path in files for name in load_file(path)} == index["weight_map"]
    for a, b in zip(jax.tree.leaves(read(tmp_path)), jax.tree.leaves(params("text_encoder")), strict=True):
        np.testing.assert_array_equal(a, b)
    files[1].unlink()
    with pytest.raises(WeightsError, match=f"names files that are not beside it: {files[1].name}"):
        read(tmp_path)


def test_either_twin_of_the_embedding(tmp_path):
    """Some programs write ``shared``, some ``encoder.embed_tokens``, some both."""
    path = write(tmp_path)
    change(path, lambda t: t.update({"encoder.embed_tokens.weight": t["shared.weight"]}))
    read(tmp_path)
    change(path, lambda t: t.pop("shared.weight"))
    np.testing.assert_array_equal(read(tmp_path)["shared"]["embedding"], params("text_encoder")["shared"]["embedding"])


def test_twin_of_another_shape(tmp_path):
    path = write(tmp_path)
    change(path, lambda t: t.update({"encoder.embed_tokens.weight": t.pop("shared.weight")[:-1]}))
    with pytest.raises(WeightsError, match=r"another shape: encoder.embed_tokens.weight \(8, 6\) instead of \(9, 6\)"):
        read(tmp_path)


def test_unused_norm_is_ignored(tmp_path):
    """Published image-to-video weights carry ``norm_added_q``, which no program applies."""
    path = write(tmp_path, "transformer")
    change(path, lambda t: t.update({"blocks.0.attn2.norm_added_q.weight": np.ones(12, np.float32)}))
    read(tmp_path, "transformer")


def test_all_mistakes_are_listed_at_once(tmp_path):
    """Sizes of gigabytes: finding one mistake per download is not good enough."""
    path = write(tmp_path)

    def edit(tensors):
        del tensors["encoder.block.0.layer.0.SelfAttention.q.weight"]
        del tensors["shared.weight"]
        tensors["lm_head.weight"] = np.zeros(3, np.float32)
        tensors["encoder.final_layer_norm.weight"] = np.zeros(7, np.float32)

    change(path, edit)
    with pytest.raises(WeightsError) as caught:
        read(tmp_path)
    assert "missing: encoder.block.0.layer.0.SelfAttention.q.weight, shared.weight;" in str(caught.value)
    assert "not expected: lm_head.weight;" in str(caught.value)
    assert "of another shape: encoder.final_layer_norm.weight (7,) instead of (6,)" in str(caught.value)


def test_long_lists_are_counted(tmp_path):
    path = write(tmp_path)
    change(path, lambda t: t.update({f"extra.{i:02d}": np.zeros(1, np.float32) for i in range(11)}))
    with pytest.raises(WeightsError, match=r"extra.06, extra.07 and 3 more$"):
        read(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(tmp_path, value):
    """One NaN makes a black video after minutes of work."""
    path = write(tmp_path)
    name = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    change(path, lambda t: t[name].__setitem__((0, 0), value))
    with pytest.raises(WeightsError, match=f"not finite: {name}"):
        read(tmp_path)


@pytest.mark.parametrize("damage", [lambda b: b[:-50], lambda b: b[:20], lambda b: b"", lambda b: b"<html>" * 20])
def test_damaged_file(tmp_path, damage):
    """A broken download, or an error page saved as a model."""
    path = write(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsError, match=r"model.safetensors is damaged or not a safetensors file"):
        read(tmp_path)


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "sub/../model.safetensors", "other.safetensors"]
)
def test_index_stays_in_its_folder(tmp_path, name):
    """A downloaded index must not make us read files elsewhere."""
    path = write(tmp_path)
    (tmp_path / "secret.safetensors").write_bytes(path.read_bytes())
    index = {"weight_map": {n: name for n in load_file(path)}}
    path.with_name("model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=f"names files that are not beside it: {name}"):
        read(tmp_path)


@pytest.mark.parametrize("index", [{"weight_map": ["model.safetensors"]}, {"weight_map": {"shared.weight": 1}}, [1]])
def test_index_of_another_form(tmp_path, index):
    path = write(tmp_path)
    path.with_name("model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"model.safetensors.index.json"):
        read(tmp_path)


def test_no_safetensors(tmp_path):
    """Pickled weights can run code when opened: they are named, not read."""
    path = write(tmp_path)
    path.rename(path.with_name("pytorch_model.bin"))
    with pytest.raises(WeightsError, match=r"no .safetensors file; pytorch_model.bin cannot be read: convert"):
        read(tmp_path)
    with pytest.raises(WeightsError, match=r"vae has no .safetensors file$"):
        folder.read_part(tmp_path, "vae", CONFIGS["vae"])


@pytest.mark.parametrize(
    ("text", "message"), [(None, "config.json is missing"), ("{", "is not JSON"), ("[1]", "holds list, a JSON object")]
)
def test_bad_config(tmp_path, text, message):
    path = write(tmp_path).with_name("config.json")
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(WeightsError, match=message):
        folder.read_config(tmp_path, "text_encoder")


def test_stages_that_do_not_fit(tmp_path):
    """The headers are compared with shapes of a model that must be possible at all."""
    path = write(tmp_path, "vae").with_name("config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"is_residual": True}))
    with pytest.raises(WeightsError, match=r"vae: dim_mult=\(1, 2\)"):
        folder.read_config(tmp_path, "vae")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"is_residual": False, "latents_mean": [0.0]}))
    with pytest.raises(WeightsError, match=r"vae: latents_mean has length 1, and z_dim is"):
        folder.read_config(tmp_path, "vae")


def test_unknown_config_fields_are_ignored(tmp_path):
    """Newer programs write fields of their own."""
    path = write(tmp_path, "vae").with_name("config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"clip_output": False, "_diffusers_version": "9"}))
    assert folder.read_config(tmp_path, "vae") == CONFIGS["vae"]


def test_replace_folder(tmp_path):
    """An export that dies half-way must leave the older model whole; one that ends leaves nothing of it."""
    new, old = tmp_path / "new", tmp_path / "model"
    for path, text in ((new, "2"), (old, "1")):
        path.mkdir()
        (path / f"part{text}").write_text(text)
    folder.replace_folder(new, old)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert [p.name for p in old.iterdir()] == ["part2"]


def test_files_may_be_read_by_others(tmp_path):
    """A model that is shared over a disk must not be for its maker's eyes only."""
    file = write(tmp_path)
    plain = tmp_path / "plain"
    plain.touch()
    assert file.stat().st_mode == plain.stat().st_mode
