//! A process of ours that does what might hang, take all memory or die: with bounds, and watched while it works.
//!
//! ```text
//!   parent ── input (standard input) ──► child ── one JSON line after the other (standard output) ──► parent
//!     └─ ends it: told to stop, too long, the machine is short of memory
//! ```
//!
//! What does not belong here: what is asked and answered.

use std::io::{BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal};
use serde::de::DeserializeOwned;

use super::clock::Clock;
use super::stop::StopToken;

/// How often the child is looked after.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Lines that wait to be looked at; the child waits beyond that.
const LINES: usize = 64;
/// A line of the child's is at most so long; more is not one.
const LINE_MAX_BYTES: usize = 64 * 1024;
/// A child that was killed and a parent that is told to end are one and the same end, if they come so close together.
const TOLD_TOO: Duration = Duration::from_secs(2);
/// The lowest priority: whatever else runs goes first.
const NICE: i32 = 19;

/// What bounds it from outside.
pub struct Bounds<'a> {
    /// The longest it may take.
    pub within: Duration,
    /// It is ended when the machine has less memory left.
    pub keeps_free_bytes: u64,
    /// What the machine has left, where that can be told.
    pub left_bytes: &'a dyn Fn() -> Option<u64>,
}

/// Why it came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be started.
    #[error("no process could be started")]
    Spawn(#[source] std::io::Error),
    /// It ended without a word.
    #[error("the process ended {how}")]
    Died {
        /// By which status.
        how: String,
        /// By the kernel or a person: not by what it did itself.
        killed: bool,
    },
    /// It took too long.
    #[error("the process was not done after {} s", .0.as_secs())]
    TooLong(Duration),
    /// The machine ran short of memory.
    #[error(
        "the process was ended: it left the machine {} MB of memory, and {} MB are to stay free",
        left_bytes / 1_000_000,
        keeps_free_bytes / 1_000_000
    )]
    Memory {
        /// What was left.
        left_bytes: u64,
        /// What was to stay.
        keeps_free_bytes: u64,
    },
    /// The agent ends, or somebody called it off.
    #[error("the process was told to stop")]
    Stopped,
}

/// Runs it; `hear` is given each line, and ends it with what came of it. Between lines `round` is called, every 200 ms or so.
pub fn run<L: DeserializeOwned + Send + 'static, T>(
    command: &mut Command,
    input: &[u8],
    bounds: &Bounds<'_>,
    (clock, stop): (&dyn Clock, &StopToken),
    hear: &mut dyn FnMut(L) -> ControlFlow<T>,
) -> Result<T, ChildError> {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = Killed(spawned.map_err(ChildError::Spawn)?);
    let told = child.0.stdin.take().expect("piped").write_all(input);
    let lines = lines_of::<L>(&mut child.0)?;
    if let Err(e) = told {
        log::debug!("a process did not listen: {e}");
    }
    let began = clock.now();
    loop {
        match lines.recv_timeout(LOOK_EVERY) {
            Ok(line) => {
                if let ControlFlow::Break(done) = hear(line) {
                    return Ok(done);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let status = child.0.wait().map_err(ChildError::Spawn)?;
                let killed = matches!(status.signal(), Some(9 | 15));
                // A service manager ends both: who is told second is told soon.
                if killed && stop.wait(TOLD_TOO) {
                    return Err(ChildError::Stopped);
                }
                return Err(ChildError::Died { how: format!("by {status}"), killed });
            }
        }
        if stop.is_stopped() {
            return Err(ChildError::Stopped);
        }
        if clock.now().since(began) > bounds.within {
            return Err(ChildError::TooLong(bounds.within));
        }
        let keeps_free_bytes = bounds.keeps_free_bytes;
        if let Some(left_bytes) = (bounds.left_bytes)().filter(|left| *left < keeps_free_bytes) {
            return Err(ChildError::Memory { left_bytes, keeps_free_bytes });
        }
    }
}

/// A child that does not outlive its work.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        if let Err(e) = self.0.kill().and_then(|()| self.0.wait().map(drop)) {
            log::debug!("a process: {e}");
        }
    }
}

/// The child's lines as they come; what is none is passed over: a library may print what it likes.
fn lines_of<L: DeserializeOwned + Send + 'static>(child: &mut Child) -> Result<mpsc::Receiver<L>, ChildError> {
    let mut out = BufReader::with_capacity(LINE_MAX_BYTES, child.stdout.take().expect("piped"));
    let (send, lines) = mpsc::sync_channel(LINES);
    let read = move || {
        let mut line = Vec::new();
        loop {
            line.clear();
            match Read::take(&mut out, LINE_MAX_BYTES as u64).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            match serde_json::from_slice::<L>(&line) {
                Ok(line) => {
                    if send.send(line).is_err() {
                        return;
                    }
                }
                Err(_) => log::debug!("a process says: {}", String::from_utf8_lossy(&line).trim_end()),
            }
        }
    };
    std::thread::Builder::new().name("child lines".into()).spawn(read).map_err(ChildError::Spawn)?;
    Ok(lines)
}

/// In the child, first of all: last in every queue, first to go when memory is short, no more memory than it may have,
/// gone when its parent is.
pub fn bind_this_process(memory_bytes: u64) {
    let said = |what: &str, result: std::io::Result<()>| {
        if let Err(e) = result {
            log::warn!("this process: {what}: {e}");
        }
    };
    said("its priority", rustix::process::setpriority_process(None, NICE).map_err(Into::into));
    said("first to go", std::fs::write("/proc/self/oom_score_adj", "1000"));
    let limit = Rlimit { current: Some(memory_bytes), maximum: Some(memory_bytes) };
    said("its memory", rustix::process::setrlimit(Resource::Data, limit).map_err(Into::into));
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    said("no core file", rustix::process::setrlimit(Resource::Core, none).map_err(Into::into));
    let gone = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    said("to end with its parent", gone.map_err(Into::into));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::SystemClock;

    fn sh(script: &str, within_ms: u64, left: Option<u64>) -> Result<u32, ChildError> {
        let (clock, stop) = (SystemClock::new(), StopToken::new());
        let left_bytes = || left;
        let bounds =
            Bounds { within: Duration::from_millis(within_ms), keeps_free_bytes: 100, left_bytes: &left_bytes };
        let mut hear = |n: u32| if n > 1 { ControlFlow::Break(n) } else { ControlFlow::Continue(()) };
        run(Command::new("/bin/sh").args(["-c", script]), b"7\n", &bounds, (&clock, &stop), &mut hear)
    }

    #[test]
    fn the_answer_is_heard_and_what_is_none_is_passed_over() {
        assert_eq!(sh("echo hello; echo 1; read n; echo $n; exec sleep 60", 50_000, Some(100)).expect("an answer"), 7);
    }

    #[test]
    fn whatever_becomes_of_it_is_told_apart() {
        let died = sh("echo 1; exit 3", 50_000, None).expect_err("it ended");
        assert!(matches!(&died, ChildError::Died { how, killed: false } if how.contains('3')), "{died}");
        let killed = sh("kill -9 $$", 50_000, None).expect_err("it ended");
        assert!(matches!(killed, ChildError::Died { killed: true, .. }), "{killed}");
        assert!(matches!(sh("exec sleep 60", 300, None), Err(ChildError::TooLong(_))));
        assert!(matches!(sh("exec sleep 60", 50_000, Some(99)), Err(ChildError::Memory { left_bytes: 99, .. })));
    }
}
