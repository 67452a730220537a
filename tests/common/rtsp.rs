//! A real RTSP server as a camera: `rtsp_server.py` beside this file (packages python3-gi and
//! gir1.2-gst-rtsp-server-1.0), on a free port of the loopback interface, killed when dropped.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A server that listens.
pub struct RtspServer {
    child: Child,
    /// Its port.
    pub port: u16,
}

impl RtspServer {
    /// Serves `videos` (path in the URL, file) with these further arguments of the script.
    pub fn start(args: &[&str], videos: &[(&str, &Path)]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/rtsp_server.py");
        // The system's Python, not another one that is before it in PATH: the package is for that one.
        let mut child = Command::new("/usr/bin/python3")
            .arg(script)
            .args(args)
            .args(videos.iter().map(|(path, file)| format!("{path}={}", file.display())))
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("readable");
        let port = line.trim().parse().expect("the RTSP server prints its port (package gir1.2-gst-rtsp-server-1.0)");
        RtspServer { child, port }
    }

    /// Stops the server where it is, with all its connections open, until [`Self::go_on`].
    pub fn stall(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a stalled server go on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it was started by us");
    }

    /// The address of one of its videos.
    pub fn url(&self, path: &str) -> String {
        format!("rtsp://127.0.0.1:{}/{path}", self.port)
    }
}

impl Drop for RtspServer {
    fn drop(&mut self) {
        self.child.kill().expect("it was started by us");
        self.child.wait().expect("it was started by us");
    }
}
