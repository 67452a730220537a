#!/usr/bin/env bash
# The whole way on one machine: CCTV video -> a real RTSP camera -> the agent -> a real broker -> a subscriber.
# Called by `make demo`. Everything it starts ends with it, and its files are in one temporary directory.
#
#   VIDEO=my.mp4        serve this file as the camera instead of the CCTV video of Debian's opencv-doc
#   RTSP=rtsp://...     watch this camera instead; nothing is served
#   CAMERA=/dev/video0  watch the camera that is plugged in here; nothing is served
#   SECONDS_MAX=60      end by itself after so long
set -euo pipefail
cd "$(dirname "$0")/../.."
say() { printf 'demo: %s\n' "$*"; }

work=$(mktemp -d "${TMPDIR:-/tmp}/vedette-demo.XXXXXX")
children=()
finish() {
    trap - EXIT INT TERM
    for pid in "${children[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${children[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
    say "ended; everything it started is stopped and $work is removed"
}
trap finish EXIT
trap ':' INT TERM # the agent gets them too and drains; then we finish

# Waits until a server is ready: wait_for WHAT PID LOG COMMAND...
wait_for() {
    local what=$1 pid=$2 log=$3
    shift 3
    for _ in $(seq 300); do
        "$@" 2>/dev/null && return 0
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    say "$what did not start:"; cat "$log" >&2
    return 1
}
accepts() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }

source=(--rtsp "${RTSP:-}")
if [ -n "${CAMERA:-}" ]; then
    source=(--camera "$CAMERA")
elif [ -z "${RTSP:-}" ]; then
    video=${VIDEO:-.cache/video/vtest.avi}
    [ -r "$video" ] || { say "cannot read the video $video"; exit 1; }
    # A camera gives H.264; what is something else is transcoded once and kept.
    codec=$(ffprobe -v error -select_streams v:0 -show_entries stream=codec_name -of csv=p=0 "$video" | head -1)
    [ -n "$codec" ] || { say "$video has no video in it"; exit 1; }
    if [ "$codec" != h264 ]; then
        key=$(stat -Lc '%n %s %Y' "$video" | sha256sum | cut -c1-12)
        served=.cache/video/$(basename "${video%.*}").$key.h264.mp4
        if [ ! -s "$served" ]; then
            say "transcoding $video ($codec) to H.264, once"
            mkdir -p .cache/video
            ffmpeg -nostdin -v error -y -i "$video" -an -c:v libx264 -preset veryfast -tune zerolatency -crf 23 -g 20 \
                -pix_fmt yuv420p "$work/served.mp4"
            mv "$work/served.mp4" "$served"
        fi
    else
        served=$video
    fi
    say "serving $served as an RTSP camera"
    # System Python: that is where Debian's GObject bindings are.
    # In a session of its own, as the broker: Ctrl-C is for the agent, which still needs them to end well.
    setsid /usr/bin/python3 deploy/demo/rtsp_server.py --file "$served" >"$work/rtsp.log" 2>&1 &
    children+=($!)
    wait_for "the RTSP server" $! "$work/rtsp.log" grep -q '^rtsp://' "$work/rtsp.log"
    source=(--rtsp "$(grep -m1 '^rtsp://' "$work/rtsp.log")")
fi

mkdir -p "$work/broker"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
sed -e "s/@PORT@/$port/" -e "s#@STATE_DIR@#$work/broker#" -e "s/@USER@/$(id -un)/" deploy/mosquitto/demo.conf >"$work/mosquitto.conf"
PATH=$PATH:/usr/sbin setsid mosquitto -c "$work/mosquitto.conf" >"$work/mosquitto.log" 2>&1 &
children+=($!)
wait_for "Mosquitto" $! "$work/mosquitto.log" accepts "$port"
say "Mosquitto on 127.0.0.1:$port; read along with: mosquitto_sub -p $port -t 'vedette/#' -v"

target=${CARGO_TARGET_DIR:-target}
"$target/debug/vedette" demo "${source[@]}" --broker "mqtt://127.0.0.1:$port" --dir "$work/device" \
    ${SECONDS_MAX:+--seconds "$SECONDS_MAX"} &
agent=$!
code=0
# The first wait ends when a signal comes; the second sees the agent drained.
wait "$agent" || code=$?
if kill -0 "$agent" 2>/dev/null; then
    kill -TERM "$agent" 2>/dev/null || true
    wait "$agent" && code=0 || code=$?
fi
exit "$code"
