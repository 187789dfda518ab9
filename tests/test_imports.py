"""Imports go one way, and the package starts fast."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ORDER = (
    {"typing", "errors"},
    {"checks"},
    {"arithmetic", "parallel", "diffusion", "tokenizer", "image", "config", "tiles"},
    {"video"},
    {"models"},
    {"conditioning", "weights", "data"},
    {"model"},
    {"long", "chunks", "upsampling"},
    {"given", "prompts", "decoding", "resolution"},
    {"request"},
    {"sampler", "encoding", "unfinished"},
    {"windows"},
    {"enlarging", "causal"},
    {"generation", "training"},
    {"evaluate", "plan", "benchmark"},
    {"campaign", "clip_file", "forecast"},
    {"storyboard"},
    {"cli"},
)
"""A module imports from the sets before its own, and from its own package."""

LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}

APART = {"models", "diffusion"}
"""They meet as a velocity function only."""

ORACLES = {"torch", "tensorflow", "diffusers", "transformers"}
"""What tests and benchmarks compare with; nothing else that runs may need it."""

COMPARES = ROOT / "vidjax" / "benchmark" / "reference.py"


def imported(path: Path) -> set[str]:
    """Full names of all that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively: {ast.unparse(node)}"
            # `from vidjax import config` names a module, `from vidjax.config import X` what is in one.
            names |= {f"vidjax.{a.name}" for a in node.names} if node.module == "vidjax" else {node.module}
    return names


def part(dotted: str) -> str:
    return dotted.split(".")[1]


FILES = sorted(p for p in (ROOT / "vidjax").rglob("*.py") if p != ROOT / "vidjax" / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path):
    """An import against the order ends in a circle, and ties what should be usable alone to everything else."""
    own = path.relative_to(ROOT / "vidjax").with_suffix("").parts[0]
    assert own in LEVEL, f"say in ORDER where {own} belongs"
    names = imported(path)
    assert path == COMPARES or not {name.split(".")[0] for name in names} & ORACLES
    used = {part(name) for name in names if name.startswith("vidjax.")} - {own}
    assert not {other for other in used if LEVEL[other] >= LEVEL[own]}, "imported against the order"
    assert own not in APART or not used & APART


HEAVY = ORACLES | {"tensorflow_datasets", "grain", "orbax", "mediapy", "matplotlib", "PIL", "ftfy"}
HEAVY |= {"tensorboardX", "wandb"}


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in run.stdout.split()}


def test_import_is_light():
    """``import vidjax`` in a notebook, or ``vidjax --help``, must not take seconds."""
    assert not loaded_by("import vidjax") & (HEAVY | {"jax", "flax", "numpy", "safetensors", "sentencepiece"})


def test_generating_needs_no_training_libraries():
    """Sampling must not pay for, or break on, what only training and files need."""
    loaded = loaded_by("import vidjax.sampler, vidjax.weights.folder, vidjax.tokenizer")
    assert "jax" in loaded
    assert not loaded & (HEAVY | {"optax"})
