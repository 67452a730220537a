#!/usr/bin/env python3
"""What of Vedette this machine's hardware carries, in one report: `make test-jetson`.

For who has a Jetson; on any other machine it says so, and its rows about a Jetson's hardware are "absent". Every row is pass,
fail or absent, with what was seen and what it was held against. Writes report.md and report.json into .cache/jetson (or --out);
exit code 1 if a row fails. Runs whatever cameras are plugged in for some seconds each: stop a daemon that has them first.

Pixels are held against software, bit by bit where decoding is exact; where a scaler may differ, against what the model makes
of it, within the tolerance of its manifest.
"""

import argparse
import array
import datetime
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
MODEL = TREE / "engines" / "activity-v1"
CLIP = MODEL / "golden" / "clip.mp4"
# What a file without a container needs.
START_CODES = "video/x-h264,stream-format=byte-stream,alignment=au"
# Of each camera, once it is live.
WATCHED_S = 10
LIVE_WITHIN_S = 60


def output(*command, timeout=120):
    """(exit code, standard output and error) of a command; 127 if it isn't there."""
    try:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout)
        return done.returncode, done.stdout + done.stderr
    except FileNotFoundError:
        return 127, "not installed"
    except subprocess.TimeoutExpired:
        return 124, f"took longer than {timeout} s"


def read(path):
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ")
    except OSError:
        return None


class Report:
    def __init__(self):
        self.rows = []
        # What a daemon said of the machine last.
        self.health = {}

    def row(self, area, what, result, seen, against=""):
        self.rows.append({"area": area, "what": what, "result": result, "seen": str(seen), "against": against})
        print(f"  {result:6} {area}: {what}: {seen}", flush=True)

    def judge(self, area, what, holds, seen, against=""):
        self.row(area, what, "pass" if holds else "fail", seen, against)


def machine():
    model = read("/proc/device-tree/model")
    release = read("/etc/nv_tegra_release")
    return {
        "model": model or f"{platform.machine()} PC ({read('/sys/class/dmi/id/product_name') or 'unnamed'})",
        "is_jetson": bool(release) or "jetson" in (model or "").lower(),
        "l4t": release.splitlines()[0] if release else None,
        "kernel": platform.release(),
        "gstreamer": output("gst-inspect-1.0", "--version")[1].splitlines()[0],
        "processors": os.cpu_count(),
    }


def elements(report, vedette, config):
    """Who does the work; True for what is done in hardware."""
    code, text = output(vedette, "check", "--config", config, "--json")
    done_by = json.loads(text.splitlines()[0]).get("done_by", {}) if code in (0, 1) and text.startswith("{") else {}
    if not done_by:
        report.row("elements", "vedette check", "fail", text.strip()[-200:], "it says who does the work")
    for work, doer in done_by.items():
        result = "absent" if doer.startswith("none") else "fail" if doer.startswith("MISSING") else "pass"
        report.row("elements", work, result, doer, "an element that can be opened")
    return {work for work, doer in done_by.items() if "(hardware)" in doer}


def encode(report, hardware, work):
    """Sixty pictures through the encoder; the file is read back in software."""
    for what, present, chain in [
        ("software, x264enc", True, "x264enc tune=zerolatency speed-preset=superfast"),
        ("hardware, nvv4l2h264enc", "encoding H.264" in hardware,
         "nvvidconv ! video/x-raw(memory:NVMM),format=NV12 ! nvv4l2h264enc insert-sps-pps=true"),
    ]:
        if not present:
            report.row("encode", what, "absent", "no encoder that can be opened", "60 pictures come back")
            continue
        made, started = work / "encoded.h264", time.monotonic()
        pipeline = f"videotestsrc num-buffers=60 ! video/x-raw,format=I420,width=1280,height=720,framerate=30/1 ! {chain}"
        code, text = output("gst-launch-1.0", "-q", *f"{pipeline} ! h264parse ! {START_CODES} ! filesink location={made}".split())
        took = time.monotonic() - started
        back = output("ffprobe", "-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0", made)[1]
        seen = f"{back.strip()} pictures of 1280x720 in {took:.1f} s" if code == 0 else text.strip()[-200:]
        report.judge("encode", what, code == 0 and back.strip() == "60", seen, "60 pictures come back")


def frames(vedette, video, out):
    """The bytes of the frames that capture makes of a video, or why there are none."""
    shutil.rmtree(out, ignore_errors=True)
    code, text = output(vedette, "frames", video, "--out", out, "--format", "npy", "--model", MODEL)
    return (out / "frame.npy").read_bytes() if code == 0 else text.strip()[-300:]


def scores(vedette, video):
    code, text = output(vedette, "replay", video, "--json", "--model", MODEL)
    rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [p for r in rows if r["type"] == "window" for p in r["scores"].values()] if code == 0 else []


def pixels(report, vedette, hardware, work):
    """The golden clip, decoded in other ways and kept without loss, against the clip itself."""
    reference = frames(vedette, CLIP, work / "reference")
    tolerance = tomllib.loads((MODEL / "manifest.toml").read_text())["tolerances"]["fp32"]["probabilities"]
    expected = scores(vedette, CLIP)
    back = "nvvidconv ! video/x-raw,format=I420"
    for what, present, decode, exact in [
        ("software decoder", True, "avdec_h264", True),
        ("hardware decoder", "decoding H.264" in hardware, f"nvv4l2decoder ! {back}", True),
        ("hardware scaler", "decoding H.264" in hardware, f"nvv4l2decoder ! {back},width=480,height=270", False),
    ]:
        against = "the same frames, bit by bit" if exact else f"the same probabilities within {tolerance}"
        if not present:
            report.row("pixels", what, "absent", "no such hardware here", against)
            continue
        kept = work / "kept.mkv"
        pipeline = f"filesrc location={CLIP} ! qtdemux ! h264parse ! {decode} ! matroskamux ! filesink location={kept}"
        code, text = output("gst-launch-1.0", "-q", *pipeline.split())
        found = frames(vedette, kept, work / "found") if code == 0 else text.strip()[-300:]
        if isinstance(found, str) or isinstance(reference, str):
            report.row("pixels", what, "fail", found if isinstance(found, str) else reference, against)
            continue
        differ = levels(reference, found)
        seen = f"levels differ by {differ[0]} at most, {differ[1]:.4f} in the mean"
        if exact:
            report.judge("pixels", what, found == reference, seen, against)
        else:
            got = scores(vedette, kept)
            far = max((abs(a - b) for a, b in zip(expected, got)), default=1.0) if len(expected) == len(got) else 1.0
            report.judge("pixels", what, far <= tolerance, f"{seen}; probabilities by {far:.5f}", against)


def levels(a, b):
    """The largest and the mean difference of two arrays' bytes behind their headers; 255 if they differ in shape."""
    if len(a) != len(b):
        return 255, 255.0
    start = a.index(b"\n") + 1
    differences = [abs(x - y) for x, y in zip(array.array("B", a[start:]), array.array("B", b[start:])) if x != y]
    return max(differences, default=0), sum(differences) / (len(a) - start)


def watch(report, vedette, area, what, section, work):
    """The daemon with this one camera for some seconds."""
    state = Path(tempfile.mkdtemp(dir=work))
    config = state / "vedette.toml"
    config.write_text(f'[device]\nsite = "test"\nid = "test"\n[paths]\nstate_dir = "{state}/state"\nruntime_dir = "{state}/run"\n'
                      f'[model]\ndir = "{MODEL}"\n{section}\n')
    log = (state / "log").open("w")
    daemon = subprocess.Popen([vedette, "run", "--config", config], stdout=log, stderr=subprocess.STDOUT)

    def camera():
        code, text = output(vedette, "status", "--json", "--config", config)
        status = json.loads(text) if code == 0 else {}
        report.health = status.get("health") or report.health
        return ((status.get("cameras") or [{}])[0], next(iter(status.get("health", {}).get("cameras", {}).values()), {}),
                status.get("health", {}).get("inference") or {})

    def processor_s():
        fields = (read(f"/proc/{daemon.pid}/stat") or "").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0

    try:
        deadline = time.monotonic() + LIVE_WITHIN_S
        while camera()[1].get("frames", 0) == 0 and time.monotonic() < deadline and daemon.poll() is None:
            time.sleep(0.5)
        before, began, used = camera()[1], time.monotonic(), processor_s()
        time.sleep(WATCHED_S)
        condition, after, inference = camera()
        took = time.monotonic() - began
        rate = {k: (after.get(k, 0) - before.get(k, 0)) / took for k in ("pictures", "access_units", "frames")}
        seen = (f"{condition.get('video') or ''} {condition.get('status')}: {rate['pictures']:.1f} pictures, "
                f"{rate['access_units']:.1f} access units, {rate['frames']:.1f} frames a second; {(processor_s() - used) / took:.2f} "
                f"processors; {inference.get('frame_ms', {}).get('median', 0):.1f} ms a frame ({inference.get('engine', '-')}); "
                f"drops {sum(after.get('drops', {}).values())}; {condition.get('reason') or ''}")
        holds = condition.get("status") == "live" and rate["frames"] > 4 and rate["access_units"] > 4
        report.judge(area, what, holds, seen.strip("; "), "live, more than 4 frames and access units a second")
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(45)
        except subprocess.TimeoutExpired:
            daemon.kill()
            report.row(area, f"{what}, ending", "fail", "did not end within 45 s of SIGTERM")
        if daemon.returncode not in (0, None) or os.environ.get("JETSON_LOGS"):
            print((state / "log").read_text(), file=sys.stderr)


def cameras(report, vedette, work):
    code, text = output(vedette, "cameras", "--json")
    found = json.loads(text.splitlines()[0])["cameras"] if text.startswith("{") else []
    for kind, area in (("v4l2", "V4L2"), ("csi", "CSI")):
        of_kind = [c for c in found if f'kind = "{kind}"' in (c.get("section") or "")]
        for c in of_kind:
            watch(report, vedette, area, f"{c['card']} ({c['device']})", c["section"], work)
        if not of_kind:
            report.row(area, "any camera", "absent", "none is plugged in", "live, more than 4 frames and access units a second")
    for c in found:
        if c.get("problem"):
            report.row("V4L2", c["device"], "fail", c["problem"])
    # A network camera made of the golden clip, in another process, over TCP.
    server = subprocess.Popen(["/usr/bin/python3", TREE / "deploy/demo/rtsp_server.py", "--file", CLIP], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
    try:
        url = server.stdout.readline().strip()
        if url.startswith("rtsp://"):
            watch(report, vedette, "RTSP", "local server, H.264", f'[[camera]]\nid = "rtsp"\nkind = "rtsp"\nurl = "{url}"', work)
        else:
            report.row("RTSP", "local server", "absent", f"the server doesn't start: {url}")
    finally:
        server.terminate()
        server.wait(10)


def power(report, is_jetson):
    """What the daemon read of the rails and the power mode, beside what the board's own tools say."""
    none = "fail" if is_jetson and report.health else "absent"
    line = first_line("tegrastats", "--interval", "500") if shutil.which("tegrastats") else ""
    theirs = dict(re.findall(r"(\S+) (\d+)mW", line))
    rails = report.health.get("power_w") or {}
    for rail, watts in rails.items():
        against = f"tegrastats: {theirs[rail]} mW" if rail in theirs else "tegrastats doesn't name it" if theirs else ""
        report.row("power", f"rail {rail}", "pass", f"{watts:.2f} W", against)
    if not rails:
        seen = "none that this user can read (ls -l /sys/class/hwmon/hwmon*/curr1_input)"
        report.row("power", "rails", none, seen, ", ".join(f"{n} {w} mW" for n, w in theirs.items()))
    mode = report.health.get("power_mode")
    said = re.search(r"NV Power Mode: *(\S+)", output("nvpmodel", "-q")[1])
    if mode and said:
        report.judge("power", "power mode", mode == said[1], mode, f"nvpmodel -q: {said[1]}")
    else:
        report.row("power", "power mode", "pass" if mode else none, mode or "no /var/lib/nvpmodel/status")


def power_and_temperature(report):
    if shutil.which("tegrastats"):
        line = first_line("tegrastats", "--interval", "500")
        watts = re.findall(r"(\S+) (\d+)mW", line)
        heat = re.findall(r"(\w+)@(-?[\d.]+)C", line)
        report.judge("power", "tegrastats", bool(watts), ", ".join(f"{n} {w} mW" for n, w in watts) or line)
        report.judge("temperature", "tegrastats", bool(heat), ", ".join(f"{n} {t} C" for n, t in heat) or line)
        return
    zones = {read(z / "type"): int(read(z / "temp") or 0) / 1000 for z in Path("/sys/class/thermal").glob("thermal_zone*") if read(z / "temp")}
    report.row("temperature", "sysfs", "pass" if zones else "absent", ", ".join(f"{n} {t:.1f} C" for n, t in zones.items()) or "no sensor")
    rails = [f"{read(p.parent / 'name')} {int(read(p)) / 1e6:.2f} W" for p in Path("/sys/class/hwmon").glob("hwmon*/power*_input") if read(p)]
    report.row("power", "sysfs", "pass" if rails else "absent", ", ".join(rails) or "no sensor (tegrastats is a Jetson's)")


def first_line(*command):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        return process.stdout.readline()
    finally:
        process.terminate()
        process.wait(10)


def markdown(about, rows):
    claim = "" if about["is_jetson"] else "**This machine is not a Jetson.** What is absent below was not run.\n\n"
    counts = {r: sum(row["result"] == r for row in rows) for r in ("pass", "fail", "absent")}
    lines = [f"# Vedette on {about['model']}\n", f"{claim}{', '.join(f'{n} {r}' for r, n in counts.items())}. {about['date']}.\n"]
    lines += [f"- {k}: {v}" for k, v in about.items() if k not in ("model", "date")]
    lines += ["", "| area | what | result | seen | held against |", "|---|---|---|---|---|"]
    cell = lambda text: text.replace("|", "/").replace("\n", " ")  # noqa: E731
    lines += [f"| {r['area']} | {cell(r['what'])} | {r['result']} | {cell(r['seen'])} | {cell(r['against'])} |" for r in rows]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    target = Path(os.environ.get("CARGO_TARGET_DIR", TREE / "target"))
    parser.add_argument("--vedette", type=Path, default=target / "debug/vedette")
    parser.add_argument("--out", type=Path, default=TREE / ".cache" / "jetson")
    args = parser.parse_args()
    os.environ.setdefault("RUST_LOG", "info")
    os.chdir(TREE)
    report, about = Report(), machine() | {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    about["vedette"] = output(args.vedette, "--version")[1].strip()
    with tempfile.TemporaryDirectory(prefix="vedette-jetson-") as work:
        work = Path(work)
        config = work / "check.toml"
        config.write_text(f'[device]\nsite = "a"\nid = "b"\n[model]\ndir = "{MODEL}"\n[[camera]]\nid = "c"\nkind = "test"\n')
        hardware = elements(report, args.vedette, config)
        encode(report, hardware, work)
        pixels(report, args.vedette, hardware, work)
        cameras(report, args.vedette, work)
        power(report, about["is_jetson"])
        power_and_temperature(report)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "report.md").write_text(markdown(about, report.rows))
    (args.out / "report.json").write_text(json.dumps({"machine": about, "rows": report.rows}, indent=1) + "\n")
    failed = sum(r["result"] == "fail" for r in report.rows)
    print(f"test-jetson: {failed} rows fail; {args.out}/report.md and report.json", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
