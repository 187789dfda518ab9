"""What a clip will take, said before it is made: windows, steps, frames, and the memory that the compiler foresees."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Lowered

from vidjax.causal import empty_cache, walk_block
from vidjax.chunks import decode_chunk
from vidjax.diffusion import sampling
from vidjax.diffusion.solvers import SOLVERS
from vidjax.encoding import Clip, make_condition
from vidjax.generation import on_mesh
from vidjax.model import Model, denoiser_params, spread_batch
from vidjax.parallel.rules import device_bytes
from vidjax.request import Request
from vidjax.sampler import ADAPTER, make_legs, needed, run_steps, text_contexts, with_camera
from vidjax.tiles import cut
from vidjax.typing import Array

GIB = 2**30


def outline(request: Request, num_frames: int | None = None) -> str:
    """The plan in a line, for a clip of which so many frames are shown; None: all."""
    rollout, steps = request.rollout, (request.base or request).walk.num_steps
    num_frames = request.num_frames if num_frames is None else num_frames
    count = len(rollout.windows)
    if request.causal:
        pieces = f"{count} latent frame{'s' * (count > 1)} made one after another"
    else:
        pieces = f"{count} window{'s' * (count > 1)} of {rollout.frames(rollout.size)} frames"
    size = f"{request.width}x{request.height}, {num_frames / request.fps:.1f} s"
    plan = f"{pieces}, {steps} steps each: {num_frames} of {size}"
    (height, width), tiles = request.tiling.tile, len(request.tiling.corners)
    if request.base is not None:
        plan = f"{plan}, {_enlarging(request)}"
    return plan if tiles == 1 else f"{plan}, decoded in {tiles} tiles of {width}x{height}"


def _enlarging(request: Request) -> str:
    base, steps = request.base, request.walk.num_steps
    made = f"made at {base.width}x{base.height} and enlarged"
    if not steps:
        return made
    tiles = len(request.tiles.corners)
    return f"{made}, then {steps} steps in {'1 tile' if tiles == 1 else f'{tiles} tiles of that size'}"


class Memory(NamedTuple):
    """Bytes on the fullest device: all that lies there while a program runs, and its own intermediate results.

    ``parameters`` is what lies there throughout. The programs' code, and what the host holds, are not counted.
    """

    parameters: int
    sampling: int
    decoding: int

    def __str__(self) -> str:
        parameters, sampling, decoding = (f"{value / GIB:.2f} GiB" for value in self)
        return f"parameters {parameters}, sampling {sampling} in all, decoding {decoding} in all, on each device"


def memory(model: Model, request: Request) -> Memory:
    """Compiles the step and the decoder of a request, and runs neither; words and pictures are encoded."""
    resident = {part: device_bytes(params) for part, params in model.params.items()}
    if model.offload:
        resident = {part: size for part, size in resident.items() if not part.startswith("transformer")}
    with on_mesh(model):
        walks = []
        made = (request,) if request.base is None else (request.base, request)
        for walked in made[:1] if request.enlarged_only else made:
            window = walked.window(0)
            condition = make_condition(model, window, clip=_blank(model, window))
            x = spread_batch(model, jnp.zeros_like(condition.given))
            for leg in make_legs(model.config, walked.walk, walked.guidance_scales):
                own = _step(model, window, condition, x, leg)
                walks.append(own + sum(size for part, size in resident.items() if part != leg.part))
        tile = cut(x[:, :1], (0, 0), tuple(n // model.config.vae.spatial_factor for n in request.tiling.tile))
        decoding = _decoder(model, tile) + sum(size for part, size in resident.items() if part != "vae")
    return Memory(sum(resident.values()), max(walks), decoding)


def _blank(model: Model, window: Request) -> Clip | None:
    """In place of a clip of which something is kept."""
    if window.given.mask is None:
        return None
    shape = window.batch, *model.config.latent_shape(window.num_frames, window.height, window.width)
    return Clip(jnp.zeros(shape), np.zeros(shape[:-1], bool))


def _step(model: Model, request: Request, condition: Any, x: Array, leg: Any) -> int:
    solver = SOLVERS[request.solver]
    params = denoiser_params(model, leg.part)
    contexts = text_contexts(model.config, params, condition, *needed(leg.scale, request.guidance))
    contexts = with_camera(model.config, contexts, model.params.get(ADAPTER), condition, request.tiles)
    row = sampling.steps(solver.plan(request.walk), leg.first, leg.first + 1)
    step = functools.partial(run_steps.lower, model.config, request.solver, request.guidance)
    if request.causal:
        cache = _laid_out(empty_cache.lower(model.config, contexts, x))
        settings = model.config, request.solver, request.guidance, params, contexts, cache, jnp.float32(leg.scale)
        return _need(walk_block.lower(*settings, x, solver.plan(request.walk)).compile())
    asked = params, contexts, condition, jnp.float32(leg.scale), solver.init(x), row
    return _need(step(*asked, tiling=request.tiles).compile())


def _decoder(model: Model, latents: Array) -> int:
    """Of a latent frame, or a tile of it, behind the first: four frames come of it."""
    asked = model.config, model.params["vae"]
    first = decode_chunk.lower(*asked, None, latents)
    _, cache = _laid_out(first)
    return max(_need(first.compile()), _need(decode_chunk.lower(*asked, cache, latents).compile()))


def _laid_out(lowered: Lowered) -> Any:
    """What a program gives, as shapes laid out as the compiler lays them out."""
    layout = lowered.compile().output_shardings
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), lowered.out_info, layout)


def _need(compiled: Any) -> int:
    """Bytes on a device while it runs."""
    found = compiled.memory_analysis()
    taken = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return taken - found.alias_size_in_bytes
