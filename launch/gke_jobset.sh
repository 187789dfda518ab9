#!/usr/bin/env bash
# Train on TPU slices of GKE. Needs kubectl with the cluster's credentials, JobSet in the cluster
# (kubectl get crd jobsets.jobset.x-k8s.io), node pools of the slice, and an image made with Dockerfile.tpu.
#
#   IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/vidjax CONFIG=configs/shapes_denoiser.py \
#     WORKDIR=gs://bucket/run launch/gke_jobset.sh [key=value ...]
#
# DRY_RUN=1 prints what would be submitted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

: "${IMAGE:?the image to run, as pushed}"
: "${CONFIG:?the configuration within the image, such as configs/shapes_denoiser.py}"
: "${WORKDIR:?where checkpoints and metrics go: gs://bucket/run, writable for the service account of the pods}"
export IMAGE CONFIG WORKDIR
export NAME="${NAME:-vidjax}"                 # of the JobSet; one that is there already must be deleted first
export GENERATION="${GENERATION:-v6e}"        # v4, v5e, v5p, v6e or tpu7x
export TOPOLOGY="${TOPOLOGY:-4x4}"            # of one slice, as its node pool has it
export NUM_SLICES="${NUM_SLICES:-1}"          # slices are parts of the mesh's data axis
export CHIPS_PER_HOST="${CHIPS_PER_HOST:-4}"  # as the machine type says, such as ct6e-standard-4t
export SPOT="${SPOT:-true}"                   # nodes of the pool are Spot VMs: true, or no such label: false
export MAX_RESTARTS="${MAX_RESTARTS:-100}"    # preemptions and failures together
export OVERRIDES="$*"

case "$GENERATION" in
  v4) ACCELERATOR=tpu-v4-podslice ;;
  v5e) ACCELERATOR=tpu-v5-lite-podslice ;;
  v5p) ACCELERATOR=tpu-v5p-slice ;;
  v6e) ACCELERATOR=tpu-v6e-slice ;;
  tpu7x) ACCELERATOR=tpu7x ;;
  *)
    echo "GENERATION=$GENERATION: choose v4, v5e, v5p, v6e or tpu7x" >&2
    exit 2
    ;;
esac
chips=$((${TOPOLOGY//x/*}))
HOSTS=$((chips / CHIPS_PER_HOST))
if ((HOSTS * CHIPS_PER_HOST != chips)); then
  echo "TOPOLOGY=$TOPOLOGY has $chips chips, no multiple of CHIPS_PER_HOST=$CHIPS_PER_HOST" >&2
  exit 2
fi
export ACCELERATOR HOSTS

# Only these: $CONFIG and its like are also words of the container's own shell.
manifest="$(perl -pe 's/\$\{(\w+)\}/$ENV{$1} \/\/ die "$1 is not set\n"/ge' gke_jobset.yaml)"
if [[ "$SPOT" != true ]]; then
  manifest="$(grep -v '^ *cloud.google.com/gke-spot: ' <<< "$manifest")"
fi
if [[ -n "${DRY_RUN:-}" ]]; then
  echo "$manifest"
else
  kubectl apply -f - <<< "$manifest"
  echo "kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0"
fi
