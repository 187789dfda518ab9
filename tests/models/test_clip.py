"""The image encoder: its tensors, what it returns, and how pictures are prepared for it."""

import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from vidjax.errors import InputError
from vidjax.models import clip
from vidjax.models.wan.weights import abstract_params, published_shapes
from vidjax.weights import folder

GOLDEN = Path(__file__).parents[1] / "golden" / "image_encoder"

TINY = clip.CLIPConfig(
    hidden_size=8, intermediate_size=12, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
)

encode = jax.jit(clip.encode, static_argnames=("config", "dtype"))


def params(seed: int = 0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: 0.3 * rng.standard_normal(x.shape, np.float32), abstract_params("image_encoder", TINY)
    )


def picture(height: int, width: int) -> np.ndarray:
    """Smooth waves and a little noise, uint8."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + y / (7 + i)) + 0.3 * np.cos(x * y / 400) for i in range(3)]
    noise = np.random.default_rng(0).normal(0, 8, (height, width, 3))
    return (127 + 70 * np.stack(waves, -1) + noise).clip(0, 255).astype(np.uint8)


def test_published_tensors():
    """One tensor more or less, and the published file is refused."""
    shapes = published_shapes("wan2.1-i2v-14b", "image_encoder")
    assert len(shapes) == 519
    assert sum(map(math.prod, shapes.values())) == 630_766_080
    assert shapes["vision_model.embeddings.class_embedding"] == (1280,)
    assert shapes["vision_model.embeddings.patch_embedding.weight"] == (1280, 3, 14, 14)
    assert shapes["vision_model.embeddings.position_embedding.weight"] == (257, 1280)
    assert shapes["vision_model.pre_layrnorm.weight"] == (1280,)
    assert shapes["vision_model.encoder.layers.31.mlp.fc1.weight"] == (5120, 1280)
    assert shapes["vision_model.encoder.layers.0.self_attn.out_proj.bias"] == (1280,)
    assert shapes["vision_model.post_layernorm.bias"] == (1280,)
    assert published_shapes("wan2.1-flf2v-14b", "image_encoder") == shapes


@pytest.mark.parametrize("preset", ["wan2.1-t2v-1.3b", "wan2.2-i2v-a14b"])
def test_models_without(preset):
    """Said early, and with what there is: 2.2 takes its picture through the channels."""
    with pytest.raises(InputError, match="no part 'image_encoder'; it has transformer"):
        published_shapes(preset, "image_encoder")


def test_other_activation():
    """Weights trained with another activation would load and give other tokens, unseen."""
    with pytest.raises(InputError, match="hidden_act='quick_gelu'"):
        clip.CLIPConfig(hidden_act="quick_gelu")


def test_tokens_are_those_before_the_last_layer():
    """The denoiser was trained on the second to last hidden state."""
    images = jax.random.normal(jax.random.key(0), (2, 28, 28, 3))
    tokens = encode(TINY, params(), images)
    assert tokens.shape == (2, TINY.num_tokens, 8)

    def changed(layer):
        other = params()
        layers = other["vision_model.encoder.layers"]
        other["vision_model.encoder.layers"] = jax.tree.map(lambda x: np.where(_index(x) == layer, 2 * x, x), layers)
        return encode(TINY, other, images)

    np.testing.assert_array_equal(changed(2), tokens)
    assert np.abs(changed(1) - tokens).max() > 1e-2


def _index(x: np.ndarray) -> np.ndarray:
    return np.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1))


@pytest.mark.parametrize("size", [(96, 61), (480, 832), (150, 151)])
def test_preprocess_equals_pillow(size):
    """As the published folders' image processor: shorter side to the size, antialiased, the middle kept."""
    pixels = picture(*size)
    H, W = size
    h, w = 224 * H // min(size), 224 * W // min(size)
    resized = np.asarray(Image.fromarray(pixels).resize((w, h), Image.Resampling.BICUBIC))
    top, left = (h - 224) // 2, (w - 224) // 2
    expected = (resized[top : top + 224, left : left + 224] / 255 - clip.MEAN) / clip.STD
    found = clip.preprocess(jnp.asarray(pixels[None] / 127.5 - 1, jnp.float32))
    assert found.shape == (1, 224, 224, 3)
    # In 8 bits: here and there a value is rounded the other way.
    np.testing.assert_allclose(found[0], expected, atol=1.01 / 255 / min(clip.STD))
    assert np.mean(np.abs(found[0] - expected) > 1e-4) < 0.01


def test_preprocess_whole():
    """The middle alone would hide what stands at the sides of a wide picture."""
    wide = np.zeros((1, 100, 300, 3), np.float32)
    wide[:, :, :40] = 1
    wide = jnp.asarray(wide)
    middle, whole = clip.preprocess(wide, 50), clip.preprocess(wide, 50, whole=True)
    assert middle.shape == whole.shape == (1, 50, 50, 3)
    assert np.ptp(middle[..., 0]) < 1e-5
    assert np.ptp(whole[..., 0]) > 1


@pytest.mark.parity
@pytest.mark.parametrize("size", [(40, 70), (300, 260)])
def test_preprocess_whole_equals_torch(size):
    """The original repository resizes with torch, without antialiasing."""
    import torch

    pixels = np.random.default_rng(0).uniform(-1, 1, (1, *size, 3)).astype(np.float32)
    resized = torch.nn.functional.interpolate(
        torch.tensor(pixels).permute(0, 3, 1, 2), (224, 224), mode="bicubic", align_corners=False
    )
    expected = (resized.permute(0, 2, 3, 1).numpy() / 2 + 0.5 - clip.MEAN) / clip.STD
    # Torch finds the positions in float32.
    np.testing.assert_allclose(clip.preprocess(jnp.asarray(pixels), whole=True), expected, atol=3e-4)


def golden(path=GOLDEN):
    config = folder.read_config(path, "image_encoder")
    return config, folder.read_part(path, "image_encoder", config, dtype=np.float32)


def test_tokens_equal_published():
    """Published denoisers were trained on just these numbers: other tokens are another picture."""
    config, params = golden()
    with np.load(GOLDEN / "arrays.npz") as arrays:
        pictures, expected = jnp.asarray(arrays["pictures"]), arrays["tokens"]
    np.testing.assert_allclose(encode(config, params, pictures), expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_either_spelling_of_the_names(tmp_path):
    """Published files and newer libraries differ in a prefix."""
    shutil.copytree(GOLDEN, tmp_path / "copy")
    file = tmp_path / "copy" / "image_encoder" / "model.safetensors"
    tensors = load_file(file)
    short = {name.removeprefix("vision_model."): x for name, x in tensors.items()}
    other = short if short.keys() != tensors.keys() else {f"vision_model.{name}": x for name, x in tensors.items()}
    save_file(other, file)
    jax.tree.map(np.testing.assert_array_equal, golden(tmp_path / "copy")[1], golden()[1])
