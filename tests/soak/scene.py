"""The processes of a soak: four cameras, a broker, the daemon; each can be ended, stopped and started again at any
time on the port that it had."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from world import ROOT, free_port, listens, mosquitto, wait_for

CAMERAS = ["north", "east", "south", "west"]
# The file system on which the disk-full fault is played: room for the clips of some minutes.
SMALL_DISK = "size=400m"


class Service:
    """A process that comes back with the same command line."""

    def __init__(self, name, command, work, environment=None):
        self.name, self.command, self.environment = name, [str(c) for c in command], environment
        self.log = work / f"{name}.log"
        self.child, self.starts = None, 0

    def start(self):
        self.starts += 1
        with open(self.log, "a", encoding="utf-8") as to:
            self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=to, stderr=to, env=self.environment)

    @property
    def pid(self):
        return self.child.pid if self.child else None

    def runs(self):
        return self.child is not None and self.child.poll() is None

    def send(self, what):
        if self.runs():
            self.child.send_signal(what)

    def end(self, how=signal.SIGTERM, within=45):
        """Ends it; its exit status, or none if it had to be killed."""
        if self.child is None:
            return None
        # One that is stopped doesn't hear.
        self.send(signal.SIGCONT)
        self.send(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.child.wait(within)
        self.child.kill()
        self.child.wait()
        return None


# What systemd/vedette.service gives the daemon besides.
UNIT = {
    **os.environ,
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "262144",
    "MALLOC_TRIM_THRESHOLD_": "262144",
}


class Daemon(Service):
    """`vedette run`."""

    def __init__(self, given, work, state, cameras, broker_port):
        self.config, self.given, self.state = work / "vedette.toml", given, state
        model, library = given.model.resolve(), given.onnxruntime.resolve()
        sections = "".join(f'[[camera]]\nid = "{name}"\nkind = "rtsp"\nurl = "rtsp://127.0.0.1:{port}/stream"\nfrozen_after_s = 5\n\n'
                           for name, port in cameras.items())
        self.config.write_text(
            "[device]\nsite = \"soak\"\nid = \"this-machine\"\n\n"
            f"[paths]\nstate_dir = {json.dumps(str(state))}\nruntime_dir = {json.dumps(str(work / 'run'))}\n\n"
            f"[model]\ndir = {json.dumps(str(model))}\nonnxruntime = {json.dumps(str(library))}\n\n{sections}"
            f"[clip]\npre_roll_s = 5\npost_roll_s = 5\n\n[storage]\nmin_free_mb = 20\n\n[mqtt]\nurl = \"mqtt://127.0.0.1:{broker_port}\"\nheartbeat_s = 10\n",
            encoding="utf-8")
        super().__init__("vedette", [given.vedette, "run", "--config", self.config], work, environment=UNIT)
        # Ends that no fault asked for.
        self.unplanned = []

    def ask(self, *command):
        """What a command about this daemon prints; none where it was not answered."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run([self.given.vedette, *command, "--config", self.config], capture_output=True, text=True, timeout=30)
            return done.stdout if done.returncode == 0 else None
        return None

    def status(self):
        text = self.ask("status", "--json")
        return json.loads(text) if text else None

    def incidents(self):
        text = self.ask("incidents", "list", "--json")
        return None if text is None else [json.loads(line) for line in text.splitlines()]


class Scene:
    """See the module's doc. `with` starts everything and ends it."""

    def __init__(self, given, work):
        self.given, self.work = given, work
        self.state = work / "state"
        self.state.mkdir(parents=True)
        self.cameras, self.ports = {}, {}
        self.small_disk = False

    def __enter__(self):
        if os.geteuid() == 0:
            mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", SMALL_DISK, "vedette-soak", self.state], capture_output=True)
            self.small_disk = mounted.returncode == 0
        if not self.small_disk:
            self.note("no file system of its own (needs root): the disk is not filled in this run")
        for name in CAMERAS:
            self.ports[name] = free_port()
            self.cameras[name] = self.camera(name, self.given.videos[0])
            self.cameras[name].start()
        broker_port = free_port()
        command, environment = mosquitto(self.work, broker_port)
        self.broker = Service("mosquitto", command, self.work, environment)
        self.broker.start()
        self.broker_port = broker_port
        wait_for("Mosquitto", lambda: listens(broker_port), self.broker.child, self.broker.log)
        self.daemon = Daemon(self.given, self.work, self.state, self.ports, broker_port)
        self.daemon.start()
        live = lambda: [c["status"] for c in (self.daemon.status() or {}).get("cameras", [])] == ["live"] * len(CAMERAS)
        wait_for("four live cameras", live, self.daemon.child, self.daemon.log)
        return self

    def __exit__(self, *_):
        for service in [getattr(self, "daemon", None), getattr(self, "broker", None), *self.cameras.values()]:
            if service is not None:
                service.end()
        if self.small_disk:
            subprocess.run(["umount", self.state], check=False)

    def camera(self, name, video):
        command = ["/usr/bin/python3", ROOT / "deploy/demo/rtsp_server.py", "--file", video, "--port", self.ports[name]]
        return Service(f"camera-{name}", command, self.work)

    def keep_running(self):
        """What systemd does for the daemon."""
        if not self.daemon.runs():
            status = self.daemon.child.returncode
            if status not in (0, -signal.SIGKILL):
                self.daemon.unplanned.append(f"start {self.daemon.starts} ended with {status}: {last_line(self.daemon.log)}")
            time.sleep(0.5)
            self.daemon.start()

    def note(self, text):
        print(f"soak: {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def last_line(log: pathlib.Path):
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else ""


