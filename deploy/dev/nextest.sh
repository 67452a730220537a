#!/usr/bin/env bash
# cargo-nextest, the test runner, with what is named on the command line. Not part of setup.sh: the demo does without.
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! cargo nextest --version >/dev/null 2>&1; then
    echo "nextest: building cargo-nextest (several minutes, once)"
    # A version that the pinned toolchain can build; without the part that would update it.
    cargo install --quiet --locked cargo-nextest@0.9.151 --no-default-features --features default-no-update
fi
exec cargo nextest "$@"
