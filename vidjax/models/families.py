"""The model families: what a published folder's pipeline name stands for."""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from vidjax.models import clip, t5, upsampler
from vidjax.models.wan import camera_adapter, causal, denoiser, sharding, vae
from vidjax.models.wan.image_channels import image_channels
from vidjax.typing import Array


class Family(NamedTuple):
    """The modules of a family's parts, how its denoisers see pictures, and the sharding rules of each part.

    ``causal`` runs the denoiser frame by frame.
    """

    text_encoder: ModuleType
    image_encoder: ModuleType
    denoiser: ModuleType
    causal: ModuleType
    camera_adapter: ModuleType
    vae: ModuleType
    upsampler: ModuleType
    image_channels: Callable[..., Array]
    rules: dict[str, tuple]


WAN = Family(
    text_encoder=t5,
    image_encoder=clip,
    denoiser=denoiser,
    causal=causal,
    camera_adapter=camera_adapter,
    vae=vae,
    upsampler=upsampler,
    image_channels=image_channels,
    rules={
        "transformer": sharding.DENOISER_RULES,
        "transformer_2": sharding.DENOISER_RULES,
        "text_encoder": sharding.TEXT_ENCODER_RULES,
        "image_encoder": sharding.IMAGE_ENCODER_RULES,
        "vae": sharding.VAE_RULES,
        "upsampler": sharding.UPSAMPLER_RULES,
        "camera_adapter": sharding.CAMERA_ADAPTER_RULES,
    },
)

FAMILIES = {"WanPipeline": WAN, "WanImageToVideoPipeline": WAN}
