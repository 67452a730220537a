"""What can go wrong. A fault is a function of the scene and the dice that does it at once and returns how many seconds it
lasts and what ends it."""

import os
import signal
import time

from world import listens, wait_for


def nothing():
    pass


def camera_dies(scene, draw):
    """The camera's process is killed; it comes back."""
    camera = draw.choice(list(scene.cameras.values()))
    camera.end(signal.SIGKILL)
    return draw.uniform(2, 60), lambda: camera.runs() or camera.start()


def camera_stalls(scene, draw):
    """It keeps the connection and sends nothing."""
    camera = draw.choice(list(scene.cameras.values()))
    camera.send(signal.SIGSTOP)
    return draw.uniform(2, 60), lambda: camera.send(signal.SIGCONT)


def camera_changes_its_picture(scene, draw):
    """It restarts with another size, rate or codec."""
    name = draw.choice(list(scene.cameras))
    scene.cameras[name].end(signal.SIGKILL)
    scene.cameras[name] = scene.camera(name, draw.choice(scene.given.videos))
    scene.cameras[name].start()
    return 1, nothing


def broker_dies(scene, draw):
    """Killed: what it had in memory is gone, also what it had acknowledged."""
    scene.broker.end(signal.SIGKILL)

    def again():
        if not scene.broker.runs():
            scene.broker.start()
            wait_for("Mosquitto", lambda: listens(scene.broker_port), scene.broker.child, scene.broker.log)

    return draw.uniform(1, 60), again


def broker_hangs(scene, draw):
    """It accepts and answers nothing."""
    scene.broker.send(signal.SIGSTOP)
    return draw.uniform(2, 60), lambda: scene.broker.send(signal.SIGCONT)


def daemon_is_killed(scene, _draw):
    """kill -9, at any moment; `Scene.keep_running` starts it again."""
    scene.daemon.end(signal.SIGKILL)
    return 1, nothing


def daemon_is_told_to_end(scene, _draw):
    """SIGTERM, perhaps in the middle of an incident."""
    began = time.monotonic()
    if scene.daemon.end(signal.SIGTERM) is None:
        scene.daemon.unplanned.append(f"start {scene.daemon.starts} had not ended {time.monotonic() - began:.0f} s after SIGTERM")
    return 1, nothing


def disk_fills_up(scene, draw):
    """Not a byte is left on the state directory's file system."""
    filler = scene.work / "state" / "filler"
    with open(filler, "wb", buffering=0) as to:
        try:
            while True:
                to.write(bytes(1 << 20))
        except OSError:
            pass
        try:
            while True:
                to.write(bytes(512))
        except OSError:
            pass

    def clear():
        if filler.exists():
            os.unlink(filler)

    return draw.uniform(5, 45), clear


USUAL = [camera_dies, camera_stalls, camera_changes_its_picture, broker_dies, broker_hangs]
ENDS = [daemon_is_killed, daemon_is_told_to_end]


def possible(scene, kill_share, draw):
    """The faults to draw from."""
    if draw.random() < kill_share:
        return ENDS
    return USUAL + ([disk_fills_up] if scene.small_disk else [])
