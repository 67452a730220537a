//! The metrics as Prometheus fetches them.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};

use crate::common::agent::{Agent, PATTERN, stderr, stdout, vedette};
use crate::common::wait_for;

fn fetch(url: &str) -> String {
    let output =
        Command::new("curl").args(["-sS", "-i", "--noproxy", "*", "--max-time", "30", url]).output().expect("curl");
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

/// The reference parser, where this machine has it; it is strict about types, names and values.
const PARSER: &str = "
import sys
try:
    from prometheus_client.parser import text_string_to_metric_families as parse
except ImportError:
    sys.exit(77)
families = list(parse(sys.stdin.read()))
assert len({f.name for f in families}) == len(families) > 15, families
for f in families:
    assert f.documentation and f.type in ('counter', 'gauge', 'summary') and f.samples, f
frames = [s for f in families for s in f.samples if s.name == 'vedette_camera_frames_total']
assert [s.labels for s in frames] == [{'camera': 'pattern'}] and frames[0].value > 0, frames
";

#[test]
#[allow(clippy::print_stderr, reason = "a test that tests less must be seen")]
fn prometheus_reads_what_the_heartbeat_says() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port();
    let agent = Agent::new(PATTERN, &format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n")).start();
    let url = format!("http://127.0.0.1:{port}/metrics");
    let answer = wait_for("frames", || {
        let answer = fetch(&url);
        let frames = answer.lines().find(|l| l.starts_with("vedette_camera_frames_total{camera=\"pattern\"} "))?;
        // The first frame may be counted in the moment before the camera is called live.
        let up = answer.contains("vedette_camera_up{camera=\"pattern\"} 1\n");
        (up && !frames.ends_with(" 0")).then_some(answer)
    });
    let (head, page) = answer.split_once("\r\n\r\n").expect("head and body");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(fetch(&format!("http://127.0.0.1:{port}/v1/status")).starts_with("HTTP/1.1 404"), "nothing else is there");
    let mut parser = Command::new("python3").args(["-c", PARSER]).stdin(Stdio::piped()).spawn().expect("python3");
    std::io::Write::write_all(&mut parser.stdin.take().expect("piped"), page.as_bytes()).expect("read");
    match parser.wait().expect("our child").code() {
        Some(77) => {
            eprintln!("SKIPPED: no prometheus_client here (pip install prometheus_client): only our own checks")
        }
        code => assert_eq!(code, Some(0), "{page}"),
    }
    drop(agent);
}

#[test]
fn check_says_what_anybody_may_read() {
    let agent = Agent::new(PATTERN, "[metrics]\nlisten = \"0.0.0.0:9464\"\n[http]\nlisten = \"[::]:8443\"\n");
    let said = stdout(&agent.command(&["check"]));
    assert!(said.contains("metrics.listen: ") && said.contains("beyond this machine"), "{said}");
    assert!(said.contains("http.listen: ") && said.contains("signs itself"), "{said}");
    let local = Agent::new(PATTERN, "[metrics]\nlisten = \"127.0.0.1:9464\"\n");
    assert!(!stdout(&local.command(&["check"])).contains("metrics.listen"));
    let bad = Agent::new(PATTERN, "[metrics]\nlisten = \"9464\"\n");
    let output = vedette([std::ffi::OsStr::new("check"), "--config".as_ref(), bad.config().as_ref()]);
    assert!(stdout(&output).contains("metrics.listen") && output.status.code() == Some(1), "{}", stdout(&output));
}
