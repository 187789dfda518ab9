"""Clips for VBench (Huang et al., 2311.17982): named as its programs look for them, with a manifest of their making."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from vidjax.errors import InputError
from vidjax.generation import generate_each
from vidjax.model import Model
from vidjax.parallel.mesh import batch_blocks
from vidjax.request import Request, make_request
from vidjax.unfinished import describe

MANIFEST = "manifest.json"
NAMES = "{prompt}-{index}.mp4"
CLIPS = 5
"""A prompt, as VBench wants them; 25 for its temporal flickering."""
NAME_BYTES = 255
"""The longest name of a file, in UTF-8, on all usual file systems."""


class Outcome(NamedTuple):
    """How many clips were made by this run, and by earlier ones."""

    made: int
    found: int


def read_prompts(path: str | Path, clips: int = CLIPS) -> list[str]:
    """The prompts of a text file, one a line, as VBench reads them: without spaces around them.

    Empty lines are passed over. A prompt that comes again (lists of several dimensions share some) is taken once, as
    its clips would have the same names.

    Raises:
      InputError: the file cannot be read or has no prompt, or no file can have the name of a clip; with the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    prompts = {}
    for number, prompt in enumerate(map(str.strip, lines), 1):
        if not prompt:
            continue
        said = f"{path}, line {number}: prompt {prompt!r:.60}"
        if "/" in prompt or "\0" in prompt:
            sign = "/" if "/" in prompt else "\\0"
            raise InputError(f"{said}: VBench names clips by their prompts, and no file name has a {sign}")
        size = len(clip_name(prompt, clips - 1).encode())
        if size > NAME_BYTES:
            raise InputError(
                f"{said}: its clips' names would have {size} bytes, and files {NAME_BYTES} at most; VBench's own "
                "short prompts fit"
            )
        prompts[prompt] = None
    if not prompts:
        raise InputError(f"{path} has no prompt: one a line is expected")
    return list(prompts)


def clip_name(prompt: str, index: int) -> str:
    """Of the file in which VBench looks for a clip."""
    return NAMES.format(prompt=prompt, index=index)


def export(
    model: Model,
    prompts_file: str | Path,
    out_dir: str | Path,
    clips: int = CLIPS,
    on_clip: Callable[[Path], None] = lambda path: None,
    **settings: Any,
) -> Outcome:
    """Makes ``out_dir/{prompt}-{index}.mp4`` for index 0 to ``clips`` - 1, which is the seed, and ``manifest.json``.

    Each is the clip that ``vidjax.generate`` makes of prompt and seed. Stopped and called again, it goes on where it
    was; prompts and clips may be added so.

    Args:
      on_clip: called with each file that is written.
      settings: keyword arguments of ``vidjax.generate``, without pictures; left out, the model's own defaults.

    Raises:
      InputError: before anything is made, where prompts or settings do not fit, or ``out_dir`` holds other clips.
    """
    if clips < 1:
        raise InputError(f"vbench_clips={clips}: must be at least 1")
    prompts = read_prompts(prompts_file, clips)
    request = make_request(model, prompts[0], seed=0, **settings)
    out_dir = Path(out_dir)
    known = _read_manifest(out_dir)
    manifest = _describe(model, request, prompts, clips, settings)
    _check(out_dir, known, manifest)
    _write_manifest(out_dir, manifest)

    names = [(prompt, index, out_dir / clip_name(prompt, index)) for prompt in prompts for index in range(clips)]
    # A sudden end may leave a file with nothing in it.
    left = [each for each in names if not each[2].is_file() or not each[2].stat().st_size]
    size = batch_blocks(model.mesh) if model.mesh is not None else 1
    for start in range(0, len(left), size):
        batch = left[start : start + size]
        requests = [make_request(model, prompt, seed=index, **settings) for prompt, index, _ in batch]
        for (_, _, path), video in zip(batch, generate_each(model, requests, size), strict=True):
            on_clip(video.save(path))
    return Outcome(len(left), len(names) - len(left))


def _describe(
    model: Model, request: Request, prompts: list[str], clips: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """All that the clips depend on."""
    said = describe(model, request)
    shift = settings.get("flow_shift")
    made_by = {name: said[name] for name in ("model", "weights", "dtype", "version")}
    sampler = ("num_inference_steps", "guidance_scales", "height", "width", "num_frames", "fps")
    return {
        **made_by,
        "solver": request.solver,
        "flow_shift": model.config.sampling.flow_shift if shift is None else shift,
        "grid": settings.get("grid", "folder"),
        "causal": request.causal,
        **{name: said[name] for name in sampler},
        "guidance": request.guidance.rule,
        "guidance_interval": [request.guidance.low, request.guidance.high],
        "negative_prompt": request.negative_prompts[0],
        "names": NAMES.format(prompt="{prompt}", index="{seed}"),
        "seeds": list(range(clips)),
        "prompts": prompts,
    }


def _check(out_dir: Path, known: dict[str, Any] | None, manifest: dict[str, Any]) -> None:
    """That what lies there was made in the same way, and belongs to what is asked for."""
    if known is None:
        return
    for name, value in manifest.items():
        was = known.get(name)
        if name in ("seeds", "prompts"):
            gone = [each for each in was or () if each not in value]
            if gone:
                fault = f"of {len(gone)} {name} that are not asked for now, such as {gone[0]!r:.60}"
                raise InputError(f"{out_dir} holds clips {fault}: ask for them too, or give another folder")
        elif was != value:
            raise InputError(f"{out_dir} holds clips made with {name}={was!r}, not {value!r}: give another folder")


def _read_manifest(out_dir: Path) -> dict[str, Any] | None:
    """What is there, None in a new folder."""
    path = out_dir / MANIFEST
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else None
        clip = next(out_dir.glob("*.mp4"), None)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if text is None:
        if clip is not None:
            raise InputError(f"{out_dir} holds clips such as {clip.name!r:.60}, and no {MANIFEST}: give another folder")
        return None
    try:
        known = json.loads(text)
    except ValueError:
        known = None
    if not isinstance(known, dict):
        raise InputError(f"{path} is damaged: give another folder")
    return known


def _write_manifest(out_dir: Path, manifest: dict[str, Any]) -> None:
    partial = out_dir / f".{MANIFEST}"
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, out_dir / MANIFEST)
    except OSError as error:
        raise InputError(f"{out_dir} cannot be written to: {error.strerror or error}") from error
