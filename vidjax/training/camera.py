"""Training with the camera's rays: of scenes whose camera is known, shown in a share of the samples.

A row of a batch has the poses of its frames, which are small; the rays are made of them in the step.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from vidjax.conditioning.rays import RAY, frames_of_latents, make_rays, pack
from vidjax.data.shapes import camera_path
from vidjax.data.source import DataConfig, SceneData
from vidjax.errors import InputError
from vidjax.models.wan import camera_adapter
from vidjax.models.wan.camera_adapter import CameraAdapterConfig
from vidjax.models.wan.denoiser import DenoiserConfig
from vidjax.models.wan.sharding import CAMERA_ADAPTER_RULES
from vidjax.parallel.rules import Rules
from vidjax.typing import Array, Float, Params

PART = "camera_adapter"

FRAMES = 4
"""Frames of a latent frame."""

RULES: Rules = tuple((f"^{PART}/.*{rule}", spec) for rule, spec in CAMERA_ADAPTER_RULES)


@dataclasses.dataclass(frozen=True)
class CameraTraining:
    """A camera adapter is trained with the denoiser.

    Args:
      share: of samples that are shown rays; those of clips whose cameras drift always are. Guidance compares with a
        clip without rays, which is learned from the others.
      untold: how often the caption of one that is says nothing of the camera.
      downscale_factor: rays along each side of a latent, see ``CameraAdapterConfig``.
      num_residual_blocks: see there, too; 0 of a small model.
    """

    share: float = 0.7
    untold: float = 0.5
    downscale_factor: int = 8
    num_residual_blocks: int = 1

    def adapter(self, model: DenoiserConfig) -> CameraAdapterConfig:
        """The configuration of the adapter of a denoiser."""
        size = (RAY * FRAMES, model.dim, model.patch_size[1:])
        return CameraAdapterConfig(*size, self.downscale_factor, self.num_residual_blocks)


def check_camera(camera: CameraTraining | None, data: DataConfig, temporal_factor: int) -> None:
    """See that the cameras of the clips are known.

    Raises:
      InputError: they are not, or a share lies outside of 0 to 1.
    """
    if camera is None:
        return
    if not isinstance(data, SceneData):
        raise InputError(f"camera: the cameras of a {type(data).__name__} are not known; train on ClipData")
    if temporal_factor != FRAMES:
        raise InputError(f"camera: this autoencoder makes one latent frame of {temporal_factor}, not of {FRAMES}")
    if camera.num_residual_blocks < 0:
        raise InputError(f"camera.num_residual_blocks={camera.num_residual_blocks}: must be at least 0")
    for name in ("share", "untold"):
        if not 0 <= getattr(camera, name) <= 1:
            raise InputError(f"camera.{name}={getattr(camera, name)}: must lie between 0 and 1")


class Showing(NamedTuple):
    """Whether a sample is shown rays, and what its caption does not tell then."""

    rays: bool
    show: tuple[str, ...]


def draw(camera: CameraTraining | None, data: DataConfig, example: dict[str, Any], rng: np.random.Generator) -> Showing:
    """What is shown of an example; nothing is drawn without a ``camera``."""
    if camera is None:
        return Showing(False, ())
    rays = data.scene(example).drift is not None or rng.random() < camera.share
    return Showing(rays, ("camera",) if rays and rng.random() < camera.untold else ())


def pose_row(
    data: SceneData, example: dict[str, Any], start: int, count: int, shown: Showing, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The poses of the frames of ``count`` latent frames of a clip from ``start`` on, relative to the first of these.

    How a flat world is told in space, by turning or moving, by focal length or nearness, is drawn.
    """
    latents, height, width = example["latents"].shape[:3]
    moves, nears = rng.random(2) < 0.5
    which = frames_of_latents(start, count, FRAMES)
    frames = 1 + FRAMES * (latents - 1)
    path = camera_path(data.scene(example), frames, height, width, which, bool(moves), bool(nears))
    return {**path._asdict(), "rays_known": np.bool_(shown.rays)}


def added_tokens(
    config: CameraAdapterConfig, params: Params, batch: dict[str, Array], dtype: Any
) -> Float[Array, "B f s D"] | None:
    """What is added to the tokens of a batch whose rows have poses; nothing where rays are not known."""
    if "rays_known" not in batch:
        return None
    height, width = (config.downscale_factor * n for n in batch["latents"].shape[2:4])
    rays = pack(make_rays(batch["camera_to_world"], batch["intrinsics"], height, width), FRAMES)
    known = batch["rays_known"][:, None, None, None]
    return camera_adapter.apply(config, params[PART], rays, dtype) * known.astype(dtype)
