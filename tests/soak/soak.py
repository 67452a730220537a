#!/usr/bin/env python3
"""Four cameras, random faults, hours: what was lost? Called by tests/soak/run.sh (`make soak HOURS=8`).

A real daemon on four RTSP cameras, a real Mosquitto, and a consumer that confirms. Test alerts are raised all the time;
each one that was answered is in the ledger and has to be found again at the end: stored and closed, its clip whole or
its loss explained, its messages at the consumer, their numbers without a gap. Meanwhile faults are drawn by a seed:
cameras die, stall and change their picture, the broker is killed or stopped, the daemon is killed or asked to
end (this script starts it again, as systemd would), the disk fills up (as root, on a small file system of its own).

What belongs where: `faults` what can go wrong, `ledger` what must be found again, `figures` memory's slope, here the
run itself and its report. Writes report.md and report.json to --out. Exit code 1: something was lost.
"""

import argparse
import contextlib
import json
import pathlib
import random
import signal
import sys
import tempfile
import time

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[2] / "benches")]

import faults  # noqa: E402
import figures  # noqa: E402
from ledger import Ledger  # noqa: E402
from scene import CAMERAS, Scene  # noqa: E402
from world import Failed, resident_mb  # noqa: E402

# At the end everything may recover, close and be delivered for so long.
SETTLE_S = 240


def soak(given, scene, ledger):
    """Runs until the time is over: (faults done by name, memory samples as (daemon's start, time, MB))."""
    draw = random.Random(given.seed)
    began = time.monotonic()
    end = began + given.hours * 3600
    done, samples = {}, []
    turns = {"alert": began, "fault": began + given.fault_every_s / 2, "sample": began + 30, "word": began}
    under_way = []  # (when it ends, how to end it)
    while (now := time.monotonic()) < end or under_way:
        for due, undo in [u for u in under_way if u[0] <= now]:
            undo()
            under_way.remove((due, undo))
        scene.keep_running()
        ledger.confirm()
        if now >= end:
            time.sleep(0.5)
            continue
        if now >= turns["alert"]:
            ledger.raise_alert(draw.choice(CAMERAS))
            turns["alert"] = now + draw.uniform(0.5, 1.5) * given.alert_every_s
        if now >= turns["fault"]:
            possible = faults.possible(scene, given.kill_share, draw)
            fault = draw.choice([f for f in possible if given.only is None or f.__name__ in given.only] or possible)
            lasts, undo = fault(scene, draw)
            done[fault.__name__] = done.get(fault.__name__, 0) + 1
            scene.note(f"fault {fault.__name__}, {lasts:.0f} s")
            under_way.append((now + lasts, undo))
            turns["fault"] = now + draw.uniform(0.5, 1.5) * given.fault_every_s
        if now >= turns["sample"]:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, TypeError):
                samples.append((scene.daemon.starts, now - began, resident_mb(scene.daemon.pid)[0]))
            turns["sample"] = now + 10
        if now >= turns["word"]:
            print(f"soak: {(now - began) / 3600:.2f} of {given.hours:g} h, {sum(done.values())} faults, {len(ledger.raised)} "
                  f"alerts raised, {scene.daemon.starts} starts", file=sys.stderr, flush=True)
            turns["word"] = now + 60
        time.sleep(0.2)
    return done, samples


def settle(scene, ledger):
    """Everything is whole again; waits until nothing is owed, or for so long."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        scene.keep_running()
        ledger.confirm()
        if ledger.settled(scene):
            return
        time.sleep(1)


def report(given, scene, ledger, done, samples):
    lost = ledger.losses(scene)
    status = scene.daemon.status() or {}
    cameras = status.get("health", {}).get("cameras", {})
    found = {
        "hours": given.hours, "seed": given.seed, "faults": done, "daemon_starts": scene.daemon.starts,
        "unplanned_ends": scene.daemon.unplanned, "alerts_raised": len(ledger.raised), "alerts_refused": ledger.refused,
        "messages_at_consumer": len(ledger.seen), "repeated_messages": ledger.repeated, "clips": ledger.clips(scene),
        "memory_mb_an_hour": figures.slope(samples), "memory_mb_highest": max((s[2] for s in samples), default=None),
        "drops_since_last_start": {"device": status.get("health", {}).get("drops", {}),
                                   **{name: c.get("drops", {}) for name, c in cameras.items()}},
        "camera_restarts_since_last_start": {name: c.get("restarts") for name, c in cameras.items()},
        "lost": lost,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{start},{at_s:.0f},{mb:.1f}\n" for start, at_s, mb in samples)
    (given.out / "memory.csv").write_text("daemon_start,at_s,resident_mb\n" + rows, encoding="utf-8")
    (given.out / "report.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    lines = [f"# Soak of {given.hours:g} h, seed {given.seed}: {'nothing lost' if not lost else f'{len(lost)} LOST'}", ""]
    lines += [f"- {key.replace('_', ' ')}: {json.dumps(value)}" for key, value in found.items() if key != "lost"]
    lines += ["", *(f"- **lost**: {what}" for what in lost)]
    (given.out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 1 if lost or scene.daemon.unplanned else 0


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--vedette", type=pathlib.Path, required=True)
    args.add_argument("--model", type=pathlib.Path, required=True)
    args.add_argument("--onnxruntime", type=pathlib.Path, required=True)
    args.add_argument("--videos", type=pathlib.Path, nargs="+", required=True, help="what cameras show: the first, and what they change to")
    args.add_argument("--out", type=pathlib.Path, required=True)
    args.add_argument("--hours", type=float, default=1.0)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--alert-every-s", type=float, default=20)
    args.add_argument("--fault-every-s", type=float, default=45)
    args.add_argument("--kill-share", type=float, default=0.1, help="share of the faults that end the daemon")
    args.add_argument("--only", nargs="+", metavar="FAULT", help="only these faults, by name, such as camera_dies")
    args.add_argument("--work", type=pathlib.Path, help="an empty directory to work in, which then stays for looking at")
    given = args.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as stack:
        work = given.work or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vedette-soak-")))
        scene = stack.enter_context(Scene(given, work))
        ledger = stack.enter_context(Ledger(scene))
        done, samples = soak(given, scene, ledger)
        settle(scene, ledger)
        return report(given, scene, ledger, done, samples)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as e:
        sys.exit(f"soak: {e}")
