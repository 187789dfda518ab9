"""A rendered world with captions: coloured shapes that act in simple places under a moving camera."""

from vidjax.data.shapes.captions import caption, parse, vocabulary
from vidjax.data.shapes.geometry import camera_path
from vidjax.data.shapes.portraits import portrait
from vidjax.data.shapes.render import render
from vidjax.data.shapes.scene import (
    ACTIONS,
    CAMERAS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    STYLES,
    Scene,
    Subject,
    actions_with,
    drifting_scene,
    factors,
    held_out,
    held_out_scene,
    pictured_scene,
    sample_scene,
    scene_from_json,
    scene_to_json,
    training_scene,
)

__all__ = [
    "ACTIONS",
    "CAMERAS",
    "COLOURS",
    "PLACES",
    "SHAPES",
    "SIZES",
    "STYLES",
    "Scene",
    "Subject",
    "actions_with",
    "camera_path",
    "caption",
    "drifting_scene",
    "factors",
    "held_out",
    "held_out_scene",
    "parse",
    "pictured_scene",
    "portrait",
    "render",
    "sample_scene",
    "scene_from_json",
    "scene_to_json",
    "training_scene",
    "vocabulary",
]
