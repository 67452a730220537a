#!/usr/bin/env bash
# Installs what building, testing and the demo need on Debian 12 and Ubuntu 22.04/24.04. Says what it does, does
# nothing twice, and touches nothing but apt packages, cargo-nextest and .cache/ of this checkout.
#
#   deploy/dev/setup.sh            everything
set -euo pipefail
cd "$(dirname "$0")/../.."
say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

packages=(
    # building: a C compiler (SQLite, TLS), GStreamer's headers
    build-essential cmake pkg-config libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev
    # running: parsers, decoders, encoders, RTSP
    gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly
    gstreamer1.0-libav gstreamer1.0-tools
    # demo and tests: a real broker, a real RTSP server, video to look at and tools to look with
    mosquitto mosquitto-clients gir1.2-gst-rtsp-server-1.0 python3-gi ffmpeg openssl
    # fetching: ONNX Runtime's wheel
    python3-pip unzip ca-certificates
)
missing=()
for p in "${packages[@]}"; do
    dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
# pip of another Python (pyenv, conda) serves as well.
if python3 -m pip --version >/dev/null 2>&1; then missing=("${missing[@]/python3-pip/}"); fi
read -ra missing <<<"${missing[*]:-}"
if [ ${#missing[@]} -gt 0 ]; then
    say "installing from apt: ${missing[*]}"
    sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "not root and no sudo: install these packages, then run this again"
        sudo=(sudo)
    fi
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    # Debian starts a broker of its own with the package; ours are started by the demo and the tests.
    if [ -d /run/systemd/system ] && [[ " ${missing[*]} " == *" mosquitto "* ]]; then
        "${sudo[@]}" systemctl disable --now mosquitto >/dev/null 2>&1 || true
    fi
fi

command -v cargo >/dev/null || die "no cargo: install Rust with rustup (https://rustup.rs), then run this again"

lib=.cache/onnxruntime/libonnxruntime.so
want=$(sed -n 's/^onnxruntime==\([0-9.]*\).*/\1/p' deploy/dev/onnxruntime.txt)
if [ "$(cat .cache/onnxruntime/VERSION 2>/dev/null)" != "$want" ] || [ ! -s "$lib" ]; then
    say "fetching ONNX Runtime $want from PyPI into .cache/onnxruntime"
    tmp=$(mktemp -d)
    trap 'rm -rf "$tmp"' EXIT
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
        --python-version 3.12 --implementation cp --abi cp312 \
        --platform "manylinux_2_28_$(uname -m)" -r deploy/dev/onnxruntime.txt -d "$tmp"
    unzip -qo "$tmp"/*.whl 'onnxruntime/capi/libonnxruntime.so*' 'onnxruntime/LICENSE' -d "$tmp"
    mkdir -p .cache/onnxruntime
    cp "$tmp"/onnxruntime/capi/libonnxruntime.so.* "$lib.new"
    cp "$tmp"/onnxruntime/LICENSE .cache/onnxruntime/LICENSE
    mv "$lib.new" "$lib"
    echo "$want" >.cache/onnxruntime/VERSION
fi

# 80 s of real pedestrian CCTV, for the demo and for tests of false alarms. Containers leave /usr/share/doc out when
# they install the package, so it is unpacked here instead.
video=.cache/video/vtest.avi
if [ ! -s "$video" ]; then
    say "fetching the demo's CCTV video (Debian package opencv-doc) into .cache/video"
    tmp2=$(mktemp -d)
    if (cd "$tmp2" && apt-get download -qq opencv-doc 2>/dev/null) ||
        (cd "$tmp2" && { [ "$(id -u)" -eq 0 ] && apt-get update -qq || sudo apt-get update -qq; } && apt-get download -qq opencv-doc); then
        dpkg-deb -x "$tmp2"/opencv-doc_*.deb "$tmp2/x"
        mkdir -p .cache/video
        found=$(find "$tmp2/x" -name 'vtest.avi*' | head -1)
        [ -n "$found" ] || die "the package opencv-doc no longer holds vtest.avi"
        case "$found" in *.gz) gunzip -c "$found" >"$video.new" ;; *) cp "$found" "$video.new" ;; esac
        mv "$video.new" "$video"
    else
        die "the package opencv-doc could not be had from apt; the demo then needs VIDEO=your.mp4"
    fi
    rm -rf "$tmp2"
fi

if ! cargo nextest --version >/dev/null 2>&1; then
    say "building cargo-nextest, the test runner (several minutes, once)"
    cargo install --quiet --locked cargo-nextest
fi
say "everything is there"
