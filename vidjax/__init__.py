"""Text to video and image to video in JAX. ``import vidjax`` is cheap: what a name needs is loaded when it is used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidjax.conditioning.camera import Camera
    from vidjax.conditioning.poses import Poses
    from vidjax.generation import generate, stream
    from vidjax.model import Model, load
    from vidjax.sampler import make_sampler
    from vidjax.training import train
    from vidjax.video import Video

__version__ = "0.1.0"

_HOME = {
    "Camera": "vidjax.conditioning.camera",
    "Model": "vidjax.model",
    "Poses": "vidjax.conditioning.poses",
    "Video": "vidjax.video",
    "generate": "vidjax.generation",
    "load": "vidjax.model",
    "make_sampler": "vidjax.sampler",
    "stream": "vidjax.generation",
    "train": "vidjax.training",
}

__all__ = ["Camera", "Model", "Poses", "Video", "generate", "load", "make_sampler", "stream", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vidjax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
