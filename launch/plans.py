"""The named plans, and the table of them in launch/plans.md.

`python launch/plans.py` compiles them all, in about half an hour on two idle cores; `python launch/plans.py NAME ...`
only some. The numbers are kept in launch/plans.json. No TPU is needed, but its compiler: `pip install 'vidjax[plan]'`.
"""

import json
import subprocess
import sys
from pathlib import Path

NUMBERS = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).with_suffix(".md")
GIB = 2**30

PLANS = {
    "sample-14b-v5p": "--preset wan2.1-t2v-14b --topology v5p:2x2x2 --mesh data=2,context=4",
    "sample-14b-v6e": "--preset wan2.1-t2v-14b --topology v6e:4x4 --mesh fsdp=2,context=8",
    "sample-14b-tpu7x": "--preset wan2.1-t2v-14b --topology tpu7x:2x2x2 --mesh data=2,context=8",
    "sample-5b-v5e": "--preset wan2.2-ti2v-5b --topology v5e:4x4 --mesh fsdp=2,context=8",
    "sample-1.3b-v5e": "--preset wan2.1-t2v-1.3b --topology v5e:2x4 --mesh fsdp=2,context=4",
    "decode-14b-v5p": "--preset wan2.1-t2v-14b --task decode --topology v5p:2x2x2 --mesh context=8",
    "train-14b-v5p": "--preset wan2.1-t2v-14b --task train --size 480x832 --topology v5p:4x4x4 --mesh data=4,fsdp=16",
    "train-14b-v5p-2-slices": (
        "--preset wan2.1-t2v-14b --task train --size 480x832 --topology v5p:4x4x4 --slices 2 --mesh data=8,fsdp=16"
    ),
}
"""The words after `vidjax plan`; sizes and frames are the model's own where none are given."""

CONTEXTS = {
    f"context-{n}": f"--preset wan2.1-t2v-14b --topology v5p:2x2x2 --mesh data={8 // n},context={n} --batch {8 // n}"
    for n in (1, 2, 4, 8)
}
"""One clip of 75,600 tokens, with its prompt and without, on so many chips; the eight chips make several clips."""

INTRODUCTION = """\
# Plans

Programs compiled for TPUs by `vidjax plan`, on a machine without one; `python launch/plans.py` makes this page again.

Memory is of one device at its peak, with the parts of the model that wait there meanwhile. The FLOPs ratio is the
model's own matrix arithmetic over that of the compiled program; to recompute all of forward gives 3/4. What attention
kernels make anew backwards is left out of it, but not of the time: a lower bound, the longest of compute, memory and
interconnect, each alone at its published peak. A device sends what stands under sent."""

HEAD = ("plan", "clips", "chips", "mesh", "GiB", "FLOPs ratio", "sent, GiB", "at best", "bound by", "compiled in")

CONTEXTS_HEAD = ("context", "temporaries, GiB a device", "of half as many chips", "of one chip")


def main() -> None:
    every = PLANS | CONTEXTS
    names = sys.argv[1:] or list(every)
    unknown = [name for name in names if name not in every]
    if unknown:
        sys.exit(f"no plan {unknown[0]!r}; there are {', '.join(every)}")
    for name in names:
        new = {name: run(every[name])}
        numbers = (json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {}) | new
        kept = {name: numbers[name] for name in every if name in numbers}
        NUMBERS.write_text(json.dumps(kept, indent=1) + "\n")
        PAGE.write_text(page(kept))


def run(words: str) -> dict:
    """The plan as JSON. Each has a process of its own: the compiler does not give memory back."""
    print(f"vidjax plan {words}", file=sys.stderr, flush=True)
    line = [sys.executable, "-m", "vidjax.cli", "plan", *words.split(), "--json"]
    return json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout)


def page(numbers: dict[str, dict]) -> str:
    """The Markdown."""
    plans = [(name, *row(numbers[name])) for name in PLANS if name in numbers]
    contexts = [context_row(numbers, name) for name in CONTEXTS if name in numbers]
    lines = [f"vidjax plan {words}" for name, words in (PLANS | CONTEXTS).items() if name in numbers]
    parts = [
        INTRODUCTION,
        table(HEAD, plans),
        "Memory for activations where tokens are split over `context`: T2V-14B at 720p, 75,600 tokens a clip.",
        table(CONTEXTS_HEAD, contexts),
        "The lines, in this order:",
        "\n".join(("```bash", *lines, "```")),
    ]
    return "\n\n".join(parts) + "\n"


def row(plan: dict) -> tuple[str, ...]:
    """The cells of a plan after its name."""
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan["mesh"].items() if size > 1)
    clips = f"{plan['batch']} x {plan['num_frames']} x {plan['size']}"
    memory = f"{plan['peak_bytes'] / GIB:.1f} of {plan['memory_bytes'] / GIB:.1f}"
    compiled = f"{plan['compile_seconds']:.0f} s"
    if not plan["fits"]:
        return clips, plan["topology"], mesh, memory, plan["advice"], "", "", "", compiled
    shown = {kind: size / GIB for kind, size in sorted(plan["collective_bytes"].items()) if size > 0.005 * GIB}
    sent = ", ".join(f"{kind} {size:.2f}" for kind, size in shown.items())
    if plan["dcn_bytes"]:
        sent += f"; {plan['dcn_bytes'] / GIB:.2f} of it to the other slice"
    ratio, best = f"{plan['flops_ratio']:.3f}", f"{plan['estimated_seconds']:.2f} s"
    return clips, plan["topology"], mesh, memory, ratio, sent, best, plan["bound"], compiled


def context_row(numbers: dict[str, dict], name: str) -> tuple[str, ...]:
    """Temporaries, and how they fall as chips double."""
    n = int(name.rpartition("-")[2])
    size = numbers[name]["temporary_bytes"]

    def share(of: int) -> str:
        other = numbers.get(f"context-{of}")
        return f"1 / {other['temporary_bytes'] / size:.2f}" if other and of < n else ""

    return str(n), f"{size / GIB:.2f}", share(n // 2), share(1)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Rows of cells as Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ("---",) * len(head), *rows))


if __name__ == "__main__":
    main()
