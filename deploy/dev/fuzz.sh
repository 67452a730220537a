#!/usr/bin/env bash
# One fuzz target for a while; what it found goes to .cache/fuzz, a crash to .cache/fuzz/artifacts with the command to repeat it.
set -euo pipefail
cd "$(dirname "$0")/../.."
targets=$(sed -n 's/^path = "targets\/\(.*\)\.rs"/\1/p' fuzz/Cargo.toml | paste -sd' ')
target=${1:-}
seconds=${2:-60}
case " $targets " in
*" ${target:-none} "*) ;;
*)
    echo "fuzz: TARGET has to be one of: $targets" >&2
    exit 2
    ;;
esac
if ! rustup run nightly rustc --version >/dev/null 2>&1; then
    echo "fuzz: fetching the nightly compiler, which libFuzzer's instrumentation needs"
    rustup toolchain install nightly --profile minimal
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "fuzz: building cargo-fuzz (a few minutes, once)"
    cargo install --quiet --locked cargo-fuzz
fi
corpus=.cache/fuzz/corpus/$target
mkdir -p "$corpus" ".cache/fuzz/artifacts/$target"
# A good text is a better start than none.
case $target in
command) echo '{"command": "verdict", "incident": "00000000-0000-0000-0000-000000000001", "verdict": "unclear", "expires_at": "2026-03-01T12:00:00Z"}' >"$corpus/verdict" ;;
config) cp deploy/example.toml "$corpus/example" ;;
manifest) cp engines/activity-v1/manifest.toml "$corpus/activity-v1" ;;
esac
cargo +nightly fuzz run --fuzz-dir fuzz --target-dir target/fuzz "$target" "$corpus" -- \
    -max_total_time="$seconds" -max_len=8192 -timeout=30 -artifact_prefix=".cache/fuzz/artifacts/$target/"
