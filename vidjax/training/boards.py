"""Boards that show a run: TensorBoard, where tensorboardX is installed, and Weights & Biases, where it is asked for."""

import contextlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from etils import epath

from vidjax.errors import InputError
from vidjax.training.workdir import is_local
from vidjax.video import Video


class Clip(NamedTuple):
    """A clip to look at: what it shows, its frames, and the mp4 they are in."""

    shows: str
    video: Video
    path: Path


@runtime_checkable
class Board(Protocol):
    """Shows what it is given; how it is opened says how it closes."""

    def numbers(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Show numbers of a step; `kind` is `train`, `eval` or `sample`."""
        ...

    def clips(self, step: int, clips: Sequence[Clip]) -> None:
        """Show clips made at a step, always of the same things in the same order."""
        ...


@contextlib.contextmanager
def open_tensorboard(workdir: Any, step: int) -> Iterator[list[Board]]:
    """Yields TensorBoard's files in a local `workdir`, from `step` on: what they have after it is shown no more.

    Yields none without tensorboardX, for object stores, and in processes other than 0.
    """
    installed = importlib.util.find_spec("tensorboardX") is not None
    if not installed or not is_local(workdir) or jax.process_index() != 0:
        yield []
        return
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(Path(workdir) / "tensorboard"), purge_step=step + 1 if step else None) as writer:
        yield [_TensorBoard(writer)]


class _TensorBoard:
    def __init__(self, writer: Any):
        self._writer = writer

    def numbers(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def clips(self, step: int, clips: Sequence[Clip]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        for i, (shows, video, _) in enumerate(clips):
            # A picture may be a GIF: the writer's own method for clips wants another encoder.
            with tempfile.TemporaryDirectory() as folder:
                data = video.save(Path(folder) / "clip.gif").read_bytes()
            _, height, width, _ = video.frames.shape
            picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
            value = Summary.Value(tag=f"sample/{i} {shows}", image=picture)
            self._writer.file_writer.add_summary(Summary(value=[value]), step)


def import_wandb() -> ModuleType:
    """The package.

    Raises:
      InputError: it is not installed.
    """
    try:
        import wandb
    except ImportError:
        wandb = None
    # A folder of that name, such as W&B makes where it runs, can be imported too.
    if not hasattr(wandb, "init"):
        raise InputError("setting wandb needs Weights & Biases: pip install 'vidjax[wandb]', or set wandb=none")
    return wandb


@contextlib.contextmanager
def open_wandb(
    project: str | None, workdir: Any, settings: Mapping[str, Any], written: Mapping[str, int] | None
) -> Iterator[list[Board]]:
    """Yields the run's page in a W&B project; none where `project` is None, and in processes other than 0.

    A run that goes on does so in the same W&B run: which it is, and up to where it was shown, is kept in `wandb.json`
    in `workdir`. W&B takes nothing back, so steps that are made again, which come out the same, are not shown again:
    `written` has the last step of each kind in `metrics.jsonl`, before that drops them; None where a run starts, or
    starts over. Once it is open, a failure of W&B is warned about, once, and training goes on.

    Raises:
      InputError: the package is not installed, or W&B refuses the run.
    """
    if project is None or jax.process_index() != 0:
        yield []
        return
    wandb = import_wandb()
    path = epath.Path(workdir) / "wandb.json"
    known: dict[str, Any] = {"id": None, "shown": {}}
    if written is not None and path.exists():
        stored = json.loads(path.read_text())
        if stored["project"] == project:
            kinds = {*stored["shown"], *written}
            shown = {kind: max(steps.get(kind, -1) for steps in (stored["shown"], written)) for kind in kinds}
            known = {"id": stored["id"], "shown": shown}
    folder = str(workdir) if is_local(workdir) else None
    try:
        run = wandb.init(
            project=project,
            id=known["id"],
            resume="allow",
            dir=folder,
            config=dict(settings),
            allow_val_change=True,
        )
        # With a count of its own W&B would refuse an evaluation made up for, of the step that a run goes on from.
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
    except Exception as error:  # of many kinds, its own and those of the network
        raise InputError(f"W&B opens no run in project {project!r}: {error}; wandb=none trains without") from error
    fresh = path.with_name("wandb.json.new")
    fresh.write_text(json.dumps({"project": project, "id": run.id, "shown": known["shown"]}))
    fresh.replace(path)
    board = _WandbBoard(wandb, run, known["shown"])
    failed = True
    try:
        yield [board]
        failed = False
    finally:
        board.finish(failed)


class _WandbBoard:
    def __init__(self, wandb: ModuleType, run: Any, shown: Mapping[str, int]):
        self._wandb, self._run, self._shown = wandb, run, shown
        self._warned = False

    def numbers(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        if step > self._shown.get(kind, -1):
            self._try(lambda: self._run.log({"step": step, **{f"{kind}/{k}": v for k, v in values.items()}}))

    def clips(self, step: int, clips: Sequence[Clip]) -> None:
        if step > self._shown.get("sample", -1):
            # Numbered, as what a prompt may hold is not what W&B lets a name hold.
            self._try(
                lambda: self._run.log({"step": step, **{f"sample/{i}": self._video(c) for i, c in enumerate(clips)}})
            )

    def finish(self, failed: bool) -> None:
        self._try(lambda: self._run.finish(exit_code=int(failed)))

    def _video(self, clip: Clip) -> Any:
        return self._wandb.Video(str(clip.path), caption=clip.shows, format="mp4")

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever it is, it is not worth the training
            if not self._warned:
                print(f"W&B: {error}; training goes on, and metrics.jsonl has everything", file=sys.stderr)
            self._warned = True
