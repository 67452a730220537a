//! When a state of a camera or of the device is trouble that the SOC must hear of: after it has lasted, and over only when
//! it has been over for a while. `Watch` is pure; [`Watcher`] asks and tells.
//!
//! ```text
//!     fine ──so for hold──► to be raised ──the store took it──► raised ──not so for quiet──► to be cleared ──► fine
//! ```
//!
//! What comes and goes and is never away for `quiet` lasts: a camera that drops its stream every few seconds is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::health::Health;
use crate::agent::store::{Store, StoreCounters};
use crate::base::clock::{Clock, Mono};
use crate::base::error::Chain;
use crate::base::progress::Beat;
use crate::base::stop::StopToken;
use crate::contract::heartbeat::{HealthReport, HealthSource};
use crate::contract::notice::Trouble;
use crate::contract::state::{CameraCondition, CameraStatus};

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(2);
/// How long a loss (a count that grew) is trouble when nothing more is lost.
const LOSS_FOR: Duration = Duration::from_secs(3600);

/// Who has trouble (none: the device), and which.
type Key = (Option<String>, Trouble);

/// How things are at one time.
struct Present<'a> {
    cameras: &'a [CameraCondition],
    report: &'a HealthReport,
    store: StoreCounters,
    storage_fails: bool,
    /// Below this much free space clips are deleted.
    min_free_bytes: u64,
    knows_time_of_day: bool,
    seen_by_others: BTreeMap<Trouble, String>,
}

/// What is so now that would be trouble, with words for a person.
fn signs(p: &Present<'_>, before: &StoreCounters) -> BTreeMap<Key, String> {
    let mut found = BTreeMap::new();
    for c in p.cameras {
        let camera = Some(c.camera.clone());
        if matches!(c.status, CameraStatus::Lost | CameraStatus::Starting) {
            let why = c.reason.clone().unwrap_or_else(|| "no picture has come yet".into());
            found.insert((camera, Trouble::CameraLost), why);
        } else if let Some(why) = &c.blind {
            found.insert((camera, Trouble::CameraBlind), why.clone());
        }
    }
    let mut device = |trouble, detail: String| found.insert((None, trouble), detail);
    if p.storage_fails {
        device(Trouble::StorageFailing, "the disk refuses records; alerts go out from memory".into());
    }
    if let Some(disk) = p.report.disks.get("state").filter(|d| d.free_bytes < p.min_free_bytes) {
        let free = disk.free_bytes / 1_000_000;
        device(Trouble::DiskLow, format!("{free} MB are free: clips are deleted for room (storage.min_free_mb)"));
    }
    if p.report.throttling.as_ref().is_some_and(|t| t.active) {
        device(Trouble::Throttled, "the device slows itself down: too hot, or its supply is too weak".into());
    }
    if !p.knows_time_of_day {
        device(Trouble::ClockUnset, "the clock has not been set since the start: no time server was reached".into());
    }
    let clips = p.store.expired_undelivered.saturating_sub(before.expired_undelivered);
    if clips > 0 {
        device(Trouble::ClipsDeleted, format!("{clips} clips were deleted before their alerts were confirmed"));
    }
    let alerts = p.store.given_up.saturating_sub(before.given_up);
    if alerts > 0 {
        device(Trouble::AlertsGivenUp, format!("{alerts} alerts were let go that nobody had confirmed"));
    }
    found.extend(p.seen_by_others.iter().map(|(trouble, words)| ((None, *trouble), words.clone())));
    found
}

/// How long it has to be so before it is trouble, and not so before it is over.
fn patience(trouble: Trouble) -> (Duration, Duration) {
    let s = Duration::from_secs;
    match trouble {
        Trouble::CameraLost | Trouble::CameraBlind => (s(15), s(10)),
        Trouble::StorageFailing => (Duration::ZERO, s(10)),
        Trouble::DiskLow | Trouble::Throttled => (s(30), s(300)),
        Trouble::ClipsDeleted | Trouble::AlertsGivenUp => (Duration::ZERO, LOSS_FOR),
        Trouble::ClockUnset => (s(300), s(10)),
        Trouble::UpdatesFrozen | Trouble::ModelDamaged => (s(0), s(0)),
    }
}

/// See the module's doc.
#[derive(Default)]
struct Watch {
    /// What the store knows to be raised.
    raised: BTreeSet<Key>,
    /// What is not as the store knows it.
    turned: BTreeMap<Key, Turned>,
    /// It has lasted: told until the store takes it, whatever comes meanwhile.
    due: BTreeMap<Key, Option<Found>>,
}

struct Turned {
    /// Since when, but for moments,
    since: Mono,
    /// and when it was so last.
    last: Mono,
    /// The last words for it.
    words: String,
}

/// Trouble that is there: words for a person, and since when.
type Found = (String, Mono);

impl Watch {
    /// What to tell the store: words where trouble is there, none where it is over. What it took is to be handed to
    /// [`Watch::told`].
    fn step(&mut self, now: Mono, signs: &BTreeMap<Key, String>) -> Vec<(Key, Option<Found>)> {
        let known: BTreeSet<Key> = self.raised.iter().chain(signs.keys()).chain(self.turned.keys()).cloned().collect();
        for key in known {
            let (sign, raised) = (signs.get(&key), self.raised.contains(&key));
            let (hold, quiet) = patience(key.1);
            if sign.is_some() == raised {
                // Over is what is over without a break; there is what is not over.
                if raised || self.turned.get(&key).is_some_and(|turned| now.since(turned.last) >= quiet) {
                    self.turned.remove(&key);
                }
                continue;
            }
            let new = || Turned { since: now, last: now, words: String::new() };
            let turned = self.turned.entry(key.clone()).or_insert_with(new);
            turned.last = now;
            turned.words = sign.cloned().unwrap_or_default();
            if now.since(turned.since) >= if raised { quiet } else { hold } && !self.due.contains_key(&key) {
                let found = sign.is_some().then(|| (turned.words.clone(), turned.since));
                self.due.insert(key, found);
            }
        }
        self.due.iter().map(|(key, found)| (key.clone(), found.clone())).collect()
    }

    /// The store took it.
    fn told(&mut self, key: &Key) {
        if let Some(found) = self.due.remove(key) {
            self.turned.remove(key);
            match found {
                Some(_) => self.raised.insert(key.clone()),
                None => self.raised.remove(key),
            };
        }
    }
}

/// Looks every two seconds and tells the store; and `health`, what other stages go by.
pub struct Watcher {
    /// How the device is.
    pub health: Arc<Health>,
    /// Who is told.
    pub store: Store,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl Watcher {
    /// Until stopped.
    pub fn run(self, stop: &StopToken, beat: &Beat) {
        let mut watch = Watch::default();
        match self.store.reader().troubles() {
            // Of an earlier run: told anew if it is over.
            Ok(raised) => watch.raised = raised.into_iter().collect(),
            Err(e) => log::warn!("notices of an earlier run may not be cleared: {}", Chain(&e)),
        }
        // From the start on: what it let go of is a loss too.
        let mut before = StoreCounters::default();
        while !stop.is_stopped() {
            beat.beat();
            let (report, cameras, store) = (self.health.report(), self.health.cameras(), self.store.counters());
            self.health.heed(&report);
            let present = Present {
                cameras: &cameras,
                report: &report,
                store,
                storage_fails: self.store.is_failing(),
                min_free_bytes: self.store.limits().min_free_bytes,
                knows_time_of_day: self.health.knows_time_of_day(),
                seen_by_others: self.health.seen_by_others(),
            };
            let signs = signs(&present, &before);
            before = store;
            let now = self.clock.now();
            for (key, found) in watch.step(now, &signs) {
                let found = found.as_ref().map(|(words, since)| (words.as_str(), now.since(*since)));
                if self.store.trouble(key.0.as_deref(), key.1, found) {
                    watch.told(&key);
                }
            }
            stop.wait(EVERY);
        }
        beat.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Mono {
        Mono::ZERO + Duration::from_secs(s)
    }

    fn gate(trouble: Trouble) -> Key {
        (Some("gate".into()), trouble)
    }

    fn one(key: &Key) -> BTreeMap<Key, String> {
        BTreeMap::from([(key.clone(), "no route to host".to_owned())])
    }

    #[test]
    fn what_lasts_is_raised_once_and_cleared_once() {
        let (mut watch, key, fine) = (Watch::default(), gate(Trouble::CameraLost), BTreeMap::new());
        assert_eq!(watch.step(at(0), &one(&key)), []);
        assert_eq!(watch.step(at(14), &one(&key)), []);
        let raise = vec![(key.clone(), Some(("no route to host".to_owned(), at(0))))];
        assert_eq!(watch.step(at(15), &one(&key)), raise);
        assert_eq!(watch.step(at(16), &fine), raise, "until the store takes it, though it is over");
        watch.told(&key);
        assert_eq!(watch.step(at(17), &one(&key)), []);
        assert_eq!(watch.step(at(20), &fine), []);
        assert_eq!(watch.step(at(25), &one(&key)), [], "not quiet for long enough");
        assert_eq!(watch.step(at(26), &fine), []);
        assert_eq!(watch.step(at(36), &fine), [(key.clone(), None)]);
        watch.told(&key);
        assert_eq!(watch.step(at(40), &fine), []);
    }

    #[test]
    fn what_passes_by_itself_is_not_said() {
        let (mut watch, key, fine) = (Watch::default(), gate(Trouble::CameraLost), BTreeMap::new());
        for round in 0..20 {
            assert_eq!(watch.step(at(round * 20), &one(&key)), []);
            assert_eq!(watch.step(at(round * 20 + 10), &fine), []);
        }
    }

    #[test]
    fn what_comes_and_goes_lasts() {
        let (mut watch, key, fine) = (Watch::default(), gate(Trouble::CameraLost), BTreeMap::new());
        for s in 0..8 {
            assert_eq!(watch.step(at(2 * s), &if s % 2 == 0 { one(&key) } else { fine.clone() }), []);
        }
        assert_eq!(watch.step(at(16), &one(&key)).len(), 1);
    }

    #[test]
    fn trouble_of_an_earlier_run_is_cleared_when_it_is_over() {
        let key = gate(Trouble::CameraLost);
        let mut watch = Watch { raised: BTreeSet::from([key.clone()]), ..Watch::default() };
        assert_eq!(watch.step(at(0), &BTreeMap::new()), []);
        assert_eq!(watch.step(at(10), &BTreeMap::new()), [(key, None)]);
    }

    #[test]
    fn signs_are_seen() {
        let camera = |name: &str, status, blind: Option<&str>| CameraCondition {
            camera: name.into(),
            status,
            since: String::new(),
            reason: None,
            video: None,
            blind: blind.map(str::to_owned),
            arming: None,
        };
        let cameras = [
            camera("a", CameraStatus::Lost, Some("says all")),
            camera("b", CameraStatus::Live, Some("too slow")),
            camera("c", CameraStatus::Live, None),
            camera("d", CameraStatus::Ended, None),
        ];
        let disk = crate::contract::heartbeat::DiskHealth { free_bytes: 99, total_bytes: 1000 };
        let report = HealthReport { disks: BTreeMap::from([("state".into(), disk)]), ..HealthReport::default() };
        let store = StoreCounters { given_up: 5, expired_undelivered: 2, ..StoreCounters::default() };
        let present = Present {
            cameras: &cameras,
            report: &report,
            store,
            storage_fails: true,
            min_free_bytes: 100,
            knows_time_of_day: false,
            seen_by_others: BTreeMap::new(),
        };
        let before = StoreCounters { given_up: 2, expired_undelivered: 2, ..StoreCounters::default() };
        let found = signs(&present, &before);
        let key = |camera: Option<&str>, trouble| (camera.map(str::to_owned), trouble);
        let expected = [
            key(None, Trouble::StorageFailing),
            key(None, Trouble::DiskLow),
            key(None, Trouble::AlertsGivenUp),
            key(None, Trouble::ClockUnset),
            key(Some("a"), Trouble::CameraLost),
            key(Some("b"), Trouble::CameraBlind),
        ];
        assert_eq!(found.keys().cloned().collect::<Vec<_>>(), expected);
        assert!(found[&expected[2]].starts_with("3 alerts"), "{found:?}");
    }
}
