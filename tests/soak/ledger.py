"""What was asked for, what the consumer saw, and what of it is missing."""

import hashlib
import json
import subprocess
import threading
import time

PREFIX = "vedette/v1/soak/this-machine"


class Ledger:
    """Raises alerts, is the consumer `soc`, and accounts for both. `with` starts and ends the consumer."""

    def __init__(self, scene):
        self.scene = scene
        self.raised, self.refused = {}, 0
        self.lock = threading.Lock()
        # Sequence number -> (alert kind, incident); what came again.
        self.seen, self.repeated = {}, 0
        self.confirmed, self.confirm_again = 0, 0.0
        self.over = False
        self.listener = None

    def __enter__(self):
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over = True
        if self.listener:
            self.listener.kill()
        self.thread.join(5)

    # --- Alerts -----------------------------------------------------------------------------------------------------

    def raise_alert(self, camera):
        """What the daemon answered with an id counts as raised; a daemon that is down, or says no, does not."""
        text = self.scene.daemon.ask("test-alert", "--camera", camera, "--json")
        if text:
            self.raised[json.loads(text.splitlines()[0])["incident"]] = camera
        else:
            self.refused += 1

    # --- The consumer -----------------------------------------------------------------------------------------------

    def _listen(self):
        while not self.over:
            command = ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(self.scene.broker_port), "-V", "5", "-q", "1", "-i", "soak-soc",
                       "-c", "-x", "86400", "-t", f"{PREFIX}/alerts/#", "-F", "%p"]
            self.listener = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for line in self.listener.stdout:
                event = json.loads(line)
                if not event["durable"]:
                    # From memory, past a disk that is full: it comes again with a number, and counts then.
                    continue
                with self.lock:
                    seq = int(event["sequence"])
                    self.repeated += seq in self.seen
                    self.seen[seq] = (event["type"].split(".")[-2], event["subject"])
            self.listener.wait()
            time.sleep(0.5)

    def contiguous(self):
        with self.lock:
            upto = self.confirmed
            while upto + 1 in self.seen:
                upto += 1
            return upto

    def confirm(self):
        """Tells the device what has come without a gap; every so often again, for a broker that is killed forgets."""
        upto = self.contiguous()
        if upto == self.confirmed and time.monotonic() < self.confirm_again:
            return
        command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(self.scene.broker_port), "-V", "5", "-q", "1", "-t", f"{PREFIX}/ack/soc",
                   "-m", json.dumps({"seq": upto})]
        try:
            if subprocess.run(command, capture_output=True, timeout=2).returncode == 0:
                self.confirmed, self.confirm_again = upto, time.monotonic() + 15
        except subprocess.TimeoutExpired:
            pass

    # --- The account ------------------------------------------------------------------------------------------------

    def settled(self, scene):
        """Whether nothing is under way any more."""
        status, incidents = scene.daemon.status(), scene.daemon.incidents()
        if status is None or incidents is None or not status.get("outbox"):
            return False
        if any(c["status"] != "live" for c in status["cameras"]):
            return False
        if any(i["state"] == "open" or (i.get("clip") or {}).get("state") in ("planned", "recording") for i in incidents):
            return False
        return self.contiguous() >= status["outbox"]["newest"]

    def clips(self, scene):
        """How many clips there are of each state, and why those that are lost are."""
        counts = {}
        for i in scene.daemon.incidents() or []:
            clip = i.get("clip") or {"state": "none"}
            state = clip["state"] if clip["state"] != "lost" else f"lost: {clip.get('lost_because') or clip.get('reason')}"
            counts[state] = counts.get(state, 0) + 1
        return counts

    def losses(self, scene):
        """Everything that should be there and is not, one line each."""
        lost = []
        status, incidents = scene.daemon.status(), scene.daemon.incidents()
        if status is None or incidents is None:
            return ["the daemon does not answer"]
        by_id = {i["id"]: i for i in incidents}
        told = {}
        for kind, incident in self.seen.values():
            told.setdefault(incident, set()).add(kind)
        for incident, camera in self.raised.items():
            row = by_id.get(incident)
            if row is None:
                lost.append(f"alert {incident} on {camera} was answered and is not in the store")
            for kind in {"opened", "closed"} - told.get(incident, set()):
                lost.append(f"alert {incident} on {camera}: `{kind}` never reached the consumer")
        for i in incidents:
            clip = i.get("clip") or {}
            if i["state"] == "open":
                lost.append(f"incident {i['id']} is open for ever")
            if clip.get("state") in ("planned", "recording"):
                lost.append(f"the clip of {i['id']} is {clip['state']} for ever")
            elif clip.get("state") == "lost" and not (clip.get("lost_because") or clip.get("reason")):
                lost.append(f"the clip of {i['id']} is lost without a reason")
            elif clip.get("state") == "done":
                lost += unplayable(scene.state / clip["path"], clip)
        newest = (status.get("outbox") or {}).get("newest")
        if newest is None:
            lost.append("the outbox does not answer")
        else:
            lost += [f"message {n} never reached the consumer" for n in range(1, newest + 1) if n not in self.seen]
        lost += [f"{p.relative_to(scene.state)} was left over" for p in scene.state.rglob("*.part")]
        lost += [f"{c['camera']} is {c['status']}, though its camera is well: {c.get('reason')}" for c in status["cameras"] if c["status"] != "live"]
        return lost


def unplayable(path, clip):
    """What is wrong with a clip that is said to be done."""
    if not path.is_file():
        return [f"{path.name} is said to be done and is not there"]
    if hashlib.sha256(path.read_bytes()).hexdigest() != clip["sha256"]:
        return [f"{path.name} is not the file that was finished"]
    probe = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-f", "null", "-"], capture_output=True, text=True)
    return [f"{path.name} does not play: {probe.stderr.strip()[:200]}"] if probe.returncode or probe.stderr.strip() else []
