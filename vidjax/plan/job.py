"""What is planned: a question that has been understood."""

import dataclasses
import math
from collections.abc import Callable

from vidjax.models.wan.denoiser import DenoiserConfig
from vidjax.plan.chips import Topology
from vidjax.plan.programs import Clip, Program


@dataclasses.dataclass(frozen=True)
class Job:
    """A question that has been understood.

    ``program(sizes)`` is the program on a mesh of these sizes, which decide the ``batch`` of training where it is
    None. ``model`` is the denoiser, where one runs; ``latent`` the [f, h, w, z] of a clip. ``guided`` says that every
    clip is sampled twice, with the prompt and without.
    """

    name: str
    task: str
    topology: Topology
    clip: Clip
    latent: tuple[int, int, int, int]
    model: DenoiserConfig | None
    program: Callable[[dict[str, int]], Program]
    batch: int | None
    guided: bool = False
    remat: str | None = None
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def tokens_per_frame(self) -> int:
        _, h, w, _ = self.latent
        return h * w // (math.prod(self.model.patch_size[1:]) if self.model else 1)
