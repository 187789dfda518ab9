"""``vidjax generate``: one clip, a film of several, or many from a file."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from vidjax.cli.compilation_cache import keep_compiled
from vidjax.cli.processes import Processes, join
from vidjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Generate:
    """Make a clip from a sentence, and perhaps a picture; or a film of shots, or many clips, from a file."""

    prompt: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT")] = None
    """What is to be seen."""
    then: Annotated[tuple[tuple[float, str], ...], tyro.conf.arg(metavar="SECONDS PROMPT ...")] = ()
    """What is to be seen from a second on, in place of PROMPT."""
    batch: Path | None = None
    """A file of requests in place of PROMPT, one JSON object a line; flags hold where a line says nothing."""
    storyboard: Path | None = None
    """A TOML file of shots in place of PROMPT: one film; flags hold where it says nothing."""
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
    """The file to write: .mp4, .gif, or .png for a sheet of frames; a long clip that was stopped goes on when the
    same line is given again."""
    image: Path | None = None
    """A picture to start from: the first frame."""
    last_image: Path | None = None
    """The last frame, for models that are trained for it."""
    keyframes: Annotated[tuple[tuple[int, Path], ...], tyro.conf.arg(metavar="FRAME PICTURE ...")] = ()
    """Pictures by frame, counted from 0: multiples of 4; each stands still for the four frames up to its own. For
    models that are trained for it."""
    video: Path | None = None
    """A clip that is painted over as PROMPT says; or gone on with. It is brought to --fps and the size of the result;
    painted over it is cut to 1 + 4 n frames, or to --num-frames or --duration."""
    strength: float | None = None
    """How much noise --video is painted over from, up to 1; left out: 0.7, or with --mask 1."""
    mask: Path | None = None
    """Where --video is painted over: a picture of the clip's own size, white there."""
    extend: Literal["after", "before"] | None = None
    """Go on behind the end of --video, or before its beginning, there by up to a window; --duration or --num-frames say
    how much is added, to the nearest 4 frames."""
    camera: str | None = None
    """How it moves: "pan left", "zoom in + tilt up 0.5" (a speed; 1 is usual); or a file of poses in the form of
    RealEstate10K. A model with a camera adapter is given rays, others words at the end of PROMPT, and no poses."""
    references: tuple[Path, ...] = ()
    """One to three pictures of one subject on a blank ground, who it is in every frame, for models that are trained
    for it."""
    style_image: Path | None = None
    """A picture whose style the clip takes, for models that are trained for it."""
    negative_prompt: str = ""
    """What to lead away from."""
    height: int | None = None
    """Pixels."""
    width: int | None = None
    """Pixels."""
    resolution: str | None = None
    """480p, 720p, 1080p, 4k, or the pixels of the shorter side: a clip larger than the model's own is made of one of
    that size."""
    aspect_ratio: str | None = None
    """W:H as in 16:9, or image, that of the picture: a size of as many pixels as the model's own."""
    refine: float | None = None
    """How much of a larger clip is made anew: a share of the steps; 0: enlarged only."""
    num_frames: int | None = None
    """1 + 4 n; with --extend those that are added."""
    duration: float | None = None
    """Seconds, in place of --num-frames: minutes too, of the bundled model, TI2V and image-to-video models."""
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
    decode_tile: int | None = None
    """Side in pixels of the tiles in which frames are decoded, where memory is short; left out: whole, or 512 for
    frames of more than 1024x1024 pixels."""
    causal: bool = False
    """Make the clip latent frame by latent frame, for models that are trained for it: the first frames are there soon,
    and each takes the same time."""
    riflex: bool = False
    """Up to twice the model's own number of frames at once, of models that do not go on in windows."""
    dtype: str = "float32"
    """float32 or bfloat16."""
    progress: bool = True
    """Whether to say what is to be made, and to show a progress bar."""
    dry_run: bool = False
    """Say it, and what memory it takes, and make nothing; what is compiled for that is kept."""
    mesh: str | None = None
    """Devices to spread over, as data=-1,fsdp=4 (axes data, fsdp, context, tensor); left out: one, or in several
    processes data=-1."""
    processes: tyro.conf.OmitArgPrefixes[Processes] = Processes()


def run(command: Generate) -> None:
    """``vidjax generate``."""
    if command.batch is not None:
        return _run_batch(command)
    if command.prompt is None and command.storyboard is None:
        raise InputError(
            "give PROMPT, or --storyboard FILE, or --batch FILE with --out-dir DIR; see vidjax generate --help"
        )
    if command.out_dir is not None:
        raise InputError("--out-dir goes with --batch; for one clip give --out FILE")
    if command.storyboard is not None:
        return _run_storyboard(command)
    _check_apart(command)
    with _working(command) as work:
        from vidjax import forecast
        from vidjax.clip_file import make_file
        from vidjax.request import make_request

        settings = {name: getattr(command, name) for name in _settings()}
        settings["keyframes"] = _by_frame(command)
        prompt = {0.0: command.prompt, **_later(command.then)} if command.then else command.prompt
        request = make_request(work.model, prompt, **settings)
        if command.dry_run:
            return work.say(f"{forecast.outline(request)}\nmemory: {forecast.memory(work.model, request)}")
        if work.watch.progress:
            print(f"vidjax: {forecast.outline(request)}", file=sys.stderr)
        make_file(work.model, request, command.out, work.watch)
        length = f"{request.num_frames} frames of {request.width}x{request.height}"
        work.say(f"{command.out}: {length}, {request.num_frames / request.fps:.1f} s")
        work.say(work.took())


class _Work(NamedTuple):
    """A loaded model, in the first of the processes or another; seconds of each stage so far."""

    model: Any
    first: bool
    watch: Any
    stages: dict[str, float]

    def say(self, text: str) -> None:
        """Once, whatever the number of processes."""
        if self.first:
            print(text)

    def took(self) -> str:
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.stages.items())


@contextlib.contextmanager
def _working(command: Generate) -> Iterator[_Work]:
    """The processes joined, ``--out`` seen to be writable, and then the model loaded."""
    from vidjax.video import check_writable

    with join(command.processes) as process:
        if process == 0:
            check_writable(command.out)
        start = time.perf_counter()
        keep_compiled()
        from vidjax.model import load
        from vidjax.windows import Watch

        model = load(command.model, mesh=_mesh(command), **_loading(command))
        stages = {"loading": time.perf_counter() - start}

        def on_stage(name: str, seconds: float) -> None:
            stages[name] = stages.get(name, 0.0) + seconds

        yield _Work(model, process == 0, Watch(command.progress and process == 0, on_stage), stages)


def _later(then: Sequence[tuple[float, str]]) -> dict[float, str]:
    """The prompts by the second from which they hold."""
    for i, (start, _) in enumerate(then):
        if start <= 0 or start in [other for other, _ in then[:i]]:
            raise InputError(f"--then {start:g}: seconds above 0 are needed, and each once")
    return dict(then)


def _check_apart(command: Generate) -> None:
    """See that what is read is not written over."""
    read = [command.image, command.last_image, command.video, command.mask, command.style_image]
    read += [*dict(command.keyframes).values(), *command.references]
    for path in read:
        if path is not None and command.out.exists() and path.exists() and command.out.samefile(path):
            raise InputError(f"--out {command.out} is what is read: give another name")


def _by_frame(command: Generate) -> dict[int, Path] | None:
    """The keyframes, if there are any."""
    frames = dict(command.keyframes)
    if len(frames) < len(command.keyframes):
        raise InputError("--keyframes: each frame once")
    return frames or None


def _run_batch(command: Generate) -> None:
    """``vidjax generate --batch``."""
    for name, value in (("PROMPT", command.prompt), ("--storyboard", command.storyboard)):
        if value is not None:
            raise InputError(f"{name} and --batch: give one of them")
    if command.out_dir is None:
        raise InputError("--batch needs --out-dir DIR, the folder for its clips")
    if command.then:
        raise InputError("--then is for one clip, and goes with PROMPT")
    if command.out != Generate.out:
        raise InputError("--out is for one clip; with --batch give --out-dir DIR")
    from vidjax import campaign
    from vidjax.model import load

    jobs = campaign.read_jobs(command.batch, _defaults(command))
    loading = _loading(command)

    def report(line: dict) -> None:
        if "error" in line:
            print(f"vidjax: {line['id']}: {line['error']}", file=sys.stderr)
        elif command.progress:
            print(f"{command.out_dir / line['file']}: {line['prompt']}, {line['seconds']:.1f} s", flush=True)

    source = {name: loading[name] for name in ("loras", "loras_2") if loading[name]}
    with join(command.processes) as process:
        if process == 0 and not command.dry_run:
            campaign.check_folder(command.out_dir)
        keep_compiled()
        model = load(command.model, mesh=_mesh(command), **loading)
        if command.dry_run:
            return _outline_batch(model, jobs) if process == 0 else None
        done = campaign.run(model, jobs, command.out_dir, source=source, on_clip=report)
        if process == 0:
            counts = f"{done.made} clips made, {done.found} were there, {done.failed} could not be made"
            print(f"{command.out_dir}: {counts}; see {campaign.MANIFEST}")
    if done.failed:
        sys.exit(1)


def _outline_batch(model: Any, jobs: Sequence[Any]) -> None:
    """What ``--batch`` would make, a line for each program that is compiled, and what it could not."""
    from vidjax import campaign, forecast
    from vidjax.request import make_request

    groups, errors = campaign.plan(model, jobs, len(jobs))
    for name, error in errors.items():
        print(f"vidjax: {name}: {error}", file=sys.stderr)
    for group in groups:
        print(f"{len(group.jobs)} x {forecast.outline(make_request(model, **group.settings[0]))}")
    print(f"{len(jobs) - len(errors)} clips in {len(groups)} shapes, {len(errors)} cannot be made")
    if errors:
        sys.exit(1)


def _run_storyboard(command: Generate) -> None:
    """``vidjax generate --storyboard``."""
    if command.prompt is not None or command.then:
        raise InputError("PROMPT or --then, and --storyboard: the prompts stand in its file")
    from vidjax.storyboard import Planned, make_film, plan_film, read_storyboard

    storyboard = read_storyboard(command.storyboard, _defaults(command))

    def line(number: int, planned: Planned) -> str:
        held = "" if planned.shot.hold == "none" else f", holding the {planned.shot.hold}"
        return f"shot {number} of {len(storyboard)}: {planned.outline}{held}"

    with _working(command) as work:

        def on_shot(number: int, planned: Planned) -> None:
            if work.watch.progress:
                print(f"vidjax: {line(number, planned)}", file=sys.stderr)

        if command.dry_run:
            film = plan_film(work.model, storyboard)
            for number, planned in enumerate(film.shots, 1):
                work.say(line(number, planned))
        else:
            film = make_film(work.model, storyboard, command.out, work.watch, on_shot)
        length = f"{film.num_frames} frames of {film.width}x{film.height}, {film.num_frames / film.fps:.1f} s"
        work.say(f"{command.out}: {len(film.shots)} shots, {length}")
        if not command.dry_run:
            work.say(work.took())


def _defaults(command: Generate) -> dict[str, Any]:
    """The flags that were given, as a file of requests has them."""
    given = {name: getattr(command, name) for name in _settings() if getattr(command, name) != getattr(Generate, name)}
    defaults = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    if command.references:
        defaults["references"] = [str(picture) for picture in command.references]
    if command.keyframes:
        defaults["keyframes"] = {str(frame): str(picture) for frame, picture in _by_frame(command).items()}
    return defaults


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
    sources = {"prompt", "then", "batch", "storyboard"}
    loading = {"model", "dtype", "loras", "loras_2", "offload", "mesh", "processes"}
    others = sources | loading | {"out", "out_dir", "progress", "dry_run"}
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
