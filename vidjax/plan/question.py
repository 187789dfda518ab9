"""What can be asked of a plan; the flags of ``vidjax plan`` are these."""

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Question:
    """What is to be planned."""

    config: Path | None = None
    """A training configuration; or give --preset."""
    topology: str = dataclasses.field(kw_only=True)
    """Chips and how they are connected: v5e:2x4, v5p:2x2x2, v6e:4x4, tpu7x:2x2x1."""
    preset: str | None = None
    """A published model, such as wan2.1-t2v-14b."""
    task: str | None = None
    """sample (one step), decode (one latent frame) or train (one step); with CONFIG train."""
    size: str | None = None
    """HEIGHTxWIDTH in pixels; left out: the model's own."""
    num_frames: int | None = None
    """1 + 4 n; left out: the model's own."""
    batch: int | None = None
    """Clips at once, on all devices together; in training with --preset left out: one for each of data * fsdp."""
    mesh: str | None = None
    """Sizes of the axes data, fsdp, context and tensor, as fsdp=4,context=-1."""
    slices: int = 1
    """So many of the topology, over the data centre's network; only data spans them."""
    remat: str | None = None
    """What backward recomputes: none, full, dots, or offload (dots that wait in the host's memory)."""
