"""A cluster that started several processes is recognised, and each takes its share of the machine."""

import pytest

from vidjax.parallel import cluster as cluster_module
from vidjax.parallel.cluster import detect, slurm_devices
from vidjax.parallel.distributed import start

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.mark.parametrize(
    ("environ", "cluster"),
    [
        ({}, None),
        (SLURM | {"SLURM_NTASKS": "4"}, "SLURM"),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        (SLURM | {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, None),  # a shell on the first node
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "Cloud TPU"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"}, "Cloud TPU"),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, None),
        ({"TPU_SKIP_MDS_QUERY": "1"}, None),
        (POD, None),  # a notebook in a pod
        (POD | {"JOB_COMPLETION_INDEX": "0"}, "Kubernetes"),
        ({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI"),
    ],
)
def test_clusters_are_recognised(environ, cluster, monkeypatch):
    """A laptop would hang in search of a coordinator, or each host of a pod train a model of its own."""
    monkeypatch.setattr(cluster_module.importlib.util, "find_spec", lambda name: name in ("libtpu", "kubernetes"))
    monkeypatch.setattr(cluster_module, "_metadata", lambda key: "")
    assert detect(environ) == cluster
    if cluster is None:
        assert not start(environ=environ)


def test_tpu_hosts_are_asked_for(monkeypatch):
    """On a TPU machine only its metadata server knows of the others."""
    known = {"worker-network-endpoints": "x:0:10.0.0.1,x:1:10.0.0.2", "tpu-env": "ZONE: 'a'"}
    monkeypatch.setattr(cluster_module.importlib.util, "find_spec", lambda name: name == "libtpu")
    monkeypatch.setattr(cluster_module, "_metadata", known.__getitem__)
    assert detect({}) == "Cloud TPU"
    known |= {"worker-network-endpoints": "x:0:10.0.0.1"}
    assert detect({}) is None
    known |= {"tpu-env": "MEGASCALE_NUM_SLICES: '2'\n"}
    assert detect({}) == "Cloud TPU"


@pytest.mark.parametrize(
    ("environ", "devices"),
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, [0, 1, 2, 3]),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_LOCALID": "2"}, [2]),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_LOCALID": "1"}, [2, 3]),
        ({"CUDA_VISIBLE_DEVICES": "3", "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_LOCALID": "3"}, [0]),
        (
            {
                "CUDA_VISIBLE_DEVICES": "2,3", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_LOCALID": "1",
                "SLURM_GPUS_PER_TASK": "h100:2",
            },
            [0, 1],
        ),
    ],
)  # fmt: skip
def test_a_task_of_slurm_takes_its_gpus(environ, devices):
    """JAX alone would give one task a node a single GPU of eight."""
    assert slurm_devices({"SLURM_LOCALID": "0"} | environ) == devices
