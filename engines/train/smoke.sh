#!/usr/bin/env bash
# The training kit without PyTorch, the whole way on generated clips: read, train, judge, export, `vedette evaluate`.
#
#   smoke.sh PROGRAM MODEL      the agent's program, and a model directory whose encoder is taken
set -euo pipefail
program=$(realpath "$1") model=$(realpath "$2")
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    # Ubuntu 22.04 builds and tests the agent, but cannot run the kit.
    echo "train-smoke: SKIPPED, $("$python" -V) is older than 3.11, which the training kit needs (PYTHON=... names another)" >&2
    exit 0
fi
engines/train/setup.sh light
PYTHONPATH=engines/train:.cache/train/light "$python" -m vedette_train smoke --vedette "$program" --model "$model"
