//! A look at who answers at a network camera's address, before GStreamer speaks to it.
//!
//! GStreamer's RTSP client can't be called back once an answer has begun: a peer that drips one, or never ends
//! it, keeps a thread and fills memory. And what it says of a peer that is no camera helps nobody. So the first
//! two questions of every session (OPTIONS, and DESCRIBE without a login) are asked here beforehand, with bounds on
//! time and size. An answer counts whatever its status; what it means is for the session to find out.
//!
//! No login is sent, and nothing is kept. An encrypted or tunnelled camera is only connected to.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::error::CaptureError;
use crate::base::clock::{Clock, Mono};
use crate::base::progress::Beat;
use crate::base::stop::StopToken;

/// How long connecting and both answers may take.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of an answer's header, and of its body. Real ones have a few thousand.
const HEAD_MOST: usize = 1 << 14;
const BODY_MOST: usize = 1 << 18;
/// What a read waits at most before it looks at the time again.
const ROUND: Duration = Duration::from_millis(100);
/// What is shown of an answer that isn't RTSP.
const SHOWN_MOST: usize = 40;

/// Whom to ask.
#[derive(Debug, Clone)]
pub struct Door {
    /// The address, for messages.
    pub place: String,
    /// Name or address, and port.
    pub endpoint: (String, u16),
    /// What to ask for; nothing where RTSP can't be spoken in the clear.
    pub url: Option<String>,
}

/// Asks, in a thread of its own: looking up a name can't be hurried. `Ok` also if a stop came first.
pub fn knock(door: Door, clock: &Arc<dyn Clock>, stop: &StopToken, beat: &Beat) -> Result<(), CaptureError> {
    let (answer, answered) = mpsc::channel();
    let place = door.place.clone();
    let visit = Visit { door, until: clock.now() + ANSWERS_WITHIN, clock: Arc::clone(clock), stop: stop.clone() };
    std::thread::Builder::new()
        .name("capture-knock".into())
        // Nobody listens any more after a stop.
        .spawn(move || answer.send(visit.ask()).ok())
        .map_err(|e| CaptureError::Pipeline { place: place.clone(), reason: format!("starting a thread: {e}") })?;
    loop {
        beat.beat();
        match answered.recv_timeout(ROUND) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Timeout) if stop.is_stopped() => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(CaptureError::Pipeline { place, reason: "looking at the camera failed".into() });
            }
        }
    }
}

struct Visit {
    door: Door,
    until: Mono,
    clock: Arc<dyn Clock>,
    stop: StopToken,
}

/// Why there is no (whole) answer.
enum Missing {
    /// The connection ended.
    Ended,
    /// Time is up, or a stop was asked for.
    TimeOut,
    /// It goes on and on.
    TooLong,
}

impl Visit {
    fn ask(&self) -> Result<(), CaptureError> {
        let mut camera = self.connect()?;
        let asked = match &self.door.url {
            Some(url) => self.questions(&mut camera, url),
            None => Ok(()),
        };
        // It may be closed already.
        camera.shutdown(Shutdown::Both).ok();
        if self.stop.is_stopped() { Ok(()) } else { asked }
    }

    fn connect(&self) -> Result<TcpStream, CaptureError> {
        let unreachable = |reason: String| CaptureError::Unreachable { place: self.door.place.clone(), reason };
        let (host, port) = &self.door.endpoint;
        let found = (host.as_str(), *port)
            .to_socket_addrs()
            .map_err(|e| unreachable(format!("the name {host} isn't known: {e}")))?;
        let mut reason = format!("the name {host} has no address");
        for address in found {
            // A time-out of zero is refused.
            match TcpStream::connect_timeout(&address, self.left().max(ROUND)) {
                Ok(camera) => {
                    let set = camera.set_read_timeout(Some(ROUND)).and(camera.set_write_timeout(Some(ANSWERS_WITHIN)));
                    return set.map(|()| camera).map_err(|e| unreachable(e.to_string()));
                }
                Err(e) => reason = e.to_string(),
            }
        }
        Err(unreachable(reason))
    }

    fn questions(&self, camera: &mut TcpStream, url: &str) -> Result<(), CaptureError> {
        let place = || self.door.place.clone();
        let silent = || CaptureError::NoAnswer { place: place(), within: ANSWERS_WITHIN };
        for (number, question) in ["OPTIONS", "DESCRIBE"].into_iter().enumerate() {
            let lines = format!("{question} {url} RTSP/1.0\r\nCSeq: {}\r\nAccept: application/sdp\r\n\r\n", number + 1);
            if camera.write_all(lines.as_bytes()).is_err() && number > 0 {
                return Ok(());
            }
            match self.answer(camera) {
                Ok(404) => return Err(CaptureError::NotFound { place: place() }),
                Ok(_) => {}
                Err(Answer::NotRtsp(found)) => return Err(CaptureError::NotRtsp { place: place(), found }),
                Err(Answer::Missing(Missing::TimeOut)) => return Err(silent()),
                Err(Answer::Missing(Missing::TooLong)) => {
                    let found = "more than any camera would say".into();
                    return Err(CaptureError::NotRtsp { place: place(), found });
                }
                // Some end the connection after a refusal; the session will find out.
                Err(Answer::Missing(Missing::Ended)) if number > 0 => return Ok(()),
                Err(Answer::Missing(Missing::Ended)) => {
                    let reason = "it ends every connection without a word".into();
                    return Err(CaptureError::Unreachable { place: place(), reason });
                }
            }
        }
        Ok(())
    }

    /// The status of the next answer, which is read to its end.
    fn answer(&self, camera: &mut TcpStream) -> Result<u16, Answer> {
        let mut got = Vec::new();
        let head = loop {
            match head(&got) {
                Head::Whole(head) => break head,
                Head::NotRtsp(found) => return Err(Answer::NotRtsp(found)),
                Head::Begun if got.len() > HEAD_MOST => return Err(Answer::Missing(Missing::TooLong)),
                Head::Begun => {}
            }
            if let Err(e) = self.more(camera, &mut got) {
                // What it has said so far is no RTSP, though it may be the beginning of a line of it.
                return Err(if got.is_empty() || got.starts_with(b"RTSP/") {
                    Answer::Missing(e)
                } else {
                    not_rtsp(&got)
                });
            }
        };
        if head.body > BODY_MOST {
            return Err(Answer::Missing(Missing::TooLong));
        }
        while got.len() < head.length + head.body {
            self.more(camera, &mut got).map_err(Answer::Missing)?;
        }
        Ok(head.status)
    }

    fn more(&self, camera: &mut TcpStream, got: &mut Vec<u8>) -> Result<(), Missing> {
        let mut buffer = [0; 4096];
        loop {
            if self.left().is_zero() || self.stop.is_stopped() {
                return Err(Missing::TimeOut);
            }
            match camera.read(&mut buffer) {
                Ok(0) => return Err(Missing::Ended),
                Ok(n) => {
                    got.extend(&buffer[..n]);
                    return Ok(());
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(_) => return Err(Missing::Ended),
            }
        }
    }

    fn left(&self) -> Duration {
        self.until.since(self.clock.now())
    }
}

enum Answer {
    NotRtsp(String),
    Missing(Missing),
}

/// The head of an answer, as far as it is there.
#[derive(Debug, PartialEq)]
enum Head {
    Begun,
    Whole(Whole),
    NotRtsp(String),
}

#[derive(Debug, PartialEq)]
struct Whole {
    status: u16,
    /// Bytes of the head, the empty line included, and of the body.
    length: usize,
    body: usize,
}

const START: &[u8] = b"RTSP/";

fn head(got: &[u8]) -> Head {
    if !got.iter().zip(START).all(|(a, b)| a == b) {
        // Its first line is worth waiting for, if it has one.
        let told = got.len() >= SHOWN_MOST || got.contains(&b'\n');
        return if told { Head::NotRtsp(shown(got)) } else { Head::Begun };
    }
    let end = |mark: &[u8]| got.windows(mark.len()).position(|w| w == mark).map(|at| at + mark.len());
    let Some(length) = [end(b"\r\n\r\n"), end(b"\n\n")].into_iter().flatten().min() else { return Head::Begun };
    let text = String::from_utf8_lossy(&got[..length]);
    let Some(status) = text.split_whitespace().nth(1).and_then(|word| word.parse().ok()) else {
        return Head::NotRtsp(shown(got));
    };
    let lengths = text.lines().filter_map(|line| line.split_once(':'));
    let mut length_of = lengths.filter(|(name, _)| name.trim().eq_ignore_ascii_case("content-length"));
    // A length that is no number is as good as none: the session will complain.
    let body = length_of.next_back().and_then(|(_, value)| value.trim().parse::<u64>().ok()).unwrap_or(0);
    Head::Whole(Whole { status, length, body: usize::try_from(body).unwrap_or(usize::MAX) })
}

fn not_rtsp(got: &[u8]) -> Answer {
    Answer::NotRtsp(shown(got))
}

/// The first line of what was said, if it can be shown to a person.
fn shown(got: &[u8]) -> String {
    let line = got.split(|b| matches!(b, b'\r' | b'\n')).next().unwrap_or_default();
    let text: String = line.iter().take(SHOWN_MOST).map(|b| char::from(*b)).collect();
    if !text.is_empty() && text.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
        format!("{text:?}")
    } else {
        "something that isn't text".into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers_are_told_from_what_is_none() {
        let whole = |status, length, body| Head::Whole(Whole { status, length, body });
        assert_eq!(head(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\ncontent-LENGTH: 12\r\n\r\nv=0"), whole(200, 48, 12));
        assert_eq!(head(b"RTSP/1.0 401 Unauthorized\n\n"), whole(401, 27, 0));
        assert_eq!(head(b"RTSP/1.0 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n"), whole(200, 57, 0));
        assert_eq!(head(b""), Head::Begun);
        assert_eq!(head(b"RTSP/1.0 200 OK\r\nCSeq"), Head::Begun);
        assert_eq!(head(b"RTSP/1.0 fine\r\n\r\n"), Head::NotRtsp("\"RTSP/1.0 fine\"".into()));
        assert_eq!(head(b"HTTP/1.1 400 Bad Request\r\n"), Head::NotRtsp("\"HTTP/1.1 400 Bad Request\"".into()));
        assert_eq!(head(&[7; 50]), Head::NotRtsp("something that isn't text".into()));
    }

    proptest! {
        #[test]
        fn whatever_is_said_is_read(got in prop::collection::vec(any::<u8>(), 0..200), proper in any::<bool>()) {
            let said = if proper { [b"RTSP/1.0 200 \r\n".as_slice(), &got, b"\r\n\r\n"].concat() } else { got };
            match head(&said) {
                Head::Whole(found) => prop_assert!(found.length <= said.len()),
                Head::NotRtsp(found) => prop_assert!(found.len() <= 2 * SHOWN_MOST + 2 && !found.contains('\n')),
                Head::Begun => prop_assert!(!proper),
            }
        }
    }
}
