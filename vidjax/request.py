"""What was asked for, completed with the model's defaults and checked, before anything is compiled."""

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vidjax.diffusion.flow import GRIDS, Schedule, make_schedule
from vidjax.diffusion.guidance import GUIDANCE, Guidance, make_guidance
from vidjax.diffusion.solvers import SOLVERS
from vidjax.errors import InputError
from vidjax.image import fit_image, read_image
from vidjax.long import MAX_FRAMES, Rollout, continues, make_rollout, texts_by_window
from vidjax.model import Model, ModelConfig
from vidjax.tiles import Tiling, make_tiling

OUTPUT_TYPES = ("video", "latent")
MAX_STEPS = 1000
MAX_SIDE = 8192
MAX_FPS = 1000
MAX_SECONDS = 86400
MAX_WHOLE = 2**20
"""Frames of up to so many pixels, 1024 x 1024, are decoded whole unless a tile is asked for."""
TILE = 512
MIN_TILE = 8
"""In latents; so few that their borders, which see too little of the frame, are still half of a tile at most."""
MIN_OVERLAP = 4
"""In latents: with less, the borders of small tiles show."""

Prompt = str | Mapping[float, str]
"""What is to be seen; or by the seconds at which it changes, the first 0."""


@dataclasses.dataclass(frozen=True)
class Request:
    """One call of ``generate``, complete and known to fit the model.

    ``texts`` has the prompts of each window of the ``rollout``, one a clip. ``pictures``, first frame and last, are
    uint8 [height, width, 3]; ``originals`` are the same before they were cut to size. ``guidance_scales`` has one for
    each denoiser. ``latents`` is float32 [B, f, h, w, z] or None. ``tiling`` is how frames are decoded, in pixels.
    """

    texts: tuple[tuple[str, ...], ...]
    negative_prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    pictures: tuple[np.ndarray, ...]
    originals: tuple[np.ndarray, ...]
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

    @property
    def prompts(self) -> tuple[str, ...]:
        """Those that the clips begin with."""
        return self.texts[0]

    @property
    def batch(self) -> int:
        return len(self.prompts)

    def window(self, i: int) -> "Request":
        """A window as a request of its own, but for what the one before gives it; pictures belong to the first."""
        if self.rollout.count == 1:
            return self
        rollout = self.rollout._replace(length=self.rollout.size, overlap=0)
        own = {} if i == 0 else {"pictures": (), "originals": ()}
        frames = rollout.frames(rollout.size)
        return dataclasses.replace(self, texts=(self.texts[i],), num_frames=frames, rollout=rollout, **own)

    @property
    def program(self) -> tuple:
        """Requests in which this is equal can be sampled as one batch: they differ in words, seeds and pictures."""
        size = self.height, self.width, self.num_frames, len(self.pictures)
        times = tuple(self.schedule.sigmas.tolist()), tuple(self.schedule.times.tolist())
        return *size, *times, self.guidance_scales, self.guidance, self.solver, self.tiling


def make_request(
    model: Model,
    prompt: Prompt | Sequence[Prompt],
    *,
    negative_prompt: str | Sequence[str] = "",
    image: Any = None,
    last_image: Any = None,
    height: int | None = None,
    width: int | None = None,
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
) -> Request:
    """See ``vidjax.generate`` for the arguments.

    Raises:
      InputError: what does not fit the model, with what was given and the nearest that would do.
    """
    config, defaults = model.config, model.config.sampling
    scripts = _scripts(prompt)
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
    fps = _number("fps", defaults.fps if fps is None else fps, 0.01, MAX_FPS)
    height, width = clip_size(config, height, width)
    num_frames = clip_frames(config, num_frames, duration, fps, MAX_FRAMES if continues(config) else None)
    rollout = make_rollout(config, num_frames)
    texts = [texts_by_window(script, rollout, fps) for script in scripts]
    request = Request(
        texts=tuple(zip(*texts, strict=True)),
        negative_prompts=_negatives(negative_prompt, len(scripts)),
        seeds=_seeds(seed, len(scripts)),
        pictures=(),
        originals=(),
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
        tiling=decode_tiling(config, height, width, decode_tile),
    )
    _check_pictures(model, image, last_image, request.num_frames)
    if rollout.count > 1:
        _check_long(config, last_image, latents, output_type)
    originals = tuple(read_image(source) for source in (image, last_image) if source is not None)
    pictures = tuple(fit_image(picture, height, width) for picture in originals)
    request = dataclasses.replace(request, pictures=pictures, originals=originals)
    if latents is not None:
        request = dataclasses.replace(request, latents=_latents(config, request, latents))
    return request


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
    scales = (_number("guidance_scale", scale, 0, 1000),)
    if config.boundary_ratio is not None:
        # The model's own second scale goes with its own first.
        own = defaults.guidance_scale_2 if guidance_scale is None else None
        second = next(value for value in (guidance_scale_2, own, scale) if value is not None)
        scales += (_number("guidance_scale_2", second, 0, 1000),)
    elif guidance_scale_2 is not None:
        raise InputError(f"guidance_scale_2={guidance_scale_2!r}: this model has one denoiser; give guidance_scale")
    shift = defaults.flow_shift if flow_shift is None else flow_shift
    schedule = make_schedule(
        _whole("num_inference_steps", steps, 1, MAX_STEPS), _number("flow_shift", shift, 0.01, 1000), grid
    )
    return schedule, scales, make_guidance(guidance, _interval(guidance_interval), schedule)


def _interval(interval: Sequence[float]) -> tuple[float, float]:
    if not isinstance(interval, list | tuple) or len(interval) != 2:
        raise InputError(f"guidance_interval={interval!r:.80}: must be two diffusion times, as in (0.2, 0.8)")
    low, high = (_number("guidance_interval", time, 0, 1) for time in interval)
    if low > high:
        raise InputError(f"guidance_interval=({low}, {high}): the lower time comes first; nearest: ({high}, {low})")
    return low, high


def _check_pictures(model: Model, image: Any, last_image: Any, num_frames: int) -> None:
    fewest, most = model.config.num_pictures
    given = [name for name, value in (("image", image), ("last_image", last_image)) if value is not None]
    wanted = ("no picture", "image", "image and last_image")
    if given == ["last_image"]:
        raise InputError("last_image without image: give the first frame too")
    if len(given) > most:
        able = "the bundled model and Wan's image-to-video models" if most == 0 else "Wan's first-and-last-frame models"
        raise InputError(f"{given[-1]}: {model.name} takes {wanted[most]}; {able} can be given it")
    if len(given) < fewest:
        raise InputError(f"{model.name} makes clips from pictures: it needs {wanted[fewest]}")
    if len(given) == 2 and num_frames == 1:
        raise InputError("num_frames=1: a clip from image to last_image has at least 5 frames")


def _check_long(config: ModelConfig, last_image: Any, latents: Any, output_type: str) -> None:
    """What a clip of one window can have, and one of several cannot."""
    window = f"num_frames={config.sampling.num_frames} at most"
    if latents is not None:
        raise InputError(f"latents: the noise of a clip of several windows comes from seed; give {window}")
    if last_image is not None:
        raise InputError(f"last_image: a clip of several windows goes on from their ends; give {window}")
    if output_type == "latent" and continues(config) == "frame":
        raise InputError(f"output_type='latent': this model's windows go on from decoded frames; give {window}")


def _scripts(prompt: Prompt | Sequence[Prompt]) -> list[list[tuple[float, str]]]:
    """Of each clip the seconds at which its prompt changes, from 0 on, and the prompts."""
    prompts = [prompt] if isinstance(prompt, str | Mapping) else prompt
    if not isinstance(prompts, list | tuple):
        raise InputError(f"prompt={prompt!r:.80}: must be text, or a list of texts")
    return [_script(each, prompt) for each in prompts]


def _script(prompt: Any, whole: Any) -> list[tuple[float, str]]:
    texts = prompt if isinstance(prompt, Mapping) else {0.0: prompt}
    if not all(isinstance(text, str) for text in texts.values()):
        raise InputError(f"prompt={whole!r:.80}: must be text, or a list of texts")
    script = sorted((_number("prompt's seconds", start, 0, MAX_SECONDS), text) for start, text in texts.items())
    if not script or script[0][0] != 0:
        raise InputError(f"prompt={prompt!r:.80}: by seconds it begins at 0, as in {{0: 'a red circle', 6.0: 'night'}}")
    return script


def _negatives(negative: str | Sequence[str], batch: int) -> tuple[str, ...]:
    negatives = (negative,) * batch if isinstance(negative, str) else negative
    if not isinstance(negatives, list | tuple) or not all(isinstance(text, str) for text in negatives):
        raise InputError(f"negative_prompt={negative!r:.80}: must be text, or a list of texts")
    if len(negatives) != batch:
        raise InputError(f"negative_prompt has {len(negatives)} texts for {batch} prompts: give one, or as many")
    return tuple(negatives)


def _seeds(seed: int | Sequence[int], batch: int) -> tuple[int, ...]:
    if isinstance(seed, list | tuple):
        if len(seed) != batch:
            raise InputError(f"seed has {len(seed)} numbers for {batch} prompts: give one, or as many")
        return tuple(_whole("seed", s, 0, 2**63 - 1) for s in seed)
    first = _whole("seed", seed, 0, 2**63 - batch)
    return tuple(first + i for i in range(batch))


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InputError(f"{name}={value!r:.80}: must be a whole number from {low} to {high}")
    if not low <= value <= high:
        raise InputError(f"{name}={value}: must lie between {low} and {high}; nearest: {min(max(value, low), high)}")
    return int(value)


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not _finite(value):
        raise InputError(f"{name}={value!r:.80}: must be a finite number from {low} to {high}")
    if not low <= value <= high:
        raise InputError(f"{name}={value}: must lie between {low} and {high}; nearest: {min(max(value, low), high)}")
    return float(value)


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def clip_size(config: ModelConfig, height: int | None, width: int | None) -> tuple[int, int]:
    """Height and width in pixels, the model's own for None; InputError where they do not fit it."""
    defaults, multiples = config.sampling, config.size_multiple
    height = defaults.height if height is None else height
    width = defaults.width if width is None else width
    for name, value, multiple in zip(("height", "width"), (height, width), multiples, strict=True):
        _whole(name, value, multiple, MAX_SIDE)
        if value % multiple:
            near = min(max(round(value / multiple), 1) * multiple, MAX_SIDE // multiple * multiple)
            raise InputError(f"{name}={value}: must be a multiple of {multiple}; nearest: {near}")
    return int(height), int(width)


def decode_tiling(config: ModelConfig, height: int, width: int, decode_tile: int | None) -> Tiling:
    """How a frame is decoded, in pixels; one tile is the whole frame. Tiles share a quarter of their side.

    Raises:
      InputError: ``decode_tile`` is no multiple of the model's, or so small that tiles would be all border.
    """
    multiple, least = tile_sides(config)
    whole = max(height, width)
    if decode_tile is None:
        side = whole if height * width <= MAX_WHOLE else max(TILE // multiple * multiple, least)
    else:
        side = _whole("decode_tile", decode_tile, min(least, whole), MAX_SIDE)
        if side % multiple:
            near = min(max(round(side / multiple) * multiple, least), MAX_SIDE // multiple * multiple)
            raise InputError(f"decode_tile={side}: must be a multiple of {multiple}; nearest: {near}")
    factor = config.vae.spatial_factor
    side //= factor
    return make_tiling((height // factor, width // factor), side, max(side // 4, MIN_OVERLAP)).scaled(factor)


def tile_sides(config: ModelConfig) -> tuple[int, int]:
    """What the side of a tile must be a multiple of, and the smallest, in pixels."""
    multiple = math.lcm(*config.size_multiple)
    return multiple, -(-MIN_TILE * config.vae.spatial_factor // multiple) * multiple


def clip_frames(
    config: ModelConfig, num_frames: int | None, duration: float | None, fps: float, most: int | None = None
) -> int:
    """How many frames, given or by the duration in seconds; InputError where these are more than ``most``.

    None is what the denoiser has positions for, in one go.
    """
    step = config.vae.temporal_factor
    most = most or 1 + step * (config.transformer.rope_max_seq_len * config.transformer.patch_size[0] - 1)
    if duration is not None:
        if num_frames is not None:
            raise InputError(f"num_frames={num_frames} and duration={duration} both say how long: give one of them")
        wanted = _number("duration", duration, 0, MAX_SECONDS) * fps
        num_frames = 1 + step * max(0, round((wanted - 1) / step))
        if num_frames > most:
            raise InputError(f"duration={duration}: at {fps:g} frames a second the longest clip is {most / fps:.1f} s")
        return num_frames
    num_frames = _whole("num_frames", config.sampling.num_frames if num_frames is None else num_frames, 1, most)
    if (num_frames - 1) % step:
        near = 1 + step * round((num_frames - 1) / step)
        raise InputError(f"num_frames={num_frames}: must be 1 + a multiple of {step}; nearest: {min(near, most)}")
    return num_frames


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
