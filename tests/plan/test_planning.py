"""`vidjax plan`: wrong questions end before anything is compiled, answers have their fields."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import pytest

from vidjax.errors import InputError
from vidjax.models.wan.presets import PRESETS
from vidjax.parallel.rules import device_bytes
from vidjax.plan import candidates, compiler, planning
from vidjax.plan.chips import CHIPS, GIB, parse_topology
from vidjax.plan.programs import Clip, decoding_program, preset_config
from vidjax.plan.report import Plan, as_json, ranking, rooflines
from vidjax.plan.work import Work

ROOT = Path(__file__).parents[2]

NEEDS_LIBTPU = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the TPU compiler is not installed"
)

CONFIG = """
from vidjax.config import MeshConfig, OptimizerConfig, TrainConfig
from vidjax.models.t5 import T5Config
from vidjax.models.wan.denoiser import DenoiserConfig
from vidjax.models.wan.presets import SamplingDefaults
from vidjax.training.denoiser import DenoiserTask


def get_config() -> TrainConfig:
    model = DenoiserConfig(
        num_attention_heads=2, attention_head_dim=64, in_channels=32, out_channels=32, text_dim=64, freq_dim=64,
        ffn_dim=256, num_layers=3,
    )
    text = T5Config(d_model=64, d_kv=32, d_ff=64, num_layers=1, num_heads=2)
    task = DenoiserTask(vae="nowhere", model=model, text=text, sampling=SamplingDefaults(max_text_length=32))
    return TrainConfig(task=task, steps=100, batch_size=8, mesh=MeshConfig(data=2, fsdp=2))
"""


def ask(**changes) -> planning.Question:
    return planning.Question(**{"topology": "v5p:2x2x2", "preset": "wan2.1-t2v-14b"} | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"topology": "v9:2x2"}, "choose a chip among v4, v5e, v5p, v6e, tpu7x"),
        ({"topology": "v5e:3x3"}, "v5e comes as 1x1, 2x2, 2x4.* nearest: v5e:2x4"),
        ({"topology": "v5p:4x4"}, "v5p comes as 2x2x1.* nearest: v5p:2x2x4"),
        ({"preset": "wan9"}, "choose one of wan2.1-t2v-1.3b"),
        ({"preset": None}, "give CONFIG, or --preset"),
        ({"config": Path("x.py")}, "give CONFIG, or --preset"),
        ({"config": Path("nowhere.py"), "preset": None}, "no configuration file nowhere.py"),
        ({"task": "dream"}, "choose one of sample, decode, train"),
        ({"size": "720"}, "must be HEIGHTxWIDTH"),
        ({"size": "721x1280"}, "height=721: must be a multiple of 16; nearest: 720"),
        ({"num_frames": 80}, "num_frames=80: must be 1 [+] a multiple of 4; nearest: 81"),
        ({"batch": 0}, "must be at least 1"),
        ({"mesh": "fsdp=3,context=2"}, "needs 6 devices"),
        ({"mesh": "speed=8"}, "the axes are data, fsdp, context, tensor"),
        ({"mesh": "data=1"}, "needs 1 devices and v5p:2x2x2 has 8"),
        (
            {"preset": "wan2.1-t2v-1.3b", "mesh": "tensor=8"},
            "does not divide the 12 heads; choose among 1, 2, 3, 4, 6, 12",
        ),
        ({"slices": 2, "mesh": "fsdp=16"}, "data=1: must be a multiple of slices=2"),
        ({"task": "train", "batch": 6, "mesh": "fsdp=8"}, "batch 6: does not divide over .* 8 devices; nearest: 8"),
        ({"task": "train", "preset": "wan2.1-i2v-14b"}, "given pictures as channels"),
        ({"remat": "full"}, "only training recomputes"),
        ({"task": "train", "remat": "some"}, "choose one of none, full, dots"),
    ],
    ids=str,
)
def test_wrong_questions(changes, said, compilations):
    """Each must end in one line with what would do, before minutes of compiling."""
    with pytest.raises(InputError, match=said) as caught:
        planning.understand(ask(**changes))
    assert "\n" not in str(caught.value)
    assert not compilations


def test_questions_are_completed():
    """What is left out is the model's own, on a mesh over all devices."""
    job = planning.understand(ask())
    assert (job.task, job.clip.height, job.clip.width, job.clip.num_frames) == ("sample", 720, 1280, 81)
    assert job.sizes == {"data": 1, "fsdp": 2, "context": 4, "tensor": 1}
    assert job.tokens_per_frame * job.latent[0] == 75_600
    assert planning.understand(ask(task="train")).sizes["fsdp"] == 8


@pytest.mark.parametrize(
    ("topology", "slices", "devices"),
    [("v4:2x2x1", 1, 8), ("v5e:2x4", 1, 8), ("v5p:4x4x4", 2, 128), ("v6e:4x4", 1, 16), ("tpu7x:2x2x2", 1, 16)],
)
def test_topologies(topology, slices, devices):
    """v4 and TPU7x list two devices a chip: a mesh is counted in these."""
    assert parse_topology(topology, slices).num_devices == devices


def test_chips_are_plausible():
    """A slip of a power of ten in a rate would go unseen in every plan."""
    for chip in CHIPS.values():
        assert 15 * GIB <= chip.memory < 96 * GIB
        assert 150 < chip.flops / chip.hbm_bytes < 600  # FLOPs a byte where compute and memory take as long
        assert chip.dcn_bytes < chip.ici_bytes < chip.hbm_bytes < chip.flops


def test_parameters_are_counted_as_they_are_split():
    """Twice as many devices on `fsdp` hold half as much; a replica more holds as much again."""
    job = planning.understand(ask(task="train"))
    held = lambda **sizes: candidates.held_bytes(job, dict(data=1, fsdp=1, context=1, tensor=1) | sizes)  # noqa: E731
    whole = held(data=8)
    assert whole > 14e9 * 16  # float32 parameters, two moments and an average
    assert held(fsdp=8) == pytest.approx(whole / 8, rel=0.01)
    assert held(fsdp=2, tensor=4) == pytest.approx(whole / 8, rel=0.05)  # the embedders are not split over `tensor`


def test_candidates_waste_nothing():
    """A search must not try meshes on which devices repeat each other's work, nor miss the plain ones."""
    job = planning.understand(ask())
    found = list(candidates.all_sizes(job))
    assert {"data": 1, "fsdp": 2, "context": 4, "tensor": 1} in found
    assert {"data": 2, "fsdp": 1, "context": 4, "tensor": 1} in found
    for sizes in found:
        assert sizes["data"] * sizes["fsdp"] * sizes["context"] * sizes["tensor"] == 8
        assert sizes["data"] * sizes["fsdp"] <= 2
        assert 40 % sizes["tensor"] == 0


@pytest.mark.parametrize(("task", "remats"), [("sample", [None]), ("train", ["full", "dots"])])
def test_search_puts_the_fastest_that_fits_first(monkeypatch, task, remats):
    """It compiles a few of the meshes, and in training both remat policies of each."""
    compiled = []

    def measure(job, sizes):
        compiled.append((job.remat, tuple(sizes.items())))
        number = len(compiled)
        return dataclasses.replace(PLAN, mesh=sizes, fits=number > 1, estimated_seconds=10 - number)

    monkeypatch.setattr(planning, "measure", measure)
    plans = planning.search(ask(task=task), limit=4)
    assert [plan.estimated_seconds for plan in plans] == [6, 7, 8, 9]
    assert not plans[-1].fits
    assert len(set(compiled)) == 4
    assert sorted({remat for remat, _ in compiled}, key=str) == sorted(remats, key=str)


def test_search_chooses_the_mesh():
    """A mesh that is named would silently be left out."""
    with pytest.raises(InputError, match="a search chooses it"):
        planning.search(ask(mesh="fsdp=8"))


def test_advice_fits():
    """Where parameters are too much for a device, the mesh that is named splits them further."""
    job = planning.understand(ask(topology="v6e:4x4"))
    sizes = {"data": 2, "fsdp": 1, "context": 8, "tensor": 1}
    needs = candidates.held_bytes(job, sizes) + 2 * GIB
    assert needs > job.topology.chip.memory
    other = candidates.smaller(job, sizes, needs)
    assert candidates.held_bytes(job, other) < job.topology.chip.memory
    assert candidates.smaller(job, sizes, 10**15) is None


@pytest.mark.parametrize(
    ("message", "sizes"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (400.00G) exceeds available HBM (15.75G). HLO module: jit__lambda.",
            (400 * GIB, int(15.75 * GIB)),
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.5G of 15.75G hbm.",
            (20.5 * GIB, 15.75 * GIB),
        ),
        ("INTERNAL: something else (1G) exceeds available HBM (2G)", None),
    ],
)
def test_out_of_memory_is_read(message, sizes):
    """The compiler's refusal is an answer; anything else it refuses is not."""
    assert compiler._exhausted(message) == sizes


def test_rooflines():
    """What bounds a program decides what to change; a device has its share of a chip of two."""
    work = Work(
        flops=2e15, repeated_flops=0.5e15, memory_bytes=1e12, collectives=Counter({"all-gather": 3e10}), across=1e10
    )
    times = rooflines(work, CHIPS["tpu7x"])
    assert times["compute"] == pytest.approx(2.5e15 / (2307e12 / 2))
    assert times["memory"] == pytest.approx(1e12 / (7380e9 / 2))
    assert times["interconnect"] == pytest.approx(2e10 / (1200e9 / 4))
    assert times["dcn"] == pytest.approx(1e10 / (12.5e9 / 2))


PLAN = Plan(
    "p", "v5e:2x2", 4, {"data": 1, "fsdp": 4, "context": 1, "tensor": 1}, "64x64", 17, 1, None, fits=True,
    peak_bytes=GIB, memory_bytes=2 * GIB, compile_seconds=1.0, argument_bytes=1, temporary_bytes=2, model_flops=3.0,
    compiled_flops=4.0, attention_flops=1.0, repeated_flops=0.0, flops_ratio=0.75, collective_bytes={"all-gather": 5.0},
    hbm_bytes=6.0, seconds={"compute": 0.1}, estimated_seconds=0.1, bound="compute",
)  # fmt: skip


def test_json_has_what_others_rely_on():
    """Programs read these fields."""
    read = json.loads(json.dumps(as_json(PLAN)))
    assert read["fits"] is True
    assert (read["peak_bytes"], read["memory_bytes"], read["flops_ratio"]) == (GIB, 2 * GIB, 0.75)
    assert read["collective_bytes"] == {"all-gather": 5.0}
    assert read["compile_seconds"] == 1.0


def test_tables_say_whether_it_fits():
    """A plan that does not fit has few numbers, and must print all the same."""
    poor = dataclasses.replace(PLAN, fits=False, advice="needs 3 GiB", compiled_flops=None, flops_ratio=None)
    assert "1.00 GiB of 2.00 GiB a device: fits" in str(PLAN)
    assert "0.750" in str(PLAN)
    assert "does not fit: needs 3 GiB" in str(poor)
    assert re.search(r"fsdp=4 .*compute\n.*does not fit", ranking([PLAN, poor]))


def test_bytes_of_shapes():
    """Everything about memory before compiling rests on it."""
    mesh = jax.sharding.AbstractMesh((4, 2), ("a", "b"))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a", None))
    shapes = [jax.ShapeDtypeStruct((8, 3), "float32", sharding=split), jax.ShapeDtypeStruct((5,), "bfloat16")]
    assert device_bytes(shapes) == 2 * 3 * 4 + 5 * 2


@pytest.fixture
def plan(tmp_path):
    """Runs ``vidjax plan`` in a process of its own, which it makes its own; for the configuration, if none is named."""
    (tmp_path / "tiny.py").write_text(CONFIG)

    def run(*words):
        line = [sys.executable, "-m", "vidjax.cli", "plan", *words]
        line += [] if "--preset" in words else [str(tmp_path / "tiny.py")]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True)

    return run


@NEEDS_LIBTPU
def test_a_configuration_is_planned(plan):
    """The whole way, from a file to numbers, on the mesh that the file names."""
    done = plan("--topology", "v5e:2x2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["fits"]
    assert found["mesh"] == {"data": 2, "fsdp": 2, "context": 1, "tensor": 1}
    assert found["argument_bytes"] + found["temporary_bytes"] <= found["peak_bytes"] < found["memory_bytes"]
    assert found["collective_bytes"]
    assert 0.5 < found["flops_ratio"] < 1.1
    assert found["notes"] == []


@NEEDS_LIBTPU
@pytest.mark.slow
def test_too_large_is_an_answer(plan):
    """Running out of memory must not end in a traceback."""
    done = plan("--topology", "v5e:2x2", "--batch", "65536", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["fits"]
    assert found["peak_bytes"] > found["memory_bytes"]
    assert found["advice"].startswith("needs ")


@NEEDS_LIBTPU
def test_wrong_words_end_in_one_line(plan):
    """Exit code 2 and one line, as everywhere."""
    done = plan("--preset", "wan2.1-t2v-14b", "--topology", "v5e:3x3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("vidjax: error: topology 'v5e:3x3'")


def test_without_the_compiler(monkeypatch):
    """One line says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'vidjax\[plan\]'"):
        compiler.prepare_process()


def test_large_frames_are_decoded_in_tiles():
    """The plan is of the program that runs: of a frame that is large the decoder sees a tile."""
    config = preset_config(PRESETS["wan2.1-t2v-1.3b"])
    flops = {
        size: decoding_program(config, Clip(1, 5, *size)).flops() for size in ((512, 512), (720, 1280), (2160, 3840))
    }
    assert flops[2160, 3840] == flops[512, 512] < flops[720, 1280]
