//! What is heard of the fleet, folded message by message: pure, so that tests can say what was heard in any order.
//!
//! What belongs here: what the devices' messages mean for a roll-out. What does not: how they come (`fleet`), what of it is
//! kept (`state`).
//!
//! Invariants: an older message never undoes a newer one, as far as the device's own numbers tell them apart. What the
//! broker says for a device that is gone (its will) does not count as heard of it.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::plan::DeviceId;
use crate::base::clock::Wall;
use crate::contract::command::{self, CommandState, CommandStatus};
use crate::contract::heartbeat::Heartbeat;
use crate::contract::state::{DeviceState, Origin};
use crate::contract::topics::{Channel, DeviceTopics};
use crate::contract::update::{UpdateMessage, UpdateReason, UpdateState};

/// What our commands' ids begin with: others' statuses are not looked at.
pub const COMMAND_PREFIX: &str = "ro-";
/// Answers kept for each device: those of one roll-out, with room.
const ANSWERS: usize = 64;

/// A device's counters at a moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The device's session counter: with `uptime_s` the order of readings.
    pub session: u64,
    /// Seconds since its daemon started.
    pub uptime_s: u64,
    /// Incidents on all its cameras since then.
    pub incidents: u64,
    /// 99th percentile of the time of a frame, milliseconds; none: nothing was inferred.
    pub p99_ms: Option<f32>,
    /// By its own clock.
    pub said: Option<Wall>,
}

/// Incidents over time, across restarts of the device.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Meter {
    /// Of daemons that have ended.
    closed_incidents: u64,
    /// Of daemons that have ended.
    closed_s: u64,
    /// Where counting began in the daemon that runs.
    from_incidents: u64,
    /// Where counting began in the daemon that runs.
    from_s: u64,
    /// The latest.
    pub last: Option<Reading>,
}

impl Meter {
    /// Counts what comes after `reading` only; one that is [`Default`] counts all that a daemon has counted itself.
    pub fn after(reading: &Reading) -> Meter {
        Meter {
            from_incidents: reading.incidents,
            from_s: reading.uptime_s,
            last: Some(reading.clone()),
            ..Meter::default()
        }
    }

    /// Whether a reading says something new.
    pub fn is_news(&self, reading: &Reading) -> bool {
        let at = |r: &Reading| (r.session, r.uptime_s);
        self.last.as_ref().is_none_or(|last| at(last) < at(reading))
    }

    /// Whether the daemon was started anew between the latest reading and this one.
    pub fn restarts(&self, reading: &Reading) -> bool {
        let before = |last: &Reading| reading.uptime_s < last.uptime_s || reading.incidents < last.incidents;
        self.is_news(reading) && self.last.as_ref().is_some_and(before)
    }

    /// Takes a reading; one that is not news changes nothing.
    pub fn take(&mut self, reading: &Reading) {
        if !self.is_news(reading) {
            return;
        }
        if self.restarts(reading) {
            (self.closed_incidents, self.closed_s) = (self.incidents(), self.seconds());
            (self.from_incidents, self.from_s) = (0, 0);
        }
        self.last = Some(reading.clone());
    }

    /// Incidents counted.
    pub fn incidents(&self) -> u64 {
        let running = self.last.as_ref().map_or(0, |r| r.incidents.saturating_sub(self.from_incidents));
        self.closed_incidents + running
    }

    /// Seconds over which they were counted.
    pub fn seconds(&self) -> u64 {
        self.closed_s + self.last.as_ref().map_or(0, |r| r.uptime_s.saturating_sub(self.from_s))
    }

    /// See [`Reading::p99_ms`]; of the latest.
    pub fn p99_ms(&self) -> Option<f32> {
        self.last.as_ref().and_then(|r| r.p99_ms)
    }
}

/// What a device says of a release.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// The offer's id.
    pub id: Uuid,
    /// The release.
    pub release: u64,
    /// The roll-out, as the offer said.
    pub rollout: Option<String>,
    /// How far it is.
    pub state: UpdateState,
    /// Why it ended badly.
    pub reason: Option<UpdateReason>,
    /// What it waits for.
    pub waiting: Option<String>,
    /// Since when it is in this state, by the device's clock.
    pub since: Option<Wall>,
}

/// What became of a command of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// How far it is.
    pub state: CommandState,
    /// Why it was not carried out.
    pub reason: Option<String>,
}

/// What is known of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Whether the broker has it.
    pub online: bool,
    /// When it last said something itself, by the manager's clock.
    pub heard: Wall,
    /// What is under way on it, or ended last.
    pub told: Option<Told>,
    /// The release that serves.
    pub current: Option<u64>,
    /// The highest release that it has committed.
    pub floor: u64,
    /// Releases that it does not try again.
    pub refused: Vec<u64>,
    /// Its counters.
    pub reading: Option<Reading>,
    /// By command.
    pub answers: BTreeMap<String, Answer>,
    /// It has said how it stands with releases: an agent that never does knows nothing of them.
    pub updates: bool,
    state_session: u64,
    update_session: u64,
}

impl Seen {
    /// One of which nothing is known but that it was heard of.
    pub fn new(heard: Wall) -> Seen {
        Seen {
            online: false,
            heard,
            told: None,
            current: None,
            floor: 0,
            refused: Vec::new(),
            reading: None,
            answers: BTreeMap::new(),
            updates: false,
            state_session: 0,
            update_session: 0,
        }
    }
}

/// What is known of the fleet.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observations {
    /// Since when everything that is said is heard; none: there is no connection.
    pub watching_since: Option<Wall>,
    /// By device.
    pub devices: BTreeMap<DeviceId, Seen>,
}

/// A message of the broker's.
#[derive(Debug, Clone, Copy)]
pub struct Heard<'a> {
    /// Where.
    pub topic: &'a str,
    /// What.
    pub payload: &'a [u8],
    /// It was kept by the broker.
    pub retained: bool,
}

impl Observations {
    /// Takes a message in; whether it was one of a device.
    pub fn take(&mut self, now: Wall, heard: Heard<'_>) -> bool {
        let Ok((topics, channel)) = DeviceTopics::parse(heard.topic) else { return false };
        let id = DeviceId::from(&topics);
        match channel {
            Channel::State => self.with(id, heard, now, |seen, m: DeviceState| seen.take_state(&m)),
            Channel::Heartbeat => self.with(id, heard, now, |seen, m: Heartbeat| seen.take_heartbeat(&m)),
            Channel::Update => self.with(id, heard, now, |seen, m: UpdateMessage| seen.take_update(m)),
            Channel::CommandStatus(command) if command.as_str().starts_with(COMMAND_PREFIX) => {
                self.with(id, heard, now, |seen, m: CommandStatus| seen.take_answer(command.as_str(), m))
            }
            _ => false,
        }
    }

    fn with<M: DeserializeOwned + Headed>(
        &mut self,
        id: DeviceId,
        heard: Heard<'_>,
        now: Wall,
        take: impl FnOnce(&mut Seen, M) -> bool,
    ) -> bool {
        let Ok(message) = serde_json::from_slice::<M>(heard.payload) else {
            // Retained and emptied: whoever took it away has nothing to say of the device.
            if !heard.payload.is_empty() {
                log::warn!("a message on {} cannot be read, and is passed over", heard.topic);
            }
            return false;
        };
        let said = wall(&message.origin().publish_time);
        let at = if heard.retained { said.map_or(Wall::from_unix_ms(0), |said| said.min(now)) } else { now };
        let seen = self.devices.entry(id).or_insert_with(|| Seen::new(Wall::from_unix_ms(0)));
        if take(seen, message) {
            seen.heard = seen.heard.max(at);
        }
        true
    }
}

trait Headed {
    fn origin(&self) -> &Origin;
}

macro_rules! headed {
    ($($message:ty),*) => { $(impl Headed for $message { fn origin(&self) -> &Origin { &self.origin } })* };
}
headed!(DeviceState, Heartbeat, UpdateMessage, CommandStatus);

/// Each takes a message and says whether the device itself is heard in it.
impl Seen {
    fn take_state(&mut self, m: &DeviceState) -> bool {
        if m.origin.session >= self.state_session {
            (self.online, self.state_session) = (m.online, m.origin.session);
        }
        m.online
    }

    fn take_heartbeat(&mut self, m: &Heartbeat) -> bool {
        let inference = m.health.inference.as_ref().filter(|i| i.frame_ms.count > 0);
        let reading = Reading {
            session: m.origin.session,
            uptime_s: m.health.uptime_s,
            incidents: m.health.cameras.values().map(|c| c.incidents).sum(),
            p99_ms: inference.map(|i| i.frame_ms.p99),
            said: wall(&m.origin.publish_time),
        };
        let at = |r: &Reading| (r.session, r.uptime_s);
        if self.reading.as_ref().is_none_or(|last| at(last) <= at(&reading)) {
            self.reading = Some(reading);
        }
        true
    }

    fn take_update(&mut self, m: UpdateMessage) -> bool {
        self.updates = true;
        if m.origin.session < self.update_session {
            return true;
        }
        self.update_session = m.origin.session;
        let status = m.status;
        self.current = status.current.release;
        self.floor = status.floor;
        self.refused = status.refused;
        self.told = status.update.map(|u| Told {
            id: u.id,
            release: u.release,
            rollout: u.rollout,
            state: u.state,
            reason: u.reason,
            waiting: u.waiting,
            since: wall(&u.since),
        });
        true
    }

    fn take_answer(&mut self, command: &str, m: CommandStatus) -> bool {
        if self.answers.len() >= ANSWERS && !self.answers.contains_key(command) {
            self.answers.pop_first();
        }
        self.answers.insert(command.to_owned(), Answer { state: m.report.state, reason: m.report.reason });
        true
    }
}

fn wall(text: &str) -> Option<Wall> {
    command::time("", text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reading(session: u64, uptime_s: u64, incidents: u64) -> Reading {
        Reading { session, uptime_s, incidents, p99_ms: Some(10.0), said: None }
    }

    #[test]
    fn incidents_are_counted_across_restarts() {
        let mut all = Meter::default();
        all.take(&reading(1, 1000, 10));
        assert_eq!((all.incidents(), all.seconds()), (10, 1000));
        let mut after = Meter::after(&reading(1, 1000, 10));
        assert_eq!((after.incidents(), after.seconds()), (0, 0));
        for r in [reading(1, 1100, 12), reading(2, 50, 1), reading(2, 50, 1), reading(2, 60, 3)] {
            after.take(&r);
        }
        assert_eq!((after.incidents(), after.seconds()), (5, 160));
    }

    fn state(session: u64, online: bool, at: &str) -> String {
        format!(
            r#"{{"site":"s","device":"d","session":{session},"publish_time":"{at}",
                "clock":{{"synchronised":true,"estimated_error_ms":null}},"online":{online},
                "reason":"connected","since":null,"agent_version":"1","model":null}}"#
        )
    }

    #[test]
    fn a_stale_will_is_not_believed_and_a_will_is_not_the_device() {
        let mut o = Observations::default();
        let now = Wall::from_unix_ms(1_000_000_000);
        let take = |o: &mut Observations, json: &str, retained| {
            o.take(now, Heard { topic: "vedette/v1/s/d/state", payload: json.as_bytes(), retained })
        };
        let id: DeviceId = "s/d".parse().expect("a name");
        assert!(take(&mut o, &state(5, true, "1970-01-01T00:00:07Z"), true));
        assert_eq!((o.devices[&id].online, o.devices[&id].heard), (true, Wall::from_unix_ms(7000)));
        take(&mut o, &state(4, false, "1970-01-01T00:00:01Z"), false);
        assert!(o.devices[&id].online);
        take(&mut o, &state(5, false, "1970-01-01T00:00:07Z"), false);
        assert_eq!((o.devices[&id].online, o.devices[&id].heard), (false, Wall::from_unix_ms(7000)));
        take(&mut o, &state(6, true, "1970-01-01T00:00:09Z"), false);
        assert_eq!((o.devices[&id].online, o.devices[&id].heard), (true, now));
        assert!(!take(&mut o, "{", false));
        assert!(!o.take(now, Heard { topic: "vedette/v1/s/d/cmd/other/status", payload: b"{}", retained: false }));
    }

    proptest! {
        #[test]
        fn readings_that_come_twice_or_late_change_nothing(
            steps in proptest::collection::vec((0u64..3, 1u64..500, 0u64..5), 1..12), late in any::<proptest::sample::Index>()
        ) {
            let (mut session, mut uptime_s, mut incidents) = (1, 0, 0);
            let mut readings = Vec::new();
            for (restart, more_s, more) in steps {
                if restart == 0 {
                    (session, uptime_s, incidents) = (session + 1, 0, 0);
                }
                (uptime_s, incidents) = (uptime_s + more_s, incidents + more);
                readings.push(reading(session, uptime_s, incidents));
            }
            let mut clean = Meter::default();
            readings.iter().for_each(|r| clean.take(r));
            let mut noisy = Meter::default();
            for r in &readings {
                noisy.take(r);
                noisy.take(r);
            }
            noisy.take(&readings[late.index(readings.len())]);
            prop_assert_eq!(&noisy, &clean);
        }
    }
}
