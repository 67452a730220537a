#!/usr/bin/env bash
# cargo-deny over the dependencies: licences, bans and sources, or what is named on the command line.
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! cargo deny --version >/dev/null 2>&1; then
    echo "deny: building cargo-deny (several minutes, once)"
    cargo install --quiet --locked cargo-deny
fi
if [ $# -gt 0 ]; then exec cargo deny check "$@"; fi
exec cargo deny --offline check licenses bans sources
