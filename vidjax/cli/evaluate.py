"""``vidjax evaluate``: how well a model does what prompts say."""

import dataclasses
import json
import sys

from vidjax.cli.compilation_cache import keep_compiled


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


def run(command: Evaluate) -> None:
    """``vidjax evaluate``."""
    keep_compiled()
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
