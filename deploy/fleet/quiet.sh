#!/bin/sh
# Whether this is a moment to interrupt the agent: exit code 0 if no incident is open, and no model is on trial.
set -eu
config=${1:-/etc/vedette/vedette.toml}
if vedette incidents list --config "$config" --json | grep -q '"state":"open"'; then
    echo "vedette: an incident is open" >&2
    exit 1
fi
if vedette model status --config "$config" --json 2>/dev/null | grep -q '"state": "trial"'; then
    echo "vedette: a model is on trial" >&2
    exit 1
fi
