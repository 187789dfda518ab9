"""Adherence: of clips made from held-out prompts, the share in which each word of the prompt is to be seen."""

import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import jax
import numpy as np

from vidjax.checks import whole
from vidjax.data.shapes import Scene, caption, held_out_scene, render
from vidjax.errors import InputError
from vidjax.evaluate import camera, drift, references
from vidjax.evaluate.detect import Seen, detect
from vidjax.evaluate.report import Report, mean_interval, wilson
from vidjax.evaluate.signals import WINDOW, Clip, dynamic_degree, flicker, psnr, ssim
from vidjax.generation import generate, generate_each
from vidjax.model import Model, ModelConfig
from vidjax.request import Request, make_request
from vidjax.typing import Array, Params
from vidjax.video import Video, from_uint8, to_uint8

BATCH = 8
"""Clips made together: one compilation serves all."""

FIRST_FRAMES = 16
"""Pictures whose clips are looked at for their first frame."""

LONG_CLIPS = 16
"""Half of them of a subject that rests, whose shape can be told."""

REFERENCE_CLIPS = 60
"""Clips of a subject that a picture shows, of models that can be given it."""

MAX_SEED = 2**32 - 1
"""Scenes and noise are of this and the numbers behind it, which must stay in the range of a clip's seed."""

KINDS = ("scores", "ceilings", "reconstructed")
"""What is measured: the model's clips, renderings, and renderings after the autoencoder."""


class Word(NamedTuple):
    """What a prompt asks for, and what is to be seen."""

    name: str
    asked: str
    seen: str

    @property
    def right(self) -> bool:
        return self.asked == self.seen


class Looked(NamedTuple):
    """A clip that was looked at, beside the rendering of its prompt."""

    prompt: str
    seed: int
    clip: Video
    rendered: Video
    words: tuple[Word, ...]


class Examined(NamedTuple):
    """The report, and the clips that it is of; ``long`` ones are judged by their end."""

    report: Report
    clips: list[Looked]
    long: list[Looked]


def evaluate(model: Model, *args: Any, **kwargs: Any) -> Report:
    """The report of ``examine``, which see for the arguments."""
    return examine(model, *args, **kwargs).report


def examine(
    model: Model,
    num_prompts: int = 100,
    num_seeds: int = 2,
    seed: int = 0,
    workers: int | None = None,
    on_stage: Callable[[str], None] = lambda name: None,
    long_seconds: float = 0.0,
    long_clips: int = LONG_CLIPS,
    reference_clips: int | None = None,
    **settings: Any,
) -> Examined:
    """Clips of ``num_prompts`` prompts that training never saw, ``num_seeds`` each, and what is to be seen in them.

    Args:
      seed: chooses the prompts and the noise.
      workers: processes that look at clips; None: as many as there are cores.
      long_seconds: length of ``long_clips`` further clips of one subject each, of several windows; 0: none.
      reference_clips: further clips of one subject each that a picture shows and the prompt does not tell, of models
        that can be given pictures of a subject. Of these and of clips with cameras, which models with an adapter make,
        there are no more than clips of the prompts, and ``REFERENCE_CLIPS`` and ``camera.CLIPS`` at most.
      settings: keyword arguments of ``vidjax.generate``; left out, the model's own defaults.

    Raises:
      InputError: a number below 1, or settings that do not fit the model.
    """
    counts = {"num_prompts": num_prompts, "num_seeds": num_seeds, "long_clips": long_clips}
    if reference_clips is None:
        reference_clips = min(REFERENCE_CLIPS, num_prompts * num_seeds)
    for name, value in {**counts, "reference_clips": reference_clips}.items():
        if value < 1:
            raise InputError(f"{name}={value}: must be at least 1")
    whole("seed", seed, 0, MAX_SEED)
    request = make_request(model, "", **settings)
    if long_seconds:
        drift.long_request(model, "", long_seconds, seed, settings)
    size = request.num_frames, request.height, request.width
    scenes = [held_out_scene(seed, i) for i in range(num_prompts)]
    prompts = _captions(scenes, seed)
    several = [scene for scene in scenes for _ in range(num_seeds)]

    on_stage("clips")
    jobs = [(prompt, seed + i * num_seeds + j) for i, prompt in enumerate(prompts) for j in range(num_seeds)]
    clips = list(_clips(model, [make_request(model, prompt, seed=own, **settings) for prompt, own in jobs]))
    on_stage("first frames")
    truth = [render(scene, *size) for scene in scenes]
    through = [_reconstruct(model, clip) for clip in truth]
    first = _first_frames(model, prompts, truth, through, seed, settings)

    report = Report({}, {}, {}, {}, {})
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:

        def look(shown: Sequence[Scene], frames: Sequence[Clip]) -> list[tuple[Word, ...]]:
            found = pool.map(detect, frames, chunksize=4)
            return [judge(scene, seen) for scene, seen in zip(shown, found, strict=True)]

        words = {}
        looked_at = {"scores": (several, clips), "reconstructed": (scenes, through), "ceilings": (scenes, truth)}
        for kind, (shown, frames) in looked_at.items():
            on_stage(f"looking ({kind})")
            words[kind] = look(shown, frames)
        _add_shares(report, words)
        on_stage("signals")
        # A clip of one frame has no motion, and one of two nothing that could be taken back.
        for name, measure, least in (("flicker", flicker, 3), ("dynamic_degree", dynamic_degree, 2)):
            if size[0] >= least:
                values = {kind: [measure(clip) for clip in frames] for kind, (_, frames) in looked_at.items()}
                _add_mean(report, name, **values)
        if first:
            _add_mean(report, "first_frame_psnr", first)
        _add_mean(report, "autoencoder_psnr", [psnr(*pair) for pair in zip(through, truth, strict=True)])
        if min(size[1:]) >= WINDOW:
            _add_mean(report, "autoencoder_ssim", [ssim(*pair) for pair in zip(through, truth, strict=True)])
        # Frame by frame, clips take neither pictures of a subject nor rays.
        at_once = not settings.get("causal")
        if model.config.sampling.references and at_once:
            on_stage("references")
            _of_references(model, report, look, seed, size, reference_clips, settings)
        if model.config.camera_adapter is not None and at_once and size[0] > 1:
            on_stage("camera")
            _camera(model, report, seed, min(camera.CLIPS, num_prompts * num_seeds), settings)
        long = []
        if long_seconds:
            on_stage("long clips")
            long = _long(model, report, look, seed, long_seconds, long_clips, settings)
    rendered = [clip for clip in truth for _ in range(num_seeds)]
    return Examined(report, _looked(jobs, clips, rendered, words["scores"], request.fps), long)


def judge(scene: Scene, found: Seen) -> tuple[Word, ...]:
    """The words of a prompt, each beside what is to be seen.

    ``motion`` is the direction of subjects that move; ``second_subject`` both colours of a pair, ``second_shape`` both
    shapes, each in its subject's colour. Size, shape and colour are judged where there is one subject.
    """
    words = [Word(name, getattr(scene, name), getattr(found, name)) for name in ("place", "style", "camera", "action")]
    if scene.action.startswith("moves"):
        words.append(Word("motion", scene.action, found.action))
    if len(scene.subjects) == 2:
        colours, shapes = [s.colour for s in scene.subjects], [s.shape for s in scene.subjects]
        words.append(Word("second_subject", _pair(colours), _pair(found.colours[:2])))
        asked, seen = zip(colours, shapes, strict=True), zip(found.colours, found.shapes, strict=False)
        return *words, Word("second_shape", *(_pair(" ".join(each) for each in both) for both in (asked, seen)))
    subject = scene.subjects[0]
    words.append(Word("colour", subject.colour, found.colours[0] if found.colours else "none"))
    return *words, Word("size", subject.size, found.size), Word("shape", subject.shape, found.shapes[0])


def _pair(words: Iterable[str]) -> str:
    return " and ".join(sorted(words)) or "none"


def right(words: Iterable[Sequence[Word]]) -> dict[str, list[bool]]:
    """Whether each word is to be seen, for the clips whose prompt says it."""
    one = ("colour", "place", "style", "motion", "camera", "action", "size", "shape")
    names = (*one, "second_subject", "second_shape")
    hits: dict[str, list[bool]] = {name: [] for name in names}
    for clip in words:
        for word in clip:
            hits[word.name].append(word.right)
    return {name: each for name, each in hits.items() if each}


def _add_shares(report: Report, words: dict[str, list[tuple[Word, ...]]], prefix: str = "") -> None:
    for kind in KINDS:
        for name, hits in right(words[kind]).items():
            _add_share(report, kind, prefix + name, hits)


def _add_share(report: Report, kind: str, name: str, hits: Sequence[bool]) -> None:
    getattr(report, kind)[name] = float(np.mean(hits))
    if kind == "scores":
        report.intervals[name], report.counts[name] = wilson(sum(hits), len(hits)), len(hits)


def _add_mean(
    report: Report,
    name: str,
    scores: Sequence[float],
    ceilings: Sequence[float] = (),
    reconstructed: Sequence[float] = (),
) -> None:
    report.scores[name], report.counts[name] = float(np.mean(scores)), len(scores)
    report.intervals[name] = mean_interval(scores)
    for side, values in ((report.ceilings, ceilings), (report.reconstructed, reconstructed)):
        if values:
            side[name] = float(np.mean(values))


def _long(
    model: Model,
    report: Report,
    look: Callable[[Sequence[Scene], Sequence[Clip]], list[tuple[Word, ...]]],
    seed: int,
    seconds: float,
    count: int,
    settings: dict[str, Any],
) -> list[Looked]:
    """Adds the scores of long clips to the report."""
    scenes = drift.long_scenes(seed, count)
    prompts = _captions(scenes, seed)
    requests = [drift.long_request(model, p, seconds, seed + i, settings) for i, p in enumerate(prompts)]
    request = requests[0]
    clips = list(_clips(model, requests))
    truth = [render(scene, request.num_frames, request.height, request.width) for scene in scenes]
    ends = {"scores": [drift.tail(clip, request) for clip in clips]}
    ends["ceilings"] = [drift.tail(clip, request) for clip in truth]
    ends["reconstructed"] = [_reconstruct(model, end) for end in ends["ceilings"]]
    words = {}
    for kind, frames in ends.items():
        each = zip(scenes, look(scenes, frames), strict=True)
        words[kind] = [tuple(word for word in clip if word.name in drift.judged(scene)) for scene, clip in each]
    _add_shares(report, words, "long_")
    if all(drift.borders(request.rollout)):
        name = "joint_flicker"
        report.scores[name], report.intervals[name] = drift.joint_flicker(clips, request.rollout)
        report.ceilings[name], _ = drift.joint_flicker(truth, request.rollout)
        report.counts[name] = len(clips)
    jobs = [(prompt, seed + i) for i, prompt in enumerate(prompts)]
    return _looked(jobs, clips, truth, words["scores"], request.fps)


def _of_references(
    model: Model,
    report: Report,
    look: Callable[[Sequence[Scene], Sequence[Clip]], list[tuple[Word, ...]]],
    seed: int,
    size: tuple[int, int, int],
    count: int,
    settings: dict[str, Any],
) -> None:
    """Adds to the report how often the subject is the one that a picture shows."""
    scenes = references.reference_scenes(seed, count)
    requests = [references.reference_request(model, s, seed + i, size[1:], settings) for i, s in enumerate(scenes)]
    truth = [render(scene, *size) for scene in scenes]
    clips = {"scores": list(_clips(model, requests)), "ceilings": truth}
    clips["reconstructed"] = [_reconstruct(model, clip) for clip in truth]
    words = {}
    for kind, frames in clips.items():
        words[kind] = [tuple(w for w in clip if w.name in references.JUDGED) for clip in look(scenes, frames)]
    _add_shares(report, words, "reference_")


def _camera(model: Model, report: Report, seed: int, count: int, settings: dict[str, Any]) -> None:
    """Adds how often the camera does what its rays say, one thing or two at once, to the report."""
    for name, kind in (("camera_object", camera.SINGLE), ("camera_combined", camera.COMBINED)):
        wanted = camera.asked(kind, seed, count)
        requests = [make_request(model, **each) for each in camera.requests_of(wanted, seed, settings)]
        size = requests[0].num_frames, requests[0].height, requests[0].width
        truth = [one.rendered(*size) for one in wanted]
        through = [_reconstruct(model, clip) for clip in truth]
        for side, clips in zip(KINDS, (list(_clips(model, requests)), truth, through), strict=True):
            _add_share(report, side, name, camera.right(clips, wanted))


def _captions(scenes: Sequence[Scene], seed: int) -> list[str]:
    return [caption(scene, np.random.default_rng((seed, i))) for i, scene in enumerate(scenes)]


def _looked(
    jobs: Sequence[tuple[str, int]],
    clips: Sequence[Clip],
    rendered: Sequence[Clip],
    words: Sequence[tuple[Word, ...]],
    fps: float,
) -> list[Looked]:
    each = zip(jobs, clips, rendered, words, strict=True)
    return [Looked(*job, Video(clip, fps), Video(truth, fps), said) for job, clip, truth, said in each]


def _clips(model: Model, requests: Sequence[Request]) -> Iterable[Clip]:
    for start in range(0, len(requests), BATCH):
        yield from (video.frames for video in generate_each(model, requests[start : start + BATCH], BATCH))


def _first_frames(
    model: Model,
    prompts: Sequence[str],
    truth: Sequence[Clip],
    through: Sequence[Clip],
    seed: int,
    settings: dict[str, Any],
) -> list[float]:
    """PSNR of the first frame of clips from a picture, against the autoencoder's own rendering of that picture."""
    if model.config.pictures is None:
        return []
    found = []
    for i, (prompt, clip, own) in enumerate(zip(prompts[:FIRST_FRAMES], truth, through, strict=False)):
        video = generate(model, prompt, image=clip[0], seed=seed + i, progress=False, **settings)
        found.append(psnr(video.frames[0], own[0]))
    return found


def _reconstruct(model: Model, clip: Clip) -> Clip:
    """A clip through the autoencoder and back."""
    return np.asarray(_through(model.config, model.params["vae"], clip))


@functools.partial(jax.jit, static_argnames="config")
def _through(config: ModelConfig, params: Params, clip: Array) -> Array:
    vae = config.modules.vae
    mean, _ = vae.encode(config.vae, params, from_uint8(clip)[None])
    return to_uint8(vae.decode(config.vae, params, mean))[0]
