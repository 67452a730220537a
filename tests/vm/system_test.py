#!/usr/bin/env python3
"""Vedette on a real kernel with a real V4L2 device and a real systemd, in a virtual machine: `make system-test`.

The machine is Debian 12, emulated by QEMU (no KVM is needed), with the kernel's virtual camera `vivid`. Its image is built once
and kept in .cache/vm; every run starts from it anew. `guest.sh` runs inside and leaves what it saw; the checks are here.

Needs: mmdebstrap, qemu-system-x86, e2fsprogs, ffmpeg; as another user than root also fakeroot. Builds and boots amd64 only. The
debug binary has to run on Debian 12 (glibc 2.36): build it there, or on something older.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
CACHE = TREE / ".cache" / "vm"
SHARE = CACHE / "share"
TOOLS = {"mmdebstrap": "mmdebstrap", "qemu-system-x86_64": "qemu-system-x86", "mkfs.ext4": "e2fsprogs", "ffprobe": "ffmpeg"}
PACKAGES = [
    "systemd-sysv", "udev", "kmod", "linux-image-amd64", "initramfs-tools", "v4l-utils", "gstreamer1.0-plugins-base",
    "gstreamer1.0-plugins-good", "gstreamer1.0-plugins-bad", "gstreamer1.0-plugins-ugly", "gstreamer1.0-libav",
]
# What the image has beside packages. Only what is needed to mount the root is in its initial RAM disk.
UNIT = """[Unit]
Description=The system test
[Service]
Type=oneshot
StandardOutput=journal+console
StandardError=journal+console
WorkingDirectory=/share
ExecStartPre=/bin/mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose share /share
ExecStart=/bin/sh /share/guest.sh
ExecStopPost=/bin/systemctl --no-block poweroff
TimeoutStartSec=infinity
[Install]
WantedBy=multi-user.target
"""
BEFORE_PACKAGES = (
    'mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"'
    ' && echo MODULES=list >"$1/etc/initramfs-tools/conf.d/vm"'
    ' && printf "%s\\n" virtio_pci virtio_blk ext4 >"$1/usr/share/initramfs-tools/modules.d/vm"'
)
AFTER_PACKAGES = (
    f'mkdir "$1/share" && cat >"$1/etc/systemd/system/system-test.service" <<"END"\n{UNIT}END\n'
    'chroot "$1" systemctl enable system-test.service && chroot "$1" systemctl mask getty@tty1.service serial-getty@ttyS0.service'
)


def say(text):
    print(f"system-test: {text}", flush=True)


def run(*command, **options):
    return subprocess.run([str(c) for c in command], check=True, **options)


def build_image():
    """The kernel, its RAM disk and the root file system in CACHE, unless they are those of this script already."""
    key = hashlib.sha256(repr((PACKAGES, BEFORE_PACKAGES, AFTER_PACKAGES)).encode()).hexdigest()
    stamp = CACHE / "image.key"
    if stamp.exists() and stamp.read_text() == key:
        return
    say("building the image, once: some five minutes and 5 GB in .cache/vm")
    work = CACHE / "build"
    shutil.rmtree(work, ignore_errors=True)
    (work / "root").mkdir(parents=True)
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{d}/*" for d in ("doc", "locale", "man")]
    run("nice", "mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", *excluded,
        f"--essential-hook={BEFORE_PACKAGES}", f"--customize-hook={AFTER_PACKAGES}", "bookworm", work / "root.tar")
    # As root the files keep their owners; fakeroot remembers them for mkfs.
    unpack = f'tar -C "{work}/root" -xf "{work}/root.tar" && mkfs.ext4 -q -d "{work}/root" "{CACHE}/image.ext4" 3G'
    (CACHE / "image.ext4").unlink(missing_ok=True)
    run(*([] if os.geteuid() == 0 else ["fakeroot"]), "nice", "sh", "-c", unpack)
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(next((work / "root" / "boot").glob(f"{name}-*")), CACHE / name)
    shutil.rmtree(work)
    stamp.write_text(key)


def fill_share(binary):
    shutil.rmtree(SHARE, ignore_errors=True)
    (SHARE / "out").mkdir(parents=True)
    # Symbols are read over the network file system and help nobody in there.
    run("strip", "-o", SHARE / "vedette", binary)
    shutil.copy(TREE / "tests" / "vm" / "guest.sh", SHARE)
    shutil.copytree(TREE / "engines" / "activity-v1", SHARE / "model")
    shutil.copy(TREE / ".cache" / "onnxruntime" / "libonnxruntime.so", SHARE)


def boot(minutes):
    """Boots, and waits until the guest has switched itself off."""
    console = CACHE / "console.log"
    say(f"booting; its console is {console.relative_to(TREE)}")
    command = [
        "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "2048", "-nic", "none", "-no-reboot",
        "-display", "none", "-serial", f"file:{console}", "-kernel", CACHE / "vmlinuz", "-initrd", CACHE / "initrd.img",
        "-append", "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0",
        "-drive", f"file={CACHE / 'image.ext4'},format=raw,if=virtio,snapshot=on",
        "-virtfs", f"local,path={SHARE},mount_tag=share,security_model=none",
    ]
    qemu = subprocess.Popen([str(c) for c in command])
    try:
        qemu.wait(minutes * 60)
    except subprocess.TimeoutExpired:
        say(f"the guest is still on after {minutes} minutes; the end of its console:")
        print("\n".join(console.read_text(errors="replace").splitlines()[-20:]))
    finally:
        qemu.kill()


class Checks:
    """What the guest left, and what was found in it."""

    def __init__(self):
        self.failed = 0

    def text(self, name):
        path = SHARE / "out" / name
        return path.read_text(errors="replace") if path.exists() else ""

    def json(self, name):
        try:
            return json.loads(self.text(name))
        except ValueError:
            return {}

    def camera(self, name):
        """The camera's condition and its counters in a status that was kept."""
        status = self.json(name)
        return (status.get("cameras") or [{}])[0], status.get("health", {}).get("cameras", {}).get("vivid", {})

    def that(self, what, holds, seen=""):
        self.failed += not holds
        print(f"  {'ok  ' if holds else 'FAIL'} {what}{f': {seen}' if seen else ''}", flush=True)

    def has(self, what, file, *wanted):
        text = self.text(file)
        missing = [w for w in wanted if w not in text]
        line = next((l for l in text.splitlines() if wanted[0] in l), "").strip()
        self.that(what, not missing, line if not missing else f"{file} lacks {missing}")


def playable(clip):
    """(codec, width x height, seconds) of a clip whose every picture decodes, or why not."""
    probe = run("ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries",
                "stream=codec_name,width,height:format=duration", "-of", "json", clip, capture_output=True)
    found = json.loads(probe.stdout)
    stream = found["streams"][0]
    decoded = run("ffmpeg", "-nostdin", "-v", "error", "-i", clip, "-f", "null", "-", capture_output=True)
    size = f"{stream['width']}x{stream['height']}"
    return (stream["codec_name"], size, float(found["format"]["duration"]), decoded.stderr.decode())


def check():
    c = Checks()
    c.has("without a camera the list says so", "none.txt", "no camera is plugged in")
    c.has("the list names the camera by its link, with what it would take and a section to paste", "cameras.txt",
          "takes", "/dev/v4l/by-path/platform-vivid.0-video-index0 (/dev/video0)", 'kind = "v4l2"', "brightness")
    listed = c.json("cameras.json").get("cameras", [])
    # The driver gives several nodes; only one of them gives pictures.
    c.that("and as JSON, this camera alone", len(listed) == 1 and listed[0]["problem"] is None, len(listed))
    c.has("a wish that it can't meet is refused with what it offers", "wrong.log", "doesn't offer width = 641", "640x360")
    c.has("a control that it hasn't is refused, a value too large with the range", "wrong.log",
          "there is no glare", "brightness can't be 300; it takes a whole number from 0 to 255")
    taking = [l for l in c.text("vedette.log").splitlines() if "taking " in l]
    c.that("the choice is logged once, and once more under the new node", len(taking) == 2 and "640x360" in taking[0]
           and "/dev/video0" in taking[0] and "/dev/video7" in taking[1], taking)
    live, counters = c.camera("live.json")
    c.that("it is live and the choice is shown", live.get("status") == "live" and "640x360" in live.get("video", ""), live.get("video"))
    c.that("pictures and access units are counted", counters.get("pictures", 0) >= 30 and counters.get("access_units", 0) > 0,
           {k: counters.get(k) for k in ("pictures", "access_units", "frames", "windows", "drops")})
    c.has("the controls are set", "set.txt", "brightness: 140", "horizontal_flip: 1", "test_pattern: 21")
    c.has("who has it is said", "in-use.txt", "in use    by vedette (process ")
    lost, _ = c.camera("lost.json")
    c.that("pulled out it is lost, with what to do", lost.get("status") == "lost" and "no camera is plugged in" in lost.get("reason", ""),
           lost.get("reason"))
    again, counters = c.camera("again.json")
    c.that("plugged in under another number it is found", again.get("status") == "live" and "/dev/video7" in again.get("video", ""),
           again.get("video"))
    said = [l for l in c.text("vedette.log").splitlines() if "camera lost" in l]
    c.that("the loss is said, and not over and over", 1 <= len(said) <= 3, f"{len(said)} lines")
    _, end = c.camera("end.json")
    c.that("and counted on", end.get("pictures", 0) > counters.get("pictures", 0), end.get("pictures"))
    clips = sorted((SHARE / "out" / "clips").glob("*.mp4"))
    c.that("there are two clips", len(clips) == 2, len(clips))
    for clip in clips:
        codec, size, seconds, errors = playable(clip)
        c.that("which plays", (codec, size, errors) == ("h264", "640x360", "") and seconds > 2, f"{codec} {size}, {seconds:.1f} s {errors}")
    c.that("the daemon ends well", c.text("exit").strip() == "0", c.text("exit").strip())
    return c.failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=Path(os.environ.get("CARGO_TARGET_DIR", TREE / "target")) / "debug/vedette")
    parser.add_argument("--minutes", type=int, default=25, help="switch the guest off after so long")
    parser.add_argument("--check", action="store_true", help="only look again at what the last run left")
    args = parser.parse_args()
    tools = dict(TOOLS) if os.geteuid() == 0 else TOOLS | {"fakeroot": "fakeroot"}
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = sorted({package for tool, package in tools.items() if not shutil.which(tool)})
    if missing:
        sys.exit(f"system-test: have root run: apt-get install --no-install-recommends {' '.join(missing)}")
    if not args.check:
        CACHE.mkdir(parents=True, exist_ok=True)
        build_image()
        fill_share(args.binary)
        boot(args.minutes)
    failed = check()
    say("all checks hold" if not failed else f"{failed} checks fail; everything that was seen is in {SHARE.relative_to(TREE)}/out")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
