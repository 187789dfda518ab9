"""Whether the camera does what its rays say: clips of prompts that tell nothing of it."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vidjax.conditioning.camera import Camera, parse
from vidjax.data.shapes import Scene, actions_with, caption, held_out_scene, render
from vidjax.evaluate.detect import cells, nearest
from vidjax.evaluate.signals import Clip
from vidjax.typing import Float

Ways = tuple[int, int, int]
"""Of the view: to the left or right (-1, 1), up or down, away or nearer; 0 where it rests."""

SINGLE: dict[str, Ways] = {
    "pan left": (-1, 0, 0),
    "pan right": (1, 0, 0),
    "tilt up": (0, -1, 0),
    "tilt down": (0, 1, 0),
    "zoom in": (0, 0, 1),
    "zoom out": (0, 0, -1),
    "truck left": (-1, 0, 0),
    "truck right": (1, 0, 0),
    "dolly in": (0, 0, 1),
    "dolly out": (0, 0, -1),
}
COMBINED: dict[str, Ways] = {
    "pan left + zoom in": (-1, 0, 1),
    "pan left + zoom out": (-1, 0, -1),
    "pan right + zoom in": (1, 0, 1),
    "pan right + zoom out": (1, 0, -1),
}
CLIPS = 60
"""Of each kind, at most."""

STEP = 28.0, 28.0, 0.85
"""How far the view goes in the renderings that clips are compared with, as movements at speed 1 go in two seconds."""

STARTS = (-4.0, 0.0, 4.0)


class Asked(NamedTuple):
    """A clip: what is to be seen, in words that say nothing of the camera, and what that does."""

    scene: Scene
    prompt: str
    camera: Camera
    ways: Ways

    def rendered(self, num_frames: int, height: int, width: int) -> Clip:
        """As it should be."""
        return render(_moved(self.scene, self.ways), num_frames, height, width)


def asked(kind: Mapping[str, Ways], seed: int, count: int) -> list[Asked]:
    """Held-out scenes whose subjects do nothing that looks like the camera's doing."""
    allowed = set(actions_with("pans left")) & set(actions_with("zooms in"))
    found, index = [], 0
    while len(found) < count:
        scene = dataclasses.replace(held_out_scene(seed, index), camera="static")
        if scene.action in allowed:
            name = list(kind)[len(found) % len(kind)]
            words = caption(scene, np.random.default_rng((seed, index)), ("camera",))
            found.append(Asked(scene, words, parse(name), kind[name]))
        index += 1
    return found


def right(clips: Sequence[Clip], wanted: Sequence[Asked]) -> list[bool]:
    """Whether each clip shows what its camera was to do, and nothing else."""
    return [ways_of(clip, one.scene) == one.ways for clip, one in zip(clips, wanted, strict=True)]


def ways_of(clip: Clip, scene: Scene) -> Ways:
    """The ways of the camera in whose rendering of the scene's place and style the fewest cells differ."""
    ways, bank = _bank(scene.place, scene.style, *clip.shape[:3])
    return ways[nearest(cells(clip), bank)]


@functools.lru_cache(maxsize=32)
def _bank(place: str, style: str, F: int, H: int, W: int) -> tuple[list[Ways], list[Float[np.ndarray, "F h w 3"]]]:
    all_ways = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]
    candidates = [(ways, start) for ways in all_ways for start in STARTS]
    empty = [Scene((), place=place, style=style, world_x=start) for _, start in candidates]
    ways = [ways for ways, _ in candidates]
    return ways, [cells(render(_moved(scene, way), F, H, W)) for scene, way in zip(empty, ways, strict=True)]


def _moved(scene: Scene, ways: Ways) -> Scene:
    x, y, zoom = (way * step for way, step in zip(ways, STEP, strict=True))
    return dataclasses.replace(scene, drift=(x, y, zoom))


def requests_of(wanted: Sequence[Asked], seed: int, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The arguments of ``make_request`` of each clip."""
    return [{"prompt": one.prompt, "camera": one.camera, "seed": seed + i, **settings} for i, one in enumerate(wanted)]
