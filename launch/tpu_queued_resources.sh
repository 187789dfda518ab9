#!/usr/bin/env bash
# Train on Cloud TPU Spot capacity until the run is done: wait in the queue, install, run, and begin again when the
# machines are taken away. The run goes on where its last checkpoint is.
#
#   CONFIG=configs/shapes_denoiser.py WORKDIR=gs://bucket/run launch/tpu_queued_resources.sh [key=value ...]
#
# Runs for as long as the training does: start it where it may, such as in tmux on a small machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${CONFIG:?the configuration, such as configs/shapes_denoiser.py}"
: "${WORKDIR:?where checkpoints and metrics go, a folder of a bucket in the region of the TPUs: gs://bucket/run}"
PROJECT="${PROJECT:-$(gcloud config get-value project 2>/dev/null)}" # gcloud's own
ZONE="${ZONE:-us-east5-b}"                                           # where the generation is offered
GENERATION="${GENERATION:-v6e}"                                      # v4, v5e, v5p or v6e
CHIPS="${CHIPS:-16}"                                                 # chips of one slice
NUM_SLICES="${NUM_SLICES:-1}"                                        # slices are parts of the mesh's data axis
NAME="${NAME:-vidjax-$GENERATION}"                                   # of the queued resource
POLL_SECONDS="${POLL_SECONDS:-60}"                                   # between questions
QUICK_SECONDS="${QUICK_SECONDS:-600}"                                # a run that fails sooner, three times, is broken

case "$GENERATION" in
  v4) accelerator="v4-$((2 * CHIPS))" runtime=tpu-ubuntu2204-base ;; # v4 and v5p count cores
  v5e) accelerator="v5litepod-$CHIPS" runtime=v2-alpha-tpuv5-lite ;;
  v5p) accelerator="v5p-$((2 * CHIPS))" runtime=v2-alpha-tpuv5 ;;
  v6e) accelerator="v6e-$CHIPS" runtime=v2-alpha-tpuv6e ;;
  *)
    echo "GENERATION=$GENERATION: choose v4, v5e, v5p or v6e; tpu7x is offered through GKE" >&2
    exit 2
    ;;
esac

at=(--project="$PROJECT" --zone="$ZONE")
everywhere=(--node=all --worker=all --batch-size=all "${at[@]}" --quiet)
package="$(mktemp -d)/vidjax.tar.gz"
trap 'rm -rf "$(dirname "$package")"' EXIT
git archive --format=tar.gz --output="$package" HEAD

state() {
  gcloud compute tpus queued-resources describe "$NAME" "${at[@]}" --format='value(state.state)' 2>/dev/null ||
    echo NONE
}

request() {
  local nodes=(--node-id="$NAME")
  if ((NUM_SLICES > 1)); then
    nodes=(--node-count="$NUM_SLICES" --node-prefix="$NAME")
  fi
  gcloud compute tpus queued-resources create "$NAME" "${at[@]}" "${nodes[@]}" \
    --accelerator-type="$accelerator" --runtime-version="$runtime" --spot
}

give_back() {
  gcloud compute tpus queued-resources delete "$NAME" "${at[@]}" --force --quiet || true
}

on_every_host() {
  gcloud alpha compute tpus queued-resources ssh "$NAME" "${everywhere[@]}" --command="$1"
}

run() {
  local overrides=""
  if (($#)); then
    printf -v overrides ' %q' "$@"
  fi
  gcloud alpha compute tpus queued-resources scp "$package" "$NAME:vidjax.tar.gz" "${everywhere[@]}" &&
    on_every_host "set -eu
      mkdir -p vidjax && tar -xzf vidjax.tar.gz -C vidjax && cd vidjax
      python3 -m pip install --quiet --user uv
      python3 -m uv venv --quiet --allow-existing --python 3.12 ~/venv
      python3 -m uv pip install --quiet --python ~/venv/bin/python -e '.[tpu,log]'" &&
    on_every_host "cd vidjax && . launch/flags.sh $GENERATION &&
      exec ~/venv/bin/vidjax train $(printf '%q' "$CONFIG")$overrides --workdir $(printf '%q' "$WORKDIR")"
}

quick=0
while true; do
  now="$(state)"
  echo "$(date +%T) $NAME: $now"
  case "$now" in
    NONE) request || sleep "$POLL_SECONDS" ;;
    ACTIVE)
      began=$SECONDS
      if run "$@"; then
        give_back
        echo "done: $WORKDIR"
        exit 0
      fi
      took=$((SECONDS - began))
      sleep "$POLL_SECONDS"
      # Machines that are still there were not taken away: the run failed by itself, and is tried again on them.
      if [[ "$(state)" == ACTIVE ]] && ((took < QUICK_SECONDS)); then
        quick=$((quick + 1))
      else
        quick=0
      fi
      if ((quick == 3)); then
        echo "three times in a row the run ended within $QUICK_SECONDS s: see its lines above; $NAME is given back" >&2
        give_back
        exit 1
      fi
      ;;
    FAILED | SUSPENDED | SUSPENDING) give_back ;;
    *) sleep "$POLL_SECONDS" ;; # ACCEPTED, WAITING_FOR_RESOURCES, PROVISIONING, DELETING
  esac
done
