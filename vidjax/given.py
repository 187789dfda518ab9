"""What is given with a prompt: pictures, each as a frame of the clip, and a clip to go on with or to paint over."""

import contextlib
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from vidjax.conditioning.references import MAX_REFERENCES
from vidjax.data.buckets import Bucket, covering, crop
from vidjax.errors import InputError, MediaError
from vidjax.image import fit_image, read_image
from vidjax.long import Rollout, continues, window_frames, window_overlap, window_remade
from vidjax.model import Model, ModelConfig, bundled, read_config
from vidjax.typing import Bool, UInt8
from vidjax.video import MAX_CLIP_BYTES, Video, iter_frames, video_size

Side = Literal["after", "before"]
SIDES = ("after", "before")

ANY_FRAME = "the bundled model can"


class Picture(NamedTuple):
    """A picture as a latent frame of the clip: cut to the clip's size, and as it came."""

    place: int
    fitted: UInt8[np.ndarray, "h w 3"]
    original: UInt8[np.ndarray, "H W 3"]


class Given(NamedTuple):
    """All that is given. ``pictures`` are in order.

    ``clip`` is gone on with, ``after`` its end or ``before`` its beginning; or it is painted over where ``mask`` is
    true (None: everywhere), from as much noise as ``strength`` says. ``references`` are pictures of the subject, and
    ``style`` is one whose style the clip takes: as they came, and in no frame of it.
    """

    pictures: tuple[Picture, ...] = ()
    clip: UInt8[np.ndarray, "n h w 3"] | None = None
    extend: Side | None = None
    mask: Bool[np.ndarray, "n h w"] | None = None
    strength: float = 1.0
    references: tuple[UInt8[np.ndarray, "_ _ 3"], ...] = ()
    style: UInt8[np.ndarray, "_ _ 3"] | None = None

    @property
    def repaints(self) -> bool:
        return self.clip is not None and self.extend is None

    @property
    def kind(self) -> tuple:
        """Where this is equal, programs are."""
        places = tuple(picture.place for picture in self.pictures)
        length = None if self.clip is None else len(self.clip)
        seen = len(self.references), self.style is not None
        return places, length, self.extend, self.mask is not None, self.strength, *seen

    def window(self, rollout: Rollout, i: int) -> "Given":
        """What is given to a window: its own pictures, not those that it is given by the window before."""
        if rollout.count == 1:
            return self
        start = i * (rollout.size - rollout.overlap)
        inside = range(rollout.new(i).start, rollout.size)
        own = (p._replace(place=p.place - start) for p in self.pictures if p.place - start in inside)
        return self._replace(pictures=tuple(own))


def check_given(
    model: Model, image: Any, last_image: Any, keyframes: Any, video: Any, strength: Any, mask: Any, extend: Any
) -> None:
    """See that these go together, and that the model takes them; nothing is read.

    Raises:
      InputError: they do not; or which model can be given such.
    """
    config = model.config
    if extend is not None and extend not in SIDES:
        raise InputError(f"extend={extend!r}: choose {' or '.join(SIDES)}")
    if video is None:
        for name, value in (("strength", strength), ("mask", mask), ("extend", extend)):
            if value is not None:
                raise InputError(f"{name} without video: give the clip too")
    elif extend is not None:
        others = {"image": image, "last_image": last_image, "keyframes": keyframes, "strength": strength, "mask": mask}
        for name, value in others.items():
            if value is not None:
                raise InputError(f"{name} with extend: a clip that is gone on with is all that is given")
        if extend == "after" and continues(config) is None:
            raise InputError(
                f"extend: {model.name} cannot go on; the bundled model, TI2V and image-to-video models can"
            )
        if extend == "before" and not _takes_any(config):
            raise InputError(f"extend='before': {model.name} is not trained to be given its end; {ANY_FRAME}")
        return
    elif config.pictures == "channels":
        raise InputError(f"video: {model.name} makes clips from pictures; models that are made from words paint over")
    _check_pictures(model, image, last_image, keyframes)


def _check_pictures(model: Model, image: Any, last_image: Any, keyframes: Any) -> None:
    fewest, most = model.config.num_pictures
    asked = {"image": image, "last_image": last_image, "keyframes": keyframes}
    given = [name for name, value in asked.items() if value is not None]
    if _takes_any(model.config):
        return
    if "keyframes" in given:
        raise InputError(f"keyframes: {model.name} is not trained to be given them; {ANY_FRAME}")
    wanted = ("no picture", "image", "image and last_image")
    if given == ["last_image"]:
        raise InputError("last_image without image: give the first frame too")
    if len(given) > most:
        able = "the bundled model and Wan's image-to-video models" if most == 0 else "Wan's first-and-last-frame models"
        if most:
            able += " and the bundled model"
        raise InputError(f"{given[-1]}: {model.name} takes {wanted[most]}; {able} can be given it")
    if len(given) < fewest:
        raise InputError(f"{model.name} makes clips from pictures: it needs {wanted[fewest]}")


def _takes_any(config: ModelConfig) -> bool:
    return config.pictures == "frames" and config.sampling.given == "any"


def read_pictures(
    config: ModelConfig, image: Any, last_image: Any, keyframes: Any, num_frames: int, height: int, width: int
) -> tuple[Picture, ...]:
    """The pictures at their latent frames, in order.

    Raises:
      InputError: a picture cannot be read, or stands where it cannot.
    """
    sources = {} if image is None else {0: ("image", image)}
    if last_image is not None:
        if num_frames == 1:
            nearest = 1 + config.vae.temporal_factor
            raise InputError(f"num_frames=1: a clip with a last_image has at least {nearest} frames")
        sources[num_frames - 1] = ("last_image", last_image)
    if keyframes is not None:
        for frame, picture in _keyframes(keyframes, num_frames, config.vae.temporal_factor):
            if frame in sources:
                raise InputError(f"keyframes: frame {frame} is given as {sources[frame][0]} too; give one of them")
            sources[frame] = ("keyframes", picture)
    pictures = []
    for frame, (name, source) in sorted(sources.items(), key=lambda item: item[0]):
        original = _read(name, source)
        place = frame // config.vae.temporal_factor
        pictures.append(Picture(place, fit_image(original, height, width), original))
    return tuple(pictures)


def read_references(
    model: Model, references: Any, style_image: Any
) -> tuple[tuple[UInt8[np.ndarray, "_ _ 3"], ...], UInt8[np.ndarray, "_ _ 3"] | None]:
    """The pictures of the subject, and that of the style.

    Raises:
      InputError: the model is not trained for them, or for fewer; or one cannot be read.
    """
    defaults, trained = model.config.sampling, f"{model.name} is not trained to be given"
    if references is not None and not isinstance(references, list | tuple):
        most = defaults.references or MAX_REFERENCES
        raise InputError(f"references: a list of 1 to {most} pictures is expected, not {type(references).__name__}")
    if references and not defaults.references:
        raise InputError(f"references: {trained} pictures of a subject; {_able('references')}")
    if len(references or ()) > defaults.references:
        most = defaults.references
        raise InputError(f"references: {len(references)} pictures; {model.name} takes 1 to {most}; nearest: {most}")
    if style_image is not None and not defaults.style_image:
        raise InputError(f"style_image: {trained} the picture of a style; {_able('style_image')}")
    subject = tuple(_read(f"references, picture {i}", each) for i, each in enumerate(references or (), 1))
    return subject, None if style_image is None else _read("style_image", style_image)


def _able(field: str) -> str:
    """Which models can be given what is named as ``field`` of the sampling defaults is."""
    if getattr(read_config(bundled()).sampling, field):
        return "the bundled model can"
    share = {"references": "reference_share", "style_image": "style_share"}[field]
    return f"models that were trained with {share} can"


def _read(name: str, source: Any) -> UInt8[np.ndarray, "H W 3"]:
    with _named(name):
        return read_image(source)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Says of what cannot be read which argument it is."""
    try:
        yield
    except MediaError as error:
        raise MediaError(f"{name}: {error}") from error


def fit_pictures(pictures: Iterable[Picture], height: int, width: int) -> tuple[Picture, ...]:
    """The same in a clip of another size."""
    return tuple(picture._replace(fitted=fit_image(picture.original, height, width)) for picture in pictures)


def _keyframes(keyframes: Any, num_frames: int, ratio: int) -> Iterator[tuple[int, Any]]:
    if not isinstance(keyframes, Mapping) or not keyframes:
        given = "none" if isinstance(keyframes, Mapping) else f"a {type(keyframes).__name__}"
        raise InputError(f"keyframes: pictures by frame are expected, as in {{0: 'a.png', 24: 'b.png'}}, not {given}")
    for key, picture in keyframes.items():
        # JSON has no numbers for names.
        frame = int(key) if isinstance(key, str) and key.isdecimal() else key
        if isinstance(frame, bool) or not isinstance(frame, numbers.Integral) or not 0 <= frame < num_frames:
            raise InputError(f"keyframes: frame {frame!r:.40} must be a whole number from 0 to {num_frames - 1}")
        if frame % ratio:
            near = min(round(frame / ratio) * ratio, num_frames - 1)
            raise InputError(f"keyframes: frame {frame} must be a multiple of {ratio}; nearest: {near}")
        yield int(frame), picture


def read_clip(
    source: Any, fps: float, height: int, width: int, most: int | None = None
) -> tuple[UInt8[np.ndarray, "n h w 3"], tuple[int, int]]:
    """The frames of a clip (path, ``Video`` or uint8 [F, H, W, 3]) at this rate and size, up to ``most``; and its size.

    It is scaled to cover the size and cropped around the middle; an array is taken to be at this rate.

    Raises:
      InputError: it cannot be read, or takes more memory than ``MAX_CLIP_BYTES``.
    """
    if isinstance(source, str | os.PathLike):
        with _named("video"):
            size = video_size(source)
        frames = _from_file(source, fps, size, Bucket(1, height, width))
    else:
        video = source if isinstance(source, Video) else _as_video(source, fps)
        size = video.frames.shape[1:3]
        times = np.arange(max(1, round(video.num_frames * fps / video.fps))) / fps
        # What is to be seen at each time; rounding must not take the frame before.
        shown = np.minimum(np.floor(times * video.fps + 1e-6).astype(int), video.num_frames - 1)
        frames = (fit_image(video.frames[i], height, width) for i in shown)
    kept = []
    for frame in frames:
        kept.append(frame)
        if len(kept) * frame.nbytes > MAX_CLIP_BYTES:
            raise InputError(
                f"video: over {MAX_CLIP_BYTES // 2**30} GiB at {height}x{width}; give a shorter piece of it"
            )
        if len(kept) == most:
            break
    return np.stack(kept), size


def _from_file(path: Any, fps: float, size: tuple[int, int], bucket: Bucket) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    with _named("video"):
        for frame in iter_frames(path, fps, *covering(*size, bucket)):
            yield crop(frame[None], bucket, None)[0]


def _as_video(source: Any, fps: float) -> Video:
    if not hasattr(source, "__array__"):
        raise InputError(f"video: a path, a Video or an array of frames is expected, not {type(source).__name__}")
    return Video(np.asarray(source), fps)


def read_mask(
    source: Any, size: tuple[int, int], num_frames: int, height: int, width: int
) -> Bool[np.ndarray, "n h w"]:
    """Where a clip of this size is painted over, cut as the clip is: a picture, white there; or an array, true there.

    An array is [H, W], or [F, H, W] with as many frames as the clip has.

    Raises:
      InputError: it cannot be read, or is of another size or length.
    """
    if isinstance(source, str | os.PathLike) or not hasattr(source, "__array__"):
        white = _read("mask", source).max(axis=-1) > 127
    else:
        array = np.asarray(source)
        if array.dtype != bool and array.dtype != np.uint8:
            raise InputError(f"mask: an array is of bool or uint8, not {array.dtype}")
        white = array if array.dtype == bool else array > 127
    white = white[None] if white.ndim == 2 else white
    if white.ndim != 3 or white.shape[1:] != size:
        given = "x".join(map(str, white.shape[-2:]))
        raise InputError(f"mask of {given}: the clip is {size[0]}x{size[1]}; give a mask of that size")
    if len(white) not in (1, num_frames):
        raise InputError(f"mask of {len(white)} frames: the clip has {num_frames}; give one frame, or as many")
    grey = (fit_image(np.repeat(np.uint8(255 * frame)[..., None], 3, axis=-1), height, width) for frame in white)
    fitted = np.stack([frame[..., 0] > 127 for frame in grey])
    if not fitted.any():
        raise InputError("mask: nothing is white, so that nothing would be painted over")
    return np.broadcast_to(fitted, (num_frames, height, width))


def extension(config: ModelConfig, side: Side, added: float | None) -> tuple[Rollout, int]:
    """How a clip is gone on with by about ``added`` frames (None: as many as a window gives), and how many they are.

    Raises:
      InputError: before the beginning there can be one window's frames only.
    """
    ratio, size = config.vae.temporal_factor, 1 + (window_frames(config) - 1) // config.vae.temporal_factor
    overlap = window_overlap(config)
    free = size - overlap
    if side == "after":
        count = free if added is None else max(1, round(added / ratio))
        # The clip that is there counts as a window.
        return Rollout(size + count, size, overlap, ratio, 1, window_remade(config)), ratio * count
    count = free if added is None else max(1, round((added - 1) / ratio) + 1)
    if count > free:
        most = 1 + ratio * (free - 1)
        raise InputError(f"{added} frames before the clip: up to {most} can be made at once; nearest: {most}")
    return Rollout(count + overlap, count + overlap, 0, ratio), 1 + ratio * (count - 1)
