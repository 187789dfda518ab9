"""From what is asked for to a plan: everything is checked first, then the program is compiled and measured."""

import dataclasses
import functools
import math
import re
from typing import get_args

import jax

from vidjax import config as configs
from vidjax.config import TrainConfig
from vidjax.errors import InputError
from vidjax.model import ModelConfig
from vidjax.models.wan.denoiser import Remat
from vidjax.models.wan.presets import PRESETS
from vidjax.parallel.mesh import AXES, parse_mesh
from vidjax.parallel.rules import device_bytes
from vidjax.plan import candidates
from vidjax.plan.chips import Topology, parse_topology
from vidjax.plan.compiler import TooLarge, check_sizes, compile_program, make_plan_mesh
from vidjax.plan.job import Job
from vidjax.plan.programs import (
    Clip,
    Program,
    decoding_program,
    preset_config,
    sampling_program,
)
from vidjax.plan.question import Question
from vidjax.plan.report import Plan, in_gib, rooflines
from vidjax.plan.trainings import finetuning, of_config, training_program
from vidjax.plan.work import work_of
from vidjax.request import clip_frames
from vidjax.resolution import clip_size
from vidjax.training.finetune import FinetuneTask

TASKS = ("sample", "decode", "train")
REMATS = get_args(Remat)


def plan(question: Question) -> Plan:
    """The answer; a program that does not fit is one, too.

    Raises:
      InputError: what was asked for cannot be, found before anything is compiled.
    """
    job = understand(question)
    return measure(job, job.sizes)


def search(question: Question, limit: int = 6) -> list[Plan]:
    """Plans of the most promising meshes and, in training, of both kinds of recomputation: best first, per clip.

    ``limit`` is how many are compiled.
    """
    if question.mesh is not None:
        raise InputError(f"mesh {question.mesh}: a search chooses it; leave it out, or leave out --search")
    jobs = [understand(question, checked=False)]
    if jobs[0].remat is not None and question.remat is None:
        jobs = [understand(dataclasses.replace(question, remat=r), checked=False) for r in ("full", "dots")]
    ranked = candidates.ranked(jobs[0])[: max(1, limit // len(jobs))]
    if not ranked:
        raise InputError(f"no mesh over {jobs[0].topology} suits this; choose a larger topology, or another --batch")
    plans = [measure(job, sizes) for sizes in ranked for job in jobs]
    return sorted(plans, key=lambda p: (not p.fits, p.estimated_seconds / p.batch if p.fits else p.peak_bytes))


def understand(question: Question, checked: bool = True) -> Job:
    """What is asked for, completed and checked; with ``checked`` the mesh, too."""
    if (question.config is None) == (question.preset is None):
        raise InputError(f"give CONFIG, or --preset with one of {', '.join(PRESETS)}")
    topology = parse_topology(question.topology, question.slices)
    if question.remat not in (None, *REMATS):
        raise InputError(f"remat {question.remat!r}: choose one of {', '.join(REMATS)}")
    job = _of_preset(question, topology) if question.preset else _of_config(question, topology)
    if not checked:
        return job
    asked = parse_mesh(question.mesh) if question.mesh else job.sizes or candidates.default(job)
    job = dataclasses.replace(job, sizes=check_sizes(topology, asked))
    candidates.check(job, job.sizes)
    return job


def _of_preset(question: Question, topology: Topology) -> Job:
    if question.preset not in PRESETS:
        raise InputError(f"preset {question.preset!r}: choose one of {', '.join(PRESETS)}")
    task = question.task or "sample"
    if task not in TASKS:
        raise InputError(f"task {task!r}: choose one of {', '.join(TASKS)}")
    if task != "train" and question.remat is not None:
        raise InputError(f"remat {question.remat}: only training recomputes; leave it out for --task {task}")
    model = preset_config(PRESETS[question.preset])
    if task == "train" and model.pictures == "channels":
        raise InputError(f"{question.preset} is given pictures as channels; models made from words can be trained")
    height, width = clip_size(model, *_pixels(question.size))
    frames = clip_frames(model, question.num_frames, None, model.sampling.fps)
    if question.batch is not None and question.batch < 1:
        raise InputError(f"batch {question.batch}: must be at least 1")
    clip, latent = Clip(question.batch or 1, frames, height, width), model.latent_shape(frames, height, width)
    remat = (question.remat or "full") if task == "train" else None
    if task == "train":
        program = functools.partial(_training, model, latent, remat, question.batch)
    else:
        whole = (sampling_program if task == "sample" else decoding_program)(model, clip)
        program = lambda sizes: whole  # noqa: E731
    guided = task == "sample" and model.sampling.guidance_scale != 1
    denoiser = None if task == "decode" else model.transformer
    name = f"{question.preset} {task}"
    return Job(name, task, topology, clip, latent, denoiser, program, question.batch, guided, remat)


def _training(model: ModelConfig, latent: tuple, remat: str, batch: int | None, sizes: dict[str, int]) -> Program:
    batch = batch or sizes["data"] * sizes["fsdp"]
    task = FinetuneTask(lora=None, dtype=model.dtype, remat=remat)
    return training_program(finetuning(task, model, latent), TrainConfig(task, steps=1000, batch_size=batch))


def _of_config(question: Question, topology: Topology) -> Job:
    if question.task not in (None, "train"):
        raise InputError(f"task {question.task!r}: a configuration is planned for train; --preset for {question.task}")
    config = configs.load_config(question.config)
    if question.batch is not None:
        config = dataclasses.replace(config, batch_size=question.batch)
    if question.remat is not None:
        if not hasattr(config.task, "remat"):
            raise InputError(f"remat {question.remat}: a {type(config.task).__name__} has no such setting")
        config = dataclasses.replace(config, task=dataclasses.replace(config.task, remat=question.remat))
    training, model, latent, clip = of_config(config, *_pixels(question.size), question.num_frames)
    whole = training_program(training, config)
    own = dataclasses.asdict(config.mesh)
    fits = -1 in own.values() or math.prod(own.values()) == topology.num_devices
    remat = getattr(config.task, "remat", None)
    name = f"{question.config} train"
    job = Job(name, "train", topology, clip, latent, model, lambda sizes: whole, config.batch_size, remat=remat)
    return dataclasses.replace(job, sizes=own) if fits else job


def _pixels(size: str | None) -> tuple[int | None, int | None]:
    """``720x1280``: height, width."""
    if size is None:
        return None, None
    found = re.fullmatch(r"(\d+)x(\d+)", size)
    if not found:
        raise InputError(f"size {size!r}: must be HEIGHTxWIDTH in pixels, as in 720x1280")
    return int(found[1]), int(found[2])


def measure(job: Job, sizes: dict[str, int]) -> Plan:
    """Compile, and count what was compiled."""
    program, topology, chip = job.program(sizes), job.topology, job.topology.chip
    mesh = make_plan_mesh(topology, sizes)
    batch = job.clip.batch if job.task != "train" else job.batch or sizes["data"] * sizes["fsdp"]
    beside = device_bytes(program.beside(mesh))
    flops = program.flops()
    with jax.set_mesh(mesh):
        compiled = compile_program(lambda: program.lower(mesh))
    done = Plan(
        program=job.name,
        topology=str(topology),
        devices=topology.num_devices,
        mesh={axis: sizes[axis] for axis in AXES},
        size=f"{job.clip.height}x{job.clip.width}",
        num_frames=job.clip.num_frames,
        batch=batch,
        remat=job.remat,
        fits=False,
        peak_bytes=0,
        memory_bytes=chip.memory,
        compile_seconds=compiled.seconds,
        other_parts_bytes=beside,
        model_flops=flops,
    )
    if isinstance(compiled, TooLarge):
        needs = compiled.needs + beside
        return dataclasses.replace(done, peak_bytes=needs, advice=_advice(job, sizes, needs))
    work = work_of(compiled.executable.as_text(), topology.num_devices, topology.slices)
    times = rooflines(work, chip)
    bound = max(times, key=times.get)
    peak = compiled.peak + beside
    total = work.flops * topology.num_devices
    return dataclasses.replace(
        done,
        fits=peak <= chip.memory,
        advice=None if peak <= chip.memory else _advice(job, sizes, peak),
        peak_bytes=peak,
        argument_bytes=compiled.arguments,
        temporary_bytes=compiled.temporaries,
        compiled_flops=total,
        attention_flops=work.kernel_flops * topology.num_devices,
        repeated_flops=work.repeated_flops * topology.num_devices,
        flops_ratio=flops / total if total else None,
        collective_bytes=dict(work.collectives),
        dcn_bytes=work.across,
        hbm_bytes=work.memory_bytes,
        seconds=times,
        estimated_seconds=times[bound],
        bound=bound,
        notes=tuple(f"not counted: {name}" for name in sorted(work.unknown)),
    )


def _advice(job: Job, sizes: dict[str, int], needs: int) -> str:
    """What a program that does not fit needs, has, and might do with."""
    has = job.topology.chip.memory
    other = candidates.smaller(job, sizes, needs)
    text = f"needs {in_gib(needs)} a device, has {in_gib(has)}"
    if other is None:
        return f"{text}: try a larger topology, a smaller size or fewer frames"
    return f"{text}: try --mesh " + ",".join(f"{axis}={n}" for axis, n in other.items() if n > 1)
