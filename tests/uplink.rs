//! The way to the broker, against a real one: what arrives, and what happens when it is absent, killed, slow or wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;
use vedette::agent::config::{Adapters, Broker as BrokerUrl, ClientFiles, Device, Mqtt, MqttTls};
use vedette::agent::uplink::{self, Link, Pace, Parts};
use vedette::base::clock::{Clock, SystemClock, Wall};
use vedette::base::progress::Beat;
use vedette::base::stop::StopToken;
use vedette::contract::alert::{Alert, AlertKind, ClockState, IncidentReport, Severity};
use vedette::contract::cloudevent::AlertEvent;
use vedette::contract::heartbeat::{HealthReport, HealthSource};
use vedette::contract::outbox::{Dispatch, Outbox, OutboxError, OutboxRow, OutboxStatus};
use vedette::contract::state::{CameraCondition, CameraStatus, DeviceFacts};

use crate::common::broker::{Broker, Message, Subscriber};
use crate::common::pki::{NOW, Pki, write_private};
use crate::common::relay::{Network, Relay};
use crate::common::wait_for;

const ALERTS: &str = "vedette/v1/depot/gate-1/alerts/#";

#[test]
fn an_alert_arrives_as_a_cloudevent() {
    let broker = Broker::plaintext().start();
    let mut soc = broker.subscribe(ALERTS);
    let agent = Agent::start(plain(broker.port));
    agent.up();
    let sent = agent.outbox.add("north", 1);
    let got = soc.wait_for("alert", |_| true);
    assert_eq!(got.topic, "vedette/v1/depot/gate-1/alerts/north");
    assert!(!got.retained);
    assert_eq!(got.content_type.as_deref(), Some("application/cloudevents+json; charset=utf-8"));
    let routing = [
        ("camera", "north"),
        ("class", "Fighting"),
        ("kind", "opened"),
        ("seq", "1"),
        ("severity", "severe"),
        ("test", "true"),
    ];
    assert_eq!(got.user_properties, routing.map(|(k, v)| (k.into(), v.into())).into());
    let event: AlertEvent = serde_json::from_value(got.payload).expect("an alert of this contract");
    assert_eq!(event.id, sent[0]);
    assert!(!event.replayed, "it was raised while the connection stood");
    assert_eq!(event.sequence.as_deref(), Some("00000000000000000001"));
    wait_for("its mark", || agent.outbox.is_sent(1).then_some(()));
}

#[test]
fn states_are_retained_and_a_stop_says_goodbye() {
    let broker = Broker::plaintext().start();
    let agent = Agent::start(plain(broker.port));
    let session = agent.up();
    for (topic, field, value) in [
        ("state", "reason", "connected"),
        ("camera/north", "status", "live"),
        ("heartbeat", "site", "depot"),
        ("outbox", "device", "gate-1"),
    ] {
        let topic = format!("vedette/v1/depot/gate-1/{topic}");
        let got = broker.subscribe(&topic).wait_for(&topic, |_| true);
        assert_eq!(got.payload[field], value);
        assert_eq!(got.payload["session"], session);
        assert_eq!(got.content_type.as_deref(), Some("application/json; charset=utf-8"));
        let expires = got.expiry_s.is_some_and(|s| (1..=600).contains(&s));
        assert_eq!(expires, topic.ends_with("heartbeat"), "{topic} {:?}", got.expiry_s);
    }
    let mut soc = broker.subscribe("vedette/v1/depot/gate-1/#");
    agent.health.camera_lost("north");
    soc.wait_for("lost camera", |m| m.topic.ends_with("camera/north") && m.payload["status"] == "lost");
    soc.wait_for("another heartbeat", |m| m.topic.ends_with("heartbeat") && m.payload["uptime_s"] == 7);
    agent.outbox.add("north", 1);
    soc.wait_for("changed outbox", |m| m.topic.ends_with("outbox") && m.payload["newest"] == 1);
    agent.stop();
    let goodbye = soc.wait_for("goodbye", |m| m.topic.ends_with("state") && m.payload["online"] == false);
    assert_eq!(goodbye.payload["reason"], "stopped");
    assert_eq!(goodbye.payload["session"], session);
}

#[test]
fn a_lost_device_is_called_offline_by_its_will_and_comes_back_in_a_later_session() {
    let broker = Broker::plaintext().start();
    let relay = Relay::to(broker.port);
    let agent = Agent::start(plain(relay.port));
    let first = agent.up();
    let mut soc = broker.subscribe("vedette/v1/depot/gate-1/state");
    soc.wait_for("birth", |m| m.payload["online"] == true);
    relay.set(Network::Cut);
    let will = soc.wait_for("will", |m| m.payload["online"] == false);
    assert_eq!(will.payload["reason"], "connection_lost");
    assert_eq!(will.payload["session"], first);
    relay.set(Network::Sound);
    let birth = soc.wait_for("birth", |m| m.payload["online"] == true);
    assert!(birth.payload["session"].as_u64() > Some(first));
}

#[test]
fn a_broker_that_comes_late_gets_what_waited() {
    let mut broker = Broker::plaintext();
    let agent = Agent::start(plain(broker.port));
    let sent = agent.outbox.add("north", 3);
    let Link::Down { why, pace } = agent.link(|l| matches!(l, Link::Down { .. })) else { unreachable!() };
    assert!(why.starts_with("could not reach the broker at 127.0.0.1:"), "{why}");
    assert_eq!(pace, Pace::Soon);
    broker.restart();
    let mut soc = broker.subscribe(ALERTS);
    let events = arrived(&mut soc, &sent);
    assert!(events.iter().all(|e| e.replayed), "they were raised before the connection");
}

#[test]
fn a_broker_that_is_killed_costs_nothing() {
    let mut broker = Broker::plaintext().start();
    let agent = Agent::start(plain(broker.port));
    agent.up();
    let mut soc = broker.subscribe(ALERTS);
    let before = agent.outbox.add("north", 40);
    arrived(&mut soc, &before);
    broker.kill();
    let meanwhile = agent.outbox.add("south", 40);
    agent.link(|l| matches!(l, Link::Down { .. }));
    broker.restart();
    let mut soc = broker.subscribe(ALERTS);
    arrived(&mut soc, &meanwhile);
    wait_for("all marks", || agent.outbox.all_sent().then_some(()));
}

#[test]
fn a_line_cut_in_the_middle_costs_nothing() {
    let broker = Broker::plaintext().start();
    let relay = Relay::to(broker.port);
    relay.set(Network::Slow(Duration::from_millis(20)));
    let mut soc = broker.subscribe(ALERTS);
    let agent = Agent::start(plain(relay.port));
    agent.up();
    let sent = agent.outbox.add("north", 200);
    for _ in 0..3 {
        soc.wait_for("another alert", |_| true);
        relay.set(Network::Cut);
        agent.link(|l| matches!(l, Link::Down { .. }));
        relay.set(Network::Slow(Duration::from_millis(20)));
        agent.up();
    }
    wait_for("all marks", || agent.outbox.all_sent().then_some(()));
    drop(agent);
    let came: BTreeSet<Uuid> = soc.everything().iter().filter_map(id).collect();
    assert!(sent.iter().all(|id| came.contains(id)));
}

#[test]
fn what_nobody_hears_is_not_sent() {
    let broker = Broker::plaintext().start();
    let agent = Agent::start(plain(broker.port));
    agent.up();
    let mut elsewhere = broker.subscribe("vedette/v1/depot/gate-1/alerts/south");
    let north = agent.outbox.add("north", 5);
    let south = agent.outbox.add("south", 5);
    arrived(&mut elsewhere, &south);
    wait_for("the marks of what was heard", || (6..=10).all(|s| agent.outbox.is_sent(s)).then_some(()));
    assert!((1..=5).all(|s| !agent.outbox.is_sent(s)), "PUBACK alone does not make it sent");
    let mut soc = broker.subscribe("vedette/v1/depot/gate-1/alerts/north");
    arrived(&mut soc, &north);
    wait_for("all marks", || agent.outbox.all_sent().then_some(()));
}

#[test]
fn a_consumers_confirmation_releases_rows() {
    let broker = Broker::plaintext().start();
    let agent = Agent::start(plain(broker.port));
    agent.up();
    let mut soc = broker.subscribe(ALERTS);
    let sent = agent.outbox.add("north", 3);
    arrived(&mut soc, &sent);
    for (topic, payload) in [
        ("vedette/v1/depot/gate-1/ack/soc", "no JSON"),
        ("vedette/v1/depot/gate-1/ack/stranger", r#"{"seq": 3}"#),
        ("vedette/v1/depot/gate-1/ack/soc", r#"{"seq": 99}"#),
        ("vedette/v1/depot/gate-1/ack/soc", r#"{"seq": 2}"#),
    ] {
        broker.publish(topic, payload);
    }
    wait_for("release", || (agent.outbox.kept() == [3]).then_some(()));
}

#[test]
fn confirmations_wait_at_the_broker_for_a_device_that_is_away() {
    let broker = Broker::plaintext().start();
    let relay = Relay::to(broker.port);
    let agent = Agent::start(plain(relay.port));
    let mut soc = broker.subscribe(ALERTS);
    let sent = agent.outbox.add("north", 2);
    arrived(&mut soc, &sent);
    relay.set(Network::Cut);
    agent.link(|l| matches!(l, Link::Down { .. }));
    broker.publish("vedette/v1/depot/gate-1/ack/soc", r#"{"seq": 2}"#);
    relay.set(Network::Sound);
    wait_for("release", || agent.outbox.kept().is_empty().then_some(()));
    // The session was resumed by a new client: it must be able to publish.
    let more = agent.outbox.add("north", 1);
    arrived(&mut soc, &more);
}

#[test]
fn news_overtakes_a_backlog_on_a_slow_line() {
    let broker = Broker::plaintext().start();
    let relay = Relay::to(broker.port);
    relay.set(Network::Slow(Duration::from_millis(50)));
    let mut soc = broker.subscribe(ALERTS);
    let agent = Agent::new(plain(relay.port));
    let old = agent.outbox.add("north", 300);
    let agent = agent.run();
    soc.wait_for("first of the backlog", |_| true);
    let news = agent.outbox.add("north", 1);
    let mut before_news = 0;
    let got = soc.wait_for("news", |m| {
        before_news += usize::from(id(m) != Some(news[0]));
        id(m) == Some(news[0])
    });
    assert_eq!(got.payload["replayed"], false);
    assert!(before_news < 250, "it came behind {before_news} of the backlog");
    let events = arrived(&mut soc, &old[old.len() - 10..]);
    assert!(events.iter().all(|e| e.replayed));
    let in_order = events.is_sorted_by_key(|e| e.sequence.clone());
    assert!(in_order, "the backlog goes in order");
}

#[test]
fn a_line_that_swallows_everything_is_noticed_and_left() {
    let broker = Broker::plaintext().start();
    let relay = Relay::to(broker.port);
    let agent = Agent::start(plain(relay.port));
    agent.up();
    let mut soc = broker.subscribe(ALERTS);
    relay.set(Network::BlackHole);
    let sent = agent.outbox.add("north", 5);
    let Link::Down { why, .. } = agent.link(|l| matches!(l, Link::Down { .. })) else { unreachable!() };
    assert!(why.contains("has acknowledged nothing for 5 s"), "{why}");
    relay.set(Network::Sound);
    arrived(&mut soc, &sent);
}

#[test]
fn a_stop_is_bounded_whatever_the_line_does() {
    let broker = Broker::plaintext().start();
    let relay = Relay::to(broker.port);
    let agent = Agent::start(plain(relay.port));
    agent.up();
    let clock = SystemClock::new();
    relay.set(Network::BlackHole);
    agent.outbox.add("north", 5);
    agent.stop();
    assert!(clock.now().as_millis() < uplink::STOP_MOST.as_millis() as u64 + 1000);
}

#[test]
fn a_stop_sends_what_was_raised_just_before() {
    let broker = Broker::plaintext().start();
    let mut soc = broker.subscribe("vedette/v1/depot/gate-1/#");
    for count in [1, 1, 1, 1, 1, 30] {
        let agent = Agent::start(plain(broker.port));
        agent.up();
        soc.wait_for("heartbeat", |m| m.topic.ends_with("heartbeat"));
        let sent = agent.outbox.add("north", count);
        let outbox = Arc::clone(&agent.outbox);
        agent.stop();
        assert!(outbox.all_sent());
        arrived(&mut soc, &sent);
        soc.wait_for("goodbye", |m| m.payload["reason"] == "stopped");
    }
}

#[test]
fn a_wrong_password_is_named_and_not_hammered() {
    let broker = Broker::with_password("depot/gate-1", "right").start();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let credentials = |password: &str| {
        let file = dir.path().join("credentials");
        write_private(&file, &format!("depot/gate-1\n{password}\n"));
        Mqtt { credentials_file: Some(file), ..plain(broker.port) }
    };
    let agent = Agent::start(credentials("wr0ng"));
    let Link::Down { why, pace } = agent.link(|l| matches!(l, Link::Down { .. })) else { unreachable!() };
    assert!(why.contains("refused the connection") && why.contains("password"), "{why}");
    assert!(!why.contains("wr0ng"));
    assert_eq!(pace, Pace::Slowly);
    agent.stop();
    let tries = broker.log().matches("not authorised").count();
    assert_eq!(tries, 1, "the next try comes after seconds, not at once:\n{}", broker.log());
    let agent = Agent::start(credentials("right"));
    agent.up();
}

#[test]
fn certificates_let_a_device_in_and_nothing_else_does() {
    let pki = Pki::new();
    let broker = Broker::production(&pki).start();
    let device = pki.device("depot/gate-1", NOW);
    let good = Agent::start(encrypted(broker.port, pki.tls(Some(device.clone()))));
    good.up();
    let mut soc = broker.subscribe(ALERTS);
    let sent = good.outbox.add("north", 2);
    arrived(&mut soc, &sent);
    broker.publish("vedette/v1/depot/gate-1/ack/soc", r#"{"seq": 2}"#);
    wait_for("release", || good.outbox.kept().is_empty().then_some(()));
    good.stop();

    let stranger = Pki::new();
    let theirs = stranger.device("depot/gate-1", NOW);
    let mixed = ClientFiles { cert: device.cert.clone(), key: theirs.key.clone() };
    let nothing = MqttTls { ca_file: device.key.clone(), ..pki.tls(None) };
    for (what, tls, expected, detail) in [
        ("plaintext", None, "could not reach the broker", ""),
        ("another authority", Some(stranger.tls(Some(device))), "could not agree on TLS", "an authority in ca_file"),
        ("a stranger's certificate", Some(pki.tls(Some(theirs))), "could not agree on TLS", "(cert_file)"),
        ("no certificate", Some(pki.tls(None)), "could not agree on TLS", "cert_file and key_file"),
        ("a key of another", Some(pki.tls(Some(mixed))), "could not use the files", "do not belong together"),
        ("no authority", Some(nothing), "could not use the files", "holds no certificate"),
    ] {
        let mqtt = tls.map_or_else(|| plain(broker.port), |tls| encrypted(broker.port, tls));
        let agent = Agent::start(mqtt);
        let Link::Down { why, .. } = agent.link(|l| !matches!(l, Link::Starting)) else { panic!("{what} was let in") };
        assert!(why.starts_with(expected) && why.contains(detail), "{what}: {why}");
    }
}

#[test]
fn a_device_cannot_speak_for_another_nor_put_it_out() {
    let pki = Pki::new();
    let broker = Broker::production(&pki).start();
    let with = |user| encrypted(broker.port, pki.tls(Some(pki.device(user, NOW))));
    let honest = Agent::start(with("depot/gate-1"));
    let session = honest.up();
    let mut soc = broker.subscribe(ALERTS);
    let impostor = Agent::start(with("depot/gate-2"));
    impostor.outbox.add("north", 2);
    let Link::Down { why, pace } = impostor.link(|l| matches!(l, Link::Down { .. })) else { unreachable!() };
    assert!(why.contains("does not let this device speak"), "{why}");
    assert_eq!(pace, Pace::Slowly);
    assert!(!impostor.outbox.is_sent(1) && !impostor.outbox.is_sent(2));
    impostor.stop();
    let sent = honest.outbox.add("north", 1);
    arrived(&mut soc, &sent);
    assert_eq!(soc.everything().len(), 1, "nothing else came");
    assert_eq!(honest.up(), session);
}

#[test]
fn a_consumer_that_was_away_misses_nothing() {
    let broker = Broker::plaintext().start();
    drop(broker.subscribe_as("soc", ALERTS));
    let agent = Agent::start(plain(broker.port));
    // More than the thousand at which a broker left as it comes begins to drop, silently.
    let sent = agent.outbox.add("north", 1500);
    wait_for("all marks", || agent.outbox.all_sent().then_some(()));
    arrived(&mut broker.subscribe_as("soc", ALERTS), &sent);
}

/// `[mqtt]` of a device that connects without encryption.
pub fn plain(port: u16) -> Mqtt {
    Mqtt {
        keep_bytes: u64::MAX,
        thumbnails: false,
        brokers: vec![BrokerUrl { tls: false, host: "127.0.0.1".into(), port, websocket: None }],
        tls: None,
        credentials_file: None,
        heartbeat_every: Duration::from_secs(2),
        keep_alive: Duration::from_secs(5),
        renew_at: 0.33,
        consumers: vec!["soc".into()],
        keep: Duration::from_secs(3600),
    }
}

/// The same with TLS.
pub fn encrypted(port: u16, tls: MqttTls) -> Mqtt {
    let brokers = vec![BrokerUrl { tls: true, host: "127.0.0.1".into(), port, websocket: None }];
    Mqtt { brokers, tls: Some(tls), ..plain(port) }
}

pub fn id(message: &Message) -> Option<Uuid> {
    message.payload["id"].as_str()?.parse().ok()
}

/// Waits until all of `ids` have come, in any order, any number of times; the events as they first came.
pub fn arrived(soc: &mut Subscriber, ids: &[Uuid]) -> Vec<AlertEvent> {
    let mut missing: BTreeSet<Uuid> = ids.iter().copied().collect();
    let mut events = Vec::new();
    while !missing.is_empty() {
        let what = format!("alert ({} of {} missing)", missing.len(), ids.len());
        let got = soc.wait_for(&what, |m| id(m).is_some_and(|id| missing.contains(&id)));
        let event: AlertEvent = serde_json::from_value(got.payload).expect("an alert of this contract");
        missing.remove(&event.id);
        events.push(event);
    }
    events
}

/// An uplink on a runtime of its own; stopped with its value.
pub struct Agent {
    pub outbox: Arc<MemoryOutbox>,
    pub health: Arc<Health>,
    stop: StopToken,
    link: watch::Receiver<Link>,
    parts: Option<Parts>,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Agent {
    pub fn new(mqtt: Mqtt) -> Agent {
        Agent::with_clock(mqtt, Arc::new(SystemClock::new()))
    }

    pub fn with_clock(mqtt: Mqtt, clock: Arc<dyn Clock>) -> Agent {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (outbox, health) = (Arc::new(MemoryOutbox::default()), Arc::new(Health::default()));
        let (stop, (tell, link)) = (StopToken::new(), watch::channel(Link::Starting));
        let parts = Parts {
            mqtt,
            adapters: Adapters::default(),
            device: Device { site: "depot".into(), id: "gate-1".into(), place: None },
            counter_file: dir.path().join("uplink-session"),
            outbox: Arc::clone(&outbox) as Arc<dyn Outbox>,
            links: None,
            desk: None,
            health: Arc::clone(&health) as Arc<dyn HealthSource>,
            clock,
            stop: stop.clone(),
            beat: Beat::detached(),
            link: tell,
            shown: watch::channel(None).0,
        };
        Agent { outbox, health, stop, link, parts: Some(parts), thread: None, _dir: dir }
    }

    pub fn run(mut self) -> Agent {
        let parts = self.parts.take().expect("it runs once");
        self.thread = Some(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.expect("a runtime").block_on(uplink::run(parts)).expect("valid names");
        }));
        self
    }

    pub fn start(mqtt: Mqtt) -> Agent {
        Agent::new(mqtt).run()
    }

    /// Waits until the link is as wanted.
    pub fn link(&self, wanted: impl Fn(&Link) -> bool) -> Link {
        wait_for("the link to change", || Some(self.link.borrow().clone()).filter(&wanted))
    }

    /// Waits for the connection; its session.
    pub fn up(&self) -> u64 {
        match self.link(|l| matches!(l, Link::Up { .. })) {
            Link::Up { session } => session,
            other => unreachable!("{other:?}"),
        }
    }

    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.stop();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, None | Some(Ok(()))) || std::thread::panicking(), "the uplink panicked");
    }
}

/// How the device of these tests is.
pub struct Health {
    cameras: Mutex<Vec<CameraCondition>>,
    version: watch::Sender<u64>,
}

impl Default for Health {
    fn default() -> Self {
        let since = Wall::from_unix_ms(0).rfc3339();
        let camera = CameraCondition {
            camera: "north".into(),
            status: CameraStatus::Live,
            since,
            reason: None,
            video: None,
            blind: None,
            arming: None,
        };
        Health { cameras: Mutex::new(vec![camera]), version: watch::Sender::new(0) }
    }
}

impl Health {
    fn camera_lost(&self, camera: &str) {
        for c in self.cameras.lock().expect("no panic under it").iter_mut().filter(|c| c.camera == camera) {
            c.status = CameraStatus::Lost;
        }
        self.version.send_modify(|v| *v += 1);
    }
}

impl HealthSource for Health {
    fn report(&self) -> HealthReport {
        HealthReport { uptime_s: 7, ..HealthReport::default() }
    }
    fn facts(&self) -> DeviceFacts {
        DeviceFacts { agent_version: "0.0.0".into(), model: None }
    }
    fn cameras(&self) -> Vec<CameraCondition> {
        self.cameras.lock().expect("no panic under it").clone()
    }
    fn clock(&self) -> ClockState {
        ClockState { synchronised: true, estimated_error_ms: Some(0.5) }
    }
    fn changed(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

/// An outbox without a disk, for one consumer, `soc`.
#[derive(Default)]
pub struct MemoryOutbox {
    /// Rows and whether a broker has them.
    rows: Mutex<BTreeMap<u64, (OutboxRow, bool)>>,
    newest: Mutex<u64>,
    added: watch::Sender<u64>,
    rewound: watch::Sender<u64>,
}

impl MemoryOutbox {
    /// Adds alerts of a camera; their ids.
    pub fn add(&self, camera: &str, count: usize) -> Vec<Uuid> {
        let (mut rows, mut newest) = (self.lock(), self.newest.lock().expect("no panic under it"));
        let queued = SystemClock::new().wall();
        let ids = (0..count).map(|_| {
            *newest += 1;
            let alert = alert(camera, queued);
            let id = alert.id;
            rows.insert(
                *newest,
                (OutboxRow { seq: *newest, queued, attempts: 0, after: None, dispatch: alert.into() }, false),
            );
            id
        });
        let ids = ids.collect();
        self.added.send_replace(*newest);
        ids
    }

    /// Adds an alert of so many bytes and more; its id.
    pub fn add_large(&self, camera: &str, bytes: usize) -> Uuid {
        let id = self.add(camera, 1)[0];
        let mut rows = self.lock();
        let (row, _) = rows.values_mut().find(|(row, _)| row.dispatch.id() == id).expect("just added");
        let Dispatch::Alert(alert) = &mut row.dispatch else { unreachable!("it was added as one") };
        alert.incident.class = "x".repeat(bytes);
        id
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, (OutboxRow, bool)>> {
        self.rows.lock().expect("no panic under it")
    }

    pub fn is_sent(&self, seq: u64) -> bool {
        self.lock().get(&seq).is_none_or(|(_, sent)| *sent)
    }

    pub fn all_sent(&self) -> bool {
        self.lock().values().all(|(_, sent)| *sent)
    }

    pub fn kept(&self) -> Vec<u64> {
        self.lock().keys().copied().collect()
    }
}

impl Outbox for MemoryOutbox {
    fn pending(&self, from: u64, limit: usize) -> Result<Vec<OutboxRow>, OutboxError> {
        let rows = self.lock();
        // Every alert here is of an incident of its own: none comes after another.
        Ok(rows.range(from..).filter(|(_, (_, sent))| !sent).take(limit).map(|(_, (r, _))| r.clone()).collect())
    }

    fn range(&self, from: u64, to: u64, limit: usize) -> Result<Vec<OutboxRow>, OutboxError> {
        Ok(self.lock().range(from..=to).take(limit).map(|(_, (r, _))| r.clone()).collect())
    }

    fn mark_sent(&self, seqs: &[u64]) -> Result<(), OutboxError> {
        let mut rows = self.lock();
        for seq in seqs {
            if let Some((_, sent)) = rows.get_mut(seq) {
                *sent = true;
            }
        }
        Ok(())
    }

    fn confirm(&self, consumer: &str, seq: u64) -> Result<(), OutboxError> {
        assert_eq!(consumer, "soc", "the uplink hands on configured consumers only");
        self.lock().retain(|s, _| *s > seq);
        Ok(())
    }

    fn resend(&self, from: u64, to: u64) -> Result<(), OutboxError> {
        self.lock().range_mut(from..=to).for_each(|(_, (_, sent))| *sent = false);
        self.rewound.send_modify(|version| *version += 1);
        Ok(())
    }

    fn rewound(&self) -> watch::Receiver<u64> {
        self.rewound.subscribe()
    }

    fn status(&self) -> Result<OutboxStatus, OutboxError> {
        let rows = self.lock();
        let pending = rows.values().filter(|(_, sent)| !sent).count() as u64;
        Ok(OutboxStatus {
            epoch: Uuid::from_u128(1),
            newest: *self.newest.lock().expect("no panic under it"),
            oldest_kept: rows.keys().next().copied(),
            pending,
            unconfirmed: rows.len() as u64 - pending,
            given_up: Vec::new(),
        })
    }

    fn added(&self) -> watch::Receiver<u64> {
        self.added.subscribe()
    }
}

pub fn alert(camera: &str, now: Wall) -> Alert {
    Alert {
        id: Uuid::now_v7(),
        kind: AlertKind::Opened,
        event_time_unix_ms: now,
        clock: ClockState { synchronised: true, estimated_error_ms: None },
        incident: IncidentReport {
            id: Uuid::now_v7(),
            site: "depot".into(),
            device: "gate-1".into(),
            camera: camera.into(),
            test: true,
            class: "Fighting".into(),
            start_time: now.rfc3339(),
            end_time: None,
            peak_score: 0.9,
            peak_time: now.rfc3339(),
            peak_fps: Some(8.0),
            scores: BTreeMap::new(),
            threshold: 0.5,
            close_reason: None,
            model: None,
            later_model: None,
        },
        clip: None,
        severity: Severity::Severe,
        place: None,
    }
}
