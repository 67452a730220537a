#!/bin/sh
# Inside the virtual machine, as root, started by systemd (system-test.service) with the share as its directory. Does what a
# person would do with a camera, and leaves what it saw in out/. It judges nothing: system_test.py does, outside.
set -u
camera=/dev/v4l/by-path/platform-vivid.0-video-index0
v=/share/vedette
out=/share/out
config=/run/vm.toml

say() { echo "guest: $(cut -d' ' -f1 /proc/uptime) $*"; }
# until_true SECONDS WHAT COMMAND...
until_true() {
    limit=$1 what=$2
    shift 2
    end=$(($(cut -d. -f1 /proc/uptime) + limit))
    until "$@"; do
        [ "$(cut -d. -f1 /proc/uptime)" -lt "$end" ] || { say "in vain: $what"; return 1; }
        sleep 1
    done
    say "$what"
}
status() { "$v" status --json --config "$config" 2>/dev/null; }
# shellcheck disable=SC2317 # called by until_true
{
    is() { status | grep -q "\"status\": \"$1\""; }
    pictures() { [ "$(status | sed -n 's/.*"pictures": \([0-9]*\).*/\1/p' | head -1)" -ge "$1" ] 2>/dev/null; }
    clips() { [ "$(find /var/lib/vm -name '*.mp4' | wc -l)" -ge "$1" ]; }
    absent() { [ ! -e "$camera" ]; }
}

# plug NODE: as a camera that comes up as /dev/videoNODE.
plug() {
    modprobe vivid n_devs=1 vid_cap_nr="$1" && udevadm settle && until_true 30 "vivid is /dev/video$1" test -e "$camera"
}
# Pulls the plug while the camera is in use, then takes the driver away.
unplug() {
    echo vivid.0 >/sys/bus/platform/drivers/vivid/unbind
    until_true 60 "the camera is gone" absent
    until_true 60 "the driver is gone" modprobe -r vivid
}

cat >"$config" <<END
[device]
site = "vm"
id = "vm"
[paths]
state_dir = "/var/lib/vm"
runtime_dir = "/run/vm"
[model]
dir = "/share/model"
onnxruntime = "/share/libonnxruntime.so"
[[camera]]
id = "vivid"
kind = "v4l2"
device = "$camera"
width = 640
height = 360
frozen_after_s = 60
controls = { brightness = 140, horizontal_flip = true, test_pattern = "Noise" }
[clip]
pre_roll_s = 3
post_roll_s = 2
END

"$v" cameras >"$out/none.txt" 2>&1
plug 0
v4l2-ctl -d "$camera" --list-formats-ext >"$out/formats.txt" 2>&1
v4l2-ctl -d "$camera" --list-ctrls-menus >"$out/controls.txt" 2>&1
"$v" cameras >"$out/cameras.txt" 2>"$out/cameras.err"
"$v" cameras --json >"$out/cameras.json"
# A wish that the camera can't meet, and a control that it hasn't: said, and no more.
for wrong in 's/width = 640/width = 641/' 's/brightness = 140/brightness = 300, glare = 1/'; do
    # Without the model, which takes its time in here.
    sed -e "$wrong" -e 's/frozen_after_s = 60/classify = false/' "$config" >/run/wrong.toml
    timeout 30 "$v" run --config /run/wrong.toml 2>&1 | sed "s|^|$wrong: |" >>"$out/wrong.log"
done

"$v" run --config "$config" >"$out/vedette.log" 2>&1 &
daemon=$!
until_true 420 "pictures come" pictures 30
status >"$out/live.json"
v4l2-ctl -d "$camera" --get-ctrl brightness,horizontal_flip,test_pattern >"$out/set.txt" 2>&1
"$v" cameras >"$out/in-use.txt" 2>&1
"$v" test-alert --config "$config" >"$out/alert.txt" 2>&1
until_true 240 "a clip is there" clips 1

unplug
until_true 60 "the daemon has noticed" is lost
status >"$out/lost.json"
plug 7
until_true 120 "the camera is live again" is live
status >"$out/again.json"
"$v" test-alert --config "$config" >>"$out/alert.txt" 2>&1
until_true 240 "a clip of it is there" clips 2
sleep 2
status >"$out/end.json"

kill -TERM $daemon
wait $daemon
echo $? >"$out/exit"
"$v" incidents list --config "$config" >"$out/incidents.txt" 2>&1
mkdir -p "$out/clips"
find /var/lib/vm -name '*.mp4' -exec cp {} "$out/clips" \;
dmesg >"$out/dmesg.txt"
say "done"
