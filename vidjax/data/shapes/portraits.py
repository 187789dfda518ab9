"""Portraits of subjects of the shapes world: one alone on a plain light ground, in the plain style."""

import dataclasses

import numpy as np

from vidjax.data.shapes.render import Motion, draw_subject
from vidjax.data.shapes.scene import COLOURS, SHAPES, Scene, Subject
from vidjax.errors import InputError
from vidjax.typing import UInt8

RADII = (10.0, 17.0)
SHIFT = 4.5
TURN = 0.6
"""Two portraits of a subject differ in these: smallest and largest radius, most shift, in 1/64 of the shorter side;
and by how far it is turned to either side, in radians. What they have in common is who it is."""

LIGHT = (225.0, 255.0)
"""Of the ground, in each channel."""


def portrait(subject: Subject, height: int, width: int, rng: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """A picture of the subject's colour and shape; what else there is to it is `rng`'s choice, its size too.

    Raises `InputError` for a size below 1.
    """
    if min(height, width) < 1:
        raise InputError(f"cannot render a portrait of {height}x{width}; each must be at least 1")
    motion = Motion(
        camera=np.zeros((1, 2)),
        zoom=np.ones(1),
        position=rng.uniform(-SHIFT, SHIFT, (1, 1, 2)),
        radius=rng.uniform(*RADII, (1, 1)),
        angle=rng.uniform(-TURN, TURN, 1),
    )
    frame = np.empty((1, height, width, 3), np.float32)
    frame[:] = rng.uniform(*LIGHT, 3)
    draw_subject(frame, Scene((subject,)), 0, motion, min(height, width) / 64)
    return (frame[0] + 0.5).clip(0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Portraits:
    """A few portraits of each subject, one after another: items with ``video``, uint8 [1, H, W, 3]."""

    height: int
    width: int
    each: int

    def __len__(self) -> int:
        return len(COLOURS) * len(SHAPES) * self.each

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"portrait {index} of {len(self)}")
        which = index // self.each
        subject = Subject(COLOURS[which // len(SHAPES)], SHAPES[which % len(SHAPES)])
        return {"video": portrait(subject, self.height, self.width, np.random.default_rng(index))[None]}

    def about(self, index: int) -> dict:
        """An item without its picture: nothing else is in it."""
        return {}

    def of(self, subject: Subject) -> range:
        """The indices of a subject's portraits, whatever its size."""
        which = COLOURS.index(subject.colour) * len(SHAPES) + SHAPES.index(subject.shape)
        return range(which * self.each, (which + 1) * self.each)
