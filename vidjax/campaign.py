"""Many clips from one file: read, grouped so that nothing compiles twice, made, and written down one by one."""

import hashlib
import inspect
import itertools
import json
import re
import string
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

import vidjax
from vidjax.checks import try_folder
from vidjax.errors import InputError
from vidjax.generation import generate_each
from vidjax.model import Model
from vidjax.parallel.gathering import agree
from vidjax.parallel.mesh import batch_blocks
from vidjax.request import make_request

MANIFEST = "manifest.jsonl"
SETTINGS = frozenset(inspect.signature(make_request).parameters) - {"model", "latents", "output_type"}
"""What a line of a file may say: arguments of ``vidjax.generate`` that are words, numbers and names of files."""
TEMPLATE = frozenset({"template", "variables", "sizes", "seeds"})


class Job(NamedTuple):
    """One clip: what is asked for, and an id that depends on nothing else."""

    id: str
    asked: dict[str, Any]


class Batch(NamedTuple):
    """Jobs that one compiled program makes, with their settings as completed."""

    jobs: list[Job]
    settings: list[dict[str, Any]]


def read_jobs(path: str | Path, defaults: Mapping[str, Any] | None = None) -> list[Job]:
    """The clips that a file of JSON lines asks for; ``defaults`` hold where a line says nothing.

    A line holds arguments of ``vidjax.generate`` by name, or is a template, ``{"template": "a {colour} {thing}",
    "variables": {"colour": [...], "thing": [...]}, "sizes": [[height, width], ...], "seeds": [...]}``: a clip for each
    combination. Paths of pictures and clips are relative to the current folder.

    Raises:
      InputError: no such file, or a line of it is broken, with its number; nothing of such a file is made.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    asked = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            asked += _expand(_parse(line))
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
    if not asked:
        raise InputError(f'{path} asks for no clip: each line is a request, as in {{"prompt": "a red circle"}}')
    return name_jobs([{**(defaults or {}), **each} for each in asked])


def name_jobs(asked: Iterable[Mapping[str, Any]]) -> list[Job]:
    """Jobs whose ids come from what is asked for, whatever the order; one that is asked for again is another clip."""
    jobs, seen = [], {}
    for each in asked:
        digest = hashlib.sha256(json.dumps(each, sort_keys=True).encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        jobs.append(Job(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}", dict(each)))
    return jobs


def _parse(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line, object_pairs_hook=_each_once)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f'is {line.strip()!r:.40}; a request is an object, as in {{"prompt": "a red circle"}}')
    if lone := re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False)):
        raise InputError(f"has {lone[0]!a}, half a character: no text can be written with it")
    known = SETTINGS - {"prompt"} | TEMPLATE if "template" in value else SETTINGS
    check_known(value, known)
    if "template" not in value and not isinstance(value.get("prompt"), str):
        raise InputError(f"prompt={value.get('prompt')!r:.40}: one text is needed")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise InputError(f"{name!r} is given twice; give it once")
    return dict(pairs)


def check_known(asked: Mapping[str, Any], known: frozenset[str]) -> None:
    """See that all settings in a file are ``known``.

    Raises:
      InputError: one is not.
    """
    unknown = sorted(asked.keys() - known)
    if unknown:
        raise InputError(f"no setting {unknown[0]!r}; these are known: {', '.join(sorted(known))}")


def _expand(value: dict[str, Any]) -> list[dict[str, Any]]:
    if "template" not in value:
        return [value]
    template, variables = value["template"], value.get("variables", {})
    settings = {name: setting for name, setting in value.items() if name not in TEMPLATE}
    if not isinstance(variables, dict):
        raise InputError('variables: lists by name are expected, as in {"colour": ["red", "blue"]}')
    names = _placeholders(template)
    for name in [*names, *variables]:
        if name not in names:
            raise InputError(f"variable {name!r} does not stand in the template {template!r:.80}")
        if not isinstance(variables.get(name), list) or not variables[name]:
            raise InputError(f"variable {name!r} needs a list of at least one value")
        wrong = [each for each in variables[name] if isinstance(each, bool) or not isinstance(each, str | int | float)]
        if wrong:
            raise InputError(f"variable {name!r} has {wrong[0]!r:.40}: values are texts or numbers")
    sizes = [{"height": h, "width": w} for h, w in _sizes(value["sizes"])] if "sizes" in value else [{}]
    seeds = [{"seed": seed} for seed in _filled("seeds", value["seeds"])] if "seeds" in value else [{}]
    words = [dict(zip(names, each, strict=True)) for each in itertools.product(*(variables[name] for name in names))]
    return [
        {**settings, "prompt": template.format_map(word), **size, **seed}
        for word, size, seed in itertools.product(words, sizes, seeds)
    ]


def _placeholders(template: Any) -> list[str]:
    """The names in braces, each once."""
    try:
        parts = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except (TypeError, ValueError) as error:
        raise InputError(f"template={template!r:.80}: {error}") from None
    wrong = [name for name, spec, conversion in parts if not name.isidentifier() or spec or conversion]
    if wrong:
        raise InputError(f"template={template!r:.80}: only names stand in braces, as in {{colour}}")
    return list(dict.fromkeys(name for name, _, _ in parts))


def _filled(name: str, values: Any) -> list:
    if not isinstance(values, list) or not values:
        raise InputError(f"{name}={values!r:.40}: a list with at least one value is needed")
    return values


def _sizes(values: Any) -> list:
    if not all(isinstance(size, list) and len(size) == 2 for size in _filled("sizes", values)):
        raise InputError(f"sizes={values!r:.40}: pairs [height, width] are needed")
    return values


def plan(model: Model, jobs: Sequence[Job], batch_size: int) -> tuple[list[Batch], dict[str, str]]:
    """Batches of up to ``batch_size`` jobs, those of one program behind one another; and what is wrong with the others.

    The errors are by id.
    """
    groups, errors = {}, {}
    for job in jobs:
        try:
            key, settings = _complete(model, job.asked)
        except InputError as error:
            errors[job.id] = str(error)
        else:
            groups.setdefault(key, []).append((job, settings))
    batches = []
    for group in groups.values():
        for first in range(0, len(group), batch_size):
            batches.append(Batch(*map(list, zip(*group[first : first + batch_size], strict=True))))
    return batches, errors


def _complete(model: Model, asked: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """What decides on the compiled program, and all of ``generate``'s arguments that make this clip again."""
    request = make_request(model, **asked)
    shift = asked.get("flow_shift")
    enlarged, made = request.base is not None, request.base or request
    settings = {
        "prompt": asked["prompt"],
        "seed": request.seeds[0],
        "negative_prompt": request.negative_prompts[0],
        "image": asked.get("image"),
        "last_image": asked.get("last_image"),
        "keyframes": asked.get("keyframes"),
        "video": asked.get("video"),
        "strength": made.given.strength if made.given.repaints else None,
        "mask": asked.get("mask"),
        "extend": request.given.extend,
        "camera": asked.get("camera"),
        "references": asked.get("references", []),
        "style_image": asked.get("style_image"),
        "height": None if enlarged else request.height,
        "width": None if enlarged else request.width,
        "resolution": asked.get("resolution") if enlarged else None,
        "aspect_ratio": asked.get("aspect_ratio") if enlarged else None,
        "refine": request.given.strength if enlarged else None,
        "num_frames": request.num_frames - (len(request.given.clip) if request.given.extend else 0),
        "fps": request.fps,
        "num_inference_steps": request.schedule.num_steps,
        "guidance_scale": request.guidance_scales[0],
        "guidance_scale_2": request.guidance_scales[1] if len(request.guidance_scales) > 1 else None,
        "flow_shift": model.config.sampling.flow_shift if shift is None else shift,
        "solver": request.solver,
        "grid": asked.get("grid", "folder"),
        "guidance": request.guidance.rule,
        "guidance_interval": [request.guidance.low, request.guidance.high],
        "decode_tile": max(request.tiling.tile),
        "causal": request.causal,
        "riflex": request.riflex,
    }
    return request.program, settings


class Outcome(NamedTuple):
    """How many clips were made by this run, by earlier ones, and could not be made."""

    made: int
    found: int
    failed: int


def run(
    model: Model,
    jobs: Sequence[Job],
    out_dir: str | Path,
    *,
    batch_size: int | None = None,
    source: Mapping[str, Any] | None = None,
    on_clip: Callable[[dict[str, Any]], None] = lambda line: None,
) -> Outcome:
    """Make what is not there yet: ``out_dir/ID.mp4``, then a line of ``out_dir/manifest.jsonl`` that says how.

    Stopped at any point and called again, it goes on where it was. The manifest's line of a job that cannot be made
    has its error; it is tried again by the next run. A file that is gone or empty is made again; one that is not what
    the manifest says is left as it is, and counts as one that could not be made.

    Args:
      batch_size: clips sampled together; None: as many as the mesh splits a batch into, one without a mesh. A batch
        of one gives the very file that ``vidjax.generate`` gives with the settings of its line. In larger batches
        sums may be taken in another order, which can change a pixel by 1: each line has its ``batch_size``. The last
        batch of a kind is filled up with copies, so that it needs no program of its own.
      source: further things that say which model this is, such as its LoRAs; they are written on every line.
      on_clip: called with the line of each clip that was made or could not be.

    Raises:
      InputError: ``out_dir`` cannot be written to, or holds clips of another model.
    """
    blocks = batch_blocks(model.mesh) if model.mesh is not None else 1
    size = blocks if batch_size is None else batch_size
    if size < 1:
        raise InputError(f"batch_size={size}: must be at least 1")
    origin = {"model": model.name, "revision": _revision(model.name), "dtype": model.config.dtype, **(source or {})}
    out_dir = Path(out_dir)
    # Of several processes the first alone reads and writes the folder.
    writes = jax.process_index() == 0
    known = _known(out_dir, origin) if writes else {}
    found, changed = map(set, agree(_look(out_dir, [known[job.id] for job in jobs if job.id in known])))
    batches, errors = plan(model, [job for job in jobs if job.id not in found | changed], size)

    def report(line: dict[str, Any], new: bool = True) -> None:
        if not writes:
            return
        if new:
            with open(out_dir / MANIFEST, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        on_clip(line)

    def fail(job: Job, error: str) -> None:
        report({"id": job.id, "error": error, **job.asked}, known.get(job.id, {}).get("error") != error)

    for job in jobs:
        if job.id in errors:
            fail(job, errors[job.id])
        elif job.id in changed:
            fault = f"{_file(out_dir, job.id)} is not the clip of {MANIFEST}; move it away to make it again"
            # The manifest's line stays: it tells what the file was.
            report({"id": job.id, "error": fault, **job.asked}, new=False)
    failed = len(errors) + len(changed)
    for batch in batches:
        start = time.perf_counter()
        try:
            videos = generate_each(model, [make_request(model, **settings) for settings in batch.settings], size)
        except (InputError, jax.errors.JaxRuntimeError) as error:  # a picture is gone, or the memory was too small
            if jax.process_count() > 1:
                raise  # it may be the sign that another process is gone
            reason = str(error).splitlines()[0]
            for job in batch.jobs:
                fail(job, reason)
            failed += len(batch.jobs)
            continue
        seconds = (time.perf_counter() - start) / len(batch.jobs)
        for job, settings, video in zip(batch.jobs, batch.settings, videos if writes else (), strict=writes):
            file = video.save(_file(out_dir, job.id))
            how = {"batch_size": size, "seconds": round(seconds, 3)}
            report({"id": job.id, "file": file.name, "sha256": _digest(file), **settings, **origin, **how})
    return Outcome(len(jobs) - len(found) - failed, len(found), failed)


def _file(out_dir: Path, name: str) -> Path:
    return out_dir / f"{name}.mp4"


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_folder(out_dir: str | Path) -> None:
    """Make the folder if need be, and see that it can be written to.

    Raises:
      InputError: it cannot.
    """
    try:
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        try_folder(out_dir)
    except OSError as error:
        raise InputError(f"{out_dir} cannot be written to: {error.strerror or error}") from error


def _known(out_dir: Path, origin: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The manifest's lines by id."""
    check_folder(out_dir)
    try:
        lines = _read_manifest(out_dir / MANIFEST)
    except OSError as error:
        raise InputError(f"{out_dir} cannot be written to: {error.strerror or error}") from error
    _check_origin(out_dir, lines, origin)
    return {line["id"]: line for line in lines}


def _look(out_dir: Path, lines: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """The ids of clips that are there, and of those whose files are not what their lines say."""
    found, changed = [], []
    for line in lines:
        path = out_dir / line.get("file", "")
        if path.is_file() and path.stat().st_size:
            (found if _digest(path) == line.get("sha256") else changed).append(line["id"])
    return found, changed


def _read_manifest(path: Path) -> list[dict[str, Any]]:
    """The lines of a manifest, without the one that a sudden end cut short: that is taken out of the file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        with open(path, "r+b") as file:
            file.truncate(len(whole))
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
        return [{**line, "id": line["id"]} for line in lines]
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{path} is damaged: move it away to make all its clips again") from None


def _check_origin(out_dir: Path, lines: Sequence[Mapping[str, Any]], origin: Mapping[str, Any]) -> None:
    for line in lines:
        for name, value in origin.items():
            if "file" in line and line.get(name) != value:
                was = f"{name}={line.get(name)!r}, not {value!r}"
                raise InputError(f"{out_dir} holds clips made with {was}: give another folder")


def _revision(name: str) -> str | None:
    """The version of the bundled model, or the commit of a repository of the hub; a folder has none."""
    if name == "bundled":
        return vidjax.__version__
    if Path(name).expanduser().is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "model_index.json")
    return Path(found).parent.name if isinstance(found, str) else None
