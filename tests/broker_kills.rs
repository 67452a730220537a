//! kill -9 of the daemon and of the broker at random moments, again and again, while incidents come and a consumer
//! confirms. No alert that was committed is let go of before the consumer has it, and none comes under two numbers.
//!
//! A broker that is killed may take with it what it had acknowledged and not handed on: those alerts are still on the
//! device, unconfirmed, and the test accounts for them.
//!
//! `VEDETTE_KILLS` says how often (20), `VEDETTE_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use vedette::base::clock::{Clock, SystemClock};
use vedette::base::stop::StopToken;

use crate::common::agent::Agent;
use crate::common::broker::{Broker, Subscriber};
use crate::common::pki::{NOW, Pki};
use crate::common::wait_for;
use crate::kills::{Dice, setting};

const CAMERA: &str =
    "[[camera]]\nid = \"pattern\"\nkind = \"test\"\nwidth = 160\nheight = 120\nfps = 10\nclassify = false\n";
const CLIPS: &str = "[clip]\npre_roll_s = 1\npost_roll_s = 0\n";
const LONGEST_LIFE_MS: u64 = 2_000;
const RAISE_EVERY_MS: u64 = 250;

/// What the consumer has: the id under each number.
#[derive(Default)]
struct Ledger {
    by_seq: BTreeMap<u64, String>,
    looked_at: usize,
    messages: usize,
}

impl Ledger {
    /// Takes in what has come.
    fn take(&mut self, soc: &mut Subscriber) {
        let all = soc.everything();
        for message in &all[self.looked_at..] {
            // An alert that no disk took has no number; its row comes later.
            let Some(seq) = message.payload["sequence"].as_str() else { continue };
            let (seq, id) = (seq.parse().expect("a number"), message.payload["id"].as_str().expect("an id"));
            self.messages += 1;
            let known = self.by_seq.entry(seq).or_insert_with(|| id.to_owned());
            assert_eq!(known, id, "alert {seq} is the same whenever it comes");
        }
        self.looked_at = all.len();
    }

    /// The highest number up to which nothing is missing.
    fn contiguous(&self) -> u64 {
        self.by_seq.keys().zip(1..).take_while(|(seq, expected)| *seq == expected).count() as u64
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "the seed repeats a failure")]
fn kills_of_device_and_broker_lose_no_committed_alert() {
    let kills = setting("VEDETTE_KILLS", 20);
    let seed = setting("VEDETTE_SEED", u64::from(std::process::id()) << 20 | 1);
    eprintln!("VEDETTE_SEED={seed}");
    let (mut dice, never) = (Dice(seed), StopToken::new());
    let pki = Pki::new();
    let mut broker = Broker::production(&pki).start();
    let subscribe = |broker: &Broker| broker.subscribe_as("monitor", "vedette/v1/test/unit/#");
    let mut soc = subscribe(&broker);
    let files = pki.device("test/unit", NOW);
    let mqtt = format!(
        "[mqtt]\nurl = \"mqtts://127.0.0.1:{}\"\nheartbeat_s = 1\nkeep_alive_s = 5\nca_file = {:?}\ncert_file = {:?}\n\
         key_file = {:?}\n",
        broker.port,
        pki.file("ca.crt"),
        files.cert,
        files.key,
    );
    let mut device = Agent::new(CAMERA, &format!("{CLIPS}{mqtt}")).start();
    let mut ledger = Ledger::default();
    for _ in 0..kills {
        let clock = SystemClock::new();
        let dies_at = dice.below(LONGEST_LIFE_MS);
        while clock.now().as_millis() < dies_at {
            // Refused while the camera starts, or where eight are open already.
            device.command(&["test-alert", "--json"]);
            let left = dies_at.saturating_sub(clock.now().as_millis());
            never.wait(Duration::from_millis(left.min(RAISE_EVERY_MS)));
        }
        let whom = dice.below(3);
        if whom != 0 {
            broker.kill();
        }
        if whom != 1 {
            device.signal("KILL");
            device.wait();
            device.restart();
        }
        ledger.take(&mut soc);
        if whom != 0 {
            broker.restart();
            // What came between is with the consumer unrecorded, and so unconfirmed.
            soc = subscribe(&broker);
            ledger.looked_at = 0;
        }
        confirm(&broker, ledger.contiguous());
    }
    let id = wait_for("the camera", || {
        let raised = device.command(&["test-alert", "--json"]);
        let line = String::from_utf8(raised.stdout).ok()?;
        let raised: Value = serde_json::from_str(line.lines().next()?).ok()?;
        raised["incident"].as_str().map(str::to_owned)
    });
    device.wait_for_clip(&id);
    // All is said that is to be said, and confirmed as far as it came.
    let outbox = wait_for("the outbox to be drained", || {
        ledger.take(&mut soc);
        confirm(&broker, ledger.contiguous());
        let outbox = soc.everything().iter().rfind(|m| m.topic.ends_with("/outbox"))?.payload.clone();
        let confirmed = match outbox["oldest_kept"].as_u64() {
            Some(oldest) => oldest == ledger.contiguous() + 1,
            None => outbox["newest"] == ledger.contiguous(),
        };
        (outbox["pending"] == 0 && confirmed).then_some(outbox)
    });
    let newest = outbox["newest"].as_u64().expect("checked");
    let ids: BTreeSet<&String> = ledger.by_seq.values().collect();
    assert_eq!(ids.len(), ledger.by_seq.len(), "no alert comes under two numbers");
    assert_eq!(outbox["given_up"], serde_json::json!([]), "and none was given up");
    // Otherwise nothing was tested.
    assert!(newest > kills, "{newest} alerts");
    let kept = newest - ledger.contiguous();
    eprintln!(
        "{kills} kills; {newest} alerts, {} of them came, in {} messages; {kept} are kept for a replay",
        ledger.by_seq.len(),
        ledger.messages
    );
}

fn confirm(broker: &Broker, seq: u64) {
    if seq > 0 {
        broker.publish("vedette/v1/test/unit/ack/soc", &format!("{{\"seq\": {seq}}}"));
    }
}
