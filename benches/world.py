"""Processes, and the world around an agent under measurement: an RTSP camera, a broker. What `bench.py` and the soak
(`tests/soak`) have in common. Only the standard library is used.
"""

import contextlib
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE_S = 60


# --- Processes -------------------------------------------------------------------------------------------------------


class Failed(Exception):
    """Something could not be measured; the text says what."""


def run(command, **options):
    """Runs a command to its end: (processor seconds, wall seconds, standard output)."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as err, tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=out, stderr=err, **options)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - began
        if child.returncode != 0:
            err.seek(0)
            raise Failed(f"{shlex.join(map(str, command))} ended with {child.returncode}: {err.read()[-2000:]}")
        out.seek(0)
        return used.ru_utime + used.ru_stime, wall, out.read()


@contextlib.contextmanager
def running(command, log, **options):
    """A process that runs for a while; ended with SIGTERM, and SIGKILL if that does not help."""
    with open(log, "w", encoding="utf-8") as to:
        child = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=to, stderr=to, **options)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_for(what, ask, child=None, log=None):
    """Asks again and again until there is an answer."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        answer = ask()
        if answer:
            return answer
        if child is not None and child.poll() is not None:
            break
        time.sleep(0.1)
    said = pathlib.Path(log).read_text(encoding="utf-8")[-2000:] if log else ""
    raise Failed(f"{what} did not come: {said}")


def cpu_s(pid):
    """Processor seconds that a running process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def thread_cpu_ms(pid):
    """Processor milliseconds that each thread of a running process has used, by the thread's name."""
    used = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name = (task / "comm").read_text(encoding="utf-8").strip()
            used[name] = used.get(name, 0.0) + int((task / "schedstat").read_text().split()[0]) / 1e6
    return used


def resident_mb(pid):
    """Resident memory in MB (10^6 bytes): all of it, and without what is shared with files (libraries)."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    value = lambda key: int(re.search(rf"^{key}:\s+(\d+) kB", status, re.M)[1]) * 1024 / 1e6
    return value("VmRSS"), value("RssAnon")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def listens(port):
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True


# --- The world around the agent --------------------------------------------------------------------------------------


@contextlib.contextmanager
def rtsp_camera(given, work):
    """The address of a camera that shows `given.video`."""
    log = work / "rtsp.log"
    # System Python: that is where Debian's GObject bindings are.
    command = ["/usr/bin/python3", ROOT / "deploy/demo/rtsp_server.py", "--file", given.video]
    with running(command, log) as child:
        text = lambda: re.search(r"^rtsp://\S+", log.read_text(encoding="utf-8"), re.M)
        yield wait_for("the RTSP camera", text, child, log)[0]


def mosquitto(work, port):
    """Command and environment of a Mosquitto that listens on this port of the loopback interface and keeps its state in
    `work`, as the demo's."""
    state = work / "broker"
    state.mkdir(exist_ok=True)
    config = (ROOT / "deploy/mosquitto/demo.conf").read_text(encoding="utf-8")
    user = run(["id", "-un"])[2].strip()
    for key, value in {"@PORT@": str(port), "@STATE_DIR@": str(state), "@USER@": user}.items():
        config = config.replace(key, value)
    (work / "mosquitto.conf").write_text(config, encoding="utf-8")
    return ["mosquitto", "-c", work / "mosquitto.conf"], {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"}


@contextlib.contextmanager
def broker(work):
    """The port of a running Mosquitto."""
    port, log = free_port(), work / "mosquitto.log"
    command, environment = mosquitto(work, port)
    with running(command, log, env=environment) as child:
        wait_for("Mosquitto", lambda: listens(port), child, log)
        yield port
