//! What a broker, the way to it and the clock may do, against a real Mosquitto: nothing that was committed is lost by it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use uuid::Uuid;
use vedette::agent::uplink::Link;
use vedette::base::clock::Clock;

use crate::broker_sessions::Settable;
use crate::common::agent::Agent as Daemon;
use crate::common::broker::{Broker, Subscriber};
use crate::common::netns::Namespace;
use crate::common::pki::{NOW, Pki};
use crate::common::relay::{Network, Relay};
use crate::common::wait_for;
use crate::uplink::{Agent, arrived, encrypted, id, plain};

const ALERTS: &str = "vedette/v1/depot/gate-1/alerts/#";
const ACK: &str = "vedette/v1/depot/gate-1/ack/soc";
const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;

/// A camera that opens incidents only when asked to.
const CAMERA: &str =
    "[[camera]]\nid = \"pattern\"\nkind = \"test\"\nwidth = 160\nheight = 120\nfps = 10\nclassify = false\n";
const CLIPS: &str = "[clip]\npre_roll_s = 1\npost_roll_s = 0\n[storage]\nmin_free_mb = 0\n";

#[test]
fn a_broker_killed_before_it_acknowledged_gets_it_again() {
    let mut broker = Broker::plaintext().start();
    let relay = Relay::to(broker.port);
    let agent = Agent::start(plain(relay.port));
    agent.up();
    let mut soc = broker.subscribe(ALERTS);
    relay.set(Network::Unanswered);
    let sent = agent.outbox.add("north", 5);
    arrived(&mut soc, &sent);
    assert!((1..=5).all(|seq| !agent.outbox.is_sent(seq)), "the broker has them, and never said so");
    broker.kill();
    relay.set(Network::Sound);
    broker.restart();
    let again = arrived(&mut broker.subscribe(ALERTS), &sent);
    let order: Vec<Uuid> = again.iter().map(|e| e.id).collect();
    assert_eq!(order, sent, "the same messages by their ids, and in order");
    wait_for("all marks", || agent.outbox.all_sent().then_some(()));
}

#[test]
fn a_broker_that_forgets_its_sessions_is_told_everything_again() {
    let mut broker = Broker::plaintext().start();
    let agent = Agent::start(plain(broker.port));
    agent.up();
    let mut soc = broker.subscribe(ALERTS);
    let sent = agent.outbox.add("north", 3);
    arrived(&mut soc, &sent);
    wait_for("all marks", || agent.outbox.all_sent().then_some(()));
    for round in 0..2u64 {
        broker.restart_without_memory();
        // What is retained is said again,
        for topic in ["state", "camera/north", "outbox"] {
            broker.subscribe(&format!("vedette/v1/depot/gate-1/{topic}")).wait_for(topic, |m| m.payload.is_object());
        }
        // and the device's own subscription is made again: a confirmation reaches it.
        let mut soc = broker.subscribe(ALERTS);
        arrived(&mut soc, &agent.outbox.add("north", 1));
        let newest = 4 + round;
        wait_for("release", || {
            broker.publish(ACK, &format!("{{\"seq\": {newest}}}"));
            agent.outbox.kept().is_empty().then_some(())
        });
    }
}

#[test]
fn packet_identifiers_do_not_run_out() {
    let broker = Broker::plaintext().start();
    let mut soc = broker.subscribe(ALERTS);
    let agent = Agent::start(plain(broker.port));
    let session = agent.up();
    // More than there are identifiers, over one connection.
    let sent = agent.outbox.add("north", 66_000);
    arrived(&mut soc, &sent);
    wait_for("all marks", || agent.outbox.all_sent().then_some(()));
    assert_eq!(agent.up(), session);
}

#[test]
fn a_message_that_the_broker_refuses_for_ever_holds_up_no_other() {
    let broker = Broker::plaintext().also("message_size_limit 6000").start();
    let mut soc = broker.subscribe(ALERTS);
    let agent = Agent::start(plain(broker.port));
    agent.up();
    let before = agent.outbox.add("north", 20);
    let refused = agent.outbox.add_large("north", 8000);
    let after = agent.outbox.add("north", 20);
    arrived(&mut soc, &[before, after].concat());
    wait_for("the others' marks", || (1..=41).all(|s| s == 21 || agent.outbox.is_sent(s)).then_some(()));
    assert!(!agent.outbox.is_sent(21), "it is kept");
    // And no connection is lost over it any more.
    let session = agent.up();
    arrived(&mut soc, &agent.outbox.add("north", 100));
    assert_eq!(agent.up(), session);
    assert!(soc.everything().iter().all(|m| id(m) != Some(refused)));
}

#[test]
fn a_camera_that_may_not_speak_holds_up_no_other() {
    let pki = Pki::new();
    let rule = "pattern write vedette/v1/%u/#";
    let but_south = ["alerts/north", "state", "camera/+", "heartbeat", "outbox"]
        .map(|channel| format!("pattern write vedette/v1/%u/{channel}"))
        .join("\n");
    let broker = Broker::production(&pki).with("acl", rule, &but_south).start();
    let mut soc = broker.subscribe(ALERTS);
    let agent = Agent::start(encrypted(broker.port, pki.tls(Some(pki.device("depot/gate-1", NOW)))));
    let session = agent.up();
    let south = agent.outbox.add("south", 20);
    let north = agent.outbox.add("north", 20);
    arrived(&mut soc, &north);
    wait_for("the marks of what may be said", || (21..=40).all(|s| agent.outbox.is_sent(s)).then_some(()));
    assert!((1..=20).all(|s| !agent.outbox.is_sent(s)), "the rest is kept");
    assert_eq!(agent.up(), session);
    assert!(soc.everything().iter().filter_map(id).all(|id| !south.contains(&id)));
}

/// What a consumer has that was away for a while, and confirms as far as it has everything.
fn confirm_what_came(broker: &Broker, soc: &mut Subscriber, sent: &[Uuid]) -> usize {
    let came: BTreeSet<Uuid> = soc.everything().iter().filter_map(id).collect();
    let contiguous = sent.iter().take_while(|id| came.contains(id)).count();
    broker.publish(ACK, &format!("{{\"seq\": {contiguous}}}"));
    contiguous
}

#[test]
fn what_a_broker_drops_at_its_queue_limit_stays_on_the_device() {
    let broker =
        Broker::plaintext().with("mosquitto.conf", "max_queued_messages 1000000000", "max_queued_messages 100").start();
    drop(broker.subscribe_as("soc", ALERTS));
    let agent = Agent::start(plain(broker.port));
    let sent = agent.outbox.add("north", 400);
    wait_for("all marks", || agent.outbox.all_sent().then_some(()));
    let mut soc = broker.subscribe_as("soc", ALERTS);
    // The first after the hole says that what the broker had kept is over.
    let last = agent.outbox.add("north", 1);
    soc.wait_for("news", |m| id(m) == Some(last[0]));
    let confirmed = confirm_what_came(&broker, &mut soc, &sent);
    assert!(confirmed < 400, "this broker drops nothing any more, and the test tests nothing");
    wait_for("release", || (agent.outbox.kept().len() == 401 - confirmed).then_some(()));
    assert_eq!(agent.outbox.kept(), (confirmed as u64 + 1..=401).collect::<Vec<_>>(), "all that it lacks");
}

#[test]
fn what_a_killed_broker_had_acknowledged_stays_on_the_device() {
    let mut broker = Broker::plaintext().start();
    drop(broker.subscribe_as("soc", ALERTS));
    let agent = Agent::start(plain(broker.port));
    agent.up();
    let sent = agent.outbox.add("north", 50);
    wait_for("all marks", || agent.outbox.all_sent().then_some(()));
    broker.restart();
    let mut soc = broker.subscribe_as("soc", ALERTS);
    let last = agent.outbox.add("north", 1);
    soc.wait_for("news", |m| id(m) == Some(last[0]));
    let confirmed = confirm_what_came(&broker, &mut soc, &sent);
    assert!(confirmed < 50, "this broker forgets nothing any more, and the test tests nothing");
    wait_for("release", || (agent.outbox.kept().len() == 51 - confirmed).then_some(()));
}

#[test]
fn a_line_two_seconds_long_is_a_line() {
    let broker = Broker::plaintext().start();
    let relay = Relay::to(broker.port);
    relay.set(Network::Late(Duration::from_secs(2)));
    let mut soc = broker.subscribe(ALERTS);
    let agent = Agent::start(plain(relay.port));
    let session = agent.up();
    arrived(&mut soc, &agent.outbox.add("north", 20));
    wait_for("all marks", || agent.outbox.all_sent().then_some(()));
    assert_eq!(agent.up(), session, "slow is not gone");
}

#[test]
fn a_clock_stepped_by_a_year_loses_nothing() {
    let pki = Pki::new();
    let broker = Broker::production(&pki).start();
    let relay = Relay::to(broker.port);
    let clock = Settable::ahead_by(0);
    let mqtt = encrypted(relay.port, pki.tls(Some(pki.device("depot/gate-1", NOW))));
    let agent = Agent::with_clock(mqtt, Arc::clone(&clock) as Arc<dyn Clock>).run();
    let session = agent.up();
    let mut soc = broker.subscribe(ALERTS);
    // A connection that stands is none the worse for it.
    for ahead in [YEAR_MS, -YEAR_MS, 0] {
        clock.ahead_ms.store(ahead, Ordering::SeqCst);
        arrived(&mut soc, &agent.outbox.add("north", 3));
    }
    assert_eq!(agent.up(), session);
    // One that has to be made anew waits for the right time.
    for (ahead, said) in [(YEAR_MS, "the broker's certificate expired"), (-YEAR_MS, "is valid from")] {
        clock.ahead_ms.store(ahead, Ordering::SeqCst);
        relay.set(Network::Cut);
        agent.link(|l| matches!(l, Link::Down { .. }));
        relay.set(Network::Sound);
        let sent = agent.outbox.add("north", 3);
        agent.link(|l| matches!(l, Link::Down { why, .. } if why.contains(said)));
        clock.ahead_ms.store(0, Ordering::SeqCst);
        arrived(&mut soc, &sent);
    }
    wait_for("all marks", || agent.outbox.all_sent().then_some(()));
}

/// The real daemon, with a camera that opens incidents only when asked to, and this broker.
fn daemon(broker: &Broker) -> Daemon {
    let mqtt = format!("[mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\nheartbeat_s = 1\nkeep_alive_s = 5\n", broker.port);
    Daemon::new(CAMERA, &format!("{CLIPS}{mqtt}"))
}

fn raise(daemon: &Daemon) -> String {
    wait_for("the camera", || (daemon.status()["cameras"][0]["status"] == "live").then_some(()));
    daemon.raise_test()
}

/// Waits for the message that an incident opened.
fn opened(soc: &mut Subscriber, incident: &str) {
    soc.wait_for(incident, |m| m.payload["subject"] == incident && m.payload["type"] == "org.vedette.alert.opened.v1");
}

#[test]
fn a_disk_that_fills_up_while_the_broker_is_away_loses_nothing_stored() {
    let mut broker = Broker::plaintext();
    let mut device = daemon(&broker);
    if !device.on_a_disk_of(32, "") {
        return;
    }
    device.restart();
    let mut raised = vec![raise(&device)];
    device.fill_disk("filler");
    wait_for("the reserve to be needed", || {
        raised.push(device.raise_test());
        device.log().contains("alerts go on from a reserve").then_some(())
    });
    broker.restart();
    let mut soc = broker.subscribe("vedette/v1/test/unit/alerts/#");
    for incident in &raised {
        opened(&mut soc, incident);
    }
    std::fs::remove_file(device.disk().join("filler")).expect("there");
    assert!(device.terminate().success());
}

#[test]
fn packets_that_get_lost_and_a_link_that_is_cut_cost_nothing() {
    let Some(network) = Namespace::new() else { return };
    let broker = Broker::plaintext().within(&network).start();
    let mut device = daemon(&broker);
    device.within(&network);
    device.restart();
    let mut soc = broker.subscribe("vedette/v1/test/unit/alerts/#");
    opened(&mut soc, &raise(&device));
    network.lose(30);
    let raised = [raise(&device), raise(&device), raise(&device)];
    for incident in &raised {
        opened(&mut soc, incident);
    }
    network.sound();
    network.link(false);
    let meanwhile = raise(&device);
    wait_for("the device to notice", || {
        let log = device.log();
        ["has acknowledged nothing", "lost the connection"].iter().any(|said| log.contains(said)).then_some(())
    });
    network.link(true);
    opened(&mut soc, &meanwhile);
    assert!(device.terminate().success());
}
