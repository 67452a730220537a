//! Network cameras that fail, in every way we could think of: what is wrong is said in words that help, nobody else
//! suffers, memory and threads stay bounded, and the camera comes back by itself when the cause is gone.

use std::path::Path;
use std::time::Duration;

use vedette::agent::capture::CameraState;
use vedette::base::clock::{Clock, SystemClock};

use crate::common::camera::{ALL, Running, Seen, camera, rtsp};
use crate::common::odd_camera::{Manner, OddCamera, Script, sdp};
use crate::common::relay::{Network, Relay};
use crate::common::rtsp::RtspServer;
use crate::common::{video, wait_for};

fn losses(seen: &Seen) -> Vec<String> {
    let reason = |state: &CameraState| match state {
        CameraState::Lost { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    seen.states.iter().filter_map(reason).collect()
}

fn lost_because(words: &str) -> impl Fn(&Seen) -> bool {
    move |seen| losses(seen).iter().any(|reason| reason.contains(words))
}

fn plain(dir: &Path) -> Script {
    Script::of(&video::annex_b(dir, 4))
}

/// A number of a line of this process's status: kB, or threads.
fn status(what: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find(|l| l.starts_with(what)).expect("the kernel says it");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

#[test]
fn what_is_no_camera_is_named_and_harms_nobody() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let says = |first: &[u8], again: &[u8], pause_ms: u64| Manner::Says {
        first: first.to_vec(),
        again: again.to_vec(),
        pause: Duration::from_millis(pause_ms),
    };
    let header = b"X-A: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n".repeat(20);
    let described = |sdp: &str| Script { sdp: sdp.into(), ..plain(dir.path()) }.camera();
    let faults = [
        ("silence", Manner::Silent, "gives no whole answer within 10 s; restart the camera"),
        ("a slow-loris", says(b"RTSP/1.0 200 OK\r\nX: ", b"z", 200), "gives no whole answer within 10 s"),
        ("a closed door", Manner::Shut, "it ends every connection without a word"),
        (
            "a web server",
            says(b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", 100),
            "is not an RTSP camera: it answers with \"HTTP/1.1 400 Bad Request\"; check address and port",
        ),
        ("a shell", says(b"SSH-2.0-OpenSSH_9.2\r\n", b"", 100), "answers with \"SSH-2.0-OpenSSH_9.2\""),
        ("noise", says(&[1, 2, 3], &[0x99; 1 << 16], 0), "answers with something that isn't text"),
        ("an endless header", says(b"RTSP/1.0 200 OK\r\n", &header, 0), "answers with more than any camera would say"),
        (
            "a huge answer",
            says(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 4000000000\r\n\r\n", &[b'x'; 1 << 16], 0),
            "answers with more than any camera would say",
        ),
        ("no description", described("hello"), "has no pictures, only an empty description"),
        ("sound", described(&sdp("m=audio 0 RTP/AVP 0\r\na=control:track1\r\n")), "has no pictures, only audio"),
        (
            "a track that isn't there",
            Script { track: "elsewhere".into(), ..plain(dir.path()) }.camera(),
            "refuses to play what it offers (status 404, not found)",
        ),
        (
            "another payload type than described",
            Script { payload_type: 100, ..plain(dir.path()) }.camera(),
            "has sent no video for 15 s",
        ),
    ];
    let good = OddCamera::start(plain(dir.path()).camera());
    let beside = Running::start(camera(rtsp(good.url(), None)), ALL);
    beside.recorder.wait_for("frames of the good camera", |s| s.frames.len() >= 8);
    let before = status("VmRSS");

    let running = faults.map(|(what, manner, words)| {
        let odd = OddCamera::start(manner);
        (what, words, Running::start(camera(rtsp(odd.url(), None)), ALL), odd)
    });
    for (what, words, running, _) in &running {
        let seen = running.recorder.wait_for(what, lost_because(words));
        assert!(seen.units.is_empty(), "{what}");
    }
    let grown = status("VmRSS").saturating_sub(before) / 1024;
    println!("twelve bad cameras: {grown} MB more");
    assert!(grown < 100, "{grown} MB more than before");
    running.iter().for_each(|(.., odd)| odd.set(plain(dir.path()).camera()));
    for (what, _, running, _) in &running {
        // Where somebody must act it is tried again once a minute; here that would take too long to wait for.
        if !["no description", "sound"].contains(what) {
            running.recorder.wait_for(what, |s| s.units.len() >= 15 && s.frames.len() >= 4);
        }
    }
    let seen = beside.stop().0;
    assert_eq!(losses(&seen), [""; 0], "the good camera");
    assert!(seen.units.iter().all(|u| !u.discontinuity));
    let late = seen.frames.iter().map(|f| f.arrival.as_millis().abs_diff(f.at.as_millis())).max();
    println!("the good camera was at most {late:?} ms late");
}

#[test]
fn a_slow_loris_after_a_good_beginning_holds_nothing_up() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let odd = OddCamera::start(Script { drips_at: Some("SETUP"), ..plain(dir.path()) }.camera());
    let running = Running::start(camera(rtsp(odd.url(), None)), ALL);
    running.recorder.wait_for("loss", lost_because("has sent no video for 15 s"));
    // Another session is not begun before the first is gone, so that they can't pile up.
    running.recorder.wait_for("another loss", lost_because("holds on to the last connection"));
    odd.set(plain(dir.path()).camera());
    running.recorder.wait_for("video", |s| s.units.len() >= 15);

    odd.set(Script { drips_at: Some("SETUP"), ..plain(dir.path()) }.camera());
    let setups = odd.asked("SETUP");
    wait_for("another session", || (odd.asked("SETUP") > setups).then_some(()));
    let clock = SystemClock::new();
    running.stop().1.expect("a network camera is never given up");
    assert!(clock.now().as_millis() < 6_000, "stopping took {} ms", clock.now().as_millis());
}

#[test]
fn a_server_that_stalls_or_falls_silent_in_between_comes_back() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = video::h264(dir.path(), "a264.mp4", "320x180", 15, 60);
    let server = RtspServer::start(&[], &[("a", &path)]);
    let relayed = RtspServer::start(&[], &[("a", &path)]);
    let relay = Relay::to(relayed.port);
    let impatient = |url: String| {
        let mut camera = camera(rtsp(url, None));
        camera.frozen_after = Duration::from_secs(3);
        Running::start(camera, ALL)
    };
    // One stands still with its connections open, of the other the network swallows everything.
    let stalled = impatient(server.url("a"));
    let cut_off = impatient(format!("rtsp://127.0.0.1:{}/a", relay.port));
    for running in [&stalled, &cut_off] {
        running.recorder.wait_for("frames", |s| s.frames.len() >= 8);
    }
    server.stall();
    relay.set(Network::BlackHole);
    let mut given = Vec::new();
    for running in [&stalled, &cut_off] {
        running.recorder.wait_for("loss", lost_because("for 3 s"));
        let seen = running.recorder.wait_for("second loss", lost_because("gives no whole answer within 10 s"));
        given.push(seen.units.len());
    }
    server.go_on();
    relay.set(Network::Sound);
    for (running, given) in [stalled, cut_off].into_iter().zip(given) {
        let seen = running.recorder.wait_for("video again", |s| s.units.len() >= given + 15);
        assert!(seen.units[given].discontinuity && seen.units[given].keyframe);
        running.stop().1.expect("a network camera is never given up");
    }
}

#[test]
fn rubbish_in_the_stream_ends_with_the_rubbish() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    // Rendered once: others read it meanwhile.
    let video = video::annex_b(dir.path(), 4);
    let plain = || Script::of(&video);
    let spoilt = |spoil: fn(u64, &mut Vec<u8>)| Script { spoil: Box::new(spoil), ..plain() }.camera();
    let noise = |packet: u64, payload: &mut Vec<u8>| {
        let mut random = fastrand::Rng::with_seed(packet);
        if packet > 30 {
            payload.iter_mut().for_each(|byte| *byte = random.u8(..));
        }
    };
    let cut = |packet: u64, payload: &mut Vec<u8>| {
        if packet % 5 == 3 {
            payload.truncate(1 + payload.len() / 3);
        }
    };
    let empty = |packet: u64, payload: &mut Vec<u8>| {
        if packet > 30 && packet.is_multiple_of(2) {
            payload.clear();
        }
    };
    let flipped = |packet: u64, payload: &mut Vec<u8>| {
        let mut random = fastrand::Rng::with_seed(packet);
        let (at, bit) = (random.usize(..payload.len()), random.u8(..8));
        payload[at] ^= 1 << bit;
    };
    let manners =
        [("noise", spoilt(noise)), ("cut", spoilt(cut)), ("empty", spoilt(empty)), ("flipped", spoilt(flipped))];
    std::thread::scope(|all| {
        for (what, manner) in manners {
            let plain = &plain;
            all.spawn(move || {
                let odd = OddCamera::start(plain().camera());
                let running = Running::start(camera(rtsp(odd.url(), None)), ALL);
                running.recorder.wait_for(what, |s| s.units.len() >= 15);
                odd.set(manner);
                let again = odd.asked("PLAY");
                wait_for(what, || (odd.asked("PLAY") > again).then_some(()));
                vedette::base::stop::StopToken::new().wait(Duration::from_secs(5));
                odd.set(plain().camera());
                let (plays, units) = (odd.asked("PLAY"), running.recorder.seen().units.len());
                wait_for(what, || (odd.asked("PLAY") > plays).then_some(()));
                let seen = running.recorder.wait_for(what, |s| s.units.len() >= units + 30);
                println!("{what}: {:?}", losses(&seen));
                assert!(seen.units.windows(2).all(|w| w[0].dts <= w[1].dts), "{what}");
                running.stop().1.expect("a network camera is never given up");
            });
        }
    });
}

#[test]
fn a_name_that_is_not_known_is_named() {
    let running = Running::start(camera(rtsp("rtsp://no-such-camera.invalid/1".into(), None)), ALL);
    let seen = running.recorder.wait_for("loss", lost_because("the name no-such-camera.invalid isn't known"));
    assert!(losses(&seen)[0].starts_with("rtsp://no-such-camera.invalid can't be reached"), "{:?}", seen.states);
}

#[test]
fn sessions_leave_no_thread_behind() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let odd = OddCamera::start(plain(dir.path()).camera());
    // The first one starts what GStreamer and the C library keep for good.
    let session = || {
        let running = Running::start(camera(rtsp(odd.url(), None)), ALL);
        let units = running.recorder.wait_for("video", |s| s.units.len() >= 15).units.len();
        odd.set(Manner::Shut);
        running.recorder.wait_for("loss", |s| !losses(s).is_empty());
        odd.set(plain(dir.path()).camera());
        running.recorder.wait_for("video again", |s| s.units.len() >= units + 15);
        running.stop().1.expect("a network camera is never given up");
    };
    session();
    wait_for("idle threads to go", || (status("Threads") <= 6).then_some(()));
    let after_one = status("Threads");
    (0..4).for_each(|_| session());
    wait_for("the threads of sessions to go", || (status("Threads") <= after_one).then_some(()));
}
