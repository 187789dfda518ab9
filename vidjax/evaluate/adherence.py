"""Adherence: of clips made from held-out prompts, the share in which each word of the prompt is to be seen."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import jax
import numpy as np

from vidjax.data.shapes import Scene, caption, held_out_scene, render
from vidjax.errors import InputError
from vidjax.evaluate.detect import Seen, detect
from vidjax.generation import generate, generate_each
from vidjax.model import Model, ModelConfig
from vidjax.request import make_request
from vidjax.typing import Array, Params, UInt8
from vidjax.video import from_uint8, to_uint8

BATCH = 8
"""Clips made together: one compilation serves all."""

FIRST_FRAMES = 16
"""Pictures whose clips are looked at for their first frame."""

Clip = UInt8[np.ndarray, "F H W 3"]


@dataclasses.dataclass(frozen=True)
class Report:
    """Scores by name: shares from 0 to 1, PSNR in dB; each with its 95 % interval.

    ``ceilings`` are the detectors' own scores on renderings of the same prompts, ``reconstructed`` those on the
    renderings after the autoencoder: no denoiser can be better than that. ``counts``: how many clips a score is of.
    """

    scores: dict[str, float]
    ceilings: dict[str, float]
    reconstructed: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    counts: dict[str, int]

    def table(self) -> str:
        """One line for each score."""
        lines = [f"{'':18}  score    95 % interval   autoencoder  detector  clips"]
        for name, score in self.scores.items():
            (low, high), count = self.intervals[name], self.counts[name]
            if name in self.ceilings:
                limits = f"{self.reconstructed[name]:11.1%} {self.ceilings[name]:9.1%}"
                lines.append(f"{name:18} {score:6.1%}  {low:6.1%} to {high:6.1%} {limits} {count:6}")
            else:
                lines.append(f"{name:18} {score:6.2f}  {low:6.2f} to {high:6.2f} dB {count:25}")
        return "\n".join(lines)


def evaluate(
    model: Model,
    num_prompts: int = 100,
    num_seeds: int = 2,
    seed: int = 0,
    workers: int | None = None,
    on_stage: Callable[[str], None] = lambda name: None,
    **settings: Any,
) -> Report:
    """Clips of ``num_prompts`` prompts that training never saw, ``num_seeds`` each, and what is to be seen in them.

    Args:
      seed: chooses the prompts and the noise.
      workers: processes that look at clips; None: as many as there are cores.
      settings: keyword arguments of ``vidjax.generate``; left out, the model's own defaults.

    Raises:
      InputError: a number below 1, or settings that do not fit the model.
    """
    for name, value in (("num_prompts", num_prompts), ("num_seeds", num_seeds)):
        if value < 1:
            raise InputError(f"{name}={value}: must be at least 1")
    request = make_request(model, "", **settings)
    size = request.num_frames, request.height, request.width
    scenes = [held_out_scene(seed, i) for i in range(num_prompts)]
    prompts = [caption(scene, np.random.default_rng((seed, i))) for i, scene in enumerate(scenes)]
    several = [scene for scene in scenes for _ in range(num_seeds)]

    on_stage("clips")
    jobs = [(prompt, seed + i * num_seeds + j) for i, prompt in enumerate(prompts) for j in range(num_seeds)]
    clips = list(_clips(model, jobs, settings))
    on_stage("first frames")
    truth = [render(scene, *size) for scene in scenes]
    through, errors = zip(*(_reconstruct(model, clip) for clip in truth), strict=True)
    first = _first_frames(model, prompts, truth, through, seed, settings)

    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        results = {}
        looked_at = {"scores": (several, clips), "reconstructed": (scenes, through), "ceilings": (scenes, truth)}
        for name, (shown, frames) in looked_at.items():
            on_stage(f"looking ({name})")
            results[name] = right(shown, list(pool.map(detect, frames, chunksize=4)))

    shares = {kind: {name: float(np.mean(h)) for name, h in hits.items() if h} for kind, hits in results.items()}
    scores = shares["scores"]
    intervals = {name: wilson(sum(results["scores"][name]), len(results["scores"][name])) for name in scores}
    counts = {name: len(results["scores"][name]) for name in scores}
    for name, values in (("first_frame_psnr", first), ("autoencoder_psnr", errors)):
        if values:
            scores[name], counts[name] = float(np.mean(values)), len(values)
            half = 1.96 * float(np.std(values)) / math.sqrt(len(values))
            intervals[name] = (scores[name] - half, scores[name] + half)
    return Report(scores, shares["ceilings"], shares["reconstructed"], intervals, counts)


def right(scenes: Sequence[Scene], seen: Sequence[Seen]) -> dict[str, list[bool]]:
    """Whether each word is to be seen, for the clips whose prompt says it.

    ``motion`` is the direction of subjects that move; ``second_subject`` both colours of a pair. Size, shape and
    colour are judged where there is one subject.
    """
    hits: dict[str, list[bool]] = {
        name: []
        for name in ("colour", "place", "style", "motion", "camera", "action", "size", "shape", "second_subject")
    }
    for scene, found in zip(scenes, seen, strict=True):
        for name in ("place", "style", "camera", "action"):
            hits[name].append(getattr(found, name) == getattr(scene, name))
        if scene.action.startswith("moves"):
            hits["motion"].append(found.action == scene.action)
        if len(scene.subjects) == 2:
            hits["second_subject"].append(set(found.colours[:2]) == {s.colour for s in scene.subjects})
            continue
        subject = scene.subjects[0]
        hits["colour"].append(found.colours[:1] == (subject.colour,))
        hits["size"].append(found.size == subject.size)
        hits["shape"].append(found.shape == subject.shape)
    return hits


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927)."""
    z = 1.96
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """In dB, of uint8."""
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(np.float32) - b) ** 2), 1e-3)))


def _clips(model: Model, jobs: Sequence[tuple[str, int]], settings: dict[str, Any]) -> Iterable[Clip]:
    for start in range(0, len(jobs), BATCH):
        requests = [make_request(model, prompt, seed=seed, **settings) for prompt, seed in jobs[start : start + BATCH]]
        yield from (video.frames for video in generate_each(model, requests, BATCH))


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


def _reconstruct(model: Model, clip: Clip) -> tuple[Clip, float]:
    """A clip through the autoencoder and back, and its PSNR."""
    again = np.asarray(_through(model.config, model.params["vae"], clip))
    return again, psnr(again, clip)


@functools.partial(jax.jit, static_argnames="config")
def _through(config: ModelConfig, params: Params, clip: Array) -> Array:
    vae = config.modules.vae
    mean, _ = vae.encode(config.vae, params, from_uint8(clip)[None])
    return to_uint8(vae.decode(config.vae, params, mean))[0]
