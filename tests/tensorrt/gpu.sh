#!/usr/bin/env bash
# `make test-gpu`: for who has a Jetson, or any machine with TensorRT, its headers and a GPU. Compiles the shim, runs the
# contract suite that every engine passes on the real TensorRT, builds, proves and measures the default model, and writes
# it all into one report fit to be sent back: .cache/tensorrt/report.md. Exit code 1 if anything of it failed, 77 if this
# machine has no TensorRT.
set -uo pipefail
cd "$(dirname "$0")/../.."
cache=$PWD/.cache/tensorrt
report=$cache/report.md
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$cache"
vedette=${CARGO_TARGET_DIR:-target}/release/vedette
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

printf '# TensorRT on a real machine\n\nWritten by `make test-gpu`.\n\n' >"$report"
part "The machine" facts
part "The program" cargo build --release --bin vedette || exit 1
if ! part "The shim" "$vedette" engine build-shim --out "$cache"; then
    echo "test-gpu: no shim could be compiled here; see $report" >&2
    exit 77
fi
cat >"$work/vedette.toml" <<TOML
[device]
site = "test"
id = "gpu"
[paths]
state_dir = "$work/state"
runtime_dir = "$work/run"
[model]
dir = "$PWD/engines/activity-v1"
[tensorrt]
shim = "$(ls -t "$cache"/libvedette_trt-*.so | head -1)"
$(for n in 1 2 3 4; do printf '[[camera]]\nid = "c%d"\nkind = "test"\n' $n; done)
TOML
VEDETTE_TENSORRT=real part "The contract of engines" deploy/dev/nextest.sh run -E 'test(tensorrt::tests::it_) + test(tensorrt::tests::the_direction) + test(tensorrt::tests::plans_that)'
part "The default model: built and proven (four cameras, FP16)" "$vedette" engine build --config "$work/vedette.toml"
part "Loaded again from the cache" "$vedette" engine verify --config "$work/vedette.toml"
limits=()
while read -r line; do limits+=("--property=$line"); done < <(grep -E '^(DevicePolicy|DeviceAllow)=' systemd/vedette.service)
if [ -d /run/systemd/system ] && sudo -n true 2>/dev/null; then
    part "Within the devices that the shipped unit allows" \
        sudo systemd-run --wait --pipe --quiet "${limits[@]}" "$PWD/$vedette" engine verify --config "$work/vedette.toml"
else
    printf '## Within the devices that the shipped unit allows\n\nNot run: no systemd, or no sudo without a password.\n\n' >>"$report"
fi
part "Measured" "$vedette" engine bench --config "$work/vedette.toml" --out "$cache/bench.json"
printf 'test-gpu: %s\n' "$([ $failed -eq 0 ] && echo 'everything holds' || echo 'SOMETHING FAILED'); the report is $report"
exit $failed
