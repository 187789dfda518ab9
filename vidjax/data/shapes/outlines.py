"""The outlines of the subjects, as signed distances."""

import numpy as np

MARK_RADIUS = 0.3
MARK_Y = {"circle": -0.5, "square": -0.45, "triangle": 0.3, "star": -0.4, "heart": 0.3}
"""A dark spot on every subject, off its middle, shows that it spins; in units of the subject's radius."""

REACH = {"circle": 1.0, "square": 1.25, "triangle": 1.6, "star": 1.5, "heart": 1.3}
"""How far a shape reaches from its middle; the shapes have about the same area."""


def shape_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to a shape of radius about 1 around (0, 0), negative inside; y points down.

    Exact along the edges and inside; beyond a corner it is the distance to the nearer edge's line, which keeps
    corners sharp.
    """
    if shape == "circle":
        return np.hypot(x, y) - 1
    x = np.abs(x)
    if shape == "square":
        return np.maximum(x, np.abs(y)) - 0.88
    if shape == "triangle":
        y = y - 0.25
        return np.maximum(y, _COS[60] * -y + _COS[30] * x) - 0.725
    if shape == "star":
        return _star_distance(x, y - 0.08)
    y = y - 0.08
    return np.minimum((x + np.abs(y) - 0.96) * _COS[45], np.hypot(x - 0.48, y + 0.48) - 0.679)


_COS = {degrees: float(np.cos(np.radians(degrees))) for degrees in (30, 36, 45, 54, 60)}
_TIP, _NOTCH = 1.42, 0.68


def _star_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A five-pointed star, given x >= 0: two reflections bring every point next to the upper tip's right edge."""
    normal_x, normal_y = _COS[36], _COS[54]
    for side in (1, -1):
        beyond = 2 * np.maximum(side * normal_x * x + normal_y * y, 0)
        x = x - side * normal_x * beyond
        y = y - normal_y * beyond
    edge_x, edge_y = _NOTCH * normal_y, _TIP - _NOTCH * normal_x
    return (edge_y * np.abs(x) + edge_x * (-y - _TIP)) / float(np.hypot(edge_x, edge_y))
