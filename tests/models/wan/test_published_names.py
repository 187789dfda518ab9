"""Every published tensor against the PyTorch modules, which are built without memory: names and shapes."""

import dataclasses
import functools
from typing import Any

import pytest

from vidjax.models.wan.presets import PRESETS
from vidjax.models.wan.weights import published_shapes

pytestmark = pytest.mark.parity

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


@pytest.mark.parametrize(("preset", "part"), PARTS)
def test_tensors(preset, part):
    """A name or a shape that differs, and published weights do not load, or exported ones not elsewhere."""
    kind = "transformer" if part == "transformer_2" else part
    assert published_shapes(preset, part) == expected(kind, PRESETS[preset].part(part))
