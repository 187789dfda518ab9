"""Long clips that may be stopped: the latents of finished windows lie in a folder until the clip is whole."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from filelock import FileLock, Timeout

import vidjax
from vidjax.conditioning.poses import Poses
from vidjax.errors import InputError
from vidjax.model import Model
from vidjax.parallel.gathering import to_host
from vidjax.request import Request
from vidjax.typing import Array, Float, Params

REQUEST = "request.json"
HEAD = 64
"""So many numbers of each parameter tell weights apart."""


DIGESTS = ("pictures", "references", "style_image", "video", "mask", "camera", "weights")
"""What ``describe`` has hashes of, which tell people nothing."""


class Unfinished(NamedTuple):
    """``folder`` holds ``request.json``, what was ``asked`` for, and of each finished window ``window-00000.npy``.

    Windows from which larger ones are made have another ``name``. The folder of a film holds one of each shot.
    """

    folder: Path
    asked: dict[str, Any]
    name: str = "window"


def open_folder(folder: str | Path, asked: dict[str, Any]) -> Unfinished:
    """The place for what ``describe`` tells, with ``request.json``; finished windows of that request may be there.

    Raises:
      InputError: there are finished windows of another clip, or something else; or it cannot be written.
    """
    kept = Unfinished(Path(folder), asked)
    there = _read_request(kept.folder)
    if there != asked:
        if _anything(kept):
            raise InputError(
                f"{folder} holds an unfinished clip of another request ({_difference(there, asked)}): finish that one "
                "first, give another name, or remove the folder"
            )
        _write_request(kept)
    return kept


@contextlib.contextmanager
def until_whole(kept: Unfinished) -> Iterator[None]:
    """Removes the folder if all goes well inside; if not, it stays where there are finished windows.

    Raises:
      InputError: another process is making the same.
    """
    lock = FileLock(kept.folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{kept.folder}: another process is making this clip") from None
    try:
        try:
            yield
        except BaseException:
            if not _anything(kept):
                shutil.rmtree(kept.folder, ignore_errors=True)
            raise
        shutil.rmtree(kept.folder, ignore_errors=True)
    finally:
        lock.release()


def count(kept: Unfinished) -> int:
    """How many windows of this name are finished."""
    return len(list(kept.folder.glob(f"{kept.name}-*.npy")))


def _anything(kept: Unfinished) -> bool:
    """Windows of any name; of a film, of any shot."""
    return any(kept.folder.rglob("*-*.npy"))


def read(kept: Unfinished, window: int) -> Float[np.ndarray, "B f h w z"] | None:
    """The latents of a finished window; None where there are none that are whole."""
    try:
        return np.load(_file(kept, window))
    except (OSError, ValueError, EOFError):
        return None


def write(kept: Unfinished, window: int, latents: Float[np.ndarray, "B f h w z"]) -> None:
    """Puts a finished window there, whole or not at all.

    Raises:
      InputError: it cannot be written; those before it stay.
    """
    partial = kept.folder / ".window.npy"
    try:
        np.save(partial, latents)
        os.replace(partial, _file(kept, window))
    except OSError as error:
        raise InputError(f"{kept.folder} cannot be written to: {error.strerror or error}") from error


def _read_request(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is in the way: finished windows are kept there; move it away") from None
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / REQUEST} cannot be read ({error}); move {folder} away") from None


def _write_request(kept: Unfinished) -> None:
    try:
        kept.folder.mkdir(parents=True, exist_ok=True)
        partial = kept.folder / f".{REQUEST}"
        partial.write_text(json.dumps(kept.asked, indent=2, ensure_ascii=False), encoding="utf-8")
        os.replace(partial, kept.folder / REQUEST)
    except OSError as error:
        raise InputError(f"{kept.folder} cannot be written to: {error.strerror or error}") from error


def _difference(there: Any, asked: dict[str, Any]) -> str:
    """The first thing that was asked for otherwise."""
    for name, value in asked.items():
        if not isinstance(there, dict) or name not in there:
            return f"no {name} is known"
        if there[name] != value:
            if name in DIGESTS:
                return f"other {name}"
            return f"{name}={there[name]!r:.60}, not {value!r:.60}"
    return "of another version"


def _file(kept: Unfinished, window: int) -> Path:
    return kept.folder / f"{kept.name}-{window:05d}.npy"


def describe(model: Model, request: Request) -> dict[str, Any]:
    """What was asked for, and of which weights, as JSON: where it differs, so do latents or frames."""
    made = request.base or request
    given = made.given
    return {
        "prompts": _runs(request.texts),
        "negative_prompts": list(request.negative_prompts),
        "seeds": list(request.seeds),
        "num_frames": request.num_frames,
        "height": made.height,
        "width": made.width,
        "resolution": [request.height, request.width] if request.base else None,
        "refine": request.given.strength if request.base else None,
        "fps": request.fps,
        "pictures": [[picture.place, _digest(picture.original)] for picture in given.pictures],
        "references": [_digest(picture) for picture in given.references],
        "style_image": _digest(given.style),
        "video": _digest(given.clip),
        "mask": _digest(given.mask),
        "extend": given.extend,
        "camera": _path_digest(made.poses),
        "strength": given.strength,
        "num_inference_steps": request.schedule.num_steps,
        "guidance_scales": list(request.guidance_scales),
        "guidance": list(request.guidance),
        "solver": request.solver,
        "sigmas": np.asarray(request.schedule.sigmas, float).tolist(),
        "times": np.asarray(request.schedule.times, float).tolist(),
        "rollout": list(request.rollout),
        "causal": request.causal,
        "riflex": request.riflex,
        "model": model.name,
        "dtype": model.config.dtype,
        "weights": _weights(model),
        "version": vidjax.__version__,
    }


def _runs(texts: tuple[tuple[str, ...], ...]) -> list[list[Any]]:
    """[window from which they hold, prompts], where they change."""
    return [[i, list(prompts)] for i, prompts in enumerate(texts) if not i or prompts != texts[i - 1]]


def _path_digest(poses: Poses | None) -> str | None:
    return None if poses is None else _digest(np.hstack([poses.world_to_camera.reshape(-1, 12), poses.intrinsics]))


def _digest(array: np.ndarray | None) -> str | None:
    return None if array is None else hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def _weights(model: Model) -> str:
    """Twelve hexadecimal digits that change when weights are trained on, or changed by LoRAs."""
    digest = hashlib.sha256(repr(model.config).encode())
    for part in sorted(model.params):
        digest.update(to_host(_heads(model.params[part])).tobytes())
    return digest.hexdigest()[:12]


@jax.jit
def _heads(params: Params) -> Float[Array, "n"]:
    return jnp.concatenate(
        [x[(0,) * (x.ndim - 1)][:HEAD].astype(jnp.float32) for x in map(jnp.atleast_1d, jax.tree.leaves(params))]
    )
