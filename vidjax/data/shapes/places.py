"""The places of the shapes world: flat colours and a few large landmarks, drawn once into a map.

Lengths are in scene units, y points down and 0 is the middle of the view. The world repeats every `PERIOD` units
along x, so that a camera can pan for ever.
"""

from functools import lru_cache

import numpy as np

from vidjax.data.shapes.scene import COLOURS
from vidjax.typing import Float, UInt8

PERIOD = 128.0
_HORIZON = 3.0

RGB = dict(
    zip(
        COLOURS,
        ((228, 26, 36), (255, 136, 0), (255, 228, 30), (0, 140, 62), (32, 66, 228), (132, 38, 180), (255, 100, 190)),
        strict=True,
    )
)
"""The subjects' colours, before the style's grade."""

# Each landmark is (kind, x, y, half width, half height, colour); those before 'ground' stand behind it. A cone's
# (x, y) is the middle of its base and it is two half heights tall.
_SIDE_VIEW = {
    "grass": (
        ("sky", (198, 228, 246)),
        ("ellipse", -20, -22, 15, 5, (255, 255, 255)),
        ("ellipse", 44, -30, 13, 5, (255, 255, 255)),
        ("ellipse", -30, 8, 30, 18, (120, 176, 104)),
        ("ellipse", 58, 8, 24, 12, (120, 176, 104)),
        ("ground", (172, 212, 118)),
        ("box", 22, 4, 2, 8, (120, 84, 56)),
        ("disc", 22, -9, 10, 10, (58, 112, 66)),
        ("box", -56, 8, 2, 9, (120, 84, 56)),
        ("disc", -56, -6, 12, 12, (58, 112, 66)),
        ("ellipse", -12, 24, 14, 5, (150, 205, 232)),
        ("ellipse", 40, 34, 14, 5, (226, 206, 150)),
    ),
    "desert": (
        ("sky", (250, 226, 188)),
        ("disc", 20, -20, 8, 8, (255, 250, 232)),
        ("ellipse", -28, 8, 30, 13, (196, 142, 96)),
        ("ellipse", 36, 8, 28, 18, (182, 128, 88)),
        ("ground", (218, 176, 124)),
        ("box", -20, 4, 3, 13, (70, 118, 84)),
        ("box", -26, 0, 2, 5, (70, 118, 84)),
        ("box", -23, 4, 4, 2, (70, 118, 84)),
        ("box", 56, 8, 3, 12, (70, 118, 84)),
        ("box", 62, 4, 2, 5, (70, 118, 84)),
        ("box", 59, 8, 4, 2, (70, 118, 84)),
        ("ellipse", 20, 27, 16, 5, (192, 146, 100)),
        ("ellipse", -48, 33, 12, 6, (150, 116, 92)),
    ),
    "snow": (
        ("sky", (176, 202, 224)),
        ("cone", -34, 4, 26, 15, (140, 152, 178)),
        ("cone", -34, -15, 9, 5.5, (248, 250, 252)),
        ("cone", 44, 4, 22, 12, (140, 152, 178)),
        ("ground", (240, 244, 250)),
        ("cone", 20, 15, 10, 14, (52, 98, 96)),
        ("cone", -58, 17, 10, 15, (52, 98, 96)),
        ("cone", 58, 12, 8, 11, (52, 98, 96)),
        ("ellipse", -14, 25, 15, 5, (172, 208, 232)),
        ("ellipse", 38, 34, 12, 5, (206, 216, 230)),
    ),
    "night": (
        ("sky", (30, 32, 70)),
        ("disc", -18, -20, 9, 9, (236, 232, 204)),
        ("disc", 44, -30, 3, 3, (236, 232, 204)),
        ("ellipse", -44, 8, 26, 14, (22, 24, 48)),
        ("ground", (62, 66, 84)),
        ("box", 22, 3, 10, 10, (104, 84, 84)),
        ("cone", 22, -7, 13, 5, (22, 22, 34)),
        ("box", 22, 4, 4, 4, (255, 214, 112)),
        ("box", -54, 5, 8, 12, (104, 84, 84)),
        ("box", -54, 4, 3, 4, (255, 214, 112)),
        ("ellipse", -12, 25, 14, 5, (96, 102, 128)),
        ("box", 56, 20, 4, 12, (22, 22, 34)),
    ),
    "sea": (
        ("sky", (226, 238, 244)),
        ("disc", -20, -20, 8, 8, (255, 240, 190)),
        ("ellipse", 28, 4, 17, 9, (222, 196, 142)),
        ("cone", 28, -4, 9, 8, (104, 150, 106)),
        ("ellipse", -56, 4, 18, 12, (134, 138, 146)),
        ("ground", (92, 178, 200)),
        ("box", -30, 8, 10, 3, (112, 72, 52)),
        ("cone", -30, 4, 8, 9, (252, 252, 250)),
        ("ellipse", 12, 27, 16, 3, (168, 220, 228)),
        ("ellipse", -44, 34, 14, 3, (168, 220, 228)),
        ("ellipse", 54, 22, 12, 3, (168, 220, 228)),
    ),
}
_FROM_ABOVE = {
    "grass": (
        ("sky", (160, 204, 110)),
        ("box", 0, 22, 64, 5, (226, 206, 150)),
        ("disc", -22, -18, 10, 10, (58, 112, 66)),
        ("disc", 22, -22, 7, 7, (58, 112, 66)),
        ("disc", 56, -8, 12, 12, (58, 112, 66)),
        ("ellipse", -56, -4, 14, 9, (150, 205, 232)),
        ("ellipse", 14, 2, 10, 7, (150, 205, 232)),
    ),
    "desert": (
        ("sky", (218, 176, 124)),
        ("ellipse", -18, -16, 18, 9, (186, 134, 92)),
        ("ellipse", -14, -12, 15, 7, (218, 176, 124)),
        ("ellipse", 16, 20, 18, 9, (186, 134, 92)),
        ("ellipse", 20, 24, 15, 7, (218, 176, 124)),
        ("disc", 22, -18, 6, 6, (70, 118, 84)),
        ("disc", -22, 18, 5, 5, (70, 118, 84)),
        ("ellipse", 56, -2, 14, 9, (112, 178, 196)),
    ),
    "snow": (
        ("sky", (240, 244, 250)),
        ("ellipse", 14, 18, 18, 10, (164, 204, 232)),
        ("disc", -20, -18, 9, 9, (52, 98, 96)),
        ("disc", 20, -20, 7, 7, (52, 98, 96)),
        ("disc", -24, 18, 6, 6, (52, 98, 96)),
        ("disc", 56, 0, 12, 12, (140, 152, 178)),
    ),
    "night": (
        ("sky", (62, 66, 84)),
        ("box", 0, 22, 64, 5, (30, 30, 46)),
        ("box", -20, -16, 10, 9, (104, 84, 84)),
        ("box", -20, -16, 4, 4, (255, 214, 112)),
        ("box", 22, -6, 7, 10, (104, 84, 84)),
        ("box", 22, -8, 3, 3, (255, 214, 112)),
        ("disc", 0, 22, 3, 3, (236, 232, 204)),
        ("disc", 58, -10, 12, 12, (22, 24, 48)),
    ),
    "sea": (
        ("sky", (92, 178, 200)),
        ("ellipse", -18, -16, 14, 11, (222, 196, 142)),
        ("ellipse", -18, -16, 8, 6, (104, 150, 106)),
        ("ellipse", 20, 20, 6, 11, (112, 72, 52)),
        ("ellipse", 20, 18, 3, 5, (252, 252, 250)),
        ("ellipse", 20, -20, 14, 3, (168, 220, 228)),
        ("ellipse", -18, 20, 13, 3, (168, 220, 228)),
        ("disc", 58, 4, 12, 12, (222, 196, 142)),
    ),
}

# colour -> matrix @ colour + shift, on 0..1; applied to flat colours, since mixing colours commutes with it.
_LUMA = np.array([[0.299, 0.587, 0.114]] * 3)


def _saturation(amount: float) -> np.ndarray:
    return amount * np.eye(3) + (1 - amount) * _LUMA


_GRADES = {
    "plain": (np.eye(3), np.zeros(3)),
    "cinematic": (np.diag([1.0, 0.9, 0.72]), np.array([0.02, 0.0, 0.0])),
    "anime": (_saturation(1.35), np.full(3, 0.02)),
    "watercolor": (0.7 * np.eye(3), np.array([0.3, 0.29, 0.27])),
    "documentary": (0.92 * _saturation(0.6), np.full(3, 0.02)),
}
_OUTLINE = {"anime": 1.3}
_EDGE = {"watercolor": 2.4}


def grade(rgb, style: str) -> Float[np.ndarray, "3"]:
    """A colour (0..255) as the style shows it."""
    matrix, shift = _GRADES[style]
    return np.clip(matrix @ (np.asarray(rgb) / 255) + shift, 0, 1) * 255


def outline(style: str) -> float:
    """Width of the dark outline the style draws around everything, in scene units."""
    return _OUTLINE.get(style, 0.0)


def edge(style: str) -> float:
    """Width over which the style lets an edge fade, in scene units; never less than a pixel is drawn."""
    return _EDGE.get(style, 0.0)


@lru_cache(maxsize=64)
def world_map(place: str, style: str, aerial: bool, density: float, top: float) -> UInt8[np.ndarray, "Y X 3"]:
    """The place as a picture of `PERIOD` x `2 top` units, `density` texels a unit, centred on the world's origin.

    Edges are one pixel (of about two texels) wide or as wide as the style wants them. Cached: do not write into it.
    """
    columns, rows = round(PERIOD * density), round(2 * top * density)
    x = ((np.arange(columns) + 0.5) / density - PERIOD / 2)[None]
    y = ((np.arange(rows) + 0.5) / density - top)[:, None]
    canvas = np.empty((rows, columns, 3), np.float32)
    fade = max(edge(style), 2 / density)
    for kind, *numbers, colour in (_FROM_ABOVE if aerial else _SIDE_VIEW)[place]:
        if kind == "sky":
            canvas[:] = grade(colour, style)
            continue
        distance = np.broadcast_to(
            _HORIZON - y if kind == "ground" else _distance(kind, x, y, *numbers), (rows, columns)
        )
        if outline(style):
            _paint(canvas, distance - outline(style), fade, grade((24, 20, 30), style))
        _paint(canvas, distance, fade, grade(colour, style))
    canvas = (canvas + 0.5).astype(np.uint8)
    canvas.flags.writeable = False
    return canvas


def _paint(canvas, distance, fade, colour) -> None:
    cover = np.clip(0.5 - distance / fade, 0, 1).astype(np.float32)[..., None]
    canvas += cover * (colour.astype(np.float32) - canvas)


def _distance(kind: str, x, y, x0: float, y0: float, half_width: float, half_height: float):
    """Signed distance to a landmark, negative inside; for an ellipse to first order."""
    dx = np.abs((x - x0 + PERIOD / 2) % PERIOD - PERIOD / 2)
    dy = y - y0
    if kind == "box":
        return np.maximum(dx - half_width, np.abs(dy) - half_height)
    if kind == "cone":
        slope = np.hypot(half_width, 2 * half_height)
        return np.maximum((2 * half_height * (dx - half_width) - half_width * dy) / slope, dy)
    radius = np.hypot(dx / half_width, dy / half_height)
    steepness = np.hypot(dx / half_width**2, dy / half_height**2)
    return radius * (radius - 1) / np.maximum(steepness, 1e-6)
