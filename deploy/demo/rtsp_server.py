#!/usr/bin/python3
"""An RTSP camera made from a video file, for `make demo` and `make bench`.

    rtsp_server.py --file FILE [--port 0] [--user USER --password PASSWORD]

Serves the file's H.264 or H.265 as it is (nothing is decoded), in real time and over and over, with time-stamps that
go on rising where the file begins anew. Every client gets the same stream, joined where it is; the first one finds the
file's beginning. Prints `rtsp://127.0.0.1:PORT/stream` when it can be connected to; ends on SIGTERM or SIGINT.

It runs with the system's Python, because that is where Debian puts the GObject bindings
(python3-gi, gir1.2-gst-rtsp-server-1.0). Loopback only: it is no camera to rely on.
"""

import argparse
import signal
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PATH = "/stream"
PAYLOADERS = {"video/x-h264": "rtph264pay", "video/x-h265": "rtph265pay"}
# How long the file may take to give its next picture before it counts as broken.
READ_WITHIN_S = 10


class BadFile(Exception):
    """The file cannot be served; the text says why."""


class Reader:
    """Access units of a file, endlessly: (buffer, time-stamps rewritten so that they never step back)."""

    def __init__(self, path):
        self.path = path
        self.pipeline = Gst.Pipeline.new(None)
        source = Gst.ElementFactory.make("filesrc")
        source.set_property("location", path)
        # parsebin plugs the demultiplexer and the parser, and no decoder.
        parse = Gst.ElementFactory.make("parsebin")
        self.sink = Gst.ElementFactory.make("appsink")
        self.sink.set_property("sync", False)
        self.sink.set_property("max-buffers", 4)
        self.sink.set_property("caps", Gst.Caps.from_string(
            ";".join(f"{c},stream-format=byte-stream,alignment=au" for c in PAYLOADERS)))
        for element in (source, parse, self.sink):
            self.pipeline.add(element)
        source.link(parse)
        parse.connect("pad-added", self._pad_added)
        self.offset = 0  # added to this round's time-stamps
        self.base = None  # this round's first presentation time
        self.end = 0  # the highest end of a picture so far

    def _pad_added(self, _parse, pad):
        # Only the first video is served; sound and further videos stay unlinked.
        codec = pad.get_current_caps().get_structure(0).get_name()
        if self.sink.get_static_pad("sink").is_linked() or codec not in PAYLOADERS:
            return
        # What parsebin chose may be the file's own packing (avc); a second parser turns it into a byte stream.
        again = Gst.ElementFactory.make("h264parse" if codec == "video/x-h264" else "h265parse")
        again.set_property("config-interval", -1)
        self.pipeline.add(again)
        again.link(self.sink)
        again.sync_state_with_parent()
        pad.link(again.get_static_pad("sink"))

    def start(self):
        self.pipeline.set_state(Gst.State.PLAYING)

    def stop(self):
        self.pipeline.set_state(Gst.State.NULL)

    def _trouble(self):
        message = self.pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
        return message.parse_error()[0].message if message else "it has no H.264 or H.265 video"

    def _pull(self):
        sample = self.sink.emit("try-pull-sample", READ_WITHIN_S * Gst.SECOND)
        if sample is None and not self.sink.get_property("eos"):
            raise BadFile(f"{self.path}: {self._trouble()}")
        return sample

    def caps(self):
        """What the stream is; takes its first access unit."""
        sample = self._pull()
        if sample is None:
            raise BadFile(f"{self.path}: {self._trouble()}")
        return sample.get_caps()

    def next(self):
        """The next access unit and its caps."""
        sample = self._pull()
        if sample is None:  # the end: once more from the beginning
            self.offset, self.base = self.end, None
            self.pipeline.seek_simple(Gst.Format.TIME, Gst.SeekFlags.FLUSH, 0)
            sample = self._pull()
            if sample is None:
                raise BadFile(f"{self.path}: nothing after its beginning was sought")
        unit = sample.get_buffer().copy()
        if unit.pts == Gst.CLOCK_TIME_NONE:
            unit.pts = unit.dts if unit.dts != Gst.CLOCK_TIME_NONE else self.end - self.offset + (self.base or 0)
        if self.base is None:
            self.base = unit.pts
        if unit.duration == Gst.CLOCK_TIME_NONE:
            unit.duration = self._frame_time(sample.get_caps())
        shift = self.offset - self.base
        unit.pts = max(unit.pts + shift, 0)
        if unit.dts != Gst.CLOCK_TIME_NONE:
            unit.dts = max(unit.dts + shift, 0)
        self.end = max(self.end, unit.pts + unit.duration)
        return unit, sample.get_caps()

    @staticmethod
    def _frame_time(caps):
        known, numerator, denominator = caps.get_structure(0).get_fraction("framerate")
        return Gst.SECOND * denominator // numerator if known and numerator > 0 else Gst.SECOND // 25


def feed(source, reader):
    """Gives the element `source` (appsrc) one access unit each time it has none."""

    def need(_source, _bytes):
        try:
            unit, caps = reader.next()
        except BadFile as trouble:
            print(f"rtsp_server: {trouble}", file=sys.stderr, flush=True)
            source.emit("end-of-stream")
            return
        if source.get_property("caps") is None:
            source.set_property("caps", caps)
        source.emit("push-buffer", unit)

    source.connect("need-data", need)


def factory(path, payloader):
    made = GstRtspServer.RTSPMediaFactory()
    # Live, so that nobody can seek or pause it; `identity` gives each access unit out when it is due.
    made.set_launch(f"( appsrc name=source is-live=true format=time ! identity sync=true ! {payloader} name=pay0 pt=96 "
                    "config-interval=-1 )")
    made.set_shared(True)
    made.set_latency(0)

    def configure(_factory, media):
        reader = Reader(path)
        reader.start()
        feed(media.get_element().get_by_name_recurse_up("source"), reader)
        media.connect("unprepared", lambda _media: reader.stop())

    made.connect("media-configure", configure)
    return made


def protect(server, made, user, password):
    """Lets nobody in without this user and password; by digest, so that it isn't sent."""
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(2)  # GST_RTSP_AUTH_DIGEST, whose enumeration older bindings lack
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_digest(user, password, token)
    permissions = GstRtspServer.RTSPPermissions()
    for right in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role("viewer", right, True)
    made.set_permissions(permissions)
    server.set_auth(auth)


def main():
    arguments = argparse.ArgumentParser(description="Serves a video file as an RTSP camera, over and over.")
    arguments.add_argument("--file", required=True, help="a file with H.264 or H.265 in it")
    arguments.add_argument("--port", type=int, default=0, help="0 (default): any free one")
    arguments.add_argument("--user")
    arguments.add_argument("--password")
    given = arguments.parse_args()
    if (given.user is None) != (given.password is None):
        arguments.error("--user and --password go together")

    Gst.init(None)
    probe = Reader(given.file)
    try:
        probe.start()
        codec = probe.caps().get_structure(0).get_name()
    except BadFile as trouble:
        sys.exit(f"rtsp_server: {trouble}")
    finally:
        probe.stop()

    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(given.port))
    made = factory(given.file, PAYLOADERS[codec])
    if given.user is not None:
        protect(server, made, given.user, given.password)
    server.get_mount_points().add_factory(PATH, made)
    if server.attach(None) == 0:
        sys.exit(f"rtsp_server: port {given.port} cannot be listened on")

    loop = GLib.MainLoop()
    for number in (signal.SIGTERM, signal.SIGINT):
        GLib.unix_signal_add(GLib.PRIORITY_HIGH, number, loop.quit)
    # Sessions of clients that went away without a word.
    GLib.timeout_add_seconds(10, lambda: (server.get_session_pool().cleanup(), True)[1])
    print(f"rtsp://127.0.0.1:{server.get_bound_port()}{PATH}", flush=True)
    loop.run()


if __name__ == "__main__":
    main()
