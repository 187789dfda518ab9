"""The denoiser's tensors under the names of its original repository."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vidjax.errors import WeightsError
from vidjax.models.wan.denoiser import DenoiserConfig
from vidjax.models.wan.original_names import original_name
from vidjax.models.wan.weights import abstract_params, published_shapes
from vidjax.weights import folder

TINY = DenoiserConfig(
    num_attention_heads=1, attention_head_dim=12, in_channels=3, out_channels=2, text_dim=8, freq_dim=6, ffn_dim=10,
    num_layers=2, image_dim=7, added_kv_proj_dim=12, pos_embed_seq_len=4,
)  # fmt: skip

NAMES = {
    "patch_embedding.bias": "patch_embedding.bias",
    "condition_embedder.time_embedder.linear_2.weight": "time_embedding.2.weight",
    "condition_embedder.time_proj.weight": "time_projection.1.weight",
    "condition_embedder.text_embedder.linear_1.bias": "text_embedding.0.bias",
    "condition_embedder.image_embedder.pos_embed": "img_emb.emb_pos",
    "condition_embedder.image_embedder.ff.net.2.weight": "img_emb.proj.3.weight",
    "condition_embedder.image_embedder.norm2.weight": "img_emb.proj.4.weight",
    "scale_shift_table": "head.modulation",
    "proj_out.weight": "head.head.weight",
    "blocks.11.scale_shift_table": "blocks.11.modulation",
    "blocks.1.attn1.to_out.0.bias": "blocks.1.self_attn.o.bias",
    "blocks.1.attn1.norm_q.weight": "blocks.1.self_attn.norm_q.weight",
    "blocks.1.attn2.to_k.weight": "blocks.1.cross_attn.k.weight",
    "blocks.1.attn2.add_v_proj.weight": "blocks.1.cross_attn.v_img.weight",
    "blocks.1.attn2.norm_added_k.weight": "blocks.1.cross_attn.norm_k_img.weight",
    "blocks.1.norm2.bias": "blocks.1.norm3.bias",
    "blocks.1.ffn.net.0.proj.weight": "blocks.1.ffn.0.weight",
    "blocks.1.ffn.net.2.weight": "blocks.1.ffn.2.weight",
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    """As they stand in the original files."""
    assert original_name(name) == NAMES[name]


def test_names_are_distinct():
    """Two tensors under one name: one would be lost."""
    shapes = published_shapes("wan2.1-flf2v-14b", "transformer")
    assert len({original_name(name) for name in shapes}) == len(shapes)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_original_file(tmp_path, prefix):
    """The same numbers under either naming are the same model."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), abstract_params("transformer", TINY))
    folder.write_part(tmp_path, "transformer", TINY, params)
    path = next((tmp_path / "transformer").glob("*.safetensors"))
    tensors = load_file(path)
    save_file({prefix + original_name(name): value for name, value in tensors.items()}, path)
    found = folder.read_part(tmp_path, "transformer", TINY)
    jax.tree.map(np.testing.assert_array_equal, found, params)

    without = dataclasses.replace(TINY, pos_embed_seq_len=None)
    with pytest.raises(WeightsError, match=f"not expected: {prefix}img_emb.emb_pos"):
        folder.read_part(tmp_path, "transformer", without)


@pytest.mark.parity
def test_names_equal_diffusers():
    """Diffusers reads original files too, by a table of its own."""
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    shapes = published_shapes("wan2.1-i2v-14b", "transformer")
    found = convert_wan_transformer_to_diffusers({original_name(name): name for name in shapes})
    assert found == {name: name for name in shapes}
