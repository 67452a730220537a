#!/usr/bin/env python3
"""Measures what the README claims, and says what limit it was to stay below. Called by benches/run.sh.

Whole processes are measured from outside: processor time is user and system time as the kernel counts it for the child
(rusage) or for the running process (/proc). What has to be seen from inside comes from `inside`, a program of this
directory. What is compared is measured in the same run, in turns, so that a machine that is busy with something
else is as unkind to the one as to the other; still, run it on an idle machine. Only the standard library is used.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time

from world import ROOT, Failed, broker, cpu_s, resident_mb, rtsp_camera, run, running, thread_cpu_ms, wait_for

FPS = 30


# --- The agent -------------------------------------------------------------------------------------------------------


class Daemon:
    """`vedette run` on one RTSP camera, without a broker."""

    def __init__(self, given, work, url, classify, sections=""):
        self.vedette, self.config, self.log = given.vedette, work / "vedette.toml", work / "vedette.log"
        self.config.write_text(
            "[device]\nsite = \"bench\"\nid = \"this-machine\"\n"
            f"[paths]\nstate_dir = {json.dumps(str(work / 'state'))}\nruntime_dir = {json.dumps(str(work / 'run'))}\n"
            f"[model]\ndir = {json.dumps(str(given.model))}\nonnxruntime = {json.dumps(str(given.onnxruntime))}\n"
            f"[[camera]]\nid = \"street\"\nkind = \"rtsp\"\nurl = {json.dumps(url)}\nclassify = {str(classify).lower()}\n"
            f"{sections}\n", encoding="utf-8")
        self.state = work / "state"
        self.state.mkdir()

    @contextlib.contextmanager
    def running(self):
        with running([self.vedette, "run", "--config", self.config], self.log) as child:
            self.pid = child.pid
            live = lambda: any(c["status"] == "live" for c in (self.status() or {}).get("cameras", []))
            wait_for("the daemon's camera", live, child, self.log)
            yield self

    def ask(self, *command):
        """A command about this daemon; None where it could not be answered."""
        done = subprocess.run([self.vedette, *command, "--config", self.config], capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else None

    def status(self):
        text = self.ask("status", "--json")
        return json.loads(text) if text else None

    def camera(self):
        return self.status()["health"]["cameras"]["street"]

    def incidents(self):
        return [json.loads(line) for line in self.ask("incidents", "list", "--json").splitlines()]


# --- What is measured ------------------------------------------------------------------------------------------------


class Results:
    """Rows with a limit, and notes without one."""

    def __init__(self):
        self.rows, self.notes = [], []

    def row(self, what, limit, values, unit, judged=None):
        """`values` of several rounds, their median below `limit`. `judged`: held or not where that alone is not it."""
        middle = statistics.median(values)
        held = middle <= limit if judged is None else judged
        self.rows.append((what, f"{limit:g}{unit}", f"{middle:.3g}{unit}", spread(values, unit), held))

    def note(self, text):
        self.notes.append(text)


def spread(values, unit=""):
    return f"{min(values):.3g} to {max(values):.3g}{unit} (n={len(values)})"


def middle(values, unit="", digits=1):
    return f"{statistics.median(values):.{digits}f}{unit} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def progress(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def passes_of(replayed, manifest):
    """Encoder passes that a replay made, at the least: the frames that its windows cover."""
    windows = sum(1 for line in replayed.splitlines() if json.loads(line)["type"] == "window")
    number = lambda key: int(re.search(rf"^{key}\s*=\s*(\d+)", manifest, re.M)[1])
    return number("window") + (windows - 1) * number("stride")


def replay(given, results):
    manifest = (given.model / "manifest.toml").read_text(encoding="utf-8")
    whole, decode, encoder, ratios, walls = [], [], [], [], []
    bare = ["gst-launch-1.0", "-q", "filesrc", f"location={given.video}", "!", "qtdemux", "!", "h264parse", "!",
            "avdec_h264", "!", "fakesink", "sync=false"]
    ours = [given.vedette, "replay", "--json", "--model", given.model, given.video]
    environment = {**os.environ, "ORT_DYLIB_PATH": str(given.onnxruntime)}
    passes = passes_of(run(ours, env=environment)[2], manifest)
    run(bare)
    for n in range(given.rounds):
        progress(f"replay, round {n + 1} of {given.rounds}")
        replayed = run(ours, env=environment)
        decoded = run(bare)
        encoded = json.loads(run([given.inside, "encoder", "--model", given.model, "--onnxruntime", given.onnxruntime,
                                  "--passes", passes])[2])
        whole.append(replayed[0])
        decode.append(decoded[0])
        encoder.append(encoded["cpu_ms"] / 1000)
        ratios.append(replayed[0] / (decoded[0] + encoded["cpu_ms"] / 1000))
        walls.append(replayed[1] / (decoded[1] + encoded["wall_ms"] / 1000))
    results.row("`replay` of a 1080p30 H.264 file: processor time, against bare decode + bare encoder passes", 1.1,
                ratios, " x")
    results.note(f"`replay`: {middle(whole, ' s', 2)} of processor time for {given.seconds:.0f} s of video; bare decode "
                 f"{middle(decode, ' s', 2)}; {passes} encoder passes by ONNX Runtime alone {middle(encoder, ' s', 2)}, "
                 f"{statistics.median(encoder) * 1000 / passes:.1f} ms each. Wall time, against the sum of the two: "
                 f"{middle(walls, ' x', 2)}.")
    return {"decode_ms": statistics.median(decode) * 1000 / given.pictures}


def recording(given, results):
    """The agent and a bare recording watch the same camera at the same time."""
    with tempfile.TemporaryDirectory() as d, rtsp_camera(given, pathlib.Path(d)) as url:
        work = pathlib.Path(d)
        bare = ["gst-launch-1.0", "-q", "-e", "rtspsrc", f"location={url}", "protocols=tcp", "latency=200", "!",
                "rtph264depay", "!", "h264parse", "!", "mp4mux", "!", "filesink", f"location={work / 'bare.mp4'}"]
        ring_s = 30
        with Daemon(given, work, url, classify=False, sections=f"ring_seconds = {ring_s}").running() as daemon, \
                running(bare, work / "bare.log") as gst:
            progress(f"recording: {ring_s + 5} s until the ring is full")
            time.sleep(ring_s + 5)
            ours, theirs = [], []
            for n in range(given.rounds):
                progress(f"recording, round {n + 1} of {given.rounds} ({given.round_s} s)")
                before, began = (cpu_s(daemon.pid), cpu_s(gst.pid)), time.monotonic()
                time.sleep(given.round_s)
                wall = time.monotonic() - began
                ours.append((cpu_s(daemon.pid) - before[0]) / wall * 100)
                theirs.append((cpu_s(gst.pid) - before[1]) / wall * 100)
            if gst.poll() is not None:
                raise Failed(f"the bare recording ended: {(work / 'bare.log').read_text()}")
            resident, own = resident_mb(daemon.pid)
            threads = thread_cpu_ms(daemon.pid)
            lost = sum(daemon.camera()["drops"].values()) + daemon.camera()["restarts"]
    ring_mb = given.bytes_per_s * ring_s / 1e6
    results.row("1080p30 H.264 RTSP camera stored untouched, inference off: processor time, against a bare "
                "`gst-launch-1.0` recording", 1.2, [a / b for a, b in zip(ours, theirs)], " x",
                judged=sum(ours) <= 1.2 * sum(theirs) and lost == 0)
    results.row("the same: resident memory without the ring", 60, [resident - ring_mb], " MB")
    busiest = sorted(threads.items(), key=lambda t: -t[1])[:5]
    results.note(f"Stored untouched: the agent {middle(ours, ' % of a core', 2)}, the bare recording "
                 f"{middle(theirs, ' %', 2)}; {resident:.1f} MB resident, of it {own:.1f} MB its own (not pages of "
                 f"libraries) and {ring_mb:.1f} MB the ring. Busiest threads: "
                 + ", ".join(f"{name} {ms:.0f} ms" for name, ms in busiest) + ".")


def holes(path):
    """(pictures, length in seconds, longest distance of two pictures' decode times in seconds) of a clip."""
    probed = run(["ffprobe", "-v", "error", "-show_entries", "packet=dts_time", "-of", "csv=p=0", path])[2]
    times = [float(line.strip(",")) for line in probed.split()]
    return len(times), times[-1] - times[0] + 1 / FPS, max(b - a for a, b in zip(times, times[1:]))


def clips_of_a_daemon(given, classify, clips):
    """Clips of test alerts that overlap, so that each shows whether anything was missed while another was written.

    In the steady state each interval between two alerts holds the work of one clip.
    """
    rolls, every_s = "[clip]\npre_roll_s = 9\npost_roll_s = 8\n", 12
    with tempfile.TemporaryDirectory() as d, rtsp_camera(given, pathlib.Path(d)) as url:
        work = pathlib.Path(d)
        with Daemon(given, work, url, classify, rolls).running() as daemon:
            time.sleep(12)
            first, seen, samples = daemon.camera()["access_units"], time.monotonic(), []
            for n in range(clips + 2):
                progress(f"clips with classify = {str(classify).lower()}, {n + 1} of {clips + 2}")
                samples.append(thread_cpu_ms(daemon.pid))
                if daemon.ask("test-alert") is None:
                    raise Failed("the daemon took no test alert")
                time.sleep(every_s)
            samples.append(thread_cpu_ms(daemon.pid))
            done = wait_for("the last clip", lambda: (k := daemon.incidents()) and all(
                i["clip"]["state"] in ("done", "lost") for i in k) and k, log=daemon.log)
            camera, took = daemon.camera(), time.monotonic() - seen
            found = [holes(daemon.state / i["clip"]["path"]) for i in done if i["clip"]["state"] == "done"]
    # The first two intervals have no clip, or only one, under way from before.
    steady = list(zip(samples[2:], samples[3:]))
    cost = {name: [b.get(name, 0) - a.get(name, 0) for a, b in steady] for name in ("clip", "store", "incident")}
    return {
        "cpu_ms": cost["clip"], "store_ms": cost["store"], "incident_ms": cost["incident"],
        "clips": found, "expected": clips + 2,
        "rate": (camera["access_units"] - first) / took, "drops": sum(camera["drops"].values()) + camera["restarts"],
    }


def clips(given, results):
    with tempfile.TemporaryDirectory(dir=given.disk) as d:
        progress("clips, written by the library")
        written = json.loads(run([given.inside, "clip", "--video", given.video, "--dir", d, "--seconds", 20, "--clips",
                                  max(given.rounds, 5) * 3])[2])
    results.row("a 20 s clip: processor time of writing it, from memory to the finished file", 50, written["cpu_ms"], " ms")
    for classify in (False, True):
        got = clips_of_a_daemon(given, classify, given.rounds)
        how = "with classification, a JPEG of the peak included" if classify else "inference off"
        complete = (len(got["clips"]) == got["expected"] and got["drops"] == 0
                    and all(length >= 20 for _, length, _ in got["clips"]))
        worst = max((gap for _, _, gap in got["clips"]), default=float("inf"))
        results.row(f"a 20 s clip in the daemon ({how}): processor time of the clip stage", 50, got["cpu_ms"], " ms")
        results.row(f"the same: longest distance between two pictures of overlapping clips", 1.5 * 1000 / FPS,
                    [gap * 1000 for _, _, gap in got["clips"]], " ms",
                    judged=complete and worst <= 1.5 / FPS)
        results.note(f"Clips in the daemon ({how}): {len(got['clips'])} of {got['expected']} done, "
                     f"{middle([length for _, length, _ in got['clips']], ' s', 2)} long, one every 12 s so that each shows "
                     f"the time in which the one before was finished; {got['rate']:.2f} access units a second came, "
                     f"{got['drops']} were dropped. Beside the clip stage: store "
                     f"{middle(got['store_ms'], ' ms')}, incident stage {middle(got['incident_ms'], ' ms')} a clip.")
    results.note(f"Clip by the library: {written['units']} pictures, {written['bytes'] / 1e6:.1f} MB, wall time "
                 f"{middle(written['wall_ms'], ' ms')}, most of it waiting for the disk.")


def alerts(given, results, decode_ms):
    with tempfile.TemporaryDirectory(dir=given.disk) as d, rtsp_camera(given, pathlib.Path(d)) as url, \
            broker(pathlib.Path(d)) as port:
        progress(f"alerts: {given.alerts} incidents, about {given.alerts * 3} s")
        got = json.loads(run([given.inside, "alert", "--rtsp", url, "--broker", port, "--model", given.model,
                              "--onnxruntime", given.onnxruntime, "--dir", pathlib.Path(d) / "agent",
                              "--incidents", given.alerts])[2])
    inference_ms = got["inference"]["median"]
    beyond = [total - decode_ms - inference_ms for total in got["total_ms"]]
    results.row("from a window's last access unit to the alert at a subscriber: beyond decode and inference", 30, beyond,
                " ms")
    results.note(f"Alerts: in all {middle(got['total_ms'], ' ms')}. Of that, decoding one picture costs {decode_ms:.1f} ms "
                 f"(bare decode above, a picture) and one pass of the engine {inference_ms:.1f} ms (median, "
                 f"99th percentile {got['inference']['p99']:.1f}). By stations: arrival to score "
                 f"{middle(got['to_score_ms'], ' ms')}; score to the incident's decision "
                 f"{middle(got['score_to_incident_ms'], ' ms', 2)}; score to the alert at the subscriber "
                 f"{middle(got['from_score_ms'], ' ms')}.")
    results.note(f"Capture alone: from an access unit's arrival to the frame handed on {middle(got['to_frame_ms'], ' ms')}, "
                 f"10th percentile {percentile(got['to_frame_ms'], 10):.1f}, 90th {percentile(got['to_frame_ms'], 90):.1f}: "
                 "decoding, scaling and colour.")


def queue(given, results):
    with tempfile.TemporaryDirectory(dir=given.disk) as d, broker(pathlib.Path(d)) as port:
        progress(f"queue: {given.queued} alerts, a few minutes")
        got = json.loads(run([given.inside, "outbox", "--broker", port, "--dir", pathlib.Path(d) / "agent",
                              "--alerts", given.queued])[2])
    results.row("an alert to the disk, durable", 10, got["to_disk_ms"], " ms")
    results.row(f"{given.queued} queued alerts drained to a consumer that confirms: a bare client's rate over it", 2,
                [got["bare_per_s"] / got["drained_per_s"]], "")
    results.note(f"Queue: {got['queued_per_s']:.0f} alerts a second were queued, {got['drained_per_s']:.0f} drained; a bare client "
                 f"published {got['bare_per_s']:.0f} messages of {got['payload_bytes']} bytes; {got['repeated']} came twice, "
                 f"{got['out_of_order']} out of order. Resident: {got['resident_before_mb']:.0f} MB before the drain, at most "
                 f"{got['resident_most_mb']:.0f} MB in it (consumer and its account of all ids included).")


def percentile(values, p):
    return statistics.quantiles(values, n=100, method="inclusive")[p - 1]


# --- The report ------------------------------------------------------------------------------------------------------


def first_line(command, pattern=r"(.*)"):
    with contextlib.suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True,
                              env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"})
        found = re.search(pattern, done.stdout + done.stderr)
        return found[1].strip() if found else "unknown"
    return "unknown"


def machine():
    cpu = re.search(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    memory = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) / 1e6
    name = cpu[1] if cpu else platform.machine()
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.release()} ({platform.machine()})"


def report(given, results, load):
    versions = {
        "vedette": first_line([given.vedette, "--version"], r"vedette (\S+)") + ", commit "
        + first_line(["git", "-C", ROOT, "describe", "--always", "--dirty"]),
        "compiler": first_line(["rustc", "--version"]),
        "GStreamer": first_line(["gst-launch-1.0", "--version"], r"version (\S+)"),
        "ONNX Runtime": (given.onnxruntime.parent / "VERSION").read_text().strip()
        if (given.onnxruntime.parent / "VERSION").exists() else str(given.onnxruntime),
        "Mosquitto": first_line(["mosquitto", "-h"], r"version (\S+)"),
        "model": given.model.name,
    }
    lines = ["# Measured", "", "By `make bench`, which rewrites this file. What is measured and how: `benches/bench.py`.", "",
             f"- **Machine:** {machine()}", f"- **Date:** {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}",
             f"- **Load** (1 minute) before each part: {load}",
             "- **Versions:** " + "; ".join(f"{k} {v}" for k, v in versions.items()),
             f"- **Video:** Debian's vtest.avi scaled to 1920x1080, 30 pictures a second, with noise; x264, "
             f"{given.bytes_per_s * 8 / 1e6:.1f} Mbit/s, {given.seconds:.0f} s", "",
             "| what | at most | median | spread | held |", "|---|---|---|---|---|"]
    lines += [f"| {what} | {limit} | {value} | {spread} | {'yes' if held else '**no**'} |"
              for what, limit, value, spread, held in results.rows]
    lines += ["", "## Behind the figures", ""] + [f"- {note}" for note in results.notes]
    return "\n".join(lines) + "\n"


def describe_video(given):
    probed = json.loads(run(["ffprobe", "-v", "error", "-count_packets", "-show_entries",
                             "stream=nb_read_packets,duration:packet=size", "-of", "json", given.video])[2])
    given.pictures = int(probed["streams"][0]["nb_read_packets"])
    given.seconds = given.pictures / FPS
    given.bytes_per_s = sum(int(p["size"]) for p in probed["packets"]) / given.seconds


def main():
    arguments = argparse.ArgumentParser(description="Measures what the README claims.")
    path = lambda text: pathlib.Path(text).resolve()
    arguments.add_argument("--vedette", type=path, required=True, help="the release binary")
    arguments.add_argument("--inside", type=path, required=True, help="the benchmark binary `inside`")
    arguments.add_argument("--model", type=path, required=True)
    arguments.add_argument("--onnxruntime", type=path, required=True)
    arguments.add_argument("--video", type=path, required=True, help="1080p30 H.264 in MP4")
    arguments.add_argument("--out", type=path, required=True, help="report to write")
    arguments.add_argument("--disk", type=path, default=None, help="where clips and databases are written")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--round-s", type=int, default=30, help="seconds of a round of recording")
    arguments.add_argument("--alerts", type=int, default=30)
    arguments.add_argument("--queued", type=int, default=100_000)
    arguments.add_argument("--only", default="replay,recording,clips,alerts,queue")
    given = arguments.parse_args()
    only = given.only.split(",")
    describe_video(given)

    results, load, decode_ms = Results(), [], None
    for name in ("replay", "recording", "clips", "alerts", "queue"):
        if name not in only:
            continue
        load.append(f"{name} {os.getloadavg()[0]:.2f}")
        if os.getloadavg()[0] > os.cpu_count() / 2:
            progress(f"the machine is busy (load {os.getloadavg()[0]:.1f}): figures of {name} will be disturbed")
        if name == "replay":
            decode_ms = replay(given, results)["decode_ms"]
        elif name == "recording":
            recording(given, results)
        elif name == "clips":
            clips(given, results)
        elif name == "queue":
            queue(given, results)
        else:
            if decode_ms is None:
                decode_ms = replay(given, Results())["decode_ms"]
            alerts(given, results, decode_ms)
    text = report(given, results, ", ".join(load))
    given.out.write_text(text, encoding="utf-8")
    print(text)
    return 0 if all(held for *_, held in results.rows) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as trouble:
        sys.exit(f"bench: {trouble}")
