//! Which cameras are in the network: WS-Discovery as ONVIF uses it (a question by UDP multicast, or to one address, and
//! answers to the port that asked). Over IPv4.
//!
//! Answers come from anybody. Their number, their size and the time are bounded, and what is kept of them is short and
//! printable. The address of a camera is the one that its answer came from; what it says of itself may be wrong.
//!
//! What does not belong here: speaking to a camera that was found.

mod answer;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use uuid::Uuid;

pub use answer::NetworkCamera;

use crate::base::clock::Clock;

/// Where WS-Discovery is asked.
pub const GROUP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250)), PORT);
/// WS-Discovery's port.
pub const PORT: u16 = 3702;

/// The question is put again once, after so long: datagrams get lost.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// What is waited for on one socket before the next is looked at.
const ROUND: Duration = Duration::from_millis(20);
/// Cameras and datagrams that one search takes in.
const CAMERAS_MOST: usize = 1_000;
const DATAGRAMS_MOST: usize = 10_000;
/// Bytes of a datagram that are looked at; a longer one is cut, and then isn't understood.
const DATAGRAM_MOST: usize = 1 << 15;

/// Why nothing could be asked.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The system doesn't tell its network interfaces.
    #[error("listing the network interfaces")]
    Interfaces(#[source] io::Error),
    /// None of them fits.
    #[error("there is no network interface {wanted} with an IPv4 address; there are: {found}")]
    NoInterface {
        /// Asked for.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// Nothing could be sent at all.
    #[error("asking {to} from {from}; is the network up?")]
    Send {
        /// Own address.
        from: Ipv4Addr,
        /// Whom.
        to: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A question.
#[derive(Debug, Clone)]
pub struct Search {
    /// Own addresses to ask from; one for each network.
    pub from: Vec<Ipv4Addr>,
    /// Whom: [`GROUP`], or single addresses, which answers also across routers.
    pub to: Vec<SocketAddr>,
    /// How long answers are waited for.
    pub within: Duration,
}

/// The machine's own IPv4 addresses, of all interfaces that are up but the loopback, or of the one with this name or
/// address.
pub fn own_addresses(interface: Option<&str>) -> Result<Vec<Ipv4Addr>, DiscoveryError> {
    let all = if_addrs::get_if_addrs().map_err(DiscoveryError::Interfaces)?;
    let of_v4 = |i: &if_addrs::Interface| match i.ip() {
        IpAddr::V4(address) => Some((i.name.clone(), address)),
        IpAddr::V6(_) => None,
    };
    let all: Vec<(String, Ipv4Addr)> = all.iter().filter_map(of_v4).collect();
    let chosen: Vec<Ipv4Addr> = match interface {
        Some(wanted) => all.iter().filter(|(n, a)| n == wanted || a.to_string() == wanted).map(|(_, a)| *a).collect(),
        None => all.iter().map(|(_, address)| *address).filter(|address| !address.is_loopback()).collect(),
    };
    if chosen.is_empty() {
        let found: Vec<String> = all.into_iter().map(|(name, address)| format!("{name} ({address})")).collect();
        return Err(DiscoveryError::NoInterface {
            wanted: interface.unwrap_or("beside the loopback").to_owned(),
            found: if found.is_empty() { "none".into() } else { found.join(", ") },
        });
    }
    Ok(chosen)
}

/// Asks, and waits for the whole time: how many cameras there are isn't known. Each camera comes once, by address.
pub fn search(search: &Search, clock: &dyn Clock) -> Result<Vec<NetworkCamera>, DiscoveryError> {
    let questions = [
        answer::Question::new(Uuid::now_v7(), "dn:NetworkVideoTransmitter"),
        answer::Question::new(Uuid::now_v7(), "tds:Device"),
    ];
    let sockets = ask_all(search, &questions)?;
    let start = clock.now();
    let mut found: BTreeMap<String, NetworkCamera> = BTreeMap::new();
    let mut buffer = vec![0; DATAGRAM_MOST];
    let (mut asked_again, mut datagrams) = (false, 0);
    while clock.now().since(start) < search.within && datagrams < DATAGRAMS_MOST {
        if !asked_again && clock.now().since(start) >= AGAIN_AFTER {
            asked_again = true;
            for (socket, to) in sockets.iter().flat_map(|s| search.to.iter().map(move |to| (s, to))) {
                questions.iter().for_each(|q| drop(socket.send_to(q.text.as_bytes(), to)));
            }
        }
        for socket in &sockets {
            let (length, from) = match socket.recv_from(&mut buffer) {
                Ok(got) => got,
                // Time is up, or an address that was asked has no such port: others may still answer.
                Err(e) => {
                    if !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
                        log::debug!("waiting for cameras: {e}");
                    }
                    continue;
                }
            };
            datagrams += 1;
            for camera in answer::read(&buffer[..length], from.ip(), &questions) {
                let known = found.len();
                match found.get_mut(&camera.endpoint) {
                    Some(before) => before.merge(camera),
                    None if known < CAMERAS_MOST => drop(found.insert(camera.endpoint.clone(), camera)),
                    None => {}
                }
            }
        }
    }
    let mut cameras: Vec<NetworkCamera> = found.into_values().collect();
    cameras.sort_by(|a, b| (a.address, &a.endpoint).cmp(&(b.address, &b.endpoint)));
    Ok(cameras)
}

/// A socket for each own address from which something could be asked.
fn ask_all(search: &Search, questions: &[answer::Question]) -> Result<Vec<UdpSocket>, DiscoveryError> {
    let mut sockets = Vec::new();
    let mut failure = None;
    for from in &search.from {
        // For a group, Linux sends from the interface that has the address to which a socket is bound.
        let asked = UdpSocket::bind((*from, 0)).and_then(|s| s.set_read_timeout(Some(ROUND)).map(|()| s));
        let mut fail = |to: SocketAddr, source| {
            log::debug!("asking {to} from {from}: {source}");
            failure.get_or_insert(DiscoveryError::Send { from: *from, to, source });
        };
        match asked {
            Ok(socket) => {
                let mut any = false;
                for (to, question) in search.to.iter().flat_map(|to| questions.iter().map(move |q| (to, q))) {
                    match socket.send_to(question.text.as_bytes(), to) {
                        Ok(_) => any = true,
                        Err(e) => fail(*to, e),
                    }
                }
                sockets.extend(any.then_some(socket));
            }
            Err(e) => fail(GROUP, e),
        }
    }
    match failure {
        Some(failure) if sockets.is_empty() => Err(failure),
        _ => Ok(sockets),
    }
}
