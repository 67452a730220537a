//! Cameras in the network, by real datagrams: asked one by one, and as a group.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use vedette::agent::capture::discovery::{GROUP, Search, own_addresses, search};
use vedette::base::clock::SystemClock;
use vedette::base::stop::StopToken;

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Answers WS-Discovery as a camera does, after a heap of what is none; ends with its value.
struct Responder {
    at: SocketAddr,
    stop: StopToken,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// At an address of its own, or as a member of the group.
    fn start(group: Option<Ipv4Addr>) -> Responder {
        let bound = group.map_or(LOOPBACK, |_| Ipv4Addr::UNSPECIFIED);
        let socket = UdpSocket::bind((bound, 0)).expect("a free port");
        if let Some(group) = group {
            socket.join_multicast_v4(&group, &LOOPBACK).expect("the loopback interface has groups");
        }
        let port = socket.local_addr().expect("it is bound").port();
        let at = SocketAddr::new(IpAddr::V4(group.unwrap_or(LOOPBACK)), port);
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out above zero");
        let stop = StopToken::new();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut question = [0; 4096];
            while !stopped.is_stopped() {
                let Ok((length, asker)) = socket.recv_from(&mut question) else { continue };
                let question = String::from_utf8_lossy(&question[..length]).into_owned();
                let id = question.split("MessageID>").nth(1).and_then(|t| t.split('<').next()).expect("it has an id");
                let noise = ["", "<", "hello", &"x".repeat(40_000)].map(String::from);
                for text in noise.into_iter().chain([answer("urn:uuid:0-0-0-0-0"), answer(id), answer(id)]) {
                    socket.send_to(text.as_bytes(), asker).expect("it has just asked");
                }
            }
        });
        Responder { at, stop, thread: Some(thread) }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.stop();
        self.thread.take().into_iter().for_each(|t| t.join().expect("it does not panic"));
    }
}

fn answer(relates_to: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><e:Envelope xmlns:e=\"http://www.w3.org/2003/05/soap-envelope\" xmlns:a=\"urn:a\" \
         xmlns:d=\"urn:d\"><e:Header><a:RelatesTo>{relates_to}</a:RelatesTo></e:Header><e:Body><d:ProbeMatches>\
         <d:ProbeMatch><a:EndpointReference><a:Address>urn:uuid:cam-1</a:Address></a:EndpointReference>\
         <d:Types>dn:NetworkVideoTransmitter</d:Types><d:Scopes>onvif://www.onvif.org/name/North%20gate \
         onvif://www.onvif.org/hardware/XC-200 onvif://www.onvif.org/location/harbour</d:Scopes>\
         <d:XAddrs>http://127.0.0.1/onvif/device_service</d:XAddrs></d:ProbeMatch></d:ProbeMatches></e:Body></e:Envelope>"
    )
}

#[test]
fn cameras_answer_one_by_one_and_as_a_group() {
    let (Ok(from), IpAddr::V4(group)) = (own_addresses(Some("lo")), GROUP.ip()) else { panic!("no loopback") };
    assert_eq!(from, [LOOPBACK]);
    for group in [None, Some(group)] {
        let responder = Responder::start(group);
        let question = Search { from: from.clone(), to: vec![responder.at], within: Duration::from_millis(1_500) };
        let found = search(&question, &SystemClock::new()).expect("the loopback interface is up");
        let [camera] = &found[..] else { panic!("{group:?}: {found:?}") };
        assert_eq!(camera.address, IpAddr::V4(LOOPBACK));
        assert_eq!((camera.name.as_deref(), camera.hardware.as_deref()), (Some("North gate"), Some("XC-200")));
        assert_eq!((&camera.location[..], &camera.endpoint[..]), (&["harbour".to_owned()][..], "urn:uuid:cam-1"));
        assert_eq!(camera.services, ["http://127.0.0.1/onvif/device_service"]);
    }
}

#[test]
fn nobody_answers_and_nothing_is_there_to_ask_from() {
    let error = own_addresses(Some("wlan77")).expect_err("there is no such interface").to_string();
    assert!(error.starts_with("there is no network interface wlan77") && error.contains("lo (127.0.0.1)"), "{error}");
    let unused = UdpSocket::bind((LOOPBACK, 0)).and_then(|s| s.local_addr()).expect("a free port");
    let question = Search { from: vec![LOOPBACK], to: vec![unused], within: Duration::from_millis(300) };
    assert_eq!(search(&question, &SystemClock::new()).expect("sent"), []);
}

#[test]
fn the_command_lists_them_with_a_section_to_paste() {
    let responder = Responder::start(None);
    let run = |more: &[&str]| {
        let at = responder.at.to_string();
        let args = ["cameras", "--network", "--interface", "lo", "--wait", "1", "--ask", &at];
        let run = Command::new(env!("CARGO_BIN_EXE_vedette")).args(args).args(more).output().expect("it was built");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).expect("text")
    };
    let text = run(&[]);
    assert!(text.starts_with("North gate\n  address   127.0.0.1\n  hardware  XC-200\n"), "{text}");
    assert!(text.contains("kind = \"rtsp\"\n") && text.contains("url = \"rtsp://127.0.0.1/PATH\"\n"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&run(&["--json"])).expect("one object");
    assert_eq!(json["cameras"][0]["name"], "North gate");
}
