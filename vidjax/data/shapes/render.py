"""Draws scenes of the shapes world: the camera's view of the place, the subjects, the style.

Everything is a function of the scene and the size asked for. Subjects are drawn from signed distances, so edges
are smooth at every size; the place is cut row by row and column by column out of a map that is drawn once.
"""

from dataclasses import dataclass

import numpy as np

from vidjax.data.shapes.outlines import MARK_RADIUS, MARK_Y, REACH, shape_distance
from vidjax.data.shapes.places import PERIOD, RGB, edge, grade, outline, world_map
from vidjax.data.shapes.scene import DRIFTS, Scene
from vidjax.errors import InputError
from vidjax.typing import Float, UInt8

REFERENCE_FRAMES = 17
"""A clip of this many frames shows an action once; shorter ones show it faster, longer ones go on."""

RADII = {"small": 9.0, "large": 14.0}
LANE = 16.0
"""Two subjects keep this far from the middle, above and below or side by side, and are a little smaller."""
PAIR = 0.9

PAN = 28.0
ZOOM = 1.8
GROWTH = 2.2
BOUNCE = 28.0
_DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}


@dataclass(frozen=True)
class Motion:
    """Camera and subjects over time, in scene units; the subjects' positions are relative to the view's middle."""

    camera: Float[np.ndarray, "F 2"]
    zoom: Float[np.ndarray, "F"]
    position: Float[np.ndarray, "S F 2"]
    radius: Float[np.ndarray, "S F"]
    angle: Float[np.ndarray, "F"]


def render(scene: Scene, num_frames: int, height: int, width: int) -> UInt8[np.ndarray, "F H W 3"]:
    """The clip of a scene: 0..255, any size and length; 17 frames are two seconds. Without subjects, the place alone.

    Raises `InputError` for a length or size below 1.
    """
    if min(num_frames, height, width) < 1:
        raise InputError(f"cannot render {num_frames} frames of {height}x{width}; each must be at least 1")
    scale = min(height, width) / 64
    motion = animate(scene, num_frames, height / scale, width / scale)
    frames = _view(scene, motion, height, width, scale)
    for i in reversed(range(len(scene.subjects))):
        draw_subject(frames, scene, i, motion, scale)
    if scene.style in ("cinematic", "documentary"):
        frames *= _lens(scene.style, height, width)
    frames += 0.5
    return frames.astype(np.uint8)


def animate(scene: Scene, num_frames: int, height: float, width: float) -> Motion:
    """Where the camera and the subjects are in every frame; `height` and `width` of the view in scene units.

    What cannot go on for ever (growing, zooming, going up or down a world that ends) takes the whole clip; what can
    (moving across the view and in again, panning, bouncing, spinning) keeps its pace in clips of more than 17 frames.
    """
    whole = np.linspace(0.0, 1.0, num_frames) if num_frames > 1 else np.zeros(1)
    time = whole * max(1.0, (num_frames - 1) / (REFERENCE_FRAMES - 1))
    count = len(scene.subjects)
    verb, _, way = scene.action.partition(" ")
    shot, _, turn = scene.camera.partition(" ")

    radius = np.array([RADII[subject.size] for subject in scene.subjects])[:, None] * np.ones(num_frames)
    if count == 2:
        radius *= PAIR
    if verb in ("grows", "shrinks"):
        largest = 1.42 if count == 1 else 1.1
        grown = whole if verb == "grows" else 1 - whole
        radius = radius * largest * GROWTH ** (grown - 1)

    zoom = np.ones(num_frames)
    if scene.drift is not None:
        shot, rate = "drifts", scene.drift[2]
        zoom = 2.0 ** (rate * (whole - (0.6 if rate > 0 else 0.4)))
    elif shot == "zooms":
        zoom = ZOOM ** (0.4 - whole if turn == "out" else whole - 0.6)
    radius = radius * zoom

    side_by_side = way not in ("left", "right")
    lanes = np.array([0.0] if count == 1 else [-LANE, LANE][:count])[:, None, None]
    home = np.array([scene.x, scene.y]) + lanes * (np.array([1.0, 0.0]) if side_by_side else np.array([0.0, 1.0]))
    position = home * zoom[:, None]

    camera = np.tile([scene.world_x, 0.0], (num_frames, 1))
    if verb == "moves":
        direction = np.array(_DIRECTIONS[way])
        if shot == "tracking":
            progress = whole if way in ("up", "down") else time
            camera = camera + direction * (scene.travel * (progress - 0.5))[:, None]
        else:
            path = position + direction * (scene.travel * (time - 0.5))[:, None]
            beyond = np.array([width, height]) + 2 * radius[..., None] + 2
            position = np.where(direction != 0, (path + beyond / 2) % beyond - beyond / 2, path)
    elif verb == "bounces":
        hop = (2 * time) % 1
        position = position + np.stack([0 * hop, BOUNCE * (0.5 - 4 * hop * (1 - hop))], axis=-1)
    if shot == "pans":
        camera = camera + np.array(_DIRECTIONS[turn]) * (PAN * time)[:, None]
    elif shot == "tilts":
        camera = camera + np.array(_DIRECTIONS[turn]) * (PAN * (whole - 0.5))[:, None]
    elif shot == "drifts":
        camera = camera + np.stack([scene.drift[0] * time, scene.drift[1] * (whole - 0.5)], axis=-1)

    angle = scene.angle + (2 * np.pi * time if verb == "spins" else 0 * time)
    return Motion(camera, zoom, position, radius, angle)


def _view(scene: Scene, motion: Motion, height: int, width: int, scale: float) -> Float[np.ndarray, "F H W 3"]:
    """What the camera sees of the place, before the subjects are there."""
    density = scale * (2 if scale <= 2 else 1)
    # A named camera tilts or zooms, another may do both.
    beyond = 0.0 if scene.drift is None else DRIFTS[1] / 2
    top = float(np.ceil(height / scale / 2 * ZOOM**0.6 + 2 + beyond))
    place = world_map(scene.place, scene.style, scene.camera == "aerial", density, top)
    scales = (scale * motion.zoom)[:, None]
    columns = ((np.arange(width) + 0.5 - width / 2) / scales + motion.camera[:, :1] + PERIOD / 2) * density
    rows = ((np.arange(height) + 0.5 - height / 2) / scales + motion.camera[:, 1:] + top) * density
    frames = np.empty((len(scales), height, width, 3), np.float32)
    # The axis along which the camera rests longest goes first: what is cut along it serves the next frames too.
    passes = [(rows, 0, "clip"), (columns, 1, "wrap")]
    if np.array_equal(columns[0], columns[-1]):
        passes.reverse()
    (first, first_axis, first_mode), (second, second_axis, second_mode) = passes
    for f, frame in enumerate(frames):
        resting = f > 0 and np.array_equal(first[f], first[f - 1])
        if resting and np.array_equal(second[f], second[f - 1]):
            frame[:] = frames[f - 1]
            continue
        if not resting:
            cut = _resample(place, first[f], first_axis, first_mode)
        frame[:] = _resample(cut, second[f], second_axis, second_mode)
    return frames


def _resample(picture: np.ndarray, at: np.ndarray, axis: int, mode: str) -> np.ndarray:
    """Linear interpolation along an axis; texel i has its middle at i + 1/2."""
    before = np.floor(at - 0.5).astype(np.int64)
    weight = (at - 0.5 - before).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
    low, high = (picture.take(before + i, axis, mode=mode).astype(np.float32, copy=False) for i in (0, 1))
    high -= low
    high *= weight
    high += low
    return high


def draw_subject(frames: np.ndarray, scene: Scene, index: int, motion: Motion, scale: float) -> None:
    """Paints one subject into every frame: its outline if the style has one, its colour, its dark mark."""
    subject, style = scene.subjects[index], scene.style
    num_frames, height, width, _ = frames.shape
    radius = (motion.radius[index] * scale).astype(np.float32)
    centre = motion.position[index] * scale + [width / 2, height / 2]
    rim, fade = outline(style) * scale, max(1.0, edge(style) * scale)
    reach = int(np.ceil(radius.max() * REACH[subject.shape] + rim + fade)) + 1
    corner = np.floor(centre).astype(np.int64) - reach
    offset = np.arange(2 * reach + 1)[None] + 0.5
    x, y = ((offset + (corner - centre)[:, i, None]).astype(np.float32) for i in (0, 1))
    x, y = x[:, None, :], y[:, :, None]
    cos, sin = (f(motion.angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    unit = radius[:, None, None]
    u, v = (cos * x + sin * y) / unit, (cos * y - sin * x) / unit
    distance = shape_distance(subject.shape, u, v) * unit
    mark = np.maximum((np.hypot(u, v - MARK_Y[subject.shape]) - MARK_RADIUS) * unit, distance)
    colour = np.array(RGB[subject.colour])
    layers = [(distance - rim, (24, 20, 30))] if rim else []
    layers += [(distance, colour), (mark, 0.4 * colour)]
    layers = [(np.clip(0.5 - d / fade, 0, 1)[..., None], grade(c, style).astype(np.float32)) for d, c in layers]
    for f in range(num_frames):
        (left, top), size = corner[f], 2 * reach + 1
        rows = slice(max(top, 0), max(min(top + size, height), 0))
        columns = slice(max(left, 0), max(min(left + size, width), 0))
        canvas = frames[f, rows, columns]
        inside = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        for cover, paint in layers:
            canvas += cover[f][inside] * (paint - canvas)


def _lens(style: str, height: int, width: int) -> Float[np.ndarray, "H W 1"]:
    """What the style takes off the light: darker corners, black bars."""
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1)[None]
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height * 2 - 1)[:, None]
    light = 1 - (0.18 if style == "cinematic" else 0.24) * (x * x + y * y)
    if style == "cinematic":
        light[np.broadcast_to(np.abs(y) > 0.8, light.shape)] = 0.0
    return light[..., None]
