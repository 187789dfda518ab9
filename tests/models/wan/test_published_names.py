"""Every published tensor against the PyTorch modules, which are built without memory: names and shapes."""

import dataclasses
import functools
from typing import Any

import pytest

from vidjax.errors import InputError
from vidjax.models.wan.presets import PRESETS
from vidjax.models.wan.weights import published_shapes

PARTS = [
    (preset, part)
    for preset, config in PRESETS.items()
    for part in ("transformer", "transformer_2", "vae", "text_encoder", "image_encoder")
    if (part != "transformer_2" or config.boundary_ratio) and (part != "image_encoder" or config.image_encoder)
]


@functools.cache
def expected(part: str, config: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the PyTorch module of a part; many presets share one."""
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
    with torch.device("meta"):
        match part:
            case "vae":
                module = AutoencoderKLWan(**fields)
            case "text_encoder":
                module = UMT5EncoderModel(UMT5Config(**fields))
            case "image_encoder":
                module = CLIPVisionModel(CLIPVisionConfig(**fields))
            case _:
                module = WanTransformer3DModel(**fields)
    shapes = {name: tuple(x.shape) for name, x in module.state_dict().items()}
    if part == "image_encoder":  # the module has dropped the prefix that the published files have
        return {"vision_model." + name.removeprefix("vision_model."): shape for name, shape in shapes.items()}
    return shapes


@pytest.mark.parity
@pytest.mark.parametrize(("preset", "part"), PARTS)
def test_tensors(preset, part):
    """A name or a shape that differs, and published weights do not load, or exported ones not elsewhere."""
    kind = "transformer" if part == "transformer_2" else part
    assert published_shapes(preset, part) == expected(kind, PRESETS[preset].part(part))


@pytest.mark.parametrize("preset", PRESETS)
def test_second_denoiser(preset):
    """The models with two experts have the same tensors twice; the others are told what they have."""
    if PRESETS[preset].boundary_ratio:
        assert published_shapes(preset, "transformer_2") == published_shapes(preset, "transformer")
        return
    with pytest.raises(InputError, match="no part 'transformer_2'; it has transformer, vae"):
        published_shapes(preset, "transformer_2")


def test_unknown_preset():
    with pytest.raises(InputError, match=r"no preset 'wan3'; there are wan2.1-t2v-1.3b"):
        published_shapes("wan3", "vae")
