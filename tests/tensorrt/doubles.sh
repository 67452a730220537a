#!/usr/bin/env bash
# What the Rust tests of TensorRT run against: the doubles of two header families, in .cache/tensorrt/doubles-<family>.
# Idempotent; `make test` runs it.
set -euo pipefail
cd "$(dirname "$0")/../.."
for family in 10.16 11.4; do
    tests/tensorrt/build.sh "$family" ".cache/tensorrt/doubles-$family"
done
