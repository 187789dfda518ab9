"""What was asked for, completed with the model's defaults and checked, before anything is compiled."""

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidjax.checks import number, truth, whole
from vidjax.conditioning.camera import Camera
from vidjax.conditioning.movements import clip_poses, read_camera
from vidjax.conditioning.poses import Poses
from vidjax.conditioning.poses import window as pose_window
from vidjax.conditioning.rays import frames_of_latents
from vidjax.decoding import decode_tiling
from vidjax.diffusion.flow import GRIDS, Schedule, last_steps, make_schedule
from vidjax.diffusion.guidance import GUIDANCE, Guidance, make_guidance
from vidjax.diffusion.solvers import SOLVERS
from vidjax.errors import InputError
from vidjax.given import (
    Given,
    check_given,
    extension,
    fit_pictures,
    read_clip,
    read_mask,
    read_pictures,
    read_references,
)
from vidjax.long import MAX_FRAMES, Rollout, check_causal, continues, make_rollout, texts_by_window
from vidjax.model import Model, ModelConfig, check_model
from vidjax.prompts import MAX_SECONDS, Prompt, read_negatives, read_scripts, read_seeds, tell_camera
from vidjax.resolution import Size, clip_sizes
from vidjax.tiles import Tiling, make_tiling

OUTPUT_TYPES = ("video", "latent")
MAX_STEPS = 1000
MAX_FPS = 1000
STRENGTH = 0.7
"""Of noise that a clip is painted over from, where nothing is said: what it shows stays, what it looks like changes."""

UNKNOWN_SIZE = 4
"""So many times the pixels that a model was trained for are told to be too many."""

SHARED = 0.25
MIN_SHARED = 2
"""How much of a tile of the denoiser's is shared with the next one, and how many latents at least."""


@dataclasses.dataclass(frozen=True)
class Request:
    """One call of ``generate``, complete and known to fit the model.

    ``texts`` has the prompts of each window of the ``rollout``, one a clip. ``num_frames`` are those of the result.
    ``guidance_scales`` has one for each denoiser. ``latents`` is float32 [B, f, h, w, z] or None.
    ``tiling`` is how frames are decoded, in pixels. A ``causal`` clip's windows are its latent frames; one
    with ``riflex`` is made in one window, however long. ``poses`` are the camera's in all frames of all windows; of a
    window, those that its latent frames are of, relative to the first. ``anew`` says that each window is a clip of its
    own, which begins at the last frame of the one before.

    A clip that is larger than the model's own is made of another one, its ``base``: enlarged, partly noised, and
    walked on in ``tiles``, in latents, of the size of that; without ``tiles`` its frames are enlarged, and no more.
    """

    texts: tuple[tuple[str, ...], ...]
    negative_prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    given: Given
    height: int
    width: int
    num_frames: int
    rollout: Rollout
    fps: float
    schedule: Schedule
    guidance_scales: tuple[float, ...]
    guidance: Guidance
    solver: str
    latents: np.ndarray | None
    tiling: Tiling
    tiles: Tiling | None = None
    base: "Request | None" = None
    causal: bool = False
    riflex: bool = False
    poses: Poses | None = None
    anew: bool = False

    @property
    def prompts(self) -> tuple[str, ...]:
        """Those that the clips begin with."""
        return self.texts[0]

    @property
    def enlarged_only(self) -> bool:
        """Whether the frames of ``base`` are the clip's, but for their size: there are no tiles to walk on in."""
        return self.base is not None and self.tiles is None

    @property
    def batch(self) -> int:
        return len(self.prompts)

    @property
    def walk(self) -> Schedule:
        """The steps that are made: all of them, or the last where a clip is painted over or made of its base."""
        return last_steps(self.schedule, self.given.strength)

    def window(self, i: int) -> "Request":
        """A window as a request of its own, but for what it is given by the one before, and by a clip."""
        whole = self.rollout
        rollout = Rollout(whole.size, whole.size, 0, whole.ratio)
        given, frames = self.given.window(whole, i), rollout.frames(rollout.size)
        own = {"rollout": rollout, "given": given, "poses": None if self.poses is None else self._window_poses(i)}
        return dataclasses.replace(self, texts=(self.texts[i],), num_frames=frames, **own)

    def _window_poses(self, i: int) -> Poses:
        whole = self.rollout
        start = i * (whole.size - whole.overlap)
        if self.anew:
            return pose_window(self.poses, whole.ratio * start + frames_of_latents(0, whole.size, whole.ratio))
        return pose_window(self.poses, frames_of_latents(start, whole.size, whole.ratio))

    @property
    def program(self) -> tuple:
        """Requests in which this is equal can be sampled as one batch: they differ in words, seeds and pictures."""
        size = self.height, self.width, self.num_frames, *self.given.kind
        times = tuple(self.schedule.sigmas.tolist()), tuple(self.schedule.times.tolist())
        base = None if self.base is None else self.base.program
        how = self.guidance_scales, self.guidance, self.solver, self.tiling, self.causal, self.riflex
        return *size, *times, *how, self.poses is not None, base


def make_request(
    model: Model,
    prompt: Prompt | Sequence[Prompt],
    *,
    negative_prompt: str | Sequence[str] = "",
    image: Any = None,
    last_image: Any = None,
    keyframes: Mapping[Any, Any] | None = None,
    video: Any = None,
    strength: float | None = None,
    mask: Any = None,
    extend: str | None = None,
    camera: Camera | Poses | str | os.PathLike | None = None,
    references: Sequence[Any] = (),
    style_image: Any = None,
    height: int | None = None,
    width: int | None = None,
    resolution: str | int | None = None,
    aspect_ratio: str | float | None = None,
    refine: float | None = None,
    num_frames: int | None = None,
    duration: float | None = None,
    fps: float | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_scale_2: float | None = None,
    flow_shift: float | None = None,
    solver: str = "unipc",
    grid: str = "folder",
    guidance: str = "cfg",
    guidance_interval: Sequence[float] = (0.0, 1.0),
    seed: int | Sequence[int] = 0,
    latents: Any = None,
    output_type: str = "video",
    decode_tile: int | None = None,
    causal: bool = False,
    riflex: bool = False,
) -> Request:
    """See ``vidjax.generate`` for the arguments.

    Raises:
      InputError: what does not fit the model, with what was given and the nearest that would do.
    """
    check_model(model)
    causal, riflex = truth("causal", causal), truth("riflex", riflex)
    config, defaults = model.config, model.config.sampling
    scripts = read_scripts(prompt)
    camera = None if camera is None else read_camera(camera)
    rays = config.camera_adapter is not None and not causal
    if camera is not None:
        scripts = tell_camera(model, scripts, camera, rays)
    if not scripts:
        raise InputError("prompt=[]: at least one prompt is needed")
    if output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type={output_type!r}: choose {' or '.join(OUTPUT_TYPES)}")
    schedule, scales, rule = sampling_settings(
        config,
        num_inference_steps,
        guidance_scale,
        guidance_scale_2,
        flow_shift,
        solver,
        grid,
        guidance,
        guidance_interval,
    )
    fps = number("fps", defaults.fps if fps is None else fps, 0.01, MAX_FPS)
    if causal:
        others = {"last_image": last_image, "keyframes": keyframes, "video": video, "refine": refine}
        others |= {"references": references or None, "style_image": style_image}
        check_causal(config, model.name, {**others, "latents": latents, "riflex": riflex or None})
    check_given(model, image, last_image, keyframes, video, strength, mask, extend)
    subject, style = read_references(model, references, style_image)
    (height, width), size = clip_sizes(config, height, width, resolution, aspect_ratio, image, keyframes)
    enlarged = size != (height, width)
    if not enlarged and height * width >= UNKNOWN_SIZE * defaults.height * defaults.width:
        warnings.warn(
            f"{width}x{height} is far from the {defaults.width}x{defaults.height} that this model was trained for: its "
            f"parts may not fit together; resolution={min(height, width)} enlarges a clip of its own size",
            stacklevel=3,
        )
    if refine is not None:
        refine = number("refine", refine, 0, 1)
        if resolution is None:
            raise InputError(f"refine={refine} without resolution: give one above {height}x{width} too")
    if video is None:
        given = Given()
        most = MAX_FRAMES if causal or continues(config) else None
        num_frames = clip_frames(config, num_frames, duration, fps, most)
        rollout = make_rollout(config, num_frames, causal, riflex)
    elif extend is not None:
        asked = None if num_frames is duration is None else asked_frames(num_frames, duration, fps)
        rollout, added = extension(config, extend, asked)
        clip, _ = read_clip(video, fps, height, width)
        given, num_frames = Given(clip=clip, extend=extend), len(clip) + added
    else:
        given, num_frames = _painted_over(config, video, strength, mask, num_frames, duration, fps, height, width)
        rollout = make_rollout(config, num_frames, riflex=riflex)
    texts = [texts_by_window(script, rollout, fps) for script in scripts]
    request = Request(
        texts=tuple(zip(*texts, strict=True)),
        negative_prompts=read_negatives(negative_prompt, len(scripts)),
        seeds=read_seeds(seed, len(scripts)),
        given=given,
        height=height,
        width=width,
        num_frames=num_frames,
        rollout=rollout,
        fps=fps,
        schedule=schedule,
        guidance_scales=scales,
        guidance=rule,
        solver=solver,
        latents=None,
        tiling=decode_tiling(config, height, width, None if enlarged else decode_tile),
        causal=causal,
        riflex=riflex,
    )
    if camera is not None and rays:
        path, anew = _path(camera, rollout, fps, height, width), continues(config) == "frame"
        request = dataclasses.replace(request, poses=path, anew=anew)
    if rollout.count > 1:
        _check_long(config, last_image, latents, output_type)
    if extend is not None and (latents is not None or output_type == "latent"):
        raise InputError(
            "extend: the result is the clip's own frames and new ones; there is no output or input of latents"
        )
    pictures = read_pictures(config, image, last_image, keyframes, num_frames, height, width)
    given = given._replace(pictures=pictures, references=subject, style=style)
    request = dataclasses.replace(request, given=given)
    if latents is not None:
        request = dataclasses.replace(request, latents=_latents(config, request, latents))
    if not enlarged:
        return request
    refine = config.sampling.refine if refine is None else refine
    return _enlarged(config, request, size, refine, decode_tile, output_type)


def _enlarged(
    config: ModelConfig, base: Request, size: Size, refine: float, decode_tile: int | None, output_type: str
) -> Request:
    """The request of a larger clip that is made of ``base``."""
    own = base.given
    if own.extend is not None or own.mask is not None:
        name = "mask" if own.extend is None else "extend"
        raise InputError(f"{name} with resolution: the rest of the clip would be enlarged; give height and width")
    pictures, small = fit_pictures(own.pictures, *size), (base.height, base.width)
    made = refine or output_type == "latent"
    if base.causal and made:
        raise InputError(
            "resolution with causal: frames are made at the model's own size, and can be enlarged in pixels alone, of "
            f"models whose refine is 0; nearest: {small[0]}x{small[1]}"
        )
    if made and base.rollout.count > 1 and continues(config) == "frame":
        most = config.sampling.num_frames
        raise InputError(
            f"resolution: this model's windows go on from decoded frames, and are not enlarged; give num_frames={most} "
            "at most"
        )
    request = dataclasses.replace(
        base,
        height=size[0],
        width=size[1],
        given=own._replace(pictures=pictures, clip=None, strength=refine),
        latents=None,
        tiling=decode_tiling(config, *size, decode_tile),
        base=base,
    )
    if not made:
        return dataclasses.replace(request, tiling=base.tiling)
    whole, tile = (tuple(n // config.vae.spatial_factor for n in s) for s in (size, small))
    overlap = tuple(min(max(round(n * SHARED), MIN_SHARED), n - 1) for n in tile)
    return dataclasses.replace(request, tiles=make_tiling(whole, tile, overlap))


def sampling_settings(
    config: ModelConfig,
    num_inference_steps: int | None,
    guidance_scale: float | None,
    guidance_scale_2: float | None,
    flow_shift: float | None,
    solver: str,
    grid: str,
    guidance: str,
    guidance_interval: Sequence[float],
) -> tuple[Schedule, tuple[float, ...], Guidance]:
    """The schedule, the guidance scale of each denoiser, and the guidance, completed with the model's defaults.

    Raises:
      InputError: a number is out of range, there is no such solver, grid or guidance, or no second denoiser.
    """
    defaults = config.sampling
    choices = ("solver", solver, tuple(SOLVERS)), ("grid", grid, GRIDS), ("guidance", guidance, tuple(GUIDANCE))
    for name, value, known in choices:
        if value not in known:
            raise InputError(f"{name}={value!r}: choose one of {', '.join(known)}")
    steps = defaults.num_inference_steps if num_inference_steps is None else num_inference_steps
    scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
    scales = (number("guidance_scale", scale, 0, 1000),)
    if config.boundary_ratio is not None:
        # The model's own second scale goes with its own first.
        own = defaults.guidance_scale_2 if guidance_scale is None else None
        second = next(value for value in (guidance_scale_2, own, scale) if value is not None)
        scales += (number("guidance_scale_2", second, 0, 1000),)
    elif guidance_scale_2 is not None:
        raise InputError(f"guidance_scale_2={guidance_scale_2!r}: this model has one denoiser; give guidance_scale")
    shift = defaults.flow_shift if flow_shift is None else flow_shift
    schedule = make_schedule(
        whole("num_inference_steps", steps, 1, MAX_STEPS), number("flow_shift", shift, 0.01, 1000), grid
    )
    return schedule, scales, make_guidance(guidance, _interval(guidance_interval), schedule)


def _interval(interval: Sequence[float]) -> tuple[float, float]:
    if not isinstance(interval, list | tuple) or len(interval) != 2:
        raise InputError(f"guidance_interval={interval!r:.80}: must be two diffusion times, as in (0.2, 0.8)")
    low, high = (number("guidance_interval", time, 0, 1) for time in interval)
    if low > high:
        raise InputError(f"guidance_interval=({low}, {high}): the lower time comes first; nearest: ({high}, {low})")
    return low, high


def _painted_over(
    config: ModelConfig,
    video: Any,
    strength: float | None,
    mask: Any,
    num_frames: int | None,
    duration: float | None,
    fps: float,
    height: int,
    width: int,
) -> tuple[Given, int]:
    """The clip, of as many frames as asked for or as it has, and where and how far it is painted over."""
    if strength is None:
        strength = STRENGTH if mask is None else 1.0
    strength = number("strength", strength, 0.01, 1)
    asked = None
    if num_frames is not None or duration is not None:
        asked = clip_frames(config, num_frames, duration, fps, MAX_FRAMES)
    clip, size = read_clip(video, fps, height, width, asked)
    if asked is not None and len(clip) < asked:
        raise InputError(
            f"a clip of {asked} frames: video has {len(clip)} at {fps:g} frames a second; extend='after' adds some"
        )
    ratio = config.vae.temporal_factor
    clip = clip[: 1 + (len(clip) - 1) // ratio * ratio]
    mask = None if mask is None else read_mask(mask, size, len(clip), height, width)
    return Given(clip=clip, mask=mask, strength=strength), len(clip)


def _check_long(config: ModelConfig, last_image: Any, latents: Any, output_type: str) -> None:
    """What a clip of one window can have, and one of several cannot."""
    window = f"num_frames={config.sampling.num_frames} at most"
    if latents is not None:
        raise InputError(f"latents: the noise of a clip of several windows comes from seed; give {window}")
    if last_image is not None and continues(config) == "frame":
        raise InputError(f"last_image: a clip of several windows goes on from their ends; give {window}")
    if output_type == "latent" and continues(config) == "frame":
        raise InputError(f"output_type='latent': this model's windows go on from decoded frames; give {window}")


def _path(camera: Camera | Poses, rollout: Rollout, fps: float, height: int, width: int) -> Poses | None:
    """The camera's poses in all frames of the windows; where a clip is gone on with, it sets out at its end."""
    last = (rollout.count - 1) * (rollout.size - rollout.overlap) + rollout.size
    still = rollout.frames(rollout.first(rollout.begun)) - 1 if rollout.begun else 0
    shown, whole = rollout.frames(rollout.length), rollout.frames(last)
    return clip_poses(camera, shown, whole, fps, height, width, still)


def clip_frames(
    config: ModelConfig, num_frames: int | None, duration: float | None, fps: float, most: int | None = None
) -> int:
    """How many frames, given or by the duration in seconds; InputError where these are more than ``most``.

    None is what the denoiser has positions for, in one go.
    """
    step = config.vae.temporal_factor
    most = most or 1 + step * (config.transformer.rope_max_seq_len * config.transformer.patch_size[0] - 1)
    if duration is not None:
        wanted = asked_frames(num_frames, duration, fps)
        num_frames = 1 + step * max(0, round((wanted - 1) / step))
        if num_frames > most:
            raise InputError(f"duration={duration}: at {fps:g} frames a second the longest clip is {most / fps:.1f} s")
        return num_frames
    num_frames = whole("num_frames", config.sampling.num_frames if num_frames is None else num_frames, 1, most)
    if (num_frames - 1) % step:
        near = 1 + step * round((num_frames - 1) / step)
        raise InputError(f"num_frames={num_frames}: must be 1 + a multiple of {step}; nearest: {min(near, most)}")
    return num_frames


def asked_frames(num_frames: int | None, duration: float | None, fps: float) -> float:
    """How many frames the one or the other says.

    Raises:
      InputError: both do, or it is out of range.
    """
    if duration is None:
        return whole("num_frames", num_frames, 1, MAX_FRAMES)
    if num_frames is not None:
        raise InputError(f"num_frames={num_frames} and duration={duration} both say how long: give one of them")
    return number("duration", duration, 0, MAX_SECONDS) * fps


def _latents(config: ModelConfig, request: Request, latents: Any) -> np.ndarray:
    shape = (request.batch, *config.latent_shape(request.num_frames, request.height, request.width))
    try:
        value = np.asarray(latents, np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"latents: must be an array of shape {shape}, not {type(latents).__name__}") from error
    value = value[None] if value.ndim == 4 and request.batch == 1 else value
    if value.shape != shape:
        raise InputError(f"latents of shape {value.shape}: for this clip the noise has shape {shape}")
    if not np.isfinite(value).all():
        raise InputError("latents: hold numbers that are not finite")
    return value
