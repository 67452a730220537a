//! A network camera of our own making that is as odd, broken or hostile as a test wants: RTSP over TCP with the
//! video interleaved, on a free port of the loopback interface. What a real server does is `rtsp`'s part.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use vedette::base::stop::StopToken;

const POLL: Duration = Duration::from_millis(20);
/// Pictures a second that it sends.
pub const FPS: u64 = 15;
/// Ticks of RTP time from one picture to the next.
pub const TICKS: u32 = 90_000 / FPS as u32;

/// What it does with whoever connects.
#[derive(Clone)]
pub enum Manner {
    /// Speaks RTSP, after this script.
    Camera(Arc<Script>),
    /// Takes the connection and everything that is sent, and says nothing.
    Silent,
    /// Says `first`, and then `again` for ever, each time after waiting for `pause`.
    Says { first: Vec<u8>, again: Vec<u8>, pause: Duration },
    /// Ends every connection at once.
    Shut,
}

/// Changes the RTP payload of the packet with this number.
pub type Spoil = Box<dyn Fn(u64, &mut Vec<u8>) + Send + Sync>;

/// How it speaks RTSP.
pub struct Script {
    /// The answer to DESCRIBE.
    pub sdp: String,
    /// Header lines of the answer to DESCRIBE beside the usual ones, each ending in CR LF.
    pub headers: String,
    /// Control URL of the track that has the video; any other SETUP is answered 404.
    pub track: String,
    /// RTP payload type of the video.
    pub payload_type: u8,
    /// Access units, each a list of NAL units; sent over and over.
    pub video: Vec<Vec<Vec<u8>>>,
    /// RTP time of a picture by its number.
    pub time: Box<dyn Fn(u64) -> u32 + Send + Sync>,
    /// What goes wrong on the way.
    pub spoil: Spoil,
    /// Header line of a session, CR LF at its end, in the answers to SETUP and to all that follows.
    pub session: [&'static str; 2],
    /// A method that is answered by a line that grows by a byte every 100 ms and never ends.
    pub drips_at: Option<&'static str>,
    /// Group and even port to which it sends, instead of within the connection.
    pub group: Option<SocketAddrV4>,
    /// Microseconds since 1970 by the camera's clock, for an RTCP sender report with every fifth picture.
    pub clock: Option<Box<dyn Fn() -> u64 + Send + Sync>>,
}

impl Script {
    /// A camera as it should be, that sends this Annex B file of H.264.
    pub fn of(annex_b: &Path) -> Script {
        Script {
            sdp: sdp("m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:track1\r\n"),
            headers: String::new(),
            track: "track1".into(),
            payload_type: 96,
            video: access_units(&std::fs::read(annex_b).expect("a rendered video")),
            time: Box::new(|picture| 1_000_000_u32.wrapping_add((picture as u32).wrapping_mul(TICKS))),
            spoil: Box::new(|_, _| {}),
            session: ["Session: 12345678;timeout=30\r\n"; 2],
            drips_at: None,
            group: None,
            clock: None,
        }
    }

    pub fn camera(self) -> Manner {
        Manner::Camera(Arc::new(self))
    }
}

/// A session description with these media.
pub fn sdp(media: &str) -> String {
    format!("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=odd\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\n{media}")
}

/// A running camera; ends with its value.
pub struct OddCamera {
    /// Where it listens.
    pub port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    manner: Mutex<(u64, Manner)>,
    /// Methods of the requests so far.
    requests: Mutex<Vec<String>>,
    stop: StopToken,
}

impl OddCamera {
    pub fn start(manner: Manner) -> OddCamera {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("sockets can be made non-blocking");
        let port = listener.local_addr().expect("it is bound").port();
        let shared =
            Arc::new(Shared { manner: Mutex::new((0, manner)), requests: Mutex::default(), stop: StopToken::new() });
        let inside = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut clients = Vec::new();
            while !inside.stop.wait(POLL) {
                let Ok((client, _)) = listener.accept() else { continue };
                let inside = Arc::clone(&inside);
                clients.push(std::thread::spawn(move || inside.serve(&client)));
            }
            for client in clients {
                client.join().expect("it does not panic");
            }
        });
        OddCamera { port, shared, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("rtsp://127.0.0.1:{}/odd", self.port)
    }

    /// Changes its manner; open connections are ended.
    pub fn set(&self, manner: Manner) {
        let mut now = self.shared.manner.lock().unwrap();
        *now = (now.0 + 1, manner);
    }

    /// How often a method was asked for.
    pub fn asked(&self, method: &str) -> usize {
        self.shared.requests.lock().unwrap().iter().filter(|m| *m == method).count()
    }
}

impl Drop for OddCamera {
    fn drop(&mut self) {
        self.shared.stop.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it does not panic");
        }
    }
}

impl Shared {
    fn serve(&self, client: &TcpStream) {
        client.set_nonblocking(false).expect("sockets can be made blocking");
        client.set_read_timeout(Some(POLL)).expect("a time-out above zero");
        client.set_write_timeout(Some(Duration::from_secs(1))).expect("a time-out above zero");
        let (turn, manner) = self.manner.lock().unwrap().clone();
        let on = || !self.stop.is_stopped() && self.manner.lock().unwrap().0 == turn;
        match &manner {
            Manner::Camera(script) => self.play(client, script, &on),
            Manner::Silent => while on() && heard(client, &mut [0; 4096]).is_some() {},
            Manner::Says { first, again, pause } => {
                let mut out = client;
                let mut said = out.write_all(first);
                while said.is_ok() && on() && heard_nothing_or_something(client) {
                    self.stop.wait(*pause);
                    said = out.write_all(again);
                }
            }
            Manner::Shut => {}
        }
        // It may be closed already.
        client.shutdown(Shutdown::Both).unwrap_or(());
    }

    fn play(&self, client: &TcpStream, script: &Script, on: &impl Fn() -> bool) {
        let out = Mutex::new(client.try_clone().expect("a socket"));
        let mut reader = BufReader::new(client);
        std::thread::scope(|scope| {
            let gone = StopToken::new();
            while let Some(head) = request(&mut reader, on) {
                let word = |n: usize| head[0].split(' ').nth(n).unwrap_or("").to_owned();
                let header = |name: &str| {
                    let found = head.iter().find_map(|l| l.strip_prefix(name).map(|v| v.trim().to_owned()));
                    found.unwrap_or_default()
                };
                let (method, uri) = (word(0), word(1));
                self.requests.lock().unwrap().push(method.clone());
                if script.drips_at == Some(method.as_str()) {
                    let mut client = client;
                    let mut said = client.write_all(b"RTSP/1.0 200 OK\r\nX-Slow: ");
                    while said.is_ok() && on() && heard_nothing_or_something(client) {
                        self.stop.wait(Duration::from_millis(100));
                        said = client.write_all(b"z");
                    }
                    break;
                }
                let ok = format!("RTSP/1.0 200 OK\r\nCSeq: {}\r\n", header("CSeq:"));
                let answer = match method.as_str() {
                    "OPTIONS" => format!("{ok}Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER\r\n\r\n"),
                    "DESCRIBE" => format!(
                        "{ok}Content-Type: application/sdp\r\n{}Content-Length: {}\r\n\r\n{}",
                        script.headers,
                        script.sdp.len(),
                        script.sdp
                    ),
                    "SETUP" if !uri.ends_with(&script.track) => ok.replace("200 OK", "404 Not Found") + "\r\n",
                    "SETUP" if script.group.is_some() != header("Transport:").contains("multicast") => {
                        ok.replace("200 OK", "461 Unsupported Transport") + "\r\n"
                    }
                    "SETUP" if let Some(group) = script.group => format!(
                        "{ok}Transport: RTP/AVP;multicast;destination={};port={}-{};ttl=1\r\n{}\r\n",
                        group.ip(),
                        group.port(),
                        group.port() + 1,
                        script.session[0]
                    ),
                    "SETUP" if !header("Transport:").contains("RTP/AVP/TCP") => {
                        ok.replace("200 OK", "461 Unsupported Transport") + "\r\n"
                    }
                    "SETUP" => {
                        format!("{ok}Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n{}\r\n", script.session[0])
                    }
                    _ => format!("{ok}{}\r\n", script.session[1]),
                };
                if out.lock().unwrap().write_all(answer.as_bytes()).is_err() {
                    break;
                }
                if method == "PLAY" {
                    let (out, gone) = (&out, gone.clone());
                    scope.spawn(move || self.send(out, script, &gone));
                }
            }
            gone.stop();
        });
    }

    fn send(&self, out: &Mutex<TcpStream>, script: &Script, gone: &StopToken) {
        let group =
            script.group.map(|group| (UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port"), group));
        let (mut packet, mut sequence) = (0_u64, 0_u16);
        for picture in 0.. {
            if gone.wait(Duration::from_micros(1_000_000 / FPS)) || self.stop.is_stopped() {
                return;
            }
            let time = (script.time)(picture);
            let unit = &script.video[picture as usize % script.video.len()];
            let mut all = Vec::new();
            for (i, nal) in unit.iter().enumerate() {
                let payloads = payloads(nal);
                let last_unit = i + 1 == unit.len();
                for (j, mut payload) in payloads.iter().cloned().enumerate() {
                    (script.spoil)(packet, &mut payload);
                    let marker = last_unit && j + 1 == payloads.len();
                    let mut rtp = vec![0x80, script.payload_type | u8::from(marker) << 7];
                    rtp.extend(sequence.to_be_bytes());
                    rtp.extend(time.to_be_bytes());
                    rtp.extend(*b"oddc");
                    rtp.extend(payload);
                    match &group {
                        Some((socket, group)) => drop(socket.send_to(&rtp, group)),
                        None => all.extend(interleaved(0, &rtp)),
                    }
                    (packet, sequence) = (packet + 1, sequence.wrapping_add(1));
                }
            }
            if let Some(clock) = script.clock.as_ref().filter(|_| picture % 5 == 0) {
                all.extend(interleaved(1, &sender_report(clock(), time)));
            }
            if out.lock().unwrap().write_all(&all).is_err() {
                return;
            }
        }
    }
}

/// The lines of the next request, without its body; none at the end. Interleaved data is passed over.
fn request(reader: &mut BufReader<&TcpStream>, on: &impl Fn() -> bool) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    while on() {
        if line.is_empty() && reader.buffer().first() == Some(&b'$') {
            let mut head = [0; 4];
            reader.read_exact(&mut head).ok()?;
            reader.read_exact(&mut vec![0; usize::from(u16::from_be_bytes([head[2], head[3]]))]).ok()?;
            continue;
        }
        match reader.fill_buf().map(|ahead| match ahead.first() {
            Some(b'$') if line.is_empty() => None,
            _ => Some(()),
        }) {
            Ok(None) => continue,
            Ok(Some(())) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => return None,
        }
        match reader.read_until(b'\n', &mut line) {
            Ok(0) => return None,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                match text.is_empty() {
                    true if lines.is_empty() => {}
                    true => return Some(lines),
                    false => lines.push(text),
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return None,
        }
    }
    None
}

/// How much was heard within [`POLL`]; none once the other side is gone.
fn heard(mut client: &TcpStream, buffer: &mut [u8]) -> Option<usize> {
    match client.read(buffer) {
        Ok(0) => None,
        Ok(n) => Some(n),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Some(0),
        Err(_) => None,
    }
}

fn heard_nothing_or_something(client: &TcpStream) -> bool {
    client.set_nonblocking(true).expect("sockets can be made non-blocking");
    let there = heard(client, &mut [0; 4096]).is_some();
    client.set_nonblocking(false).expect("sockets can be made blocking");
    there
}

fn interleaved(channel: u8, packet: &[u8]) -> Vec<u8> {
    let mut all = vec![b'$', channel];
    all.extend((packet.len() as u16).to_be_bytes());
    all.extend(packet);
    all
}

/// RFC 3550, 6.4.1, without report blocks.
fn sender_report(unix_us: u64, rtp_time: u32) -> Vec<u8> {
    let seconds = (unix_us / 1_000_000 + 2_208_988_800) as u32;
    let fraction = (((unix_us % 1_000_000) << 32) / 1_000_000) as u32;
    let mut report = vec![0x80, 200, 0, 6];
    report.extend(*b"oddc");
    for word in [seconds, fraction, rtp_time, 0, 0] {
        report.extend(word.to_be_bytes());
    }
    report
}

/// A NAL unit as RTP payloads: whole, or in pieces (RFC 6184, 5.6 and 5.8).
fn payloads(nal: &[u8]) -> Vec<Vec<u8>> {
    const MOST: usize = 1_400;
    if nal.len() <= MOST {
        return vec![nal.to_vec()];
    }
    let pieces = nal[1..].chunks(MOST);
    let last = pieces.len() - 1;
    let head = |i: usize| [nal[0] & 0xe0 | 28, u8::from(i == 0) << 7 | u8::from(i == last) << 6 | nal[0] & 0x1f];
    pieces.enumerate().map(|(i, piece)| head(i).iter().chain(piece).copied().collect()).collect()
}

/// The access units of an Annex B stream of one slice a picture.
fn access_units(stream: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let starts: Vec<usize> =
        (0..stream.len().saturating_sub(3)).filter(|i| stream[*i..].starts_with(&[0, 0, 1])).collect();
    let mut units = vec![Vec::new()];
    for (i, start) in starts.iter().enumerate() {
        let end = starts.get(i + 1).copied().unwrap_or(stream.len());
        let mut nal = &stream[start + 3..end];
        while let Some((0, rest)) = nal.split_last() {
            nal = rest;
        }
        let (kind, current) = (nal[0] & 0x1f, units.last_mut().expect("there is one"));
        current.push(nal.to_vec());
        if matches!(kind, 1 | 5) {
            units.push(Vec::new());
        }
    }
    units.retain(|unit| !unit.is_empty());
    units
}
