#!/usr/bin/env python3
"""A consumer of Vedette's alerts that loses none: an example to read, and to start your own from.

    pip install 'paho-mqtt>=2,<3'
    ./consumer.py --host broker.example.net --cafile ca.crt --cert soc.crt --key soc.key --database alerts.db

Four rules make it exact, and they are all that there is to it:

1. Commit, then acknowledge (MQTT's PUBACK), then confirm (`ack/{consumer}`). Killed in between, it gets the message
   again; `source` and `id` tell that it has it. So every alert is stored exactly once.
2. Confirm the highest number up to which nothing is missing, and the epoch that it counts in. The device keeps every alert
   until then, whatever broker and network do.
3. The device's retained `outbox` says what it has given out and what it still keeps. What is missing and not kept will not
   come any more: write it down as lost, and go on.
4. A gap that stays while nothing is replayed is asked for (`replay`). Gaps are no alarm: live alerts overtake a backlog.

Several workers may share the load (`--share`): they need one database, since only all of them together know the gaps.
"""
import argparse
import json
import select
import signal
import ssl
import sys
import time
import uuid

from ledger import Ledger

class Patience:
    """When to ask for what is missing: nothing has moved for a while, and then more and more seldom."""

    def __init__(self, first_s=10.0, longest_s=600.0):
        self.first_s, self.longest_s, self.waits = first_s, longest_s, {}

    def moved(self, source):
        """A number came, or something is being replayed."""
        self.waits.pop(source, None)

    def due(self, source, now):
        since, wait = self.waits.setdefault(source, (now, self.first_s))
        if now - since < wait:
            return False
        self.waits[source] = (now, min(wait * 2, self.longest_s))
        return True


class Consumer:
    """The ledger on MQTT 5, in one thread."""

    BATCH = 100

    def __init__(self, args):
        import paho.mqtt.client as mqtt
        self.args, self.ledger, self.patience = args, Ledger(args.database), Patience(args.replay_after)
        self.unacknowledged, self.printable, self.said, self.stopping = [], [], {}, False
        self.mqtt = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=args.client_id or args.name, protocol=mqtt.MQTTv5, manual_ack=True)
        self.mqtt.on_connect, self.mqtt.on_message = self.on_connect, self.on_message
        if args.user:
            with open(args.password_file, encoding="utf-8") as secret:
                self.mqtt.username_pw_set(args.user, secret.readline().rstrip("\n"))
        if args.cafile:
            self.mqtt.tls_set(args.cafile, args.cert, args.key, tls_version=ssl.PROTOCOL_TLS_CLIENT)

    def connect(self):
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties
        wishes = Properties(PacketTypes.CONNECT)
        # The broker keeps what comes while this program is away, and does not send more than a batch unasked.
        wishes.SessionExpiryInterval, wishes.ReceiveMaximum = 7 * 24 * 3600, self.BATCH
        self.unacknowledged.clear()
        self.mqtt.connect(self.args.host, self.args.port, keepalive=30, clean_start=False, properties=wishes)

    def on_connect(self, client, _, flags, reason, properties):
        if reason.is_failure:
            return print(f"the broker refuses: {reason}", file=sys.stderr)
        self.said.clear()
        share = f"$share/{self.args.share}/" if self.args.share else ""
        # Retained messages do not go to shared subscriptions: every worker hears of the outbox.
        client.subscribe([(f"{share}vedette/v1/+/+/alerts/+", 1), ("vedette/v1/+/+/outbox", 1)])

    def on_message(self, client, _, message):
        self.ledger.begin()
        self.unacknowledged.append((message.mid, message.qos))
        try:
            content = json.loads(message.payload)
            if message.topic.endswith("/outbox"):
                source = f"/vedette/{content['site']}/{content['device']}"
                self.ledger.outbox(source, content)
                if content.get("oldest_kept") and self.said.get(source, (0, 0))[1] >= content["oldest_kept"]:
                    self.said.pop(source)  # It has not heard the last confirmation.
            else:
                if self.ledger.alert(content):
                    self.printable.append(content)
                if content["replayed"]:
                    self.patience.moved(content["source"])
        except (ValueError, KeyError, TypeError) as e:
            print(f"not understood, on {message.topic}: {e!r}", file=sys.stderr)

    def settle(self):
        """Commits what has come; then, and only then, says so to broker and devices."""
        self.ledger.commit()
        for event in self.printable:
            print(json.dumps(event), flush=True)
        self.printable.clear()
        for mid, qos in self.unacknowledged:
            self.mqtt.ack(mid, qos)
        self.unacknowledged.clear()
        for source, epoch, upto in self.ledger.confirmable():
            if upto and self.said.get(source) != (epoch, upto):
                self.said[source] = (epoch, upto)
                self.patience.moved(source)
                self.publish(source, f"ack/{self.args.name}", {"seq": upto, "epoch": epoch} if epoch else {"seq": upto})

    def ask(self):
        """Asks for what has been missing for long."""
        for source, epoch, _ in self.ledger.confirmable():
            missing = list(self.ledger.missing(source, epoch))
            if missing and self.patience.due(source, time.monotonic()):
                print(f"{source}: asking for {missing[:10]}", file=sys.stderr)
                wanted = {"command": "replay", "from": missing[0][0], "to": missing[-1][1], "requested_by": self.args.name}
                self.publish(source, f"cmd/{self.args.name}-{uuid.uuid4()}", wanted)

    def publish(self, source, channel, content):
        self.mqtt.publish(f"vedette/v1/{source.removeprefix('/vedette/')}/{channel}", json.dumps(content), qos=1)

    def run(self):
        while not self.stopping:
            try:
                self.connect()
                asked = 0.0
                while not self.stopping and not self.turn():
                    if self.unacknowledged:
                        self.settle()
                    if time.monotonic() - asked > 1.0:
                        asked = time.monotonic()
                        self.ask()
                self.settle()
            except OSError as e:
                print(f"no connection: {e}", file=sys.stderr)
            self.ledger.commit()
            if not self.stopping:
                time.sleep(self.args.retry)
        self.mqtt.disconnect()

    def turn(self):
        """Takes in what there is, at most a batch: one commit for all of it. Other than 0: the connection is gone."""
        wrong = self.mqtt.loop(0.2)
        for _ in range(self.BATCH):
            if wrong or not select.select([self.mqtt.socket()], [], [], 0)[0]:
                break
            wrong = self.mqtt.loop(0)
        return wrong

    def stop(self, *_):
        self.stopping = True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=None, help="default: 8883 with --cafile, else 1883")
    parser.add_argument("--name", default="soc", help="as in the devices' [mqtt] consumers (default: soc)")
    parser.add_argument("--client-id", help="every worker of a group has its own (default: the name)")
    parser.add_argument("--database", default="alerts.db")
    parser.add_argument("--share", help="name of a group of workers that share the alerts, and the database")
    parser.add_argument("--replay-after", type=float, default=10.0, help="seconds that a gap may stay (default: 10)")
    parser.add_argument("--retry", type=float, default=2.0, help="seconds between connections (default: 2)")
    for option in ["--cafile", "--cert", "--key", "--user", "--password-file"]:
        parser.add_argument(option)
    args = parser.parse_args()
    args.port = args.port or (8883 if args.cafile else 1883)
    consumer = Consumer(args)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, consumer.stop)
    consumer.run()


if __name__ == "__main__":
    main()
