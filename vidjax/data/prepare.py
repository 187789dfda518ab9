"""Making a dataset: many items, cut to pieces by workers, part after part; what is broken is listed and left out."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from vidjax.data.buckets import Bucket, check_frames
from vidjax.data.clips import Crop, Piece
from vidjax.data.records import BROKEN, INDEX, Index, Shards, open_part, pack, shard_name, write_index, write_json
from vidjax.errors import InputError, MediaError

PART = 32
"""Items of a part, which is made by one worker, and made again if it was cut off."""

MOST_PARTS = 1024

LOCK = ".lock"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How items become clips; another setting makes other clips.

    fps: of the clips; frames are taken from their source by its times.
    crop: pixels beyond the bucket's are cut off around the centre, or at random (the same at every making).
    max_pieces: of one item; None: all. A worker holds the packed pieces of an item in memory.
    quality: of JPEG frames, 1 to 100; None: no loss.
    test_share: share of the items that is kept for tests, one at least; which, their names decide.
    """

    buckets: tuple[Bucket, ...] = (Bucket(17, 64, 64),)
    fps: float = 8.0
    crop: Crop = "centre"
    max_pieces: int | None = 16
    quality: int | None = None
    test_share: float = 0.05

    def __post_init__(self):
        if not self.buckets:
            raise InputError("at least one bucket is needed, such as 17x64x64")
        for bucket in self.buckets:
            check_frames("num_frames", bucket.num_frames, 4)
            for name in ("height", "width"):
                value = getattr(bucket, name)
                if value % 8 or not 8 <= value <= 8192:
                    near = min(max(round(value / 8), 1), 1024) * 8
                    raise InputError(f"{name}={value}: must be a multiple of 8, up to 8192; nearest: {near}")
        if not 0.01 <= self.fps <= 1000:
            raise InputError(f"fps={self.fps}: must lie in 0.01 to 1000")
        if self.max_pieces is not None and self.max_pieces < 1:
            raise InputError(f"max_pieces={self.max_pieces}: must be at least 1")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise InputError(f"quality={self.quality}: must lie in 1 to 100")
        if not 0 < self.test_share <= 0.5:
            raise InputError(f"test_share={self.test_share}: must lie above 0, and at 0.5 at most")


@dataclasses.dataclass(frozen=True)
class Item:
    """What clips are made of: a file, or a record of another dataset.

    stamp: changes when the item does. load: its captions, and its pieces; both may raise MediaError.
    """

    name: str
    stamp: Any
    load: Callable[[Settings, np.random.Generator | None], tuple[Sequence[str], Iterator[Piece]]]


@dataclasses.dataclass(frozen=True)
class Report:
    """What was made: clips of each bucket, how many of them for tests, items used and left out."""

    clips: dict[Bucket, int]
    test_clips: int
    used: int
    broken: int

    def __str__(self) -> str:
        each = ", ".join(f"{bucket}: {count}" for bucket, count in self.clips.items())
        total = sum(self.clips.values())
        said = f"{total} clips of {self.used} files ({each}), {self.test_clips} of them for tests"
        return f"{said}; {self.broken} files left out, see {BROKEN}" if self.broken else said


def prepare(
    items: Sequence[Item],
    out: Path,
    settings: Settings,
    max_broken: float = 0.1,
    workers: int | None = None,
    progress: bool = True,
    is_test: Callable[[str], bool] | None = None,
    source: str = "",
) -> Report:
    """Makes the dataset ``out`` of ``items``; run again, it makes only what is missing or has changed.

    The same items and settings make the same dataset, whatever the number of workers. Workers are threads: ffmpeg
    decodes in a process of its own for each, and packing leaves Python to the others. Items that cannot be used are
    listed in ``broken.jsonl``.

    Args:
      max_broken: share of the items; with more that cannot be used, nothing is made.
      workers: None: one for each processor.
      is_test: which names are kept for tests, in place of a share of them.
      source: where the items come from. Of another one, or with other settings, no dataset that is there is made anew.

    Raises:
      InputError: too many cannot be used, or all; ``out`` is another dataset, or cannot be written.
    """
    if not 0 <= max_broken <= 1:
        raise InputError(f"max_broken={max_broken}: must lie in 0 to 1")
    if workers is not None and workers < 1:
        raise InputError(f"workers={workers}: must be at least 1")
    if not items:
        raise InputError("there is nothing to make a dataset of")
    _claim(out)
    with FileLock(out / LOCK):  # of several processes one makes it, and the others find it made
        return _prepare(items, out, settings, max_broken, workers, progress, is_test, source)


def _prepare(
    items: Sequence[Item],
    out: Path,
    settings: Settings,
    max_broken: float,
    workers: int | None,
    progress: bool,
    is_test: Callable[[str], bool] | None,
    source: str,
) -> Report:
    size = max(PART, math.ceil(len(items) / MOST_PARTS))
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    marks = [_mark(part, settings) for part in parts]
    done = {i: found for i, mark in enumerate(marks) if (found := _finished(out, i, mark)) is not None}
    if not done and (out / INDEX).exists():
        _check_same(out, settings, source)
    if len(done) < len(parts):
        (out / INDEX).unlink(missing_ok=True)

    stop = threading.Event()
    with tqdm(total=len(items), desc="files", unit="file", disable=not progress) as bar:
        bar.update(sum(len(parts[i]) for i in done))
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            waiting = {
                pool.submit(_make, part, out, i, settings, source, marks[i], stop, bar): i
                for i, part in enumerate(parts)
                if i not in done
            }
            try:
                for future in as_completed(waiting):
                    done[waiting[future]] = future.result()
                    _check_broken(out, done, len(items), max_broken)
            except BaseException as error:
                stop.set()
                pool.shutdown(cancel_futures=True)
                if isinstance(error, OSError):
                    raise InputError(f"{out} could not be written: {error.strerror or error}") from error
                raise
    _check_broken(out, done, len(items), max_broken)
    return _finish(out, [done[i] for i in range(len(parts))], marks, settings, is_test)


def _claim(out: Path) -> None:
    """See that the folder is there, and nobody else's."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: give the name of a folder")
    if out.is_dir() and any(out.iterdir()) and not any(any(out.glob(p)) for p in (LOCK, INDEX, "part-*.json")):
        raise InputError(f"{out} holds other files: give the name of a new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made: {error.strerror or error}") from None


def _making(settings: Settings) -> dict[str, Any]:
    """What of the settings makes other clips, as JSON gives it back."""
    kept = {name: value for name, value in dataclasses.asdict(settings).items() if name != "test_share"}
    return json.loads(json.dumps(kept))


def _mark(part: Sequence[Item], settings: Settings) -> str:
    """A name that changes with what a part is made of."""
    said = [_making(settings), [(item.name, item.stamp) for item in part]]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _check_same(out: Path, settings: Settings, source: str) -> None:
    """See that a finished dataset, nothing of which can stay, is to be made anew, and not another in its place.

    Raises:
      InputError: it was made with other settings, or of another source.
    """
    now = _making(settings)
    before, origin = now, source
    for path in sorted(out.glob("part-*.json")):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # of what is damaged there is nothing to lose
            found = json.loads(path.read_text())
            before, origin = found.get("settings", before), found.get("source", origin)
    changed = [name for name in now if before.get(name) != now[name]]
    differ = [f"with {name} {_said(before.get(name))}, not {_said(now[name])}" for name in changed]
    if origin != source:
        differ.append(f"of {origin}, not {source}")
    if differ:
        fault = ", ".join(differ)
        raise InputError(f"{out} was made {fault}: give the name of a new folder, or remove it first")


def _said(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(Bucket(**bucket)) for bucket in value)
    return str(value)


def _finished(out: Path, index: int, mark: str) -> dict[str, Any] | None:
    """What is recorded of a part that was made, with all of its files."""
    try:
        found = json.loads((out / f"part-{index:05d}.json").read_text())
        names = [
            shard_name(Bucket(**c["bucket"]), index, kind) for c in found["counts"] for kind in ("about", "frames")
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found["mark"] == mark and all((out / name).is_file() for name in names) else None


def _make(
    part: Sequence[Item],
    out: Path,
    index: int,
    settings: Settings,
    source: str,
    mark: str,
    stop: threading.Event,
    bar: tqdm,
) -> dict[str, Any]:
    """One part: its files, and then a record of what is in them."""
    used, broken = [], []
    with open_part(out, index) as writer:
        for item in part:
            if stop.is_set():
                raise InterruptedError
            try:
                clips = _clips_of(item, settings)
            except MediaError as error:
                broken.append({"file": item.name, "error": str(error)})
            else:
                for bucket, about, frames in clips:
                    used.append((item.name, dataclasses.asdict(bucket)))
                    writer.write(bucket, about, frames)
            bar.update()
    counts = [{"bucket": dataclasses.asdict(b), "count": n} for b, n in writer.counts.items()]
    made = {
        "mark": mark,
        "source": source,
        "settings": _making(settings),
        "counts": counts,
        "used": used,
        "broken": broken,
    }
    write_json(out / f"part-{index:05d}.json", made)
    return made


def _clips_of(item: Item, settings: Settings) -> list[tuple[Bucket, dict[str, Any], bytes]]:
    # All of an item or nothing: damage may show at its end.
    rng = np.random.default_rng(_draw(item.name)) if settings.crop == "random" else None
    captions, pieces = item.load(settings, rng)
    if not captions:
        raise MediaError("It has no caption.")
    about = {"captions": list(captions), "file": item.name, "fps": settings.fps}
    return [(p.bucket, {**about, "start": p.start}, pack(p.frames, settings.quality)) for p in pieces]


def _draw(name: str) -> int:
    """A number that a name decides."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def _check_broken(out: Path, done: dict[int, dict[str, Any]], count: int, max_broken: float) -> None:
    """List what is broken; end if it is too much."""
    broken = [line for i in sorted(done) for line in done[i]["broken"]]
    if broken:
        (out / BROKEN).write_text("".join(json.dumps(line) + "\n" for line in broken))
    else:
        (out / BROKEN).unlink(missing_ok=True)
    if len(broken) == count or len(broken) > max_broken * count:
        first = f"{broken[0]['file']}: {broken[0]['error'].rstrip('.')}"
        allowed = "" if len(broken) == count else f", max_broken={max_broken:g} allows {int(max_broken * count)}"
        raise InputError(
            f"{len(broken)} of {count} files cannot be used{allowed}; they are listed in {out / BROKEN}, first {first}"
        )


def _finish(
    out: Path,
    parts: Sequence[dict[str, Any]],
    marks: Sequence[str],
    settings: Settings,
    is_test: Callable[[str], bool] | None,
) -> Report:
    """Choose what is for tests, write the index, and remove what is not part of the dataset."""
    names = sorted({name for part in parts for name, _ in part["used"]}, key=_draw)
    if is_test is None:
        test = set(names[: max(round(settings.test_share * len(names)), 1)])
    else:
        test = {name for name in names if is_test(name)}
    same_test = len(names) == 1 or not 0 < len(test) < len(names)
    test = set(names) if same_test else test

    rows: dict[Bucket, list[str]] = {}
    files: dict[Bucket, list[tuple[int, int]]] = {}
    for i, part in enumerate(parts):
        for name, bucket in part["used"]:
            rows.setdefault(Bucket(**bucket), []).append(name)
        for counted in part["counts"]:
            files.setdefault(Bucket(**counted["bucket"]), []).append((i, counted["count"]))
    shards = tuple(
        Shards(bucket, tuple(files[bucket]), tuple(i for i, name in enumerate(rows[bucket]) if name in test))
        for bucket in sorted(rows)
    )
    said = json.dumps([list(marks), sorted(test)])
    digest = hashlib.sha256(said.encode()).hexdigest()[:12]
    write_index(out, Index(shards, settings.quality, settings.fps, digest, same_test))

    kept = {shard_name(s.bucket, part, kind) for s in shards for part, _ in s.files for kind in ("about", "frames")}
    kept |= {f"part-{i:05d}.json" for i in range(len(parts))}
    for path in [*out.glob("*.array_record"), *out.glob("part-*.json"), *out.glob(".*-*")]:
        if path.name not in kept:
            path.unlink(missing_ok=True)
    return Report(
        {s.bucket: s.count for s in shards},
        sum(len(s.test) for s in shards),
        len(names),
        sum(len(part["broken"]) for part in parts),
    )
