#!/usr/bin/env bash
# `make test-gpu`: for who has a Jetson, or any machine with TensorRT, its headers and a GPU. Compiles the shim, runs the
# contract suite that every engine passes on the real TensorRT, builds, proves and measures the default model, and writes
# it all into one report fit to be sent back: .cache/tensorrt/report.md. Exit code 1 if anything of it failed, 77 if this
# machine has no TensorRT, which is found out before anything is built.
#
# VEDETTE_TEST_GPU_DOUBLES=<program>: the same flow with the doubles, that program and the tiny model, to try this script;
# the report, which says so, goes to VEDETTE_TEST_GPU_OUT.
set -uo pipefail
cd "$(dirname "$0")/../.."
cache=$PWD/.cache/tensorrt
doubles=${VEDETTE_TEST_GPU_DOUBLES:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "$doubles" ]; then
    vedette=$doubles
    model=$PWD/tests/fixtures/models/tiny precision=fp32
    shim_of=(--headers "$cache/headers/10.16" --cuda "$cache/headers/10.16")
    export LD_LIBRARY_PATH=$cache/doubles-10.16
    cache=${VEDETTE_TEST_GPU_OUT:-$cache/doubles-report}
else
    vedette=$PWD/${CARGO_TARGET_DIR:-target}/release/vedette
    model=$PWD/engines/activity-v1 precision=fp16
    shim_of=()
    # The library that the agent opens, where the agent looks for it (src/agent/infer/tensorrt/machine.rs).
    library=
    for name in libnvinfer.so.11 libnvinfer.so.10 libnvinfer.so.8; do
        PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | grep -q "[[:space:]]$name " && library=$name && break
        IFS=: read -ra folders <<<"${LD_LIBRARY_PATH:-}"
        for folder in "${folders[@]}"; do [ -n "$folder" ] && [ -e "$folder/$name" ] && library=$name && break 2; done
    done
    if [ -z "$library" ]; then
        echo "test-gpu: this machine has no TensorRT (no libnvinfer.so.11, .10 or .8 where the system looks for libraries):" \
            "nothing was built, nothing tested. On a Jetson: sudo apt install nvidia-jetpack" >&2
        exit 77
    fi
fi
report=$cache/report.md
mkdir -p "$cache"
failed=0

# part <title> <command...>: runs it, and puts its words and how it ended into the report.
part() {
    local title=$1 code
    shift
    printf 'test-gpu: %s\n' "$title"
    "$@" >"$work/out" 2>&1
    code=$?
    [ $code -eq 0 ] || failed=1
    {
        printf '## %s\n\n`%s`: exit code %d\n\n```\n' "$title" "${*//$PWD\//}" "$code"
        tail -n 200 "$work/out"
        printf '```\n\n'
    } >>"$report"
    tail -n 5 "$work/out"
    return $code
}

facts() {
    date -u
    tr -d '\0' 2>/dev/null </proc/device-tree/model && echo
    cat /etc/nv_tegra_release 2>/dev/null
    uname -srm
    nproc
    grep MemTotal /proc/meminfo
    nvpmodel -q 2>/dev/null
    nvidia-smi -L 2>/dev/null
    dpkg-query -W -f '${Package} ${Version}\n' 'libnvinfer*' 'cuda-cudart-*' nvidia-jetpack 2>/dev/null
    g++ --version | head -1
    git describe --always --dirty
    return 0
}

# not_run <title> <why>
not_run() {
    printf '## %s\n\nNot run: %s.\n\n' "$1" "$2" >>"$report"
}

if [ -n "$doubles" ]; then
    printf '# TensorRT on NO real machine\n\nWritten by tests/tensorrt/gpu.sh with the doubles: it shows that the script works.\n\n' >"$report"
else
    printf '# TensorRT on a real machine\n\nWritten by `make test-gpu`.\n\n' >"$report"
fi
part "The machine" facts
if [ -n "$doubles" ]; then
    not_run "The program" "the doubles are met by $vedette"
else
    part "What building needs" deploy/dev/setup.sh || exit 1
    part "The program" cargo build --release --bin vedette || exit 1
fi
if ! part "The shim" "$vedette" engine build-shim --out "$cache" "${shim_of[@]}"; then
    echo "test-gpu: TensorRT is here, and no shim for it could be compiled: nothing more was tested; see $report" >&2
    exit 1
fi
cat >"$work/vedette.toml" <<TOML
[device]
site = "test"
id = "gpu"
[paths]
state_dir = "$work/state"
runtime_dir = "$work/run"
[model]
dir = "$model"
[tensorrt]
precision = "$precision"
shim = "$(ls -t "$cache"/libvedette_trt-*.so | head -1)"
$(for n in 1 2 3 4; do printf '[[camera]]\nid = "c%d"\nkind = "test"\n' $n; done)
TOML
if [ -n "${NEXTEST:-}" ]; then
    not_run "The contract of engines" "these tests are run by who runs this"
else
    VEDETTE_TENSORRT=$([ -n "$doubles" ] || echo real) part "The contract of engines" deploy/dev/nextest.sh run -E 'test(tensorrt::tests::it_) + test(tensorrt::tests::the_direction) + test(tensorrt::tests::plans_that)'
fi
part "The model: built and proven (four cameras, $precision)" "$vedette" engine build --config "$work/vedette.toml"
part "Loaded again from the cache" "$vedette" engine verify --config "$work/vedette.toml"
limits=()
while read -r line; do limits+=("--property=$line"); done < <(grep -E '^(DevicePolicy|DeviceAllow)=' systemd/vedette.service)
if [ -z "$doubles" ] && [ -d /run/systemd/system ] && sudo -n true 2>/dev/null; then
    part "Within the devices that the shipped unit allows" \
        sudo systemd-run --wait --pipe --quiet "${limits[@]}" "$vedette" engine verify --config "$work/vedette.toml"
else
    not_run "Within the devices that the shipped unit allows" "no systemd, no sudo without a password, or no real machine"
fi
part "Measured" "$vedette" engine bench --config "$work/vedette.toml" --out "$cache/bench.json"
printf 'test-gpu: %s\n' "$([ $failed -eq 0 ] && echo 'everything holds' || echo 'SOMETHING FAILED'); the report is $report"
exit $failed
