//! A TCP relay that stands for the network: it can be slow, swallow everything, or be cut.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use vedette::base::clock::{Clock, SystemClock};
use vedette::base::stop::StopToken;

const POLL: Duration = Duration::from_millis(20);

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Hands everything on.
    Sound,
    /// Hands everything on, one piece after the other, each taking so long: a narrow line.
    Slow(Duration),
    /// Hands everything on so much later: a long line.
    Late(Duration),
    /// Takes everything and hands on nothing; connections stay open.
    BlackHole,
    /// Hands on what the device says, and swallows what it is answered.
    Unanswered,
    /// Ends every connection at once.
    Cut,
}

struct Shared {
    network: Mutex<Network>,
    stop: StopToken,
}

/// A running relay; ends with its value.
pub struct Relay {
    /// Where it listens, on the loopback interface.
    pub port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// A relay to a port of the loopback interface.
    pub fn to(target: u16) -> Relay {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("sockets can be made non-blocking");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared { network: Mutex::new(Network::Sound), stop: StopToken::new() });
        let inside = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut pipes = Vec::new();
            while !inside.stop.wait(POLL) {
                let Ok((near, _)) = listener.accept() else { continue };
                if inside.now() == Network::Cut {
                    continue;
                }
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else { continue };
                for (from, to, answers) in [(&near, &far, false), (&far, &near, true)] {
                    let (from, to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
                    let inside = Arc::clone(&inside);
                    pipes.push(std::thread::spawn(move || inside.pipe(from, to, answers)));
                }
            }
            for pipe in pipes {
                pipe.join().expect("pipes do not panic");
            }
        });
        Relay { port, shared, thread: Some(thread) }
    }

    /// Changes the network, for open connections too.
    pub fn set(&self, network: Network) {
        *self.shared.network.lock().expect("nobody panics under this lock") = network;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the relay does not panic");
        }
    }
}

impl Shared {
    fn now(&self) -> Network {
        *self.network.lock().expect("nobody panics under this lock")
    }

    fn pipe(&self, mut from: TcpStream, mut to: TcpStream, answers: bool) {
        from.set_nonblocking(false).expect("sockets can be made blocking");
        from.set_read_timeout(Some(POLL)).expect("a time-out above zero");
        to.set_nodelay(true).expect("TCP");
        let (clock, mut late) = (SystemClock::new(), VecDeque::new());
        let mut buffer = [0; 1 << 14];
        while !self.stop.is_stopped() && self.now() != Network::Cut {
            while late.front().is_some_and(|(due, _)| *due <= clock.now()) {
                let Some((_, piece)) = late.pop_front() else { break };
                let piece: Vec<u8> = piece;
                if to.write_all(&piece).is_err() {
                    break;
                }
            }
            let n = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(_) => break,
            };
            match self.now() {
                Network::BlackHole => continue,
                Network::Unanswered if answers => continue,
                Network::Cut => break,
                Network::Late(delay) => {
                    late.push_back((clock.now() + delay, buffer[..n].to_vec()));
                    continue;
                }
                Network::Slow(delay) if self.stop.wait(delay) => break,
                Network::Slow(_) | Network::Unanswered | Network::Sound => {}
            }
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        for side in [from, to] {
            // It may be closed already, by the other pipe or its peer.
            side.shutdown(Shutdown::Both).unwrap_or(());
        }
    }
}
