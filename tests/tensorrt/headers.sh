#!/usr/bin/env bash
# TensorRT's header families that can be had without a Jetson, into .cache/tensorrt/headers/<family>: 10.16, 11.0, 11.1,
# 11.4, rtx-1.3 to rtx-1.7. They lie (Apache-2.0) in versions of the crate trtx-sys, which cargo fetches from whatever
# registry it is configured with. Idempotent. Prints the families.
set -euo pipefail
cd "$(dirname "$0")/../.."
into=.cache/tensorrt/headers
mkdir -p "$into"

# The crate has `links`, so that one manifest cannot want two versions of it: a throw-away manifest for each.
# 0.6.0 carries 11.0 as well, the same files as 0.7.1.
for version in 0.4.0 0.7.1 0.8.1 0.9.1; do
    if [ -e "$into/.from-$version" ]; then continue; fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/src"
    touch "$work/src/lib.rs"
    printf '[package]\nname = "headers"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\ntrtx-sys = "=%s"\n[workspace]\n' \
        "$version" >"$work/Cargo.toml"
    cargo fetch --quiet --manifest-path "$work/Cargo.toml" >&2
    crate=$(cargo metadata --quiet --format-version 1 --manifest-path "$work/Cargo.toml" | python3 -c '
import json, os, sys
print(next(os.path.dirname(p["manifest_path"]) for p in json.load(sys.stdin)["packages"] if p["name"] == "trtx-sys"))')
    for folder in "$crate"/TensorRT-Headers/TRT-*; do
        family=${folder##*/TRT-}
        family=${family#Enterprise-}
        family=${family/RTX-/rtx-}
        if [ -e "$into/$family" ]; then continue; fi
        cp -r "$folder" "$into/.new"
        # The few CUDA types that the headers want, in the crate's own stub: no CUDA needed.
        cp "$crate/TensorRT-Headers/cuda_runtime_api.h" "$into/.new/"
        mv "$into/.new" "$into/$family"
    done
    touch "$into/.from-$version"
    rm -rf "$work"
done
ls "$into" | sort -V
