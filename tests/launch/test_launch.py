"""The files in launch/: run for real, with the clouds' own programs played by small ones that note what is asked."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
GENERATIONS = {"v4": "v4:2x2x2", "v5e": "v5e:4x4", "v5p": "v5p:2x2x2", "v6e": "v6e:4x4", "tpu7x": "tpu7x:2x2x2"}

STAND_IN = """#!/usr/bin/env bash
printf '%s ' "$(basename "$0")" "$@" | tr '\\n' ' ' >> "$NOTES/asked"
echo >> "$NOTES/asked"
"""


@pytest.fixture
def play(tmp_path):
    """Runs a script with stand-ins for programs: exit code, output, what they were asked for."""

    def run(script, *arguments, programs=None, **environment):
        folder = tmp_path / "programs"
        folder.mkdir(exist_ok=True)
        for name, body in (programs or {}).items():
            (folder / name).write_text(STAND_IN + body)
            (folder / name).chmod(0o755)
        path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", str(script), *arguments], cwd=LAUNCH.parent, capture_output=True, text=True, timeout=300,
            env={"PATH": path, "HOME": str(tmp_path), "NOTES": str(tmp_path), **environment},
        )  # fmt: skip
        asked = tmp_path / "asked"
        return done.returncode, done.stdout + done.stderr, asked.read_text().splitlines() if asked.exists() else []

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_shell_is_sound(script):
    """A script that breaks in its tenth hour, in the branch that nobody tried."""
    beside = Path(sys.executable).with_name("shellcheck")
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert program, "pip install -e '.[test]' brings shellcheck"
    found = subprocess.run([program, "-x", str(script)], cwd=LAUNCH.parent, capture_output=True, text=True)
    assert not found.stdout
    if script.name != "flags.sh":  # sourced: its shell is another's
        assert "set -euo pipefail" in script.read_text()


@pytest.mark.parametrize("generation", [*GENERATIONS, "gpu"])
def test_flags(play, generation):
    """What the user sets must come last, since the last of two equal flags counts."""
    name = "XLA_FLAGS" if generation == "gpu" else "LIBTPU_INIT_ARGS"
    script = f". launch/flags.sh {generation}; echo ${name}"
    code, said, _ = play("-c", script, **{name: "--mine=1"})
    assert code == 0
    flags = said.split()
    assert flags[-1] == "--mine=1"
    assert all(re.fullmatch(r"--\w+=\w+", flag) for flag in flags)
    assert len({flag.split("=")[0] for flag in flags}) == len(flags) > 1
    if generation == "gpu":
        assert f'XLA_FLAGS="{flags[0]}"' in (LAUNCH / "Dockerfile.gpu").read_text()


def test_unknown_generation_is_refused(play):
    """A typing error would run without flags, and only be slow."""
    code, said, _ = play("-c", ". launch/flags.sh v7")
    assert (code, said.strip()) == (2, "flags.sh: 'v7' is no chip generation; choose v4, v5e, v5p, v6e, tpu7x or gpu")


COMPILE = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
topology = topologies.get_topology_desc(platform="tpu", topology_name=sys.argv[1])
split = NamedSharding(Mesh(np.array(topology.devices), "x"), P("x"))
matrix = jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16, sharding=split)
jax.jit(jax.grad(lambda w, x: jnp.sum((x @ w) ** 2)), out_shardings=split).lower(matrix, matrix).compile()
"""


@pytest.mark.slow
@pytest.mark.parametrize("generation", GENERATIONS)
def test_compiler_takes_the_flags(play, generation):
    """libtpu ends a run at its start over a flag that it does not know, or that is not for its chips."""
    pytest.importorskip("libtpu")
    off_chip = {
        "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0",
    }  # fmt: skip
    script = f'. launch/flags.sh {generation}; exec "{sys.executable}" -c "$0" {GENERATIONS[generation]}'
    code, said, _ = play("-c", script, COMPILE, **off_chip)
    assert code == 0, said[-2000:]


def jobset(play, **environment):
    given = {"IMAGE": "registry/vidjax", "CONFIG": "configs/x.py", "WORKDIR": "gs://bucket/run", "DRY_RUN": "1"}
    code, said, _ = play(LAUNCH / "gke_jobset.sh", "steps=5", "mesh.data=-1", **given | environment)
    assert code == 0, said
    return yaml.safe_load(said)


def test_jobset_is_what_kubernetes_expects(play):
    """An unknown field, or a number as text, is refused at best and ignored at worst."""
    found = jobset(play, NUM_SLICES="2", TOPOLOGY="4x8", NAME="mine")
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert found["metadata"]["name"] == "mine"
    assert found["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }
    assert found["spec"].keys() == {"failurePolicy", "replicatedJobs"}
    # A mistake that another start would repeat, exit code 2, ends the set; anything else starts it again.
    mistake = {"name": "mistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    assert found["spec"]["failurePolicy"] == {"maxRestarts": 100, "rules": [mistake]}
    (slices,) = found["spec"]["replicatedJobs"]
    assert slices.keys() == {"name", "replicas", "template"}
    assert slices["replicas"] == 2
    job = slices["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["completionMode"], job["backoffLimit"]) == (8, 8, "Indexed", 0)
    on_two = {"containerName": "train", "operator": "In", "values": [2]}
    assert job["podFailurePolicy"] == {"rules": [{"action": "FailJob", "onExitCodes": on_two}]}
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "4x8",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod["containers"]
    assert container["image"] == "registry/vidjax"
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables == {
        "GENERATION": "v6e",
        "CONFIG": "configs/x.py",
        "WORKDIR": "gs://bucket/run",
        "OVERRIDES": "steps=5 mesh.data=-1",
    }


def test_container_runs_the_training(play):
    """The line within the container is quoted twice, and read by nobody before it runs."""
    (container,) = jobset(play)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    program, *arguments = container["command"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert program == "bash"
    code, said, asked = play(*arguments, programs={"vidjax": ""}, **variables)
    assert code == 0, said
    assert asked == ["vidjax train configs/x.py steps=5 mesh.data=-1 --workdir gs://bucket/run "]


def test_jobset_that_cannot_work_is_refused(play):
    """Kubernetes would leave the pods pending for ever."""
    given = {"IMAGE": "i", "CONFIG": "c", "WORKDIR": "w"}
    code, said, _ = play(LAUNCH / "gke_jobset.sh", TOPOLOGY="2x1", **given)
    assert code == 2
    assert "has 2 chips, no multiple of CHIPS_PER_HOST=4" in said
    assert "gke-spot: " not in json.dumps(jobset(play, SPOT="false"))
    assert play(LAUNCH / "gke_jobset.sh", GENERATION="v3", **given)[0] == 2


QUEUED = LAUNCH / "tpu_queued_resources.sh"
TRAINING = {"CONFIG": "configs/x.py", "WORKDIR": "gs://bucket/run", "PROJECT": "p", "POLL_SECONDS": "0"}


GCLOUD = """
case "$*" in
  *" describe "*) cat "$NOTES/state" 2> /dev/null || exit 1 ;;
  *" create "*) echo ACTIVE > "$NOTES/state" ;;
  *" delete "*) rm "$NOTES/state" ;;
  *"vidjax train"*) TRAINING ;;
esac
"""
"""Capacity comes at once; TRAINING is what becomes of a run."""


def verbs(asked):
    """What gcloud was asked to do, without the questions."""
    found = [re.search(r"queued-resources (\w+)|$", line)[1] for line in asked if line.startswith("gcloud")]
    return [verb for verb in found if verb not in (None, "describe")]


def test_queued_resource_goes_on_until_done(play):
    """Spot machines are taken away: they must be asked for again, and given back at the end."""
    lost_once = 'test -e "$NOTES/lost" || { touch "$NOTES/lost"; echo SUSPENDED > "$NOTES/state"; exit 1; }'
    programs = {"git": "", "gcloud": GCLOUD.replace("TRAINING", lost_once)}
    code, said, asked = play(QUEUED, "steps=5", "task.note=a b", programs=programs, NUM_SLICES="2", **TRAINING)
    assert code == 0, said
    assert said.splitlines()[-1] == "done: gs://bucket/run"
    attempt = ["create", "scp", "ssh", "ssh", "delete"]
    assert verbs(asked) == attempt + attempt
    (created, *_) = [line for line in asked if " create " in line]
    assert "--node-count=2 --node-prefix=vidjax-v6e" in created
    assert "--accelerator-type=v6e-16 --runtime-version=v2-alpha-tpuv6e --spot" in created
    (_, ran) = [line for line in asked if "vidjax train" in line]
    assert "--node=all --worker=all" in ran
    assert r"vidjax train configs/x.py steps=5 task.note=a\ b --workdir gs://bucket/run" in ran


def test_broken_run_is_given_up(play):
    """A mistake in the configuration would hold, and be billed for, machines for ever."""
    programs = {"git": "", "gcloud": GCLOUD.replace("TRAINING", "exit 1")}
    code, said, asked = play(QUEUED, programs=programs, **TRAINING)
    assert code == 1
    assert "three times in a row" in said
    assert verbs(asked) == ["create"] + ["scp", "ssh", "ssh"] * 3 + ["delete"]


@pytest.mark.parametrize(("ended", "requeued"), [(0, False), (2, False), (143, True), (1, True)])
def test_slurm_job_goes_into_the_queue_again(play, tmp_path, ended, requeued):
    """A preempted job must go on; one with a mistake in its configuration must not, for ever."""
    code, said, asked = play(
        LAUNCH / "slurm.sbatch", "steps=5", programs={"srun": f"exit {ended}", "scontrol": ""},
        CONFIG="configs/x.py", WORKDIR="/shared/run", SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(LAUNCH.parent),
        VENV="/venv",
    )  # fmt: skip
    assert code == ended, said
    assert asked[0].endswith(" /venv/bin/vidjax train configs/x.py steps=5 --workdir /shared/run ")
    assert asked[1:] == (["scontrol requeue 7 "] if requeued else [])


@pytest.mark.parametrize(("ended", "starts"), [(0, 1), (2, 1), (143, 1), (1, 2)])
def test_gpu_node_starts_again(play, tmp_path, ended, starts):
    """An error of the hardware at night must not cost the night; a mistake must be seen at once."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    vidjax = tmp_path / "venv" / "bin" / "vidjax"
    vidjax.write_text(STAND_IN + f"exit {ended}")
    vidjax.chmod(0o755)
    several = {"NUM_PROCESSES": "2", "PROCESS_ID": "1", "COORDINATOR": "a:1"}
    code, said, asked = play(
        LAUNCH / "gpu_node.sh", "steps=5", programs={"nvidia-smi": "", "sleep": ""},
        CONFIG="configs/x.py", WORKDIR="run", VENV=str(tmp_path / "venv"), MAX_RESTARTS="1", **several,
    )  # fmt: skip
    assert code == ended, said
    flags = "--coordinator a:1 --num-processes 2 --process-id 1"
    ran = f"vidjax train configs/x.py steps=5 --workdir run {flags} "
    assert [line for line in asked if line.startswith("vidjax")] == [ran] * starts


@pytest.mark.parametrize("script", ["tpu_queued_resources.sh", "gke_jobset.sh", "slurm.sbatch", "gpu_node.sh"])
def test_what_is_missing_is_named(play, script):
    """An unset variable would otherwise become an empty word in the middle of a command."""
    code, said, asked = play(LAUNCH / script, programs={"gcloud": "", "kubectl": "", "nvidia-smi": "", "git": ""})
    assert code != 0
    assert re.search(r"(CONFIG|IMAGE): the ", said)
    assert not asked


@pytest.mark.parametrize("name", ["Dockerfile.tpu", "Dockerfile.gpu"])
def test_images_copy_what_there_is(name):
    """A build breaks at a file that has moved; and an extra that does not exist installs nothing."""
    text = (LAUNCH / name).read_text()
    copied = [word for line in re.findall(r"^COPY (.+) \S+$", text, re.M) for word in line.split()]
    assert {"vidjax", "configs", "launch", "pyproject.toml"} <= set(copied)
    assert all((LAUNCH.parent / word).exists() for word in copied)
    (extras,) = re.findall(r"'\.\[(.+)\]'", text)
    project = (LAUNCH.parent / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", project, re.M) for extra in extras.split(","))


def test_every_file_has_its_page():
    """A road that the README does not show is not taken."""
    page = (LAUNCH / "README.md").read_text()
    files = [*SCRIPTS, *LAUNCH.glob("*.yaml"), *LAUNCH.glob("Dockerfile*")]
    assert not [path.name for path in files if path.name not in page]
