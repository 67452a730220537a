//! The daemon as systemd sees it: readiness, watchdog, reload, and the end, over a real notification socket.

use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use crate::common::agent::Agent;
use crate::common::wait_for;

/// What systemd would receive, one assignment each.
fn notifications(socket: UnixDatagram) -> Receiver<String> {
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n) = socket.recv(&mut buffer) {
            for line in String::from_utf8_lossy(&buffer[..n]).lines() {
                if tx.send(line.to_owned()).is_err() {
                    return;
                }
            }
        }
    });
    rx
}

fn expect(from: &Receiver<String>, wanted: &str) {
    wait_for(wanted, || from.recv_timeout(Duration::from_millis(50)).ok().filter(|said| said.starts_with(wanted)));
}

#[test]
fn it_says_ready_pings_the_watchdog_reloads_and_says_when_it_stops() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("notify");
    let said = notifications(UnixDatagram::bind(&path).expect("bindable"));
    let mut agent = Agent::with_pattern("");
    agent.environment(&[("NOTIFY_SOCKET", path.to_str().expect("UTF-8")), ("WATCHDOG_USEC", "2000000")]);
    agent.restart();
    expect(&said, "READY=1");
    expect(&said, "STATUS=");
    // Pinged again and again: every stage goes round.
    expect(&said, "WATCHDOG=1");
    expect(&said, "WATCHDOG=1");
    agent.signal("HUP");
    expect(&said, "RELOADING=1");
    expect(&said, "READY=1");
    agent.signal("TERM");
    expect(&said, "STOPPING=1");
    assert!(agent.wait().success());
}

#[test]
fn its_unit_gives_it_more_time_to_stop_than_it_takes() {
    let unit = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/vedette.service")).expect("there");
    let seconds = |key: &str| -> u64 {
        let value = unit.lines().find_map(|l| l.strip_prefix(key)).expect("in the unit");
        value.trim_end_matches('s').parse().expect("seconds")
    };
    // See `ALL_END_WITHIN` in src/agent/run/mod.rs.
    assert!(seconds("TimeoutStopSec=") > 30);
    assert!(seconds("WatchdogSec=") >= 30);
    assert!(unit.contains("Type=notify"));
}
