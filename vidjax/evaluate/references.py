"""Whether the subject of a clip is the one that a picture shows, where the prompt does not tell who it is."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from vidjax.data.shapes import Scene, caption, held_out_scene, portrait
from vidjax.model import Model
from vidjax.request import Request, make_request

JUDGED = ("colour", "shape")
"""What the picture alone tells."""


def reference_scenes(seed: int, count: int) -> list[Scene]:
    """The first held-out scenes of one subject."""
    scenes = (held_out_scene(seed, index) for index in itertools.count())
    return list(itertools.islice((scene for scene in scenes if len(scene.subjects) == 1), count))


def reference_request(
    model: Model, scene: Scene, seed: int, size: tuple[int, int], settings: Mapping[str, Any]
) -> Request:
    """A clip of a scene, from a portrait of its subject, of this height and width, and a prompt without it."""
    rng = np.random.default_rng(seed)
    picture = portrait(scene.subjects[0], *size, rng)
    return make_request(model, caption(scene, rng, ("subject",)), references=[picture], seed=seed, **settings)
