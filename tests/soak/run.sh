#!/usr/bin/env bash
# `make soak`: builds the release binary, makes what the cameras show, and runs tests/soak/soak.py with what is named on
# the command line (--hours 8, --seed 2, ...). Report: .cache/soak/report.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --release --quiet --bin vedette
mkdir -p .cache/soak
# The same scene in three shapes: another size, another rate, another codec.
scene() {
    local out=.cache/soak/$1
    shift
    if [ ! -s "$out" ]; then
        ffmpeg -nostdin -v error -y -t 30 -i .cache/video/vtest.avi -an -pix_fmt yuv420p "$@" -f mp4 "$out.part"
        mv "$out.part" "$out"
    fi
}
scene plain.h264.mp4 -c:v libx264 -preset veryfast -g 20 -bf 0
scene small.h264.mp4 -vf fps=15,scale=480:360 -c:v libx264 -preset veryfast -g 45 -bf 2
scene other.h265.mp4 -vf fps=12 -c:v libx265 -preset ultrafast -x265-params keyint=24:log-level=error
target=${CARGO_TARGET_DIR:-target}
exec python3 tests/soak/soak.py --vedette "$target/release/vedette" --model engines/activity-v1 \
    --onnxruntime .cache/onnxruntime/libonnxruntime.so --out .cache/soak \
    --videos .cache/soak/plain.h264.mp4 .cache/soak/small.h264.mp4 .cache/soak/other.h265.mp4 "$@"
