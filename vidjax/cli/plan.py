"""``vidjax plan``: compile for TPUs that are not there."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro

from vidjax.plan.question import Question


@dataclasses.dataclass(frozen=True)
class Plan(Question):
    """Compile for TPUs that are not there: memory, FLOPs, what is sent between chips, and what bounds the speed."""

    config: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")] = None
    """A training configuration; or give --preset."""
    search: bool = False
    """Try several meshes, and in training remat full and dots; the best first."""
    json: bool = False
    """Print JSON."""


def run(command: Plan) -> None:
    """``vidjax plan``."""
    from vidjax.plan.compiler import prepare_process

    prepare_process()
    from vidjax.plan import planning, report

    if not command.search:
        found = planning.plan(command)
        print(json.dumps(report.as_json(found)) if command.json else found)
        return
    plans = planning.search(command)
    print(json.dumps([report.as_json(p) for p in plans]) if command.json else report.ranking(plans))
