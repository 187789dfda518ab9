"""``vidjax evaluate``: how well a model does what prompts say."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from vidjax.cli.compilation_cache import keep_compiled
from vidjax.errors import InputError

SIZE = ("height", "width", "num_frames", "fps")
SETTINGS = (*SIZE, "num_inference_steps", "guidance_scale", "flow_shift", "solver", "causal")
"""Flags that are arguments of ``vidjax.generate``."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure how well a model does what prompts of the shapes world say; or make clips for VBench."""

    model: str | None = None
    """A folder in the published layout or a Hugging Face hub id; left out: the bundled model."""
    num_prompts: int = 100
    """Prompts, of scenes that training never sees; of clips from pictures and with cameras there are no more than of
    these. A hundred take some minutes on two cores."""
    num_seeds: int = 2
    """Clips a prompt."""
    seed: int = 0
    """Chooses the prompts and the noise."""
    long_seconds: float = 0.0
    """Length of a few further clips, of several windows, to see what is left at their end; 20, say; 0: none."""
    long_clips: int = 16
    """How many they are; the shape is judged in every other one, whose subject rests."""
    json: bool = False
    """Print JSON."""
    report: Path | None = None
    """An .html file to write: the scores, and clips with what is right and wrong in them."""
    vbench: Path | None = None
    """Only make clips for VBench, in this folder; the same line again goes on where it stopped."""
    vbench_prompts: Path | None = None
    """The prompts for --vbench, one a line."""
    vbench_clips: int = 5
    """Clips a prompt for --vbench, of seeds 0 and on."""
    height: int | None = None
    """Pixels."""
    width: int | None = None
    """Pixels."""
    num_frames: int | None = None
    """1 + 4 n."""
    fps: float | None = None
    """Frames per second."""
    num_inference_steps: int | None = None
    """Steps from noise to video."""
    guidance_scale: float | None = None
    """How strictly the prompt is followed."""
    flow_shift: float | None = None
    """Above 1, more of the steps go to high noise."""
    solver: str = "unipc"
    """unipc, euler or heun."""
    causal: bool = False
    """Make the clips latent frame by latent frame, with models that are trained for it."""
    dtype: str = "float32"
    """float32 or bfloat16."""


def run(command: Evaluate) -> None:
    """``vidjax evaluate``."""
    if command.vbench is not None or command.vbench_prompts is not None:
        return _run_vbench(command)
    from vidjax.evaluate.page import check_page

    if command.report is not None:
        check_page(command.report)
    keep_compiled()
    from vidjax.evaluate import examine
    from vidjax.evaluate.page import write_page
    from vidjax.model import load

    model, settings = load(command.model, dtype=command.dtype), _settings(command)
    examined = examine(
        model,
        command.num_prompts,
        command.num_seeds,
        command.seed,
        on_stage=lambda name: print(f"{name} ...", file=sys.stderr),
        long_seconds=command.long_seconds,
        long_clips=command.long_clips,
        **settings,
    )
    if command.report is not None:
        write_page(command.report, examined, _about(command, model))
    report = examined.report
    print(json.dumps(dataclasses.asdict(report)) if command.json else report.table())


def _run_vbench(command: Evaluate) -> None:
    """``vidjax evaluate --vbench``."""
    if command.vbench is None:
        raise InputError("--vbench-prompts goes with --vbench DIR, the folder for the clips")
    if command.vbench_prompts is None:
        raise InputError("--vbench needs --vbench-prompts FILE, one prompt a line, such as VBench's all_dimension.txt")
    for name in ("report", "json", "long_seconds", "long_clips"):
        if getattr(command, name) != getattr(Evaluate, name):
            raise InputError(f"--vbench only makes clips: --{name.replace('_', '-')} goes without it")
    from vidjax.evaluate.vbench import MANIFEST, export, read_prompts

    read_prompts(command.vbench_prompts, command.vbench_clips)  # before a large model is read
    keep_compiled()
    from vidjax.model import load

    model = load(command.model, dtype=command.dtype)
    done = export(
        model,
        command.vbench_prompts,
        command.vbench,
        command.vbench_clips,
        on_clip=lambda path: print(path, file=sys.stderr),
        **_settings(command),
    )
    print(f"{command.vbench}: {done.made} clips made, {done.found} were there; see {MANIFEST}")


def _settings(command: Evaluate) -> dict[str, Any]:
    given = {name: getattr(command, name) for name in SETTINGS}
    return {name: value for name, value in given.items() if value is not None}


def _about(command: Evaluate, model: Any) -> dict[str, str]:
    """What a reader of the page must know to make it again."""
    import vidjax
    from vidjax.request import make_request

    request = make_request(model, "", **_settings(command))
    scales = ", ".join(f"{scale:g}" for scale in request.guidance_scales)
    how = ", frame by frame" if request.causal else ""
    return {
        "model": f"{model.name}, {model.config.dtype}",
        "clips": f"{request.num_frames} frames of {request.width}x{request.height}, {request.fps:g} a second",
        "sampler": f"{request.solver}, {request.schedule.num_steps} steps, guidance scale {scales}{how}",
        "prompts": f"{command.num_prompts} held out, {command.num_seeds} clips each, seed {command.seed}",
        "vidjax": vidjax.__version__,
    }
