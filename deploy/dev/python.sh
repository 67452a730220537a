#!/usr/bin/env bash
# The Python packages of python.txt, into .cache/python. Idempotent. Where they can't be had it says so and goes on:
# the tests that want them then say that they were skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
into=.cache/python
want=deploy/dev/python.txt
if cmp -s "$want" "$into/installed.txt"; then exit 0; fi
rm -rf "$into.new"
if python3 -m pip install --quiet --disable-pip-version-check --no-warn-script-location --target "$into.new" -r "$want"; then
    rm -rf "$into"
    mv "$into.new" "$into"
    cp "$want" "$into/installed.txt"
else
    rm -rf "$into.new"
    echo "python: the packages of $want could not be had from PyPI: the tests with foreign clients will be SKIPPED" >&2
fi
