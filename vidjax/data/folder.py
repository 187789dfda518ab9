"""A folder of clips and pictures with captions, made a dataset."""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vidjax.data.clips import CLIPS, PICTURES, Piece, cut_file
from vidjax.data.prepare import Item, Report, Settings, prepare
from vidjax.errors import InputError, MediaError
from vidjax.image import check_readable

MANIFESTS = ("manifest.jsonl", "manifest.csv")
MAX_CAPTION = 10_000
"""Characters; a longer one is no caption."""


def prepare_folder(
    folder: Path,
    out: Path,
    settings: Settings,
    manifest: Path | None = None,
    max_broken: float = 0.1,
    workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Makes the dataset ``out`` of the clips and pictures in ``folder`` and its sub-folders; see `prepare.prepare`.

    Captions come from ``manifest`` (JSON lines or CSV with the columns file and caption), or from manifest.jsonl or
    manifest.csv in the folder; without one, the caption of ``a/b.mp4`` is the text of ``a/b.txt``. A file that a
    manifest names several times has several captions, of which each use draws one.

    Raises:
      InputError: no such folder, no captions, a line of the manifest that is broken; or as `prepare.prepare`.
    """
    items, source = find_items(folder, manifest), os.path.abspath(folder)
    return prepare(items, out, settings, max_broken, workers, progress, source=source)


def find_items(folder: Path, manifest: Path | None = None) -> list[Item]:
    """The files of a folder that a dataset is made of, ordered by name; see `prepare_folder`."""
    if not folder.is_dir():
        fault = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {fault}: give a folder of clips and pictures")
    if manifest is None:
        manifest = next((folder / name for name in MANIFESTS if (folder / name).is_file()), None)
    if manifest is not None:
        return [_item(folder, name, captions) for name, captions in sorted(read_manifest(manifest).items())]
    names = sorted(_media(folder))
    if not names:
        known = ", ".join((*CLIPS, *PICTURES))
        raise InputError(f"{folder} holds no clips or pictures ({known})")
    if not any((folder / name).with_suffix(".txt").is_file() for name in names):
        raise InputError(
            f"{folder} holds no captions: put a .txt beside each file, or give a manifest with columns file and caption"
        )
    return [_item(folder, name, None) for name in names]


def read_manifest(path: Path) -> dict[str, tuple[str, ...]]:
    """Captions of each file that a manifest names.

    Raises:
      InputError: it cannot be read, or a line of it, which is named.
    """
    captions: dict[str, tuple[str, ...]] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from None
    if path.suffix.lower() not in (".jsonl", ".csv"):
        raise InputError(f"{path}: a manifest is a .jsonl or .csv file")
    rows = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(path, text)
    for number, row in rows:
        for name in ("file", "caption"):
            if not isinstance(row.get(name), str) or not row[name].strip():
                raise InputError(f"{path}, line {number}: {name!r} must be a text that is not empty")
        file, caption = row["file"].strip(), " ".join(row["caption"].split())
        if len(caption) > MAX_CAPTION:
            raise InputError(f"{path}, line {number}: the caption has more than {MAX_CAPTION} characters")
        captions[file] = (*captions.get(file, ()), caption)
    if not captions:
        raise InputError(f"{path} names no files")
    return captions


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise InputError(f'{path}, line {number}: {{"file": ..., "caption": ...}} is expected')
        yield number, row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    try:
        missing = {"file", "caption"} - set(reader.fieldnames or ())
        if missing:
            raise InputError(f"{path}, line 1: no column {' and '.join(sorted(missing))}; file,caption is expected")
        for row in reader:
            if None in row:
                raise InputError(
                    f"{path}, line {reader.line_num}: more values than columns; a caption with a comma is put in quotes"
                )
            yield reader.line_num, row
    except csv.Error as error:
        # Of a quotation mark without its pair the reader knows where the file ends; the row began after the last one.
        raise InputError(f"{path}, line {reader.line_num + 1}: {error}") from None


def _media(folder: Path) -> Iterator[str]:
    """Names of clips and pictures below a folder, as parts/of/a.path; hidden ones are not looked at."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in (*CLIPS, *PICTURES):
                yield (Path(place) / name).relative_to(folder).as_posix()


def _item(folder: Path, name: str, captions: tuple[str, ...] | None) -> Item:
    path = folder / name
    text = path.with_suffix(".txt")
    seen = [_stamp(file) for file in ((path,) if captions else (path, text))]
    return Item(name, [seen, captions], partial(_load, folder, name, captions))


def _stamp(path: Path) -> list[int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def _load(
    folder: Path, name: str, captions: tuple[str, ...] | None, settings: Settings, rng: np.random.Generator | None
) -> tuple[Sequence[str], Iterator[Piece]]:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise MediaError("It lies outside the folder.")
    path = check_readable(folder / name)
    if captions is None:
        captions = _read_caption(path.with_suffix(".txt"))
    return captions, cut_file(path, settings.buckets, settings.fps, settings.max_pieces, rng)


def _read_caption(path: Path) -> tuple[str, ...]:
    try:
        text = " ".join(path.read_text(encoding="utf-8-sig").split())
    except FileNotFoundError:
        raise MediaError(f"It has no caption: there is no {path.name}.") from None
    except (OSError, UnicodeDecodeError):
        raise MediaError(f"Its caption {path.name} cannot be read as UTF-8 text.") from None
    if len(text) > MAX_CAPTION:
        raise MediaError(f"Its caption {path.name} has more than {MAX_CAPTION} characters.")
    if not text:
        raise MediaError(f"Its caption {path.name} is empty.")
    return (text,)
