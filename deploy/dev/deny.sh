#!/usr/bin/env bash
# cargo-deny over the dependencies: licences, bans and sources, or what is named on the command line.
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! cargo deny --version >/dev/null 2>&1; then
    echo "deny: building cargo-deny (several minutes, once)"
    # A version that the pinned toolchain can build.
    cargo install --quiet --locked cargo-deny@0.20.2
fi
[ $# -gt 0 ] || set -- licenses bans sources
exec cargo deny --log-level error check "$@"
