"""A clip straight to its file: frame by frame as it is decoded, and a long one so that it can be stopped and go on."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from vidjax.generation import frames_of
from vidjax.model import Model
from vidjax.request import Request
from vidjax.typing import UInt8
from vidjax.unfinished import Unfinished, describe, open_folder, until_whole
from vidjax.video import Video, check_writable, open_writer
from vidjax.windows import Watch

LARGE = 512 * 512
"""Frames of more pixels than this, a decoder may lack the memory for: their latents are kept."""


PARTIAL = "clip.mp4"
"""In that folder, what is on its way to the file."""


def part_folder(out: Path) -> Path:
    """Where the finished windows of a clip are until its file is whole."""
    return out.with_name(f"{out.name}.part")


def make_file(model: Model, request: Request, out: Path, watch: Watch) -> None:
    """Writes the clip of a request for one clip; an mp4 is never in memory whole, a gif or png is.

    A clip of several windows, or of large frames, keeps the latents of finished windows in ``part_folder(out)`` until
    the file is there; after Ctrl-C, a kill, or a decoder that ran out of memory, the same call goes on with these, and
    may do so with smaller tiles. Of several processes the first one writes, and nothing is kept.

    Raises:
      InputError: the file cannot be written, that folder holds another clip, or the decoder ran out of memory.
    """
    alone = jax.process_count() == 1
    folder = part_folder(out)
    kept = None
    large = request.height * request.width > LARGE
    if alone and (request.rollout.count > 1 or large or folder.exists()):
        kept = open_folder(folder, describe(model, request))
    with contextlib.nullcontext() if kept is None else until_whole(kept):
        frames = (chunk[0] for chunk in frames_of(model, [request], watch, kept))
        write_frames(frames, out, request.fps, request.height, request.width, kept, watch)


def write_frames(
    frames: Iterator[UInt8[np.ndarray, "n H W 3"]],
    out: Path,
    fps: float,
    height: int,
    width: int,
    kept: Unfinished | None,
    watch: Watch,
) -> None:
    """Writes frames as they come; of several processes the first one does. ``kept`` goes away when they are there."""
    if jax.process_index() > 0:
        for _ in frames:
            pass
        return
    if out.suffix.lower() != ".mp4":
        video = Video(np.concatenate(list(frames)), fps)
        start = time.perf_counter()
        video.save(out)
        watch.on_stage("writing", time.perf_counter() - start)
        return
    # In the folder that goes away: what a kill leaves of it goes with it.
    file = out if kept is None else kept.folder / PARTIAL
    check_writable(out)
    with open_writer(file, fps, height, width) as writer:
        seconds = 0.0
        for chunk in frames:
            start = time.perf_counter()
            writer.write(chunk)
            seconds += time.perf_counter() - start
        start = time.perf_counter()
    if file != out:
        os.replace(file, out)
    watch.on_stage("writing", seconds + time.perf_counter() - start)
