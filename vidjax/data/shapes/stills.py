"""Stills of the shapes world: what a style looks like, whatever is to be seen in it."""

import dataclasses
import functools

from vidjax.data.shapes.render import render
from vidjax.data.shapes.scene import STYLES, Scene, training_scene

SEED = 2**31
"""Of the scenes: none of them is a clip's."""


@dataclasses.dataclass(frozen=True)
class Stills:
    """First frames of training scenes, of each style as many: items with ``video``, uint8 [1, H, W, 3]."""

    height: int
    width: int
    each: int = 192

    def __len__(self) -> int:
        return len(STYLES) * self.each

    def __getitem__(self, index: int) -> dict:
        return {"video": render(_scenes(self.each)[index], 1, self.height, self.width)}

    def about(self, index: int) -> dict:
        """An item without its picture: nothing else is in it."""
        return {}

    def like(self, scene: Scene) -> list[int]:
        """The indices of stills in the style of a scene, of other places and of subjects of other colours."""

        def other(still: Scene) -> bool:
            colours = ({subject.colour for subject in each.subjects} for each in (still, scene))
            return still.style == scene.style and still.place != scene.place and set.isdisjoint(*colours)

        return [index for index, still in enumerate(_scenes(self.each)) if other(still)]


@functools.cache
def _scenes(each: int) -> tuple[Scene, ...]:
    found, index = {style: [] for style in STYLES}, 0
    while any(len(scenes) < each for scenes in found.values()):
        scene = training_scene(SEED, index)
        if len(found[scene.style]) < each:
            found[scene.style].append(scene)
        index += 1
    return tuple(scene for scenes in found.values() for scene in scenes)
