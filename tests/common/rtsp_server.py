"""An RTSP camera for tests: GstRtspServer on a free port of the loopback interface.

usage: rtsp_server.py [--port N] [--user U --password P] [--protocols tcp,udp] [--session-timeout S]
                      [--freeze-after S] PATH=FILE...

Serves each file (H.264 or H.265 in MP4 or TS) at rtsp://127.0.0.1:PORT/PATH, from its start for each client, over
and over; with digest login if a user is given. Prints the port once it listens. With --freeze-after it sends
nothing any more so many seconds after a client has come, but keeps the connection. With --session-timeout it
ends sessions of which it hears nothing for so many seconds.
"""

import argparse

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer

LAUNCH = (
    "( filesrc location={file} ! {demux} ! {codec}parse ! identity name=gate sync=true "
    "! rtp{codec}pay name=pay0 pt=96 config-interval=-1 )"
)


def codec_of(path):
    return "h265" if "265" in path.rsplit("/", 1)[-1] else "h264"


def protocols(names):
    flags = {"tcp": GstRtsp.RTSPLowerTrans.TCP, "udp": GstRtsp.RTSPLowerTrans.UDP}
    chosen = GstRtsp.RTSPLowerTrans(0)
    for name in names.split(","):
        chosen |= flags[name]
    return chosen


def factory_for(path, args):
    factory = GstRtspServer.RTSPMediaFactory()
    demux = "tsdemux" if path.endswith(".ts") else "qtdemux"
    factory.set_launch(LAUNCH.format(file=path, demux=demux, codec=codec_of(path)))
    factory.set_protocols(protocols(args.protocols))
    if args.freeze_after is not None:
        factory.connect("media-configure", freeze, args.freeze_after)
    return factory


def freeze(_factory, media, after):
    gate = media.get_element().get_by_name("gate")

    def close():
        gate.get_static_pad("sink").add_probe(Gst.PadProbeType.BLOCK_DOWNSTREAM, lambda *_: Gst.PadProbeReturn.OK)
        return False

    media.connect("prepared", lambda _media: GLib.timeout_add(int(after * 1000), close))


def require_login(server, user, password):
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_digest(user, password, token)
    server.set_auth(auth)


def end_old_sessions(server, seconds):
    """Sessions end so many seconds after they were last heard of."""

    def shorten(_client, session):
        session.set_timeout(seconds)

    server.connect("client-connected", lambda _server, client: client.connect("new-session", shorten))

    def clean():
        server.get_session_pool().cleanup()
        return True

    GLib.timeout_add(500, clean)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--port", default="0")
    args.add_argument("--user")
    args.add_argument("--password")
    args.add_argument("--freeze-after", type=float)
    args.add_argument("--protocols", default="tcp,udp")
    args.add_argument("--session-timeout", type=int)
    args.add_argument("videos", nargs="+")
    args = args.parse_args()

    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(args.port)
    if args.user:
        require_login(server, args.user, args.password)
    if args.session_timeout:
        end_old_sessions(server, args.session_timeout)
    for video in args.videos:
        path, file = video.split("=", 1)
        factory = factory_for(file, args)
        if args.user:
            permissions = GstRtspServer.RTSPPermissions()
            permissions.add_permission_for_role("viewer", "media.factory.access", True)
            permissions.add_permission_for_role("viewer", "media.factory.construct", True)
            factory.set_permissions(permissions)
        server.get_mount_points().add_factory("/" + path, factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
