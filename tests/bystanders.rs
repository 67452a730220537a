//! Bad cameras beside good ones: a camera's trouble is its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use vedette::agent::capture::CameraState;
use vedette::agent::config::{Camera, Pace};

use crate::common::camera::{ALL, Running, Seen, camera, file};
use crate::common::rtsp::RtspServer;
use crate::common::video;

const GOOD: usize = 3;
const FPS: u64 = 15;
const SECONDS: u64 = 8;

/// A server on the loopback interface that does this with every connection, for as long as the test's process lives.
fn server(serve: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Holds the connection and never says a word.
fn never_answers(mut stream: TcpStream) {
    let mut heard = [0; 512];
    while stream.read(&mut heard).is_ok_and(|n| n > 0) {}
}

/// Accepts and hangs up.
fn hangs_up(_: TcpStream) {}

/// Sends what is no RTSP, as fast as it is taken.
fn sends_rubbish(mut stream: TcpStream) {
    let rubbish: Vec<u8> = (0..65_536_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    while stream.write_all(&rubbish).is_ok() {}
}

/// One byte of an answer at a time, and never the last.
fn answers_slowly(mut stream: TcpStream) {
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket can time out");
    let mut heard = [0; 512];
    for byte in b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
        let asked = stream.read(&mut heard);
        if asked.is_ok_and(|n| n == 0) || stream.write_all(&[*byte]).is_err() {
            return;
        }
    }
}

fn rtsp(address: impl std::fmt::Display) -> Camera {
    let url = format!("rtsp://{address}/stream");
    Camera { frozen_after: Duration::from_secs(2), ..camera(crate::common::camera::rtsp(url, None)) }
}

/// Every bad camera that there is.
fn bad(dir: &Path) -> (RtspServer, Vec<(&'static str, Camera)>) {
    let noise = dir.join("noise.ts");
    let rubbish = (0..400_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect::<Vec<_>>();
    let mut damaged = std::fs::read(video::h264(dir, "short.ts", "320x180", 15, 2)).expect("just rendered");
    damaged.extend(&rubbish);
    std::fs::write(&noise, damaged).expect("writable");
    let freezing = video::h264(dir, "freezing264.mp4", "320x180", 15, 20);
    let server_that_stalls = RtspServer::start(&["--freeze-after", "1"], &[("stream", &freezing)]);
    let dead = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let stalling = format!("127.0.0.1:{}", server_that_stalls.port);
    let cameras = vec![
        ("a dead address", rtsp(dead)),
        ("one that stalls", rtsp(stalling)),
        ("one that never answers", rtsp(server(never_answers))),
        ("one that answers slowly", rtsp(server(answers_slowly))),
        ("one that sends rubbish", rtsp(server(sends_rubbish))),
        ("one that hangs up", rtsp(server(hangs_up))),
        ("a damaged file, over and over", camera(file(&noise, Pace::FlatOut, true))),
    ];
    (server_that_stalls, cameras)
}

/// What three good cameras gave: a file in real time each, to its end.
fn good(path: &Path) -> Vec<(Seen, u64)> {
    let cameras: Vec<_> = (0..GOOD).map(|_| Running::start(camera(file(path, Pace::Realtime, false)), ALL)).collect();
    let finished = cameras.into_iter().map(|running| {
        let stats = running.stats.clone();
        let (seen, outcome) = running.finish();
        outcome.expect("a good camera");
        (seen, stats.skipped.get())
    });
    finished.collect()
}

/// Everything the camera has came, in order, without a gap.
fn is_whole(what: &str, (seen, skipped): &(Seen, u64)) {
    assert_eq!(*skipped, 0, "{what}: nothing was left out");
    assert_eq!(seen.units.len() as u64, FPS * SECONDS, "{what}");
    assert_eq!(seen.frames.len() as u64, 8 * SECONDS, "{what}");
    assert!(seen.units.iter().all(|u| !u.discontinuity) && seen.frames.iter().all(|f| !f.discontinuity), "{what}");
    let mut shown: Vec<u64> = seen.units.iter().map(|u| u.pts.as_nanos()).collect();
    shown.sort_unstable();
    let steps = shown.windows(2).map(|w| (w[1] - w[0]) / 1_000_000);
    assert!(steps.clone().all(|ms| (65..=68).contains(&ms)), "{what}: {:?}", steps.collect::<Vec<_>>());
    assert!(!seen.states.iter().any(|s| matches!(s, CameraState::Lost { .. } | CameraState::Failed { .. })), "{what}");
}

#[test]
fn bad_cameras_take_nothing_from_good_ones() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = video::h264(dir.path(), "good.mp4", "320x180", FPS as u32, SECONDS as u32);
    let alone = good(&path);
    alone.iter().for_each(|seen| is_whole("alone", seen));

    let (_server, bad) = bad(dir.path());
    let bad: Vec<_> = bad.into_iter().map(|(what, camera)| (what, Running::start(camera, ALL))).collect();
    let beside = good(&path);
    beside.iter().for_each(|seen| is_whole("beside bad cameras", seen));
    for ((a, _), (b, _)) in alone.iter().zip(&beside) {
        let pixels = |s: &Seen| s.frames.iter().map(|f| f.rgb.clone()).collect::<Vec<_>>();
        assert!(pixels(a) == pixels(b), "the same pictures, and the same of them");
    }
    // And the bad ones were bad, or this was no test.
    for (what, running) in bad {
        let troubled = |s: &Seen| {
            let lost = |s: &CameraState| matches!(s, CameraState::Lost { .. } | CameraState::Failed { .. });
            s.states.iter().any(lost) || s.units.iter().any(|u| u.discontinuity)
        };
        running.recorder.wait_for(what, troubled);
        println!("{what}: {:?}", running.stop().0.states.last());
    }
}
