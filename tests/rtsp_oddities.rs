//! Network cameras as they are: every transport, descriptions that are odd, parameters that come late, times that
//! jump. What goes wrong with them is `faults_rtsp`'s part.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use vedette::agent::capture::CameraState;
use vedette::agent::config::{Source, Transport};
use vedette::base::clock::{Clock, SystemClock};

use crate::common::camera::{ALL, Running, Seen, camera, rtsp, rtsp_over};
use crate::common::odd_camera::{FPS, OddCamera, Script, TICKS, sdp};
use crate::common::rtsp::RtspServer;
use crate::common::{video, wait_for};

/// What a camera gives until this holds; it isn't lost meanwhile.
fn seen_of(what: &str, source: Source, enough: impl Fn(&Seen) -> bool) -> Seen {
    let running = Running::start(camera(source), ALL);
    let seen = running.recorder.wait_for(what, enough);
    running.stop().1.unwrap_or_else(|e| panic!("{what}: {e}"));
    seen
}

fn losses(seen: &Seen) -> Vec<String> {
    let reason = |state: &CameraState| match state {
        CameraState::Lost { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    seen.states.iter().filter_map(reason).collect()
}

fn enough(seen: &Seen) -> bool {
    seen.units.len() >= 45 && seen.frames.len() >= 16
}

#[test]
fn every_transport_brings_video() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = video::h264(dir.path(), "a264.mp4", "320x180", 15, 30);
    let server = RtspServer::start(&[], &[("a", &path)]);
    for transport in [Transport::Auto, Transport::Tcp, Transport::Udp, Transport::Http] {
        let what = format!("{transport:?}");
        let seen = seen_of(&what, rtsp_over(transport, server.url("a"), None), enough);
        assert_eq!(losses(&seen), [""; 0], "{what}");
        // B-frames: another order of showing than of decoding, every time once, a fifteenth of a second apart.
        let order: Vec<u64> = seen.units.iter().map(|u| u.pts.as_nanos()).collect();
        assert!(!order.is_sorted(), "{what}: the video has B-frames");
        let times: BTreeSet<u64> = order.iter().copied().take(40).collect();
        assert_eq!(times.len(), 40, "{what}");
        let shown: Vec<u64> = times.into_iter().take(36).collect();
        let steps: BTreeSet<u64> = shown.windows(2).map(|w| (w[1] - w[0]).div_ceil(1_000_000)).collect();
        assert!(steps.iter().all(|ms| (66..=68).contains(ms)), "{what}: {steps:?}");
    }
}

#[test]
fn a_camera_that_sends_to_a_group_is_joined() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let group = SocketAddrV4::new(Ipv4Addr::new(239, 255, 77, 3), 47_100 + (std::process::id() % 1_000) as u16 * 2);
    let camera = OddCamera::start(Script { group: Some(group), ..plain(dir.path()) }.camera());
    let seen = seen_of("multicast", rtsp_over(Transport::Multicast, camera.url(), None), enough);
    assert_eq!(losses(&seen), [""; 0]);
    // "auto" gets there by way of what is refused.
    let seen = seen_of("auto", rtsp(camera.url(), None), enough);
    let said = losses(&seen);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("does not send its video over TCP") && said[1].contains("over UDP"), "{said:?}");
}

#[test]
fn a_camera_that_refuses_tcp_is_taken_by_udp() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = video::h264(dir.path(), "a264.mp4", "320x180", 15, 30);
    let server = RtspServer::start(&["--protocols", "udp"], &[("a", &path)]);
    let seen = seen_of("auto", rtsp(server.url("a"), None), enough);
    assert_eq!(losses(&seen).len(), 1, "{:?}", seen.states);
    let running = Running::start(camera(rtsp_over(Transport::Tcp, server.url("a"), None)), ALL);
    let lost =
        |s: &Seen| losses(s).iter().any(|l| l.contains("does not send its video over TCP; transport = \"auto\""));
    running.recorder.wait_for("refusal", lost);
}

#[test]
fn sessions_are_kept_alive() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let odd = OddCamera::start(plain(dir.path()).camera());
    // Says how long its sessions last only once, at SETUP.
    let session = ["Session: 12345678;timeout=30\r\n", "Session: 12345678\r\n"];
    let terse = OddCamera::start(Script { session, ..plain(dir.path()) }.camera());
    let path = video::h264(dir.path(), "a264.mp4", "320x180", 15, 30);
    let server = RtspServer::start(&["--session-timeout", "3"], &[("a", &path)]);
    std::thread::scope(|all| {
        for source in [
            rtsp(server.url("a"), None),
            rtsp_over(Transport::Udp, server.url("a"), None),
            rtsp(odd.url(), None),
            rtsp(terse.url(), None),
        ] {
            all.spawn(move || {
                let seen = seen_of("twenty seconds", source, |s| s.units.len() as u64 >= 20 * FPS);
                assert_eq!(losses(&seen), [""; 0]);
            });
        }
    });
    let asked = [odd, terse].map(|odd| odd.asked("GET_PARAMETER"));
    assert_eq!(asked, [1, 1], "asked within the connection");
}

#[test]
fn odd_descriptions_are_understood() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let video = |number: u8, track: &str, more: &str| {
        format!("m=video 0 RTP/AVP {number}\r\na=rtpmap:{number} H264/90000\r\n{more}a=control:{track}\r\n")
    };
    let sound = "m=audio 0 RTP/AVP 0\r\na=control:track0\r\n";
    let events = "m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\na=control:track7\r\n";
    let unknown = "m=video 0 RTP/AVP 98\r\na=rtpmap:98 X-UNHEARD-OF/90000\r\na=control:track8\r\n";
    let bad_parameters = "a=fmtp:96 packetization-mode=1;profile-level-id=zzz;sprop-parameter-sets=!!!!,,\r\n";
    let with = |media: String| Script { sdp: sdp(&media), ..plain(dir.path()) };
    let cases = [
        ("sound, events, and an unknown video before two that are known", {
            let media = format!("{sound}{events}{unknown}{}{}", video(127, "track1", ""), video(97, "track2", ""));
            Script { payload_type: 127, ..with(media) }
        }),
        ("parameters that are none", with(video(96, "track1", bad_parameters))),
        ("control URL of another host", with(video(96, "rtsp://192.0.2.77:554/live/track1", ""))),
        ("no control URL", {
            let sdp =
                "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n";
            Script { sdp: sdp.into(), track: "odd".into(), ..plain(dir.path()) }
        }),
        (
            "base URL",
            Script { headers: "Content-Base: rtsp://127.0.0.1/odd/\r\n".into(), ..with(video(96, "track1", "")) },
        ),
        ("parameters that come late, in band only", {
            let mut script = plain(dir.path());
            let of_first_group = |i: usize| i < FPS as usize;
            for (i, unit) in script.video.iter_mut().enumerate() {
                unit.retain(|nal| !(of_first_group(i) && matches!(nal[0] & 0x1f, 7 | 8)));
            }
            script
        }),
    ];
    std::thread::scope(|all| {
        for (what, script) in cases {
            all.spawn(move || {
                let odd = OddCamera::start(script.camera());
                let seen = seen_of(what, rtsp(odd.url(), None), enough);
                assert_eq!(losses(&seen), [""; 0], "{what}");
                assert!(seen.units[0].keyframe && !seen.units[0].stream.codec_config.is_empty(), "{what}");
            });
        }
    });
}

#[test]
fn times_that_jump_stay_near_the_clock() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (what, hours) in [("on", 3_600_i64), ("back", -3_600)] {
        let time = move |picture: u64| {
            let moved = if picture < 3 * FPS { 0 } else { hours * 90_000 };
            (picture as u32).wrapping_mul(TICKS).wrapping_add(moved as u32)
        };
        let odd = OddCamera::start(Script { time: Box::new(time), ..plain(dir.path()) }.camera());
        let seen = seen_of(what, rtsp(odd.url(), None), |s| s.frames.len() >= 50);
        assert_eq!(losses(&seen), [""; 0], "{what}");
        let late = seen.frames.iter().map(|f| f.arrival.as_nanos() as i64 - f.at.as_nanos() as i64);
        let worst = late.map(|ns| (ns / 1_000_000).abs()).max();
        assert!(worst < Some(1_000), "{what}: {worst:?} ms off the clock");
        assert!(seen.frames.windows(2).all(|w| w[0].at < w[1].at), "{what}");
        assert!(seen.units.iter().filter(|u| u.discontinuity).count() <= 2, "{what}");
    }
}

fn plain(dir: &Path) -> Script {
    Script::of(&video::annex_b(dir, 4))
}

#[test]
fn how_far_a_cameras_clock_is_off_is_known() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = video::h264(dir.path(), "a264.mp4", "320x180", 15, 30);
    let server = RtspServer::start(&[], &[("a", &path)]);
    let odd = |ahead_s: i64| {
        let now_us = move || ((SystemClock::new().wall().unix_ms() + ahead_s * 1_000) * 1_000) as u64;
        OddCamera::start(Script { clock: Some(Box::new(now_us)), ..plain(dir.path()) }.camera())
    };
    let (behind, ahead) = (odd(-3_600), odd(40));
    let no_clock = OddCamera::start(Script { clock: Some(Box::new(|| 0)), ..plain(dir.path()) }.camera());
    for (what, url, offset_s) in [
        ("a real server, in time", server.url("a"), Some(0)),
        ("an hour behind", behind.url(), Some(-3_600)),
        ("ahead", ahead.url(), Some(40)),
        ("clock at 1970", no_clock.url(), None),
    ] {
        let running = Running::start(camera(rtsp(url, None)), ALL);
        match offset_s {
            Some(offset_s) => {
                let known = || running.stats.camera_clock.get();
                let clock = wait_for(what, known);
                println!("{what}: {} ms", clock.offset_ms);
                // A picture is on its way for some hundred milliseconds; on a machine that is busy, for longer.
                assert!((clock.offset_ms - offset_s * 1_000).abs() < 5_000, "{what}: {clock:?}");
            }
            None => {
                running.recorder.wait_for(what, |s| s.units.len() >= 30);
                let clock = running.stats.camera_clock.get();
                assert!(clock.is_none_or(|c| c.offset_ms < -1_000_000_000), "{what}: {clock:?}");
            }
        }
    }
}
