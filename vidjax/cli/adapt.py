"""``vidjax adapt``: a model for the latents of another autoencoder, to train on from."""

import dataclasses
from pathlib import Path

import tyro


@dataclasses.dataclass(frozen=True)
class Adapt:
    """Write a copy of a model whose denoiser begins to know another autoencoder's latents, to train on from."""

    vae: tyro.conf.Positional[str]
    """A folder with a part vae, as training an autoencoder leaves it."""
    out: tyro.conf.Positional[Path]
    """The folder to write."""
    model: str | None = None
    """A folder or hub id; the bundled model where nothing is said."""
    data: str | None = None
    """A dataset of vidjax data, whose clips both autoencoders are compared on; else of the shapes world."""
    num_clips: int = 2000
    """How many of them."""
    halvings: int = 0
    """How often the side of a token is halved: once makes four of one, for finer detail in four times the time."""


def run(command: Adapt) -> None:
    """``vidjax adapt``."""
    from vidjax.data.source import ClipData, FolderData
    from vidjax.training.adapt import adapt

    data = FolderData(command.data) if command.data else ClipData()
    explained = adapt(command.model, command.vae, command.out, data, command.num_clips, command.halvings)
    print(f"{command.out}: of its former latents {explained:.0%} is told by the new ones; train it on to tell the rest")
