"""Whether this is one of several processes that a cluster started, and what is its share of the machine."""

import importlib.util
import re
import urllib.request
from collections.abc import Mapping

_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


def detect(environ: Mapping[str, str]) -> str | None:
    """The cluster on which this is one of several processes, of the kinds that JAX can ask; None: it is alone.

    A single task, a notebook or an interactive shell on a cluster is alone. Cheap: at most one question to a Cloud
    TPU's metadata server, only where there are TPU chips.
    """

    def number(name: str) -> int:
        return int(environ.get(name) or 1)

    if "OMPI_MCA_orte_hnp_uri" in environ and number("OMPI_COMM_WORLD_SIZE") > 1:
        return "Open MPI"
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if all(name in environ for name in slurm):
        tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
        return "SLURM" if number(tasks) > 1 else None
    if importlib.util.find_spec("libtpu") and "tpu" in (environ.get("JAX_PLATFORMS") or "tpu"):
        workers = environ.get("TPU_PROCESS_ADDRESSES", environ.get("TPU_WORKER_HOSTNAMES"))
        if workers is not None:
            return "Cloud TPU" if "," in workers or number("MEGASCALE_NUM_SLICES") > 1 else None
        # Set by JAX's import where there is no chip, by notebooks, and by whoever wants no question asked.
        if "TPU_SKIP_MDS_QUERY" not in environ:
            slices = re.search(r"MEGASCALE_NUM_SLICES: *'(\d+)'", _metadata("tpu-env"))
            if (slices is not None and int(slices[1]) > 1) or "," in _metadata("worker-network-endpoints"):
                return "Cloud TPU"
    if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
        return "Kubernetes" if importlib.util.find_spec("kubernetes") else None
    return None


def _metadata(key: str) -> str:
    request = urllib.request.Request(_METADATA + key, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=3) as answer:
            return answer.read().decode()
    except (OSError, ValueError):
        return ""


def slurm_devices(environ: Mapping[str, str]) -> list[int] | None:
    """This task's share of the GPUs that it sees; None: JAX's own choice, the one of the task's number on its node."""
    visible = [gpu for gpu in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    tasks = re.match(r"\d+", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if not visible or tasks is None:
        return None
    own = environ.get("SLURM_GPUS_PER_TASK", "").rpartition(":")[2] == str(len(visible))
    share = 0 if own else len(visible) // int(tasks[0])
    # SLURM has already given each task its own, or sees to it that there are fewer than tasks.
    first = int(environ["SLURM_LOCALID"]) * share
    return list(range(first, first + share)) if share else list(range(len(visible)))
