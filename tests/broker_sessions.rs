//! How the device connects, against a real Mosquitto: versions of TLS, WebSockets, several brokers, certificates that are
//! renewed, expired, not valid yet, or revoked, and what the broker says it can take.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use uuid::Uuid;
use vedette::agent::config::{Broker as BrokerUrl, Mqtt};
use vedette::agent::uplink::{Link, Pace};
use vedette::base::clock::{Clock, Mono, SystemClock, Wall};

use crate::common::agent::{stderr, stdout};
use crate::common::broker::Broker;
use crate::common::pki::{NOW, Pki, write_private};
use crate::common::relay::{Network, Relay};
use crate::common::wait_for;
use crate::uplink::{Agent, arrived, encrypted, id, plain};

const ALERTS: &str = "vedette/v1/depot/gate-1/alerts/#";
const STATE: &str = "vedette/v1/depot/gate-1/state";
const USER: &str = "depot/gate-1";
const DAY_MS: i64 = 24 * 3600 * 1000;

/// A device whose clock can be set.
pub struct Settable {
    system: SystemClock,
    /// How far it is ahead.
    pub ahead_ms: AtomicI64,
}

impl Settable {
    pub fn ahead_by(ms: i64) -> Arc<Settable> {
        Arc::new(Settable { system: SystemClock::new(), ahead_ms: AtomicI64::new(ms) })
    }
}

impl Clock for Settable {
    fn now(&self) -> Mono {
        self.system.now()
    }
    fn wall(&self) -> Wall {
        Wall::from_unix_ms(self.system.wall().unix_ms() + self.ahead_ms.load(Ordering::SeqCst))
    }
}

fn why_down(agent: &Agent) -> (String, Pace) {
    match agent.link(|l| matches!(l, Link::Down { .. })) {
        Link::Down { why, pace } => (why, pace),
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn tls_is_1_2_or_1_3() {
    let pki = Pki::new();
    let policy = pki.file("openssl.cnf");
    for (version, other) in [("TLSv1.2", "-tls1_3"), ("TLSv1.3", "-tls1_2")] {
        let text = format!(
            "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = only\n\
             [only]\nMinProtocol = {version}\nMaxProtocol = {version}\n"
        );
        std::fs::write(&policy, text).expect("a writable directory");
        let conf = policy.to_str().expect("plain names");
        let broker = Broker::production(&pki).environment("OPENSSL_CONF", conf).start();
        let to = format!("127.0.0.1:{}", broker.port);
        let refused = Command::new("openssl").args(["s_client", "-connect", &to, other]).stdin(Stdio::null()).output();
        assert!(!refused.expect("openssl").status.success(), "the broker speaks {version} alone");
        let agent = Agent::start(encrypted(broker.port, pki.tls(Some(pki.device(USER, NOW)))));
        let mut soc = broker.subscribe(ALERTS);
        arrived(&mut soc, &agent.outbox.add("north", 2));
    }
}

#[test]
fn a_protocol_offered_by_name_does_no_harm() {
    let pki = Pki::new();
    let broker = Broker::production(&pki).start();
    let mut mqtt = encrypted(broker.port, pki.tls(Some(pki.device(USER, NOW))));
    mqtt.tls.as_mut().expect("encrypted").alpn = vec!["mqtt".into()];
    Agent::start(mqtt).up();
}

#[test]
fn websockets_carry_it_too() {
    let pki = Pki::new();
    let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port();
    let (open, secure) = (free(), free());
    let [ca, cert, key] = ["ca.crt", "server.crt", "server.key"].map(|f| pki.file(f).display().to_string());
    let broker = Broker::plaintext()
        .also(&format!(
            "listener {open} 127.0.0.1\nprotocol websockets\n\
             listener {secure} 127.0.0.1\nprotocol websockets\ncafile {ca}\ncertfile {cert}\nkeyfile {key}"
        ))
        .start();
    let mut soc = broker.subscribe(ALERTS);
    for (port, tls) in [(open, None), (secure, Some(pki.tls(None)))] {
        let url = BrokerUrl { tls: tls.is_some(), host: "127.0.0.1".into(), port, websocket: Some("/mqtt".into()) };
        let agent = Agent::start(Mqtt { brokers: vec![url], tls, ..plain(port) });
        agent.up();
        arrived(&mut soc, &agent.outbox.add("north", 20));
        wait_for("all marks", || agent.outbox.all_sent().then_some(()));
    }
    // The wrong authority is named as it is without a WebSocket.
    let url = BrokerUrl { tls: true, host: "127.0.0.1".into(), port: secure, websocket: Some("/mqtt".into()) };
    let stranger = Pki::new();
    let agent = Agent::start(Mqtt { brokers: vec![url], tls: Some(stranger.tls(None)), ..plain(secure) });
    assert!(why_down(&agent).0.contains("not signed by an authority in ca_file"), "{:?}", why_down(&agent));
}

#[test]
fn brokers_are_tried_in_turn() {
    let mut first = Broker::plaintext();
    let mut second = Broker::plaintext().start();
    let brokers = [first.port, second.port].map(|port| plain(port).brokers.remove(0));
    let agent = Agent::start(Mqtt { brokers: brokers.into(), ..plain(0) });
    agent.up();
    let mut soc = second.subscribe(ALERTS);
    arrived(&mut soc, &agent.outbox.add("north", 2));
    second.kill();
    first.restart();
    let mut soc = first.subscribe(ALERTS);
    arrived(&mut soc, &agent.outbox.add("north", 2));
    first.kill();
    why_down(&agent);
    second.restart();
    let mut soc = second.subscribe(ALERTS);
    arrived(&mut soc, &agent.outbox.add("north", 2));
}

#[test]
fn a_renewed_certificate_is_taken_over_without_a_gap() {
    let pki = Pki::new();
    pki.device("depot/retired", NOW);
    let list = pki.revoke(&["depot/retired"]);
    let mut broker = Broker::production(&pki).also(&format!("crlfile {}", list.display())).start();
    // One subscriber: with the shipped rules a user has one connection.
    let mut soc = broker.subscribe("vedette/v1/depot/gate-1/#");
    let old = pki.device(USER, NOW);
    // From the broker's next start on: it has read the present list, or nobody could have subscribed.
    pki.revoke(&[USER]);
    let agent = Agent::start(encrypted(broker.port, pki.tls(Some(old.clone()))));
    let first = agent.up();
    soc.wait_for("birth", |m| m.topic == STATE && m.payload["session"] == first);
    arrived(&mut soc, &agent.outbox.add("north", 3));
    // A broken one: the connection stays.
    std::fs::write(&old.cert, "-----BEGIN CERTIFICATE-----\nbroken").expect("writable");
    arrived(&mut soc, &agent.outbox.add("north", 3));
    // A whole one.
    pki.device(USER, NOW);
    let mut sent = Vec::new();
    let second = wait_for("the next session", || {
        sent.extend(agent.outbox.add("north", 1));
        match agent.link(|_| true) {
            Link::Up { session } => (session != first).then_some(session),
            other => panic!("the present connection was let go: {other:?}"),
        }
    });
    sent.extend(agent.outbox.add("north", 3));
    arrived(&mut soc, &sent);
    wait_for("all marks", || agent.outbox.all_sent().then_some(()));
    let states: Vec<_> = soc.everything().iter().filter(|m| m.topic == STATE).map(|m| &m.payload).collect();
    assert!(states.iter().any(|s| s["session"] == second), "a birth in the new session");
    assert!(states.iter().all(|s| s["online"] == true), "it was never called offline");
    // The broker lets in the new one alone now.
    broker.kill();
    why_down(&agent);
    broker.restart();
    agent.up();
}

#[test]
fn an_expired_certificate_is_named_and_its_renewal_waited_for() {
    let pki = Pki::new();
    let broker = Broker::production(&pki).start();
    let agent = Agent::start(encrypted(broker.port, pki.tls(Some(pki.device(USER, (-9, -1))))));
    let sent = agent.outbox.add("north", 2);
    let (why, pace) = why_down(&agent);
    assert!(why.contains("says that this device's certificate (cert_file) has expired"), "{why}");
    assert_eq!(pace, Pace::Slowly);
    let mut soc = broker.subscribe(ALERTS);
    pki.device(USER, NOW);
    arrived(&mut soc, &sent);
}

#[test]
fn a_revoked_certificate_is_named_and_costs_nothing() {
    let pki = Pki::new();
    let device = pki.device(USER, NOW);
    let list = pki.revoke(&[USER]);
    let mut broker = Broker::production(&pki).also(&format!("crlfile {}", list.display())).start();
    let agent = Agent::start(encrypted(broker.port, pki.tls(Some(device))));
    let sent = agent.outbox.add("north", 2);
    let (why, pace) = why_down(&agent);
    assert!(why.contains("says that this device's certificate (cert_file) is revoked"), "{why}");
    assert_eq!(pace, Pace::Slowly);
    pki.device(USER, NOW);
    broker.restart();
    let mut soc = broker.subscribe(ALERTS);
    arrived(&mut soc, &sent);
}

#[test]
fn a_clock_that_is_wrong_at_boot_is_named_and_waited_for() {
    let pki = Pki::new();
    let broker = Broker::production(&pki).start();
    let clock = Settable::ahead_by(-365 * DAY_MS);
    let mqtt = encrypted(broker.port, pki.tls(Some(pki.device(USER, NOW))));
    let agent = Agent::with_clock(mqtt, Arc::clone(&clock) as Arc<dyn Clock>).run();
    let sent = agent.outbox.add("north", 2);
    let (why, pace) = why_down(&agent);
    assert!(why.contains("the broker's certificate is valid from") && why.contains("is the clock wrong?"), "{why}");
    assert_eq!(pace, Pace::Soon, "NTP is about to set it");
    clock.ahead_ms.store(0, Ordering::SeqCst);
    arrived(&mut broker.subscribe(ALERTS), &sent);
}

#[test]
fn a_broker_whose_certificate_expired_is_named() {
    let pki = Pki::new();
    pki.broker((-9, -1));
    let mut broker = Broker::production(&pki).start();
    let agent = Agent::start(encrypted(broker.port, pki.tls(Some(pki.device(USER, NOW)))));
    let sent = agent.outbox.add("north", 2);
    let (why, _) = why_down(&agent);
    assert!(why.contains("the broker's certificate expired"), "{why}");
    pki.broker(NOW);
    broker.restart();
    arrived(&mut broker.subscribe(ALERTS), &sent);
}

#[test]
fn no_more_is_on_its_way_than_the_broker_takes() {
    // 20 is what Mosquitto takes where its configuration says nothing.
    for (limit, lines) in [(2, "max_inflight_messages 2"), (20, "")] {
        let broker = Broker::plaintext().also(lines).start();
        let relay = Relay::to(broker.port);
        let agent = Agent::start(plain(relay.port));
        agent.up();
        let mut soc = broker.subscribe(ALERTS);
        broker.subscribe("vedette/v1/depot/gate-1/heartbeat").wait_for("heartbeat", |_| true);
        relay.set(Network::Unanswered);
        let sent = agent.outbox.add("north", 60);
        why_down(&agent);
        let unanswered = soc.everything().iter().filter_map(id).collect::<BTreeSet<Uuid>>().len();
        assert!(unanswered <= limit, "{unanswered} of at most {limit}");
        assert!(limit == 2 || unanswered > 2, "{unanswered}: where more may be on its way, more is");
        relay.set(Network::Sound);
        arrived(&mut soc, &sent);
    }
}

#[test]
fn systemd_keeps_the_password() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let device = crate::common::agent::Agent::with_pattern(
        "[mqtt]\nurl = \"mqtt://127.0.0.1:1\"\ncredentials_file = \"$CREDENTIALS_DIRECTORY/broker\"\n",
    );
    let check = |directory: Option<&std::path::Path>| {
        let mut vedette = Command::new(env!("CARGO_BIN_EXE_vedette"));
        vedette.arg("check").arg("--config").arg(device.config()).env_remove("CREDENTIALS_DIRECTORY");
        vedette.envs(directory.map(|dir| ("CREDENTIALS_DIRECTORY", dir)));
        let output = vedette.output().expect("it was built with its tests");
        (output.status.success(), stdout(&output) + &stderr(&output))
    };
    let (fine, said) = check(None);
    assert!(fine, "nobody but the daemon sees it: {said}");
    let (fine, said) = check(Some(dir.path()));
    assert!(!fine && said.contains("broker: does not exist"), "{said}");
    write_private(&dir.path().join("broker"), "depot/gate-1\n");
    let (fine, said) = check(Some(dir.path()));
    assert!(!fine && said.contains("fewer than two lines"), "{said}");
    // As systemd makes it: an entry in the access list shows as a right of the group.
    let file = dir.path().join("broker");
    write_private(&file, "depot/gate-1\nsecret\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o440);
    std::fs::set_permissions(&file, mode).expect("our own file");
    let (fine, said) = check(Some(dir.path()));
    assert!(fine, "{said}");
}
