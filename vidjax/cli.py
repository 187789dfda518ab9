"""The command line: ``vidjax generate``, ``data``, ``train``, ``export``, ``evaluate``, ``benchmark``."""

import contextlib
import dataclasses
import io
import itertools
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vidjax.errors import InputError

CACHE = "~/.cache/vidjax/compiled"
"""Compiled programs are kept here, so that only the first run of a kind waits for the compiler."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """Several processes as one program; Cloud TPU, SLURM, Kubernetes and Open MPI need none of these flags."""

    coordinator: str | None = None
    """HOST:PORT at which the others reach process 0."""
    num_processes: int | None = None
    """How many there are; 1 runs alone, wherever this is."""
    process_id: int | None = None
    """Which one this is, from 0."""
    start_timeout: int = 300
    """Seconds that they wait for each other at the start."""


@dataclasses.dataclass(frozen=True)
class Generate:
    """Make a clip from a sentence, and perhaps a picture; or many, from a file."""

    prompt: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT")] = None
    """What is to be seen."""
    batch: Path | None = None
    """A file of requests in place of PROMPT, one JSON object a line; flags hold where a line says nothing."""
    out_dir: Path | None = None
    """The folder for the clips of --batch and their manifest.jsonl; the same line again goes on where it stopped."""
    model: str | None = None
    """A folder in the published layout or a Hugging Face hub id; left out: the bundled model."""
    loras: tuple[str, ...] = ()
    """Files of changes to the denoiser, each as FILE or FILE=STRENGTH."""
    loras_2: tuple[str, ...] = ()
    """The same for the second denoiser, of models with two."""
    offload: bool = False
    """Keep the denoisers in the host's memory while they do not run."""
    out: Path = Path("out.mp4")
    """The file to write: .mp4, .gif, or .png for a sheet of frames."""
    image: Path | None = None
    """A picture to start from: the first frame."""
    last_image: Path | None = None
    """The last frame, for models that are trained for it."""
    negative_prompt: str = ""
    """What to lead away from."""
    height: int | None = None
    """Pixels."""
    width: int | None = None
    """Pixels."""
    num_frames: int | None = None
    """1 + 4 n."""
    duration: float | None = None
    """Seconds, in place of --num-frames."""
    fps: float | None = None
    """Frames per second."""
    num_inference_steps: int | None = None
    """Steps from noise to video, 1 to 1000."""
    guidance_scale: float | None = None
    """How strictly the prompt is followed; 1 turns guidance off."""
    guidance_scale_2: float | None = None
    """The same for the second denoiser, of models with two."""
    guidance: str = "cfg"
    """cfg, cfg-zero or apg."""
    guidance_interval: Annotated[tuple[float, float], tyro.conf.arg(metavar="LOW HIGH")] = (0.0, 1.0)
    """Diffusion times, 1 noise and 0 video, between which there is guidance."""
    flow_shift: float | None = None
    """Above 1, more of the steps go to high noise."""
    solver: str = "unipc"
    """unipc, euler or heun."""
    grid: str = "folder"
    """Spacing of the steps: folder or original."""
    seed: int = 0
    """Another number, another clip."""
    dtype: str = "float32"
    """float32 or bfloat16."""
    progress: bool = True
    """Show a progress bar."""
    mesh: str | None = None
    """Devices to spread over, as data=-1,fsdp=4 (axes data, fsdp, context, tensor); left out: one, or in several
    processes data=-1."""
    processes: tyro.conf.OmitArgPrefixes[Processes] = Processes()


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


@dataclasses.dataclass(frozen=True)
class Train:
    """Train as a configuration says; the same line again goes on where it stopped."""

    config: tyro.conf.Positional[Path]
    """A Python file with get_config()."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """Settings to change, as key=value or a.b=value."""
    workdir: tyro.conf.OmitArgPrefixes[str] = dataclasses.field(kw_only=True)
    """Where checkpoints, metrics and the finished model go."""
    smoke: bool = False
    """Shrink everything: tens of steps in seconds."""
    processes: tyro.conf.OmitArgPrefixes[Processes] = Processes()


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a training run's averaged weights as a model folder in the published layout."""

    workdir: tyro.conf.Positional[str]
    """What was given to vidjax train."""
    out: tyro.conf.Positional[Path]
    """The folder to write."""
    config: Path | None = None
    """The run's configuration file, needed only where its task is not one of vidjax's own."""


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Measure speed on this machine against its own limits."""

    what: tyro.conf.Positional[Literal["load", "train"]]
    """load: reading weights, against reading their files from one end to the other; train: a denoiser's training
    step, against the PyTorch reference's where that is installed."""
    size_gb: float = 2.0
    """load: about how much is read, in 10^9 bytes; it is written first, and removed."""
    dir: Path | None = None
    """load: a folder on the disk to measure; left out: the system's place for temporary files."""
    dtype: str = "bfloat16"
    """load: bfloat16 or float32: how the weights are stored."""
    steps: int = 5
    """train: how many are timed."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Compile for TPUs that are not there: memory, FLOPs, what is sent between chips, and what bounds the speed."""

    config: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")] = None
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
    """What backward recomputes: none, full or dots."""
    search: bool = False
    """Try several meshes, and in training remat full and dots; the best first."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure how well a model does what prompts of the shapes world say."""

    model: str | None = None
    """A folder in the published layout or a Hugging Face hub id; left out: the bundled model."""
    num_prompts: int = 100
    """Prompts, of scenes that training never sees."""
    num_seeds: int = 2
    """Clips a prompt."""
    seed: int = 0
    """Chooses the prompts and the noise."""
    json: bool = False
    """Print JSON."""


Command = (
    Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Benchmark, tyro.conf.subcommand("benchmark")]
    | Annotated[Plan, tyro.conf.subcommand("plan")]
)


def main() -> None:
    """Entry point: errors that a user can cause are one line on standard error and exit code 2."""
    warnings.showwarning = _show_warning
    try:
        command = parse()
        runs = {
            **{Generate: generate, Data: data, Train: train, Export: export},
            **{Evaluate: evaluate, Benchmark: benchmark, Plan: plan},
        }
        runs[type(command)](command)
    except InputError as error:
        print(f"vidjax: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("vidjax: interrupted", file=sys.stderr)
        sys.exit(130)


def parse(arguments: Sequence[str] | None = None) -> Command:
    """The command that these words, or those of this process, ask for.

    Raises:
      InputError: they ask for none.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                Command,
                args=arguments,
                prog="vidjax",
                description="Text to video and image to video in JAX.",
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        # Out of its box, and without the help that follows the first paragraph.
        lines = [line.strip("│ ") for line in said.getvalue().splitlines()[1:]]
        first = itertools.takewhile(lambda line: line and not line.startswith("─"), lines)
        raise InputError(f"{' '.join(first).rstrip('.')}; see vidjax --help") from None


def generate(command: Generate) -> None:
    """``vidjax generate``."""
    import time

    from vidjax.video import check_writable

    if command.batch is not None:
        return campaign(command)
    if command.prompt is None:
        raise InputError("give PROMPT, or --batch FILE with --out-dir DIR; see vidjax generate --help")
    if command.out_dir is not None:
        raise InputError("--out-dir goes with --batch; for one clip give --out FILE")
    with _processes(command) as process:
        if process == 0:
            check_writable(command.out)
        start = time.perf_counter()
        _keep_compiled()
        from vidjax.generation import generate
        from vidjax.model import load

        model = load(command.model, mesh=_mesh(command), **_loading(command))
        stages = [("loading", time.perf_counter() - start)]
        settings = {name: getattr(command, name) for name in _settings()}
        progress = command.progress and process == 0
        video = generate(
            model, command.prompt, progress=progress, on_stage=lambda *stage: stages.append(stage), **settings
        )
        if process > 0:
            return
        written = time.perf_counter()
        out = video.save(command.out)
        stages.append(("writing", time.perf_counter() - written))
        size = f"{video.num_frames} frames of {video.frames.shape[2]}x{video.frames.shape[1]}, {video.duration:.1f} s"
        print(f"{out}: {size}")
        print(", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages))


def campaign(command: Generate) -> None:
    """``vidjax generate --batch``."""
    if command.prompt is not None:
        raise InputError("PROMPT and --batch: give one of them")
    if command.out_dir is None:
        raise InputError("--batch needs --out-dir DIR, the folder for its clips")
    if command.out != Generate.out:
        raise InputError("--out is for one clip; with --batch give --out-dir DIR")
    from vidjax.campaign import MANIFEST, read_jobs, run
    from vidjax.model import load

    given = {name: getattr(command, name) for name in _settings() if getattr(command, name) != getattr(Generate, name)}
    defaults = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    jobs = read_jobs(command.batch, defaults)
    loading = _loading(command)

    def report(line: dict) -> None:
        if "error" in line:
            print(f"vidjax: {line['id']}: {line['error']}", file=sys.stderr)
        elif command.progress:
            print(f"{command.out_dir / line['file']}: {line['prompt']}, {line['seconds']:.1f} s", flush=True)

    source = {name: loading[name] for name in ("loras", "loras_2") if loading[name]}
    with _processes(command) as process:
        _keep_compiled()
        model = load(command.model, mesh=_mesh(command), **loading)
        done = run(model, jobs, command.out_dir, source=source, on_clip=report)
        if process == 0:
            counts = f"{done.made} clips made, {done.found} were there, {done.failed} could not be made"
            print(f"{command.out_dir}: {counts}; see {MANIFEST}")
    if done.failed:
        sys.exit(1)


def _processes(command: Generate | Train) -> contextlib.AbstractContextManager[int]:
    """Joins the other processes, if there are any; yields this one's number."""
    from vidjax.parallel.distributed import together

    return together(**dataclasses.asdict(command.processes))


def _mesh(command: Generate) -> Any:
    """The mesh asked for; in several processes there must be one."""
    import jax

    from vidjax.parallel.mesh import make_mesh, parse_mesh

    if command.mesh is not None:
        return make_mesh(**parse_mesh(command.mesh))
    return make_mesh(data=-1) if jax.process_count() > 1 else None


def _loading(command: Generate) -> dict:
    """What ``load`` is told beside the model's name."""
    strengths = {"loras": _strengths(command.loras), "loras_2": _strengths(command.loras_2)}
    return {"dtype": command.dtype, "offload": command.offload, **strengths}


def _settings() -> list[str]:
    """The flags that are arguments of ``vidjax.generate``."""
    others = {"prompt", "batch", "out_dir", "out", "model", "dtype", "loras", "loras_2", "offload", "progress"}
    others |= {"mesh", "processes"}
    return [field.name for field in dataclasses.fields(Generate) if field.name not in others]


def _strengths(loras: Sequence[str]) -> dict[str, float]:
    strengths = {}
    for item in loras:
        name, equals, strength = item.rpartition("=")
        file = name if equals else item
        if file in strengths:
            raise InputError(f"loras {item}: {file} is given twice; give it once, with the strength of both")
        try:
            strengths[file] = float(strength) if equals else 1.0
        except ValueError:
            raise InputError(f"loras {item}: FILE or FILE=STRENGTH is expected, the strength a number") from None
    return strengths


def data(command: Data) -> None:
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


def train(command: Train) -> None:
    """``vidjax train``."""
    from vidjax.config import load_config

    config = load_config(command.config, command.overrides)
    with _processes(command):
        _keep_compiled()
        from vidjax.training import train

        train(config, command.workdir, smoke=command.smoke)


def export(command: Export) -> None:
    """``vidjax export``."""
    from vidjax.config import load_config
    from vidjax.training import export

    export(command.workdir, command.out, load_config(command.config) if command.config else None)
    print(f"{command.out}: exported")


def evaluate(command: Evaluate) -> None:
    """``vidjax evaluate``."""
    import json

    _keep_compiled()
    from vidjax.evaluate import evaluate
    from vidjax.model import load

    report = evaluate(
        load(command.model),
        command.num_prompts,
        command.num_seeds,
        command.seed,
        on_stage=lambda name: print(f"{name} ...", file=sys.stderr),
    )
    print(json.dumps(dataclasses.asdict(report)) if command.json else report.table())


def benchmark(command: Benchmark) -> None:
    """``vidjax benchmark``."""
    import json

    from vidjax import benchmark

    if command.what == "load":
        report = benchmark.load(command.size_gb, command.dir, command.dtype)
    else:
        report = benchmark.train(command.steps)
    print(json.dumps(dataclasses.asdict(report)) if command.json else report)


def plan(command: Plan) -> None:
    """``vidjax plan``."""
    import json

    from vidjax.plan.compiler import prepare_process

    prepare_process()
    from vidjax.plan import planning, report

    asked = {field.name: getattr(command, field.name) for field in dataclasses.fields(planning.Question)}
    question = planning.Question(**asked)
    if not command.search:
        found = planning.plan(question)
        print(json.dumps(report.as_json(found)) if command.json else found)
        return
    plans = planning.search(question)
    print(json.dumps([report.as_json(p) for p in plans]) if command.json else report.ranking(plans))


def _keep_compiled() -> None:
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(Path(CACHE).expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if issubclass(category, UserWarning):
        print(f"vidjax: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
