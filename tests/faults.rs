//! A stage of the real daemon that panics, and one that hangs, as systemd sees it.
//!
//! The daemon runs in a process of its own: this test program once more, told to run the one test below that is not
//! run by itself. Its engine is the caller's (`Daemon::start_with`), so that nothing in the product has to know how to
//! break.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use vedette::agent::config;
use vedette::agent::infer::scripted;
use vedette::agent::run::Daemon;
use vedette::agent::run::service::{self, Ended};
use vedette::base::clock::SystemClock;
use vedette::base::stop::StopToken;

use crate::common::agent::Agent;
use crate::common::wait_for;

const FAULT: &str = "VEDETTE_TEST_FAULT";
const CONFIG: &str = "VEDETTE_TEST_CONFIG";

#[test]
#[ignore = "a daemon that breaks; the tests below run it"]
fn daemon_that_breaks() {
    let (Ok(fault), Ok(path)) = (std::env::var(FAULT), std::env::var(CONFIG)) else { return };
    log::set_logger(&ToStderr).expect("the only one");
    log::set_max_level(log::LevelFilter::Info);
    let config = config::load(path.as_ref()).expect("a good config");
    let daemon = Daemon::start_with(config, Arc::new(SystemClock::new()), move |model| {
        let classes = model.manifest().classes.len();
        let (mut windows, fault) = (0, fault.clone());
        Ok(scripted::engine(model.manifest(), move |_| {
            windows += 1;
            match fault.as_str() {
                // A few first, so that it is seen to work.
                _ if windows < 4 => vec![1.0 / classes as f32; classes],
                "panic" => panic!("the test's own panic"),
                _ => {
                    StopToken::new().wait(Duration::from_secs(600));
                    unreachable!("it is killed before")
                }
            }
        }))
    });
    match service::serve(daemon.expect("it starts"), path.as_ref()).expect("it serves") {
        Ended::Asked(report) => assert!(report.troubles.is_empty(), "{report}"),
        Ended::Broken { why, report } => panic!("stopped because {why}; {report}"),
    }
}

struct ToStderr;

impl log::Log for ToStderr {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        writeln!(std::io::stderr(), "{}", record.args()).ok();
    }
    fn flush(&self) {}
}

/// That daemon, and what it tells systemd.
struct Breaking {
    agent: Agent,
    child: Child,
    socket: UnixDatagram,
}

impl Breaking {
    fn start(fault: &str) -> Breaking {
        let agent = Agent::with_pattern("");
        let path = agent.state().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bindable");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("settable");
        let log = std::fs::File::create(agent.log_path()).expect("writable");
        let child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--ignored", "--exact", "faults::daemon_that_breaks", "--nocapture"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .envs([(FAULT, fault), ("NOTIFY_SOCKET", path.to_str().expect("UTF-8")), ("WATCHDOG_USEC", "2000000")])
            .env(CONFIG, agent.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Breaking { agent, child: child.expect("this test can run itself"), socket }
    }

    /// What has come since, each assignment a line.
    fn told(&self) -> String {
        let (mut all, mut buffer) = (String::new(), [0; 4096]);
        while let Ok(n) = self.socket.recv(&mut buffer) {
            all.push_str(&String::from_utf8_lossy(&buffer[..n]));
            all.push('\n');
        }
        all
    }

    fn wait_until_told(&self, what: &str) {
        wait_for(what, || self.told().contains(what).then_some(()));
    }
}

impl Drop for Breaking {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_stage_that_panics_drains_the_daemon_and_fails_it() {
    let mut daemon = Breaking::start("panic");
    daemon.wait_until_told("READY=1");
    daemon.wait_until_told("STOPPING=1");
    let status = wait_for("its end", || daemon.child.try_wait().expect("our own child"));
    assert!(!status.success());
    let log = daemon.agent.log();
    assert!(log.contains("the test's own panic"), "{log}");
    assert!(log.contains("infer panicked: the test's own panic"), "what could not be drained is named: {log}");
    // The rest was drained: the database is whole, unlocked, and a new daemon starts on it.
    daemon.agent.restart();
    assert!(daemon.agent.terminate().success());
}

#[test]
fn a_stage_that_hangs_gets_no_ping_and_is_named() {
    let daemon = Breaking::start("hang");
    daemon.wait_until_told("READY=1");
    daemon.wait_until_told("WATCHDOG=1");
    let looks_in_vain = || daemon.agent.log().matches("no ping for the watchdog: these stages hang: infer").count();
    wait_for("the stage to hang", || (looks_in_vain() > 0).then_some(()));
    daemon.told();
    // Two of systemd's time-outs.
    wait_for("more looks", || (looks_in_vain() > 4).then_some(()));
    assert!(!daemon.told().contains("WATCHDOG=1"), "it would have been killed");
}
