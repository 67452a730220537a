//! Clips by signed links over the device's own HTTPS, as curl and others get them; and what knocks without one.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use vedette::base::clock::{Clock, Mono, SystemClock};
use vedette::base::digest;

use crate::common::agent::{Agent, PATTERN, stderr, stdout};
use crate::common::broker::Broker;
use crate::common::pki::Pki;
use crate::common::wait_for;

pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port()
}

fn curl(args: &[&str]) -> Output {
    Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30", "--noproxy", "*"])
        .args(args)
        .output()
        .expect("curl")
}

/// Status and body.
pub fn get(url: &str, args: &[&str]) -> (u16, Vec<u8>) {
    let mut all = vec!["--insecure", "--path-as-is", "--write-out", "\n%{http_code}", url];
    all.extend(args);
    let output = curl(&all);
    assert!(output.status.success(), "{}", stderr(&output));
    let at = output.stdout.iter().rposition(|b| *b == b'\n').expect("a code");
    let code = String::from_utf8_lossy(&output.stdout[at + 1..]).parse().expect("a number");
    (code, output.stdout[..at].to_vec())
}

/// What is wrong, in problem+json.
fn problem(url: &str, args: &[&str]) -> (u16, String) {
    let (code, body) = get(url, args);
    let body: Value = serde_json::from_slice(&body).expect("problem+json");
    assert_eq!(body["status"], code);
    (code, body["detail"].as_str().expect("a detail").to_owned())
}

struct Device {
    agent: Agent,
    port: u16,
    incident: Value,
    clip: String,
    peak: String,
}

impl Device {
    /// With a clip, and links to it.
    fn new(http: &str) -> Device {
        let port = free_port();
        let short = "[clip]\npre_roll_s = 1\npost_roll_s = 1\n";
        let mut agent = Agent::new(PATTERN, &format!("{short}[http]\nlisten = \"127.0.0.1:{port}\"\n{http}")).start();
        let id = agent.raise_test();
        let incident = agent.wait_for_clip(&id);
        assert_eq!(incident["clip"]["state"], "done");
        let (clip, peak) = links(&agent, &id);
        Device { agent, port, incident, clip, peak }
    }

    fn file(&self, key: &str) -> Vec<u8> {
        let path = self.incident["clip"][key].as_str().expect("a path");
        std::fs::read(self.agent.state().join(path)).expect("there")
    }
}

fn links(agent: &Agent, id: &str) -> (String, String) {
    let output = agent.command(&["incidents", "link", id]);
    assert!(output.status.success(), "{}", stderr(&output));
    let links: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    (
        links["clip"]["url"].as_str().expect("a link").to_owned(),
        links["peak"]["url"].as_str().expect("a link").to_owned(),
    )
}

#[test]
fn a_clip_is_had_whole_and_in_ranges_by_its_link() {
    let device = Device::new("");
    let (clip, peak) = (device.file("path"), device.file("peak_jpeg_path"));
    assert!(device.clip.starts_with(&format!("https://127.0.0.1:{}/clips/", device.port)), "{}", device.clip);
    assert_eq!(get(&device.clip, &[]), (200, clip.clone()));
    assert_eq!(get(&device.peak, &[]), (200, peak));
    assert_eq!(get(&device.clip, &["--range", "100-299"]), (206, clip[100..300].to_vec()));
    assert_eq!(get(&device.clip, &["--range", "-500"]), (206, clip[clip.len() - 500..].to_vec()));
    assert_eq!(get(&device.clip, &["--range", "5000-"]), (206, clip[5000..].to_vec()));
    let (code, detail) = problem(&device.clip, &["--range", "999999999-"]);
    assert!(code == 416 && detail.contains(&clip.len().to_string()), "{code} {detail}");
    let head = String::from_utf8(get(&device.clip, &["--head"]).1).expect("text").to_lowercase();
    let sha256 = digest::of_bytes(&clip);
    for line in [
        format!("content-length: {}\r\n", clip.len()),
        format!("etag: \"{sha256}\"\r\n"),
        "accept-ranges: bytes\r\n".into(),
        "content-type: video/mp4\r\n".into(),
        "cache-control: private, no-store\r\n".into(),
    ] {
        assert!(head.contains(&line), "{line} in {head}");
    }
    let other = ["--range", "0-9", "--header", "If-Range: \"another\""];
    assert_eq!(get(&device.clip, &other).0, 200, "a range of what it is not is no use");
    // A player that seeks, and that was not written here.
    let probe = Command::new("ffprobe")
        .args(["-v", "error", "-tls_verify", "0", "-show_entries", "format=duration", "-of", "csv=p=0", &device.clip])
        .output()
        .expect("ffprobe (Debian package ffmpeg)");
    let length: f64 = stdout(&probe).trim().parse().unwrap_or_else(|_| panic!("{}", stderr(&probe)));
    assert!(length > 1.0, "{length}");
}

#[test]
fn what_is_forged_expired_deleted_or_elsewhere_is_not_had() {
    let device = Device::new("link_valid_s = 10\n");
    let id = device.incident["id"].as_str().expect("an id");
    let base = format!("https://127.0.0.1:{}", device.port);
    let (path, query) = device.clip[base.len()..].split_once('?').expect("a query");
    let forged = |url: &str| assert_eq!(problem(url, &[]).0, 403, "{url}");
    forged(&format!("{base}{path}"));
    forged(&format!("{base}{path}?{}", query.replace("expires=", "expires=9")));
    // Another last character than it has.
    let other = if query.ends_with('0') { '1' } else { '0' };
    forged(&format!("{base}{path}?{}{other}", &query[..query.len() - 1]));
    forged(&format!("{base}/peaks/{id}.jpg?{query}"));
    forged(&format!("{base}/clips/{}.mp4?{query}", uuid::Uuid::nil()));
    for elsewhere in [
        "/",
        "/clips/",
        "/clips/../../etc/passwd",
        "/clips/..%2f..%2fetc%2fpasswd.mp4",
        "/vedette.db",
        "/clips/%2e%2e/vedette.db",
        "//etc/passwd",
        "/v1/status",
        "/metrics",
    ] {
        assert_eq!(problem(&format!("{base}{elsewhere}?{query}"), &[]).0, 404, "{elsewhere}");
    }
    assert_eq!(problem(&device.clip, &["--request", "DELETE"]).0, 405);
    assert_eq!(get(&device.clip, &[]).0, 200, "none of that has spoilt it");
    // The clock of this machine is the device's: it expires while we wait.
    let (code, why) = wait_for("the link to expire", || Some(get(&device.clip, &[])).filter(|(code, _)| *code != 200));
    assert!(code == 403 && String::from_utf8_lossy(&why).contains("expired"), "{code}");

    let (clip, _) = links(&device.agent, id);
    let file = device.agent.state().join(device.incident["clip"]["path"].as_str().expect("a path"));
    std::fs::remove_file(file).expect("there");
    let (code, why) = problem(&clip, &[]);
    assert!(code == 404 && why.contains("gone"), "{code} {why}");
}

#[test]
fn the_certificate_is_the_installer_s_or_one_whose_fingerprint_is_shown() {
    let mut device = Device::new("");
    let shown = device.agent.status()["https"]["fingerprint_sha256"].as_str().expect("shown").to_owned();
    assert!(stdout(&device.agent.command(&["status"])).contains(&shown));
    assert!(!curl(&[&device.clip]).status.success(), "nobody has vouched for it");
    // As the README has it: what the device shows over the network, compared by its fingerprint.
    let recipe = format!("openssl s_client -connect 127.0.0.1:{} </dev/null 2>/dev/null | openssl x509", device.port);
    let print = Command::new("sh").arg("-c").arg(format!("{recipe} -noout -fingerprint -sha256")).output().expect("sh");
    assert!(stdout(&print).contains(&shown), "{} {}", stdout(&print), stderr(&print));
    let certificate = device.agent.state().join("https.pem");
    let pinned = curl(&["--cacert", certificate.to_str().expect("UTF-8"), "--output", "/dev/null", &device.clip]);
    assert!(pinned.status.success(), "{}", stderr(&pinned));
    assert!(device.agent.terminate().success());
    device.agent.restart();
    assert_eq!(device.agent.status()["https"]["fingerprint_sha256"], shown, "made once");
    assert_eq!(get(&device.clip, &[]).0, 200, "links outlive a restart");

    let pki = Pki::new();
    for (from, to, mode) in [("server.crt", "https.crt", 0o644), ("server.key", "https.key", 0o600)] {
        let path = device.agent.config().with_file_name(to);
        std::fs::write(&path, pki.read(from)).expect("writable");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("ours");
    }
    let port = device.port;
    let http = format!(
        "[http]\nlisten = \"127.0.0.1:{port}\"\ncert_file = \"https.crt\"\nkey_file = \"https.key\"\n\
         public_url = \"https://127.0.0.1:{port}/\"\n"
    );
    assert!(device.agent.terminate().success());
    device.agent.configure(PATTERN, &http);
    device.agent.restart();
    let (clip, _) = links(&device.agent, device.incident["id"].as_str().expect("an id"));
    assert!(clip.starts_with(&format!("https://127.0.0.1:{port}/clips/")), "{clip}");
    let ca = device.agent.config().with_file_name("ca.crt");
    std::fs::write(&ca, pki.read("ca.crt")).expect("writable");
    let verified = curl(&["--cacert", ca.to_str().expect("UTF-8"), "--output", "/dev/null", &clip]);
    assert!(verified.status.success(), "{}", stderr(&verified));
}

#[test]
fn who_only_holds_connections_does_not_keep_others_out() {
    let device = Device::new("");
    // More than one address may have, and none of them says a word.
    let held: Vec<TcpStream> = (0..40)
        .map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, device.port)).expect("accepted by the system"))
        .collect();
    // Beyond its share they are closed at once; these have their time for a handshake, and then go too.
    let clock = SystemClock::new();
    let (code, _) = wait_for("room", || {
        let output = curl(&["--insecure", "--output", "/dev/null", "--write-out", "%{http_code}", &device.clip]);
        Some((stdout(&output), output.status.success())).filter(|(_, ok)| *ok)
    });
    assert!(code == "200" && clock.now() < Mono::from_millis(30_000), "{code} {:?}", clock.now());
    let closed = held.into_iter().filter_map(|mut s| {
        s.set_nonblocking(true).ok()?;
        matches!(s.read(&mut [0]), Ok(0)).then_some(())
    });
    assert_eq!(closed.count(), 40, "none is held for ever");
    // What is no TLS at all is no matter either.
    let mut noise = TcpStream::connect((Ipv4Addr::LOCALHOST, device.port)).expect("accepted");
    noise.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("written");
    noise.read_to_end(&mut Vec::new()).ok();
    assert_eq!(get(&device.clip, &[]).0, 200);
}

#[test]
fn who_asks_too_often_is_told_when_to_come_back() {
    let device = Device::new("");
    // One connection, a thousand requests: more than any allowance, at whatever speed this machine has.
    let (base, query) = device.clip.split_once('?').expect("a query");
    let many = format!("{base}?{query}&n=[1-1000]");
    let said = stdout(&curl(&["--insecure", "--head", &many])).to_lowercase();
    let lines = |line: &str| said.lines().filter(|said| said.starts_with(line)).count();
    let (refused, served) = (lines("http/1.1 429"), lines("http/1.1 200"));
    assert_eq!(lines("retry-after: 1"), refused);
    assert!(refused > 100 && served >= 100 && refused + served == 1000, "{refused} refused, {served} served");
    let again = wait_for("its turn", || Some(get(&device.clip, &[]).0).filter(|code| *code != 429));
    assert_eq!(again, 200, "nobody is kept out for good");
}

#[test]
fn an_alert_carries_links_and_a_picture_where_the_config_lets_them_out() {
    let (broker, port) = (Broker::plaintext().start(), free_port());
    let mut alerts = broker.subscribe("vedette/v1/test/unit/alerts/+");
    let mqtt = |more| {
        format!("[mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\n{more}[clip]\npre_roll_s = 1\npost_roll_s = 1\n", broker.port)
    };
    let mut clip_of = |config: &str| {
        let agent = Agent::new(PATTERN, config).start();
        let id = agent.raise_test();
        let ready = alerts.wait_for("a clip", |m| {
            m.payload["type"] == "org.vedette.alert.clip_ready.v1" && m.payload["data"]["incident"]["id"] == *id
        });
        (agent, ready.payload["data"]["clip"].clone())
    };
    let (_, clip) = clip_of(&mqtt(""));
    for kept in ["url", "peak_url", "thumbnail"] {
        assert!(clip[kept].is_null(), "{kept} of {clip}");
    }

    let http = format!("[http]\nlisten = \"127.0.0.1:{port}\"\nlinks_in_alerts = true\n");
    let (agent, clip) = clip_of(&(mqtt("thumbnails = true\n") + &http));
    let (code, video) = get(clip["url"].as_str().expect("a link"), &[]);
    assert_eq!((code, digest::of_bytes(&video)), (200, clip["sha256"].as_str().expect("a hash").to_owned()));
    assert_eq!(get(clip["peak_url"].as_str().expect("a link"), &[]).0, 200);
    let encoded = clip["thumbnail"]["jpeg_base64"].as_str().expect("a picture");
    assert!(encoded.len() <= 32 * 1024, "{}", encoded.len());
    let file = agent.state().join("thumbnail.jpg");
    std::fs::write(&file, STANDARD.decode(encoded).expect("base64")).expect("writable");
    let probe = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "stream=codec_name,width,height", "-of", "csv=p=0"])
        .arg(&file)
        .output()
        .expect("ffprobe (Debian package ffmpeg)");
    let thumbnail = &clip["thumbnail"];
    assert_eq!(stdout(&probe).trim(), format!("mjpeg,{},{}", thumbnail["width"], thumbnail["height"]));
    assert!(thumbnail["width"].as_u64().is_some_and(|w| (1..=320).contains(&w)), "{}", thumbnail["width"]);
}
