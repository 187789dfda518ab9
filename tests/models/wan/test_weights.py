"""Names, shapes and counts of the published tensors."""

import math

import pytest

from vidjax.models.wan.presets import PRESETS
from vidjax.models.wan.weights import published_shapes

TRANSFORMERS = {
    "wan2.1-t2v-1.3b": (1_418_996_800, 825),
    "wan2.1-t2v-14b": (14_288_491_584, 1095),
    "wan2.1-i2v-14b": (16_394_878_784, 1303),
    "wan2.1-flf2v-14b": (16_395_536_704, 1304),
    "wan2.2-t2v-a14b": (14_288_491_584, 1095),
    "wan2.2-i2v-a14b": (14_288_901_184, 1095),
    "wan2.2-ti2v-5b": (4_999_787_712, 825),
}
"""Parameters and tensors of the published files."""

VAES = {"2.1": (126_892_531, 194), "2.2": (704_688_668, 196)}


def count(shapes: dict[str, tuple[int, ...]]) -> tuple[int, int]:
    return sum(map(math.prod, shapes.values())), len(shapes)


def test_presets():
    assert set(PRESETS) == set(TRANSFORMERS)


@pytest.mark.parametrize("preset", TRANSFORMERS)
def test_transformer(preset):
    """One parameter more or less, and the published file is refused."""
    assert count(published_shapes(preset, "transformer")) == TRANSFORMERS[preset]


@pytest.mark.parametrize(
    ("preset", "form"), [("wan2.1-t2v-1.3b", "2.1"), ("wan2.2-i2v-a14b", "2.1"), ("wan2.2-ti2v-5b", "2.2")]
)
def test_vae(preset, form):
    """One parameter more or less, and the published file is refused."""
    assert count(published_shapes(preset, "vae")) == VAES[form]


def test_text_encoder():
    """The embedding is published under two names, which count as two tensors but one set of parameters."""
    shapes = published_shapes("wan2.1-t2v-1.3b", "text_encoder")
    assert shapes["shared.weight"] == shapes["encoder.embed_tokens.weight"] == (256384, 4096)
    parameters, tensors = count(shapes)
    assert tensors == 243
    assert parameters - 256384 * 4096 == 5_680_910_336


def test_names_and_layouts():
    """A few of each kind, as they stand in the published files: output axis first, then input, then the window."""
    t = published_shapes("wan2.1-i2v-14b", "transformer")
    assert t["patch_embedding.weight"] == (5120, 36, 1, 2, 2)
    assert t["blocks.39.ffn.net.0.proj.weight"] == (13824, 5120)
    assert t["blocks.0.attn2.add_k_proj.bias"] == (5120,)
    assert t["blocks.7.norm2.weight"] == (5120,)
    assert t["blocks.7.scale_shift_table"] == (1, 6, 5120)
    assert t["condition_embedder.image_embedder.ff.net.0.proj.weight"] == (1280, 1280)
    v = published_shapes("wan2.1-t2v-1.3b", "vae")
    assert v["encoder.conv_in.weight"] == (96, 3, 3, 3, 3)
    assert v["decoder.mid_block.attentions.0.norm.gamma"] == (384, 1, 1)
    assert v["decoder.norm_out.gamma"] == (96, 1, 1, 1)
    assert v["decoder.up_blocks.0.upsamplers.0.time_conv.weight"] == (768, 384, 3, 1, 1)
    assert v["encoder.mid_block.attentions.0.to_qkv.weight"] == (1152, 384, 1, 1)
