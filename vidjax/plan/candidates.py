"""Which meshes suit a program, and which of them promise most, before anything is compiled."""

import functools
import math
from collections.abc import Callable, Iterator

from jax.sharding import AbstractMesh

from vidjax.errors import InputError
from vidjax.parallel.mesh import AXES
from vidjax.parallel.rules import device_bytes
from vidjax.plan.job import Job
from vidjax.plan.programs import Program


def default(job: Job) -> dict[str, int]:
    """The mesh where none is asked for: the batch is split, of sampling the pair that guidance needs, then tokens."""
    slices = job.topology.slices
    n = job.topology.num_devices // slices
    if job.task == "train":
        fsdp = n if job.batch is None else math.gcd(n, max(job.batch // slices, 1))
    else:
        fsdp = 1 if job.task == "decode" else math.gcd(n, _rows(job))
    return {"data": slices, "fsdp": fsdp, "context": n // fsdp}


def _rows(job: Job) -> int:
    """Clips that a sampling step computes at once."""
    return job.clip.batch * (2 if job.guided else 1)


def check(job: Job, sizes: dict[str, int]) -> None:
    """See that a mesh suits a program.

    Raises:
      InputError: heads or parameters that cannot be split so, or a batch.
    """
    heads = None if job.model is None or job.task == "decode" else job.model.num_attention_heads
    if heads is not None and heads % sizes["tensor"]:
        right = ", ".join(str(d) for d in range(1, heads + 1) if heads % d == 0)
        raise InputError(f"mesh tensor={sizes['tensor']}: does not divide the {heads} heads; choose among {right}")
    if job.task == "train" and job.batch is not None and job.batch % (blocks := sizes["data"] * sizes["fsdp"]):
        near = max(round(job.batch / blocks), 1) * blocks
        raise InputError(f"batch {job.batch}: does not divide over data * fsdp = {blocks} devices; nearest: {near}")
    held_bytes(job, sizes)


def held_bytes(job: Job, sizes: dict[str, int]) -> int:
    """Bytes of parameters and state on a device; InputError where they cannot be split so."""
    return _held(job.program, tuple(sizes[axis] for axis in AXES))


@functools.lru_cache(maxsize=1024)
def _held(program: Callable[[dict[str, int]], Program], sizes: tuple[int, ...]) -> int:
    whole, mesh = program(dict(zip(AXES, sizes, strict=True))), AbstractMesh(sizes, AXES)
    return device_bytes(whole.held(mesh)) + device_bytes(whole.beside(mesh))


def all_sizes(job: Job) -> Iterator[dict[str, int]]:
    """Every mesh over the devices that the program can be split over without doing anything twice."""
    n = job.topology.num_devices
    divisors = [d for d in range(1, n + 1) if n % d == 0]
    for fsdp in divisors:
        for context in (d for d in divisors if (n // fsdp) % d == 0):
            for tensor in (d for d in divisors if (n // fsdp // context) % d == 0):
                sizes = {"data": n // fsdp // context // tensor, "fsdp": fsdp, "context": context, "tensor": tensor}
                if sizes["data"] % job.topology.slices or not _divides(job, sizes):
                    continue
                try:
                    check(job, sizes)
                except InputError:
                    continue
                yield sizes


def _divides(job: Job, sizes: dict[str, int]) -> bool:
    blocks = sizes["data"] * sizes["fsdp"]
    if job.task == "decode":
        return blocks == job.topology.slices and sizes["tensor"] == 1
    if job.tokens_per_frame % sizes["context"]:
        return False
    if job.task == "train":
        return job.batch is None or job.batch % blocks == 0
    return _rows(job) % blocks == 0


def ranked(job: Job) -> list[dict[str, int]]:
    """Meshes whose parameters leave room, those with the least to send first."""
    room = 0.85 * job.topology.chip.memory
    return sorted((s for s in all_sizes(job) if held_bytes(job, s) < room), key=lambda s: _sent(job, s))


def _sent(job: Job, sizes: dict[str, int]) -> float:
    """Roughly what a device sends in a layer: parameters gathered, tokens exchanged for heads, sums over features."""
    if job.model is None:
        return -sizes["fsdp"]
    width, blocks = job.model.dim, sizes["data"] * sizes["fsdp"]
    clips = (job.batch or blocks) if job.task == "train" else _rows(job)
    tokens = job.tokens_per_frame * job.latent[0] * clips / blocks / sizes["context"]
    parameters = (8 * width**2 + 2 * width * job.model.ffn_dim) / sizes["tensor"]
    gathered = parameters * (1 - 1 / sizes["fsdp"]) * (3 if job.task == "train" else 1)
    exchanged = 4 * tokens * width / sizes["tensor"] * (1 - 1 / sizes["context"])
    summed = 6 * tokens * width * (1 - 1 / sizes["tensor"])
    per_clip = clips if job.task == "train" and job.batch is None else 1
    return (gathered + exchanged + summed) / per_clip


def smaller(job: Job, sizes: dict[str, int], needs: int) -> dict[str, int] | None:
    """The mesh nearest to this one that should fit, if there is one: parameters are known, the rest goes by tokens."""
    held = held_bytes(job, sizes)
    share = lambda s: s["data"] * s["fsdp"] * s["context"]  # noqa: E731

    def expected(other: dict[str, int]) -> float:
        return held_bytes(job, other) + max(needs - held, 0) * share(sizes) / share(other)

    def distance(other: dict[str, int]) -> float:
        return sum(abs(math.log2(other[axis] / sizes[axis])) for axis in AXES)

    fitting = [s for s in all_sizes(job) if s != sizes and expected(s) < 0.95 * job.topology.chip.memory]
    return min(fitting, key=distance, default=None)
