#!/bin/sh
# Whether the agent does its work: exit code 0 if it answers and a camera is live. For updaters of whole images (Mender, RAUC),
# which ask before they keep a new one. Waits up to 120 s: cameras take their time after a boot.
set -eu
config=${1:-/etc/vedette/vedette.toml}
for _ in $(seq 60); do
    if vedette status --config "$config" --json 2>/dev/null | grep -q '"status": "live"'; then
        exit 0
    fi
    sleep 2
done
echo "vedette: no camera is live after 120 s" >&2
exit 1
