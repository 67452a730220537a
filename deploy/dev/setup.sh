#!/usr/bin/env bash
# Installs what building, testing and the demo need on Debian 12 and Ubuntu 22.04/24.04. Says what it does, does
# nothing twice, and touches nothing but apt packages and .cache/ of this checkout.
set -euo pipefail
cd "$(dirname "$0")/../.."
say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

# First, because it is the one thing that is not installed here.
command -v cargo >/dev/null ||
    die "no cargo: install Rust with rustup (https://rustup.rs) and open a new shell, then run this again"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

packages=(
    # building: a C compiler (SQLite, TLS), GStreamer's headers, libclang (it reads the kernel's V4L2 headers)
    build-essential cmake pkg-config libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev libclang-dev
    # running: parsers, decoders, encoders, RTSP
    gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly
    gstreamer1.0-libav gstreamer1.0-tools
    # demo and tests: a real broker, a real RTSP server, video to look at and tools to look with
    mosquitto mosquitto-clients gir1.2-gst-rtsp-server-1.0 python3-gi ffmpeg openssl nftables iproute2 procps valgrind
    # tests of roll-outs whose state is in a database: each starts a throw-away cluster of its own
    postgresql
    # tests: a PKCS#11 token in software, for keys that sign releases
    softhsm2
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
    [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null && sudo true; } ||
        die "you are neither root nor allowed to use sudo; have root run this, then run make again:
  apt-get update && apt-get install --no-install-recommends ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    # Debian starts a broker of its own with the package; ours are started by the demo and the tests.
    if [ -d /run/systemd/system ] && [[ " ${missing[*]} " == *" mosquitto "* ]]; then
        as_root systemctl disable --now mosquitto >/dev/null 2>&1 || true
    fi
    if [ -d /run/systemd/system ] && [[ " ${missing[*]} " == *" postgresql "* ]]; then
        as_root systemctl disable --now postgresql >/dev/null 2>&1 || true
    fi
fi

lib=.cache/onnxruntime/libonnxruntime.so
want=$(sed -n 's/^onnxruntime==\([0-9.]*\).*/\1/p' deploy/dev/onnxruntime.txt)
if [ "$(cat .cache/onnxruntime/VERSION 2>/dev/null)" != "$want" ] || [ ! -s "$lib" ]; then
    say "fetching ONNX Runtime $want from PyPI into .cache/onnxruntime"
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
    mkdir "$tmp/deb"
    download() { (cd "$tmp/deb" && apt-get download -qq opencv-doc); }
    # Its lists may be old or, in a container, absent.
    download 2>/dev/null || { as_root apt-get update -qq && download; } ||
        die "the package opencv-doc could not be had from apt: have root run apt-get update, then run this again"
    dpkg-deb -x "$tmp"/deb/opencv-doc_*.deb "$tmp/deb/x"
    mkdir -p .cache/video
    found=$(find "$tmp/deb/x" -name 'vtest.avi*' | head -1)
    [ -n "$found" ] || die "the package opencv-doc no longer holds vtest.avi"
    case "$found" in *.gz) gunzip -c "$found" >"$video.new" ;; *) cp "$found" "$video.new" ;; esac
    mv "$video.new" "$video"
fi

say "everything is there"
