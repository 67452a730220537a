#!/usr/bin/env bash
# The shim against NVIDIA's own TensorRT-RTX 1.5 (PyPI, x86_64, 86 MB, proprietary: fetched here, never committed or
# shipped), as far as it goes without a GPU: opened, versions compared both ways, plans refused in its own words, networks
# parsed and built, made and destroyed twenty times without a leak. Exit code 77: it could not be had, and nothing was
# tested.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=$root/.cache/tensorrt
into=$cache/rtx-1.5
wheel=tensorrt-rtx-cu12-libs==1.5.0.114
models=$root/tests/fixtures/models

missing() {
    echo "rtx.sh: NOT TESTED against NVIDIA's own library: $1" >&2
    exit 77
}

if [ ! -e "$into/installed" ]; then
    [ "$(uname -m)" = x86_64 ] || missing "there is a wheel for x86_64 only"
    rm -rf "$into.new"
    mkdir -p "$into.new"
    pip=(python3 -m pip)
    if ! "${pip[@]}" --version >/dev/null 2>&1; then
        python3 -m venv "$into.new/venv" || missing "no pip, and no venv"
        pip=("$into.new/venv/bin/python" -m pip)
    fi
    # Any Python will do to unpack it.
    "${pip[@]}" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
        --platform manylinux_2_28_x86_64 --dest "$into.new" "$wheel" || missing "pip cannot download $wheel"
    python3 -m zipfile -e "$into.new"/*.whl "$into.new/wheel" || missing "the wheel cannot be unpacked"
    rm -rf "$into.new"/*.whl "$into.new/venv" "$into"
    touch "$into.new/installed"
    mv "$into.new" "$into"
fi
real=$(find "$into" -name 'libtensorrt_rtx.so.1*' | head -n 1)
parser=$(find "$into" -name 'libtensorrt_onnxparser_rtx.so.1*' | head -n 1)
[ -n "$real" ] && [ -n "$parser" ] || missing "the wheel has no libtensorrt_rtx.so.1"
echo "rtx.sh: $(basename "$real"), sha256 $(sha256sum "$real" | cut -c 1-16)"

begin=$SECONDS
failed=0
# step <what> <command...>
step() {
    echo "== $1"
    shift
    "$@" || { failed=1; echo "FAILED: $*"; }
}
"$here/headers.sh" >/dev/null || exit 1
unset VEDETTE_SANITIZE VEDETTE_TRT_FAULT VEDETTE_TRT_VERSION VEDETTE_TRT_TRACE
for family in rtx-1.5 rtx-1.6 10.16; do
    "$here/build.sh" "$family" "$cache/real/$family" || exit 1
done
shim=$cache/real/rtx-1.5

# The parser wants libtensorrt_rtx.so.1 by that name; it is loaded already, from the path given.
step "a shim of 1.5: all that goes without a GPU" "$shim/driver" real "$real" "$parser" "$models"
step "a shim of 1.6 refuses it" "$cache/real/rtx-1.6/driver" gate "$real"
step "a shim of TensorRT 10.16 refuses it" "$cache/real/10.16/driver" gate "$real"
step "a shim of 1.5 refuses the double of 1.6" "$shim/driver" gate "$cache/real/rtx-1.6/libtensorrt_rtx.so.1"
step "a shim of 1.5 refuses the double of 10.16" "$shim/driver" gate "$cache/real/10.16/libnvinfer.so.10"
if command -v valgrind >/dev/null; then
    step "twenty times made and destroyed, under valgrind" valgrind --quiet --leak-check=full --show-leak-kinds=definite \
        --errors-for-leak-kinds=definite --error-exitcode=9 --suppressions="$here/rtx.supp" \
        "$shim/driver" cycles "$real" "$parser" "$models"
else
    echo "rtx.sh: NOT TESTED for leaks: there is no valgrind" >&2
    failed=1
fi
echo "rtx.sh: $([ "$failed" = 0 ] && echo "all well" || echo FAILED), $((SECONDS - begin)) s"
exit "$failed"
