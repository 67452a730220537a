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
import os
import select
import signal
import sqlite3
import ssl
import time
import uuid

from ledger import Ledger
from trouble import Trouble, say


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
        self.trouble, self.wrong, self.answered, self.filters, self.asked = Trouble(args.retry), None, False, [], {}
        self.mqtt = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=args.client_id or args.name, protocol=mqtt.MQTTv5, manual_ack=True)
        self.mqtt.on_connect, self.mqtt.on_message, self.mqtt.on_disconnect = self.on_connect, self.on_message, self.on_disconnect
        self.mqtt.on_subscribe, self.mqtt.on_publish, self.mqtt.on_log = self.on_subscribe, self.on_publish, self.on_log
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
        self.wrong, self.answered = None, False
        self.mqtt.connect(self.args.host, self.args.port, keepalive=30, clean_start=False, properties=wishes)

    def on_connect(self, client, _, flags, reason, properties):
        self.answered = True
        if reason.is_failure:
            return self.goes_wrong(f"the broker refuses: {reason}")
        self.trouble.connected(f"{self.args.host}:{self.args.port}")
        self.said.clear()
        share = f"$share/{self.args.share}/" if self.args.share else ""
        # Retained messages do not go to shared subscriptions: every worker hears of the outbox.
        self.filters = [f"{share}vedette/v1/+/+/alerts/+", "vedette/v1/+/+/outbox"]
        client.subscribe([(topic, 1) for topic in self.filters])

    def on_subscribe(self, client, _, mid, reasons, properties):
        for topic, reason in zip(self.filters, reasons):
            if reason.is_failure:
                # Without it nothing would ever come. The next connection finds out whether it is granted by then.
                self.goes_wrong(f"the broker refuses the subscription to {topic} ({reason}); let this user read "
                                "vedette/v1/# in the broker's access rules (ACL)")
                client.disconnect()

    def on_publish(self, client, _, mid, reason, properties):
        source, topic = self.asked.pop(mid, (None, ""))
        if reason.is_failure:
            # It is said again with the next confirmation; until then the device keeps, and sends again, what is stored here.
            self.said.pop(source, None)
            what, channel = ("confirmation", f"ack/{self.args.name}") if "/ack/" in topic else ("command", "cmd/+")
            self.trouble.once(f"the broker refuses a {what} ({reason}), first on {topic}: let this user write "
                              f"vedette/v1/+/+/{channel} in the broker's access rules (ACL)")

    def on_log(self, client, _, level, text):
        # The library logs what TLS says in the middle of a connection, and hands on only that the connection is gone. With
        # TLS 1.3 that is how a broker refuses a certificate.
        if "on socket: " in text:
            said = last_word(client.socket()) or text.split("on socket: ", 1)[1]
            self.goes_wrong(said if self.answered else f"{said}, before the broker answered")

    def on_disconnect(self, client, _, flags, reason, properties):
        if flags.is_disconnect_packet_from_server:
            self.goes_wrong(f"the broker ends the connection: {reason_of_disconnect(client, reason)}")
        elif self.answered:
            # Mosquitto 2.0.11 does so to who is put out by another of its name.
            self.goes_wrong("the broker closed the connection without a word")
        else:
            self.goes_wrong("the connection ended before the broker answered")

    def goes_wrong(self, why):
        """The first reason is the right one: what comes after it comes of it."""
        self.wrong = self.wrong or why

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
            say(f"not understood, on {message.topic}: {e!r}")

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
                say(f"{source}: asking for {missing[:10]}")
                wanted = {"command": "replay", "from": missing[0][0], "to": missing[-1][1], "requested_by": self.args.name}
                self.publish(source, f"cmd/{self.args.name}-{uuid.uuid4()}", wanted)

    def publish(self, source, channel, content):
        topic = f"vedette/v1/{source.removeprefix('/vedette/')}/{channel}"
        self.asked[self.mqtt.publish(topic, json.dumps(content), qos=1).mid] = (source, topic)

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
                why = self.wrong or "the connection is gone"
            except OSError as e:
                why = f"{e}, before the broker answered" if isinstance(e, ConnectionResetError) else str(e)
            self.ledger.commit()
            if not self.stopping:
                self.sleep(self.trouble.lost(why))
        self.mqtt.disconnect()

    def turn(self):
        """Takes in what there is, at most a batch: one commit for all of it. Other than 0: the connection is gone."""
        gone = self.mqtt.loop(0.2)
        for _ in range(self.BATCH):
            # A connection that the broker ended in good order is no error to the library, but has no socket any more.
            if gone or not (socket := self.mqtt.socket()) or not select.select([socket], [], [], 0)[0]:
                break
            gone = self.mqtt.loop(0)
        return gone or not self.mqtt.socket()

    def sleep(self, seconds):
        until = time.monotonic() + seconds
        while not self.stopping and time.monotonic() < until:
            time.sleep(min(0.2, seconds))

    def stop(self, *_):
        self.stopping = True


def reason_of_disconnect(client, reason):
    """Why the broker says it ends the connection: paho 2.1 reads its reason only where properties follow it."""
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.reasoncodes import ReasonCode
    try:
        return ReasonCode(PacketTypes.DISCONNECT, identifier=client._in_packet["packet"][0])
    except (AttributeError, KeyError, IndexError, TypeError):
        return reason


def last_word(socket):
    """The alert of TLS that a broker sent before it closed: it waits to be read, also where it is writing that failed."""
    if not isinstance(socket, ssl.SSLSocket):
        return None
    try:
        socket.recv(1)
    except ssl.SSLError as e:
        return str(e) if "ALERT" in str(e) else None
    except OSError:
        pass
    return None


def checked(parser, args):
    """Ends the program, with what to do, if it cannot work with these arguments."""
    for one, other in [("cert", "key"), ("key", "cert"), ("user", "password_file"), ("password_file", "user"), ("cert", "cafile")]:
        if getattr(args, one) and not getattr(args, other):
            parser.error(f"--{one.replace('_', '-')} needs --{other.replace('_', '-')} with it")
    for option in ["cafile", "cert", "key", "password_file"]:
        path = getattr(args, option)
        if path:
            try:
                open(path, encoding="utf-8").close()
            except OSError as e:
                parser.error(f"--{option.replace('_', '-')} {path}: {os.strerror(e.errno)}")
    args.port = args.port or (8883 if args.cafile else 1883)
    return args


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=None, help="default: 8883 with --cafile, else 1883")
    parser.add_argument("--name", default="soc", help="as in the devices' [mqtt] consumers (default: soc)")
    parser.add_argument("--client-id", help="every worker of a group has its own (default: the name)")
    parser.add_argument("--database", default="alerts.db")
    parser.add_argument("--share", help="name of a group of workers that share the alerts, and the database")
    parser.add_argument("--replay-after", type=float, default=10.0, help="seconds that a gap may stay (default: 10)")
    parser.add_argument("--retry", type=float, default=2.0, help="seconds to the second connection; doubled from there up to 60 (default: 2)")
    for option in ["--cafile", "--cert", "--key", "--user", "--password-file"]:
        parser.add_argument(option)
    args = checked(parser, parser.parse_args())
    try:
        consumer = Consumer(args)
    except ImportError:
        parser.error("it needs paho-mqtt: pip install 'paho-mqtt>=2,<3'")
    except sqlite3.Error as e:
        parser.error(f"--database {args.database}: {e}")
    except (ssl.SSLError, UnicodeDecodeError) as e:
        parser.error(f"--cafile, --cert or --key does not hold what it should: {e}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, consumer.stop)
    consumer.run()


if __name__ == "__main__":
    main()
