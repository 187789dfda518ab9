#!/usr/bin/env bash
# Train on one machine with GPUs, all of them in one process; begins again from the last checkpoint when it ends early.
#
#   CONFIG=configs/shapes_denoiser.py WORKDIR=runs/denoiser launch/gpu_node.sh [key=value ...]
#
# Several machines without a scheduler: run the same line on each, with COORDINATOR=HOST:PORT of the first,
# NUM_PROCESSES and its own PROCESS_ID, and WORKDIR on a disk that they share.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${CONFIG:?the configuration, such as configs/shapes_denoiser.py}"
: "${WORKDIR:?where checkpoints and metrics go}"
VENV="${VENV:-.venv}"                # made here if it is not there
MAX_RESTARTS="${MAX_RESTARTS:-20}"   # after errors that a new start may mend
NUM_PROCESSES="${NUM_PROCESSES:-1}"  # machines

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader # ends here where there is no driver
if [[ ! -x "$VENV/bin/vidjax" ]]; then
  python3 -m venv "$VENV"
  "$VENV/bin/pip" install --quiet -e '.[cuda,log]'
fi
# shellcheck source=launch/flags.sh
source launch/flags.sh gpu

together=(--num-processes 1)
if ((NUM_PROCESSES > 1)); then
  together=(
    --coordinator "${COORDINATOR:?HOST:PORT of the first machine}"
    --num-processes "$NUM_PROCESSES"
    --process-id "${PROCESS_ID:?the number of this machine, from 0}"
  )
fi
for ((restart = 0; restart <= MAX_RESTARTS; restart++)); do
  code=0
  "$VENV/bin/vidjax" train "$CONFIG" "$@" --workdir "$WORKDIR" "${together[@]}" || code=$?
  case "$code" in
    # Done; a mistake; or asked to stop, by Ctrl-C or a signal, and saved.
    0 | 2 | 130 | 143) exit "$code" ;;
  esac
  echo "ended with $code; start $((restart + 1)) of $MAX_RESTARTS" >&2
  sleep 5
done
exit "$code"
