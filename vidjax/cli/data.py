"""``vidjax data``: a dataset of your clips and pictures."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vidjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Data:
    """Make a dataset of your clips and pictures, to train on; the same line again goes on where it stopped."""

    folder: tyro.conf.Positional[Path]
    """Clips and pictures, each with a .txt beside it; or with manifest.jsonl or .csv of the columns file, caption."""
    out: tyro.conf.Positional[Path]
    """The folder to make; a configuration names it as FolderData(folder=...)."""
    manifest: Path | None = None
    """Captions from this .jsonl or .csv file, of the columns file and caption."""
    num_frames: int = 17
    """1 + 4 n, of every clip."""
    height: int = 64
    """Pixels."""
    width: int = 64
    """Pixels."""
    buckets: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FxHxW")] = ()
    """Several shapes in place of one, such as 17x64x64 33x48x80; pictures go to shapes of 1 frame."""
    fps: float = 8.0
    """Frames per second of the clips; sources are resampled by their times."""
    crop: Literal["centre", "random"] = "centre"
    """Which pixels of a source of another aspect ratio are kept."""
    max_pieces: int = 16
    """A long source gives up to so many clips, one after another; 1: its beginning only."""
    quality: int | None = None
    """1 to 100: keep frames as JPEG, in far less space; left out: without loss."""
    test_share: float = 0.05
    """Share of the files that is kept for tests."""
    max_broken: float = 0.1
    """Share of the files that may be unusable; they are listed in broken.jsonl."""
    workers: int | None = None
    """Sources decoded at a time; left out: one for each processor."""


def run(command: Data) -> None:
    """``vidjax data``."""
    from vidjax.data.buckets import Bucket, parse_bucket
    from vidjax.data.folder import prepare_folder
    from vidjax.data.prepare import Settings

    size = ("num_frames", "height", "width")
    if command.buckets and any(getattr(command, name) != getattr(Data, name) for name in size):
        raise InputError("--buckets and --num-frames, --height, --width: give one of them")
    buckets = tuple(map(parse_bucket, command.buckets)) or (Bucket(*(getattr(command, name) for name in size)),)
    kept = ("fps", "crop", "max_pieces", "quality", "test_share")
    settings = Settings(buckets, **{name: getattr(command, name) for name in kept})
    report = prepare_folder(
        command.folder, command.out, settings, command.manifest, command.max_broken, command.workers
    )
    print(f"{command.out}: {report}")
