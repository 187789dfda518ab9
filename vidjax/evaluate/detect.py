"""What is to be seen in a clip of the shapes world, told from its pixels alone.

The world is known, so a clip is compared with renderings of what it could show: first the place, the style and the
camera, without subjects; then, from what differs from that, the colours; then the way, the size and the shape of the
subject. Lengths are in scene units: 1/64 of the shorter side.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from vidjax.data.shapes import (
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
    render,
)
from vidjax.data.shapes.places import RGB, grade
from vidjax.data.shapes.render import animate
from vidjax.typing import Bool, Float, UInt8

CELL = 4
"""The background is compared in cells of so many pixels: details and small shifts do not count."""
DIFFERENT = 48.0
"""Mean difference of a cell's colours, of 255, beyond which it is simply different: a subject stands there."""
SHIFTS = (-4.0, -2.0, 0.0, 2.0, 4.0)
NEAR = 90.0
"""Distance in RGB within which a pixel can be of a subject's colour."""
FEW = 12
"""Pixels; a smaller patch of a subject's colour is none."""
SMALLER = 0.25
"""Share of the largest subject's pixels that the smaller of two has at least."""
STILL = 0.1
"""Share of a subject's pixels that change in a frame, beyond which one that stays where it is spins."""
IN_PLACE = ("spins", "stays still")
BLURS = (0.0, 1.0, 2.0)
"""How soft a shape may be, sigma of a Gaussian: worn points and corners are those of a star and a square still."""


class Seen(NamedTuple):
    """The words that fit a clip best. ``colours``: of all subjects, the largest first; ``shapes``: those of the first
    two, in that order; action and size are the largest's."""

    place: str
    style: str
    camera: str
    colours: tuple[str, ...]
    action: str
    size: str
    shapes: tuple[str, ...]


class Background(NamedTuple):
    """A place in a style under a camera movement; a tracking shot goes the way of its subject."""

    place: str
    style: str
    camera: str
    way: str


class Acting(NamedTuple):
    """What a subject does, its size, how far it is from where it would stand, and which of the scene's it is."""

    action: str
    size: str
    home: tuple[float, float]
    lane: int


class Track(NamedTuple):
    """A subject over the frames in which it is seen: middle [n, 2] from the view's, radius [n], and which frames."""

    middle: Float[np.ndarray, "n 2"]
    radius: Float[np.ndarray, "n"]
    frames: Bool[np.ndarray, "F"]


def detect(frames: UInt8[np.ndarray, "F H W 3"]) -> Seen:
    """The best fitting words of each kind. The clip shows an action once: 17 frames, or as a model of another
    length was trained."""
    F, H, W, _ = frames.shape
    background = find_background(frames)
    empty = _empty(frames, background)
    masks = colour_masks(frames, empty, background.style)
    areas = {colour: mask.sum() for colour, mask in masks.items()}
    # Less than a small one beside a large one is the edge of a landmark.
    least = max(FEW * F / 4, SMALLER * max(areas.values()))
    colours = tuple(sorted((c for c in COLOURS if areas[c] >= least), key=lambda c: -areas[c]))
    shown = colours[:2] or (max(areas, key=areas.get),)
    acting = [find_action(track(masks[c]), masks[c], background, H, W, len(shown)) for c in shown]
    shapes = [
        find_shape(masks[c], (c, *(other for other in shown if other != c)), a, background)
        for c, a in zip(shown, acting, strict=True)
    ]
    names = background.place, background.style, background.camera
    return Seen(*names, colours, acting[0].action, acting[0].size, tuple(shapes))


def find_background(frames: UInt8[np.ndarray, "F H W 3"]) -> Background:
    """The rendering without subjects from which the fewest cells differ, and those the least."""
    names, bank = _bank(*frames.shape[:3])
    return names[nearest(cells(frames), bank)]


def colour_masks(
    frames: UInt8[np.ndarray, "F H W 3"], empty: UInt8[np.ndarray, "F H W 3"], style: str
) -> dict[str, Bool[np.ndarray, "F H W"]]:
    """By colour, the pixels that are nearer to it than to any other's and to what stands there without subjects."""
    pixels = frames.astype(np.float32)
    distances = np.stack([np.square(pixels - grade(RGB[c], style).astype(np.float32)).sum(-1) for c in COLOURS])
    away = np.square(pixels - empty).sum(-1)
    nearest, least = distances.argmin(0), distances.min(0)
    near = (least < NEAR**2) & (least < away)
    return {colour: near & (nearest == i) for i, colour in enumerate(COLOURS)}


def track(mask: Bool[np.ndarray, "F H W"]) -> Track:
    """Middle and radius of what the mask shows, frame by frame."""
    H, W = mask.shape[1:]
    scale = min(H, W) / 64
    area = mask.sum((1, 2))
    seen = area >= FEW * scale**2
    weights = mask[seen] / np.maximum(area[seen], 1)[:, None, None]
    x = (weights * (np.arange(W) + 0.5 - W / 2)).sum((1, 2))
    y = (weights * (np.arange(H) + 0.5 - H / 2)[:, None]).sum((1, 2))
    return Track(np.stack([x, y], -1) / scale, np.sqrt(area[seen] / np.pi) / scale, seen)


def find_action(
    found: Track, mask: Bool[np.ndarray, "F H W"], background: Background, height: int, width: int, subjects: int = 1
) -> Acting:
    """The action and size whose way and growth fit the track of one of so many subjects best."""
    best = np.inf, Acting("stays still", SIZES[0], (0.0, 0.0), 0)
    if len(found.radius) < 2:
        return best[1]
    scale = min(height, width) / 64
    actions = actions_with(background.camera)
    if background.way:
        actions = (f"moves {background.way}",)
    for action, size in itertools.product(actions, SIZES):
        scene = Scene((Subject(size=size),) * subjects, action, background.place, background.camera)
        motion = animate(scene, len(found.frames), height / scale, width / scale)
        for lane in range(subjects):
            apart = found.middle - motion.position[lane][found.frames]
            home = np.median(apart, axis=0)
            # Growth counts as much as way: a radius that is off by a third as six units.
            growth = np.log(found.radius / motion.radius[lane][found.frames])
            cost = np.minimum(np.abs(apart - home).sum(-1), 20).mean() + 20 * np.minimum(np.abs(growth), 1).mean()
            if subjects > 1:
                cost += np.abs(home).sum()  # they stand near their lanes: which of them it is
            if cost < best[0] - 1e-9:
                best = cost, Acting(action, size, (float(home[0]), float(home[1])), lane)
    seen = best[1]
    if seen.action in IN_PLACE and "stays still" in actions:
        return seen._replace(action="spins" if _turning(mask) > STILL else "stays still")
    return seen


def find_shape(mask: Bool[np.ndarray, "F H W"], colours: Sequence[str], acting: Acting, background: Background) -> str:
    """The shape whose rendering, in the first of one or two colours and laid over the mask middle on middle, covers
    the same pixels.

    The rendering sharp or soft: else whatever is blurred were a circle. One that seems to spin may only be zoomed at.
    """
    F, H, W = mask.shape
    scale = min(H, W) / 64
    others = [Subject(colour) for colour in colours[1:]]
    found = track(mask)

    def rendered(subjects: Sequence[Subject], action: str, x: float, y: float) -> UInt8[np.ndarray, "F H W 3"]:
        place, style, camera, _ = background
        return render(Scene(tuple(subjects), action, place, camera, style, x=x, y=y), F, H, W)

    empty = rendered((), acting.action, 0.0, 0.0)

    def drawn(shape: str, action: str, x: float, y: float) -> Bool[np.ndarray, "F H W"]:
        own = Subject(colours[0], shape, acting.size)
        subjects = [*others[: acting.lane], own, *others[acting.lane :]]
        return colour_masks(rendered(subjects, action, x, y), empty, background.style)[own.colour]

    def overlap(shape: str, action: str) -> float:
        # The middle of what shows is not the middle of the shape: a star's mark is cut out, a heart is heavier above.
        first = track(drawn(shape, action, *acting.home))
        both = first.frames & found.frames
        if not both.any():
            return 0.0
        apart = found.middle[both[found.frames]] - first.middle[both[first.frames]]
        x, y = np.median(apart, axis=0) + acting.home
        sharp = drawn(shape, action, float(x), float(y)).astype(np.float32)
        soft = [gaussian_filter(sharp, (0, blur * scale, blur * scale)) > 0.5 for blur in BLURS]
        return max((there & mask).sum() / max((there | mask).sum(), 1) for there in soft)

    actions = IN_PLACE if acting.action in IN_PLACE else (acting.action,)
    return max(SHAPES, key=lambda shape: max(overlap(shape, action) for action in actions))


def _turning(mask: Bool[np.ndarray, "F H W"]) -> float:
    changed = (mask[1:] != mask[:-1]).sum()
    return float(changed / max(mask.sum(), 1))


def _empty(frames: UInt8[np.ndarray, "F H W 3"], background: Background) -> UInt8[np.ndarray, "F H W 3"]:
    """The rendering without subjects, from the start of the camera that fits best."""
    F, H, W, _ = frames.shape
    candidates = [render(_scene(background, shift), F, H, W) for shift in SHIFTS]
    return candidates[nearest(cells(frames), [cells(candidate) for candidate in candidates])]


def nearest(clip: Float[np.ndarray, "F h w 3"], candidates: Sequence[Float[np.ndarray, "F h w 3"]]) -> int:
    """Of candidates, all in cells, the one from which the fewest differ, and those the least."""
    return int(np.argmin([np.minimum(np.abs(clip - c).mean(-1), DIFFERENT).mean() for c in candidates]))


def _scene(background: Background, world_x: float = 0.0) -> Scene:
    action = f"moves {background.way}" if background.way else "stays still"
    return Scene((), action, background.place, background.camera, background.style, world_x=world_x)


def cells(frames: np.ndarray) -> Float[np.ndarray, "F h w 3"]:
    """Mean colours of cells of ``CELL`` x ``CELL`` pixels."""
    F, H, W, _ = frames.shape
    h, w = H // CELL, W // CELL
    return frames[:, : h * CELL, : w * CELL].reshape(F, h, CELL, w, CELL, 3).mean((2, 4), dtype=np.float32)


@functools.lru_cache(maxsize=4)
def _bank(F: int, H: int, W: int) -> tuple[list[Background], list[np.ndarray]]:
    """Every background, in cells."""
    ways = [(camera, "") for camera in CAMERAS if camera != "tracking"]
    ways += [("tracking", action.removeprefix("moves ")) for action in ACTIONS[:4]]
    names = [Background(place, style, *way) for place in PLACES for style in STYLES for way in ways]
    return names, [cells(render(_scene(name), F, H, W)) for name in names]
