"""Shots from a small file, sampled one after another, each with or without the end of the one before: one film."""

import contextlib
import hashlib
import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from vidjax.campaign import SETTINGS, check_known
from vidjax.checks import whole
from vidjax.clip_file import PARTIAL, part_folder, write_frames
from vidjax.conditioning.pose_file import is_pose_file
from vidjax.errors import InputError
from vidjax.forecast import outline
from vidjax.generation import end_frames, frames_of
from vidjax.long import continues
from vidjax.model import Model
from vidjax.request import Request, make_request
from vidjax.typing import UInt8
from vidjax.unfinished import Unfinished, describe, open_folder, until_whole
from vidjax.video import check_writable
from vidjax.windows import Watch

Hold = Literal["none", "picture", "motion"]
"""What a shot is given of the one before: nothing (a cut), its last frame, or its last latent frames."""

IN_PLACE_OF = {
    "none": (),
    "picture": ("image", "extend"),
    "motion": ("image", "last_image", "keyframes", "video", "strength", "mask", "extend", "causal"),
}
"""The settings that a hold-over stands in place of."""

FILES = ("image", "last_image", "video", "mask", "style_image")
EXAMPLE = '[[shot]] and prompt = "a red circle"'


class Shot(NamedTuple):
    """What is asked for, arguments of ``vidjax.generate``, and what is held over from the shot before."""

    asked: dict[str, Any]
    hold: Hold = "none"


Storyboard = Sequence[Shot]


class Planned(NamedTuple):
    """A shot that fits the model: its first ``held`` frames were in the film before, and ``new`` ones are shown."""

    shot: Shot
    held: int
    new: int
    outline: str


class Film(NamedTuple):
    """All shots as planned; size in pixels, and frames per second."""

    shots: tuple[Planned, ...]
    height: int
    width: int
    fps: float

    @property
    def num_frames(self) -> int:
        return sum(planned.new for planned in self.shots)


def read_storyboard(path: str | Path, defaults: Mapping[str, Any] | None = None) -> Storyboard:
    """The shots of a TOML file; ``defaults`` hold where it says nothing.

    Above the first ``[[shot]]`` stand settings for all, arguments of ``vidjax.generate``, and ``style``, which is added
    to each prompt; a shot has a ``prompt``, settings of its own, and ``hold``. Names of files in it are relative to its
    own folder. Shot ``i``, from 0, has the seed of all + ``i`` if it has none of its own.

    Raises:
      InputError: no such file, or it is broken, with the number of the shot.
    """
    try:
        told = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not TOML: {error}") from None
    shots, own = told.pop("shot", []), Path(path).parent
    if not isinstance(shots, list) or not all(isinstance(shot, dict) for shot in shots):
        raise InputError(f"{path}: shots begin with two brackets: {EXAMPLE}")
    if not shots:
        raise InputError(f"{path} asks for no shot; each is {EXAMPLE}")
    try:
        check_known(told, SETTINGS - {"prompt"} | {"style"})
        common = {**(defaults or {}), **_from_folder(own, told)}
        first = whole("seed", common.pop("seed", 0), 0, 2**63 - len(shots))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    found = []
    for i, shot in enumerate(shots):
        try:
            found.append(_read_shot({**common, "seed": first + i, **_from_folder(own, shot)}))
            _check_hold(found[-1], i + 1)
        except InputError as error:
            raise InputError(f"{path}, shot {i + 1}: {error}") from None
    return found


def _read_shot(asked: dict[str, Any]) -> Shot:
    check_known(asked, SETTINGS | {"style", "hold"})
    hold, style, prompt = asked.pop("hold", "none"), asked.pop("style", ""), asked.get("prompt")
    for name, text in (("prompt", prompt), ("style", style)):
        if not isinstance(text, str):
            raise InputError(f"{name}={text!r:.40}: one text is needed")
    return Shot({**asked, "prompt": ", ".join(filter(None, (prompt, style)))}, hold)


def _check_hold(shot: Shot, number: int) -> None:
    hold = shot.hold
    if not isinstance(hold, str) or hold not in IN_PLACE_OF:
        raise InputError(f"hold={hold!r:.40}: choose one of {', '.join(IN_PLACE_OF)}")
    if number == 1 and hold != "none":
        raise InputError(f"hold={hold!r}: nothing is before the first shot; give it an image or a video")
    for name in IN_PLACE_OF[hold]:
        value = shot.asked.get(name)
        if value is not None and value is not False:
            raise InputError(f"hold={hold!r} and {name}: give one of them")


def _from_folder(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with names of files as seen from the current folder."""

    def seen(value: Any) -> Any:
        return str(folder / value) if isinstance(value, str) else value

    found = {name: seen(value) if name in FILES else value for name, value in asked.items()}
    camera = found.get("camera")
    if isinstance(camera, str) and is_pose_file(str(folder / camera)):
        found["camera"] = seen(camera)
    if isinstance(found.get("keyframes"), dict):
        found["keyframes"] = {frame: seen(picture) for frame, picture in found["keyframes"].items()}
    if isinstance(found.get("references"), list):
        found["references"] = [seen(picture) for picture in found["references"]]
    return found


def plan_film(model: Model, storyboard: Storyboard) -> Film:
    """The film as it will be made; nothing is compiled. Blank frames stand in for those that are held over.

    Raises:
      InputError: a shot that does not fit the model or the film, with its number.
    """
    planned, film, since = [], None, 0
    for number, shot in enumerate(storyboard, 1):
        # A hold-over does not reach behind the last cut.
        since = 0 if shot.hold == "none" else since
        blank = None
        if film is not None:
            blank = np.zeros((min(since, _tail_frames(model)), film.height, film.width, 3), np.uint8)
        request = _make_request(model, number, shot, blank)
        size = request.height, request.width, request.fps
        film = film or Film((), *size)
        if size != film[1:]:
            own, others = ("{1}x{0} at {2:g} frames a second".format(*each) for each in (size, film[1:]))
            raise InputError(f"shot {number}: {own}, and the film is {others}; say it once, above the first shot")
        held = {"none": 0, "picture": 1, "motion": 0 if blank is None else len(blank)}[shot.hold]
        new = request.num_frames - held
        if not new:
            least = 1 + model.config.vae.temporal_factor
            raise InputError(f"shot {number}: num_frames=1 is the picture that is held; nearest: {least}")
        since += new
        planned.append(Planned(shot, held, new, outline(request, new)))
    if film is None:
        raise InputError("a film has at least one shot")
    return film._replace(shots=tuple(planned))


def _tail_frames(model: Model) -> int:
    """So many frames of the end of the film are ever held over."""
    return 1 if continues(model.config) is None else end_frames(model.config)


def _make_request(model: Model, number: int, shot: Shot, tail: UInt8[np.ndarray, "n H W 3"] | None) -> Request:
    """That of a shot behind the film's last frames, ``tail``."""
    held = {}
    try:
        _check_hold(shot, number)
        if shot.hold == "picture":
            if model.config.num_pictures[1] == 0:
                able = "the bundled model and Wan's image-to-video models do"
                raise InputError(f"hold='picture': {model.name} takes no picture; {able}")
            held = {"image": tail[-1]}
        elif shot.hold == "motion":
            if continues(model.config) is None:
                able = "the bundled model, TI2V and image-to-video models can"
                raise InputError(f"hold='motion': {model.name} cannot go on; {able}")
            held = {"video": tail, "extend": "after"}
        return make_request(model, **shot.asked, **held)
    except InputError as error:
        raise InputError(f"shot {number}: {error}") from None


def make_film(
    model: Model,
    storyboard: Storyboard,
    out: str | Path,
    watch: Watch = Watch(),  # noqa: B008
    on_shot: Callable[[int, Planned], None] = lambda number, planned: None,
) -> Film:
    """Writes the film of all shots as it is made; an mp4 is never in memory whole. Returns what it is.

    The latents of finished windows are in ``part_folder(out)`` until the file is there, of each shot in a folder whose
    name says what was asked for, of which weights, and behind which frames. A call that was stopped goes on with these
    when it is made again; where shots were changed, with those of the others.

    Args:
      on_shot: called with the number, from 1, and the plan of each shot before it is made.

    Raises:
      InputError: a shot does not fit, with its number, before anything is compiled; or the file cannot be written.
    """
    out = check_writable(out)
    film = plan_film(model, storyboard)
    kept = _open_part(part_folder(out)) if jax.process_count() == 1 else None
    with contextlib.nullcontext() if kept is None else until_whole(kept):
        frames = _film_frames(model, film, kept, watch, on_shot)
        write_frames(frames, out, film.fps, film.height, film.width, kept, watch)
    return film


def _open_part(folder: Path) -> Unfinished:
    """The folder of a film that is not whole; what is not of a film is not in it, as all goes away with it."""
    try:
        folder.mkdir(exist_ok=True)
        for entry in folder.iterdir():
            if entry.name != PARTIAL and not entry.name.startswith(("shot-", ".")):
                raise InputError(f"{folder} is in the way: finished shots are kept there; move it away")
    except OSError as error:
        raise InputError(f"{folder} cannot be written to: {error.strerror or error}") from error
    return Unfinished(folder, {})


def _film_frames(
    model: Model, film: Film, part: Unfinished | None, watch: Watch, on_shot: Callable[[int, Planned], None]
) -> Iterator[UInt8[np.ndarray, "n H W 3"]]:
    tail, most = np.zeros((0, film.height, film.width, 3), np.uint8), _tail_frames(model)
    for number, planned in enumerate(film.shots, 1):
        on_shot(number, planned)
        if planned.shot.hold == "none":
            tail = tail[:0]
        request = _make_request(model, number, planned.shot, tail)
        kept = None if part is None else _open_shot(part, describe(model, request))
        frames = (chunk[0] for chunk in frames_of(model, [request], watch, kept))
        for new in _behind(frames, planned.held):
            tail = np.concatenate([tail, new])[-most:]
            yield new


def _open_shot(part: Unfinished, asked: dict[str, Any]) -> Unfinished:
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    return open_folder(part.folder / f"shot-{digest}", asked)


def _behind(chunks: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Frames without the first ``count``."""
    for chunk in chunks:
        if len(chunk) > count:
            yield chunk[count:]
        count = max(0, count - len(chunk))
