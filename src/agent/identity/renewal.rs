//! A certificate is followed by the next in time, and a key that has travelled by one that was made here.
//!
//! ```text
//!            due                    answer                       the broker takes it
//!   settled ─────► requested ─────────────────► switching ─────────────────────────────► settled, the old slot removed
//!      ▲                           slot filled,     │ the broker refuses it
//!      └───────────────────────────── intent, ──────┘ `current` points to the old slot again
//!                                     switch
//! ```
//!
//! What is due is decided by [`due`] and [`judge`], which are pure; the rest keeps it on the disk.
//!
//! Invariants: the old certificate and its key stay until a connection was made with the new ones; every step's intent is
//! on the disk before it is done, and [`Identity::open`] finishes it; a certificate is installed only for the key that was
//! made for it, and only if the fleet's authority has signed it for this device's name.
//!
//! Locks: one, over all; it is held across writes to the disk, and nobody waits for it who must not wait.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::holdings::{Holdings, HoldingsError, Record, Switch};
use super::papers::{self, Paper, PaperError};
use crate::base::clock::{Clock, Mono, Wall};
use crate::base::digest;
use crate::base::error::Chain;
use crate::base::fail_point;
use crate::base::stop::StopToken;
use crate::contract::identity::{IdentityState, IdentityStatus};
use crate::contract::result::CertificateInstalled;

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(1);
/// After a certificate that the broker refused, the next is asked for so late.
const AGAIN_AFTER: Duration = Duration::from_secs(3600);
/// A new certificate with which so many connections failed, for whatever reason,
const FAILURES: u32 = 5;
/// and in so long a time, is given up: with the old one the device could at least be reached.
const PATIENCE: Duration = Duration::from_secs(900);

/// With which certificate a connection was tried, and what came of it. The uplink says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// SHA-256 of the file.
    pub certificate: String,
    /// What came of it.
    pub came: Came,
}

/// What came of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    /// The broker took it.
    Accepted,
    /// The broker refused the certificate, or whom it is for.
    Refused(String),
    /// It did not come so far.
    Failed(String),
}

/// Why a certificate is not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// None was asked for.
    #[error("this device has asked for no certificate")]
    NotAsked,
    /// It is for another key.
    #[error("the certificate is for another key than the one that this device asked for")]
    OtherKey,
    /// It does not hold.
    #[error(transparent)]
    Paper(#[from] PaperError),
    /// The disk.
    #[error(transparent)]
    Holdings(#[from] HoldingsError),
}

/// What is to be done about a switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// The new one is good.
    Settle,
    /// The old one is better.
    FallBack(String),
}

/// Whether the next certificate is to be asked for. `left`: the share of its life at which it is; none for `now`: the device
/// does not know the time.
pub fn due(record: &Record, paper: &Paper, now: Option<Wall>, share: f32) -> bool {
    if record.switch.is_some() {
        return false;
    }
    // A clock that was set back makes no long wait of it.
    let waits = |until: Wall| {
        now.is_some_and(|now| now < until && until.unix_ms() - now.unix_ms() <= AGAIN_AFTER.as_millis() as i64)
    };
    if record.not_before_unix_ms.is_some_and(waits) {
        return false;
    }
    record.travelled || now.is_some_and(|now| paper.left(now) < paper.lifetime().mul_f32(share))
}

/// What follows from a connection that was tried, where `certificate` is the new one; `failures` with it before this one,
/// in the time `since` the switch.
pub fn judge(certificate: &str, shown: &Shown, failures: u32, since: Duration) -> Verdict {
    if shown.certificate != certificate {
        return Verdict::Wait;
    }
    match &shown.came {
        Came::Accepted => Verdict::Settle,
        Came::Refused(why) => Verdict::FallBack(why.clone()),
        Came::Failed(why) if failures + 1 >= FAILURES && since >= PATIENCE => Verdict::FallBack(why.clone()),
        Came::Failed(_) => Verdict::Wait,
    }
}

/// The identity of a device that was provisioned.
pub struct Identity {
    holdings: Holdings,
    clock: Arc<dyn Clock>,
    share: f32,
    inner: Mutex<Inner>,
}

struct Inner {
    record: Record,
    /// What the certificate says that was last connected with.
    settled: Paper,
    /// SHA-256 of the file in use.
    shown: String,
    request: Option<String>,
    failures: u32,
    switched: Mono,
}

impl Identity {
    /// That of this state directory, with what a power cut interrupted finished; none: it was not provisioned. `share`: of
    /// its life, that a certificate has left when the next is asked for.
    pub fn open(state_dir: &Path, share: f32, clock: Arc<dyn Clock>) -> Result<Option<Identity>, HoldingsError> {
        let holdings = Holdings::of(state_dir);
        let Some(record) = holdings.record()? else { return Ok(None) };
        let mut slots = vec![];
        if let Some(Switch { from, to, .. }) = &record.switch {
            if holdings.current().as_ref() != Some(to) {
                holdings.point_to(to)?;
            }
            holdings.forget_request()?;
            slots.extend([from.clone(), to.clone()]);
        }
        slots.extend(holdings.current());
        holdings.keep_slots(&slots.iter().map(String::as_str).collect::<Vec<_>>())?;
        let current = holdings.paper()?;
        let settled = match &record.switch {
            Some(Switch { from, .. }) => holdings.paper_of(from)?,
            None => current,
        };
        let inner = Inner {
            shown: digest::of_bytes(holdings.certificate()?.as_bytes()),
            request: holdings.request()?,
            record,
            settled,
            failures: 0,
            switched: clock.now(),
        };
        Ok(Some(Identity { holdings, clock, share, inner: Mutex::new(inner) }))
    }

    /// Whether the connection is made with the files that are looked after here.
    pub fn is_shown_by(&self, certificate_path: &Path) -> bool {
        certificate_path == self.holdings.certificate_path()
    }

    /// How it stands.
    pub fn status(&self) -> IdentityStatus {
        let inner = self.inner();
        let state = match (&inner.record.switch, &inner.request) {
            (Some(_), _) => IdentityState::Switching,
            (None, Some(_)) => IdentityState::Requested,
            (None, None) => IdentityState::Settled,
        };
        let travelled = inner.record.switch.as_ref().map_or(inner.record.travelled, |s| s.from_travelled);
        IdentityStatus {
            state,
            serial: inner.settled.serial.clone(),
            not_after: inner.settled.not_after.rfc3339(),
            travelled,
            request_pem: inner.request.clone(),
            trouble: inner.record.trouble.clone(),
        }
    }

    /// Installs the certificate that was asked for; the same again changes nothing.
    pub fn install(&self, certificate_pem: &str) -> Result<CertificateInstalled, InstallError> {
        let mut inner = self.inner();
        let paper = Paper::read(certificate_pem)?;
        let installed = CertificateInstalled { serial: paper.serial.clone(), not_after: paper.not_after.rfc3339() };
        if self.holdings.current().as_ref() == Some(&paper.serial) {
            return Ok(installed);
        }
        let Some(key) = self.holdings.pending_key()?.filter(|_| inner.request.is_some()) else {
            return Err(InstallError::NotAsked);
        };
        if key.digest().ok().as_ref() != Some(&paper.key) {
            return Err(InstallError::OtherKey);
        }
        let authority = self.holdings.authority()?;
        papers::holds(certificate_pem, &inner.record.name(), &authority, self.clock.wall())?;
        let from = inner.settled.serial.clone();
        self.holdings.fill_slot(&paper.serial, certificate_pem, &key)?;
        fail_point::reach("identity_slot");
        let mut record = inner.record.clone();
        record.switch = Some(Switch { from, from_travelled: record.travelled, to: paper.serial.clone() });
        record.travelled = false;
        self.holdings.save(&record)?;
        inner.record = record;
        fail_point::reach("identity_intent");
        self.holdings.point_to(&paper.serial)?;
        fail_point::reach("identity_switched");
        inner.shown = digest::of_bytes(certificate_pem.as_bytes());
        (inner.failures, inner.switched) = (0, self.clock.now());
        inner.request = None;
        self.holdings.forget_request()?;
        log::info!("certificate {} is installed, valid until {}", installed.serial, installed.not_after);
        Ok(installed)
    }

    /// A connection was tried.
    pub fn heed(&self, shown: &Shown) -> Result<(), HoldingsError> {
        let mut inner = self.inner();
        let Some(switch) = inner.record.switch.clone() else { return Ok(()) };
        let since = self.clock.now().since(inner.switched);
        let mut record = inner.record.clone();
        record.switch = None;
        match judge(&inner.shown, shown, inner.failures, since) {
            Verdict::Wait => {
                let failed = shown.certificate == inner.shown && matches!(shown.came, Came::Failed(_));
                inner.failures += u32::from(failed);
            }
            Verdict::Settle => {
                (record.trouble, record.not_before_unix_ms) = (None, None);
                let paper = self.holdings.paper()?;
                self.holdings.save(&record)?;
                fail_point::reach("identity_settled");
                (inner.record, inner.settled) = (record, paper);
                self.holdings.keep_slots(&[&switch.to])?;
                log::info!("connected with certificate {}: the one before it is removed", switch.to);
            }
            Verdict::FallBack(why) => {
                log::error!("certificate {} is given up, {} is shown again: {why}", switch.to, switch.from);
                self.holdings.point_to(&switch.from)?;
                fail_point::reach("identity_fallen_back");
                record.travelled = switch.from_travelled;
                record.trouble = Some(format!("certificate {} was given up: {why}", switch.to));
                record.not_before_unix_ms = Some(self.clock.wall() + AGAIN_AFTER);
                self.holdings.save(&record)?;
                inner.shown = digest::of_bytes(self.holdings.certificate()?.as_bytes());
                inner.record = record;
                self.holdings.keep_slots(&[&switch.from])?;
            }
        }
        Ok(())
    }

    /// Asks for the next certificate if it is time; `now` is none while the device does not know the time.
    pub fn look(&self, now: Option<Wall>) -> Result<(), HoldingsError> {
        let mut inner = self.inner();
        if inner.request.is_none() && due(&inner.record, &inner.settled, now, self.share) {
            inner.request = Some(self.holdings.make_request(&inner.record.name())?);
            log::info!("asks for a new certificate: this one is valid until {}", inner.settled.not_after.rfc3339());
        }
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics under it")
    }
}

/// What [`run`] works with.
pub struct Parts {
    /// Who the device is.
    pub identity: Arc<Identity>,
    /// What the uplink says of its connections.
    pub shown: watch::Receiver<Option<Shown>>,
    /// The time, as far as the device knows it.
    pub now: Arc<dyn Fn() -> Option<Wall> + Send + Sync>,
    /// Who is told how it stands.
    pub tell: Arc<dyn Fn(IdentityStatus) + Send + Sync>,
    /// Ends it.
    pub stop: StopToken,
    /// For the watchdog.
    pub beat: crate::base::progress::Beat,
}

/// Looks after the identity until stopped.
pub async fn run(parts: Parts) {
    let Parts { identity, mut shown, now, tell, stop, beat } = parts;
    let mut complaint = String::new();
    while !stop.is_stopped() {
        beat.beat();
        let latest = shown.has_changed().unwrap_or(false).then(|| shown.borrow_and_update().clone()).flatten();
        let (identity, now, tell) = (Arc::clone(&identity), Arc::clone(&now), Arc::clone(&tell));
        let round = move || {
            let done = latest.map_or(Ok(()), |shown| identity.heed(&shown)).and_then(|()| identity.look(now()));
            tell(identity.status());
            done.err().map(|e| Chain(&e).to_string())
        };
        match tokio::task::spawn_blocking(round).await {
            Ok(trouble) => {
                let trouble = trouble.unwrap_or_default();
                // Once for each kind of trouble.
                if trouble != complaint && !trouble.is_empty() {
                    log::error!("the device's certificate: {trouble}");
                }
                complaint = trouble;
            }
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
        tokio::select! {
            () = stop.stopped() => {}
            () = tokio::time::sleep(EVERY) => {}
            // The uplink ends before this: its end is not news.
            Ok(()) = shown.changed() => shown.mark_changed(),
        }
    }
    beat.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const NOW: Wall = Wall::from_unix_ms(1_800_000_000_000);

    fn paper(left_days: u32) -> Paper {
        let not_after = NOW + left_days * DAY;
        let (name, serial, key) = ("depot/gate-1".into(), "7".into(), "k".into());
        Paper { name, serial, not_before: not_after - 90 * DAY, not_after, key }
    }

    #[test]
    fn the_next_certificate_is_asked_for_in_time_and_not_before() {
        let record = Record::new("depot", "gate-1", None, false);
        for (left, asked) in [(31, false), (30, false), (29, true), (1, true), (0, true)] {
            assert_eq!(due(&record, &paper(left), Some(NOW), 1.0 / 3.0), asked, "{left} days left");
            assert!(!due(&record, &paper(left), None, 1.0 / 3.0), "the time is not known");
        }
        let travelled = Record { travelled: true, ..record.clone() };
        assert!(due(&travelled, &paper(89), None, 0.3), "whatever the time is");
        let switching = Switch { from: "7".into(), from_travelled: true, to: "8".into() };
        assert!(!due(&Record { switch: Some(switching), ..travelled.clone() }, &paper(1), Some(NOW), 0.3));
        let waiting = |until| Record { not_before_unix_ms: Some(until), ..travelled.clone() };
        assert!(!due(&waiting(NOW + AGAIN_AFTER / 2), &paper(1), Some(NOW), 0.3));
        assert!(due(&waiting(NOW), &paper(1), Some(NOW), 0.3));
        assert!(due(&waiting(NOW + 400 * DAY), &paper(1), Some(NOW), 0.3), "the clock was set back");
    }

    #[test]
    fn a_refusal_counts_at_once_and_a_broken_network_only_after_a_while() {
        let shown = |certificate: &str, came| Shown { certificate: certificate.into(), came };
        let failed = || Came::Failed("no route".into());
        let long = PATIENCE + Duration::from_secs(1);
        for (certificate, came, failures, since, wanted) in [
            ("new", Came::Accepted, 0, Duration::ZERO, Verdict::Settle),
            ("old", Came::Accepted, 0, Duration::ZERO, Verdict::Wait),
            ("old", Came::Refused("revoked".into()), 9, long, Verdict::Wait),
            ("new", Came::Refused("revoked".into()), 0, Duration::ZERO, Verdict::FallBack("revoked".into())),
            ("new", failed(), 9, Duration::ZERO, Verdict::Wait),
            ("new", failed(), 0, long, Verdict::Wait),
            ("new", failed(), 4, long, Verdict::FallBack("no route".into())),
        ] {
            assert_eq!(judge("new", &shown(certificate, came), failures, since), wanted);
        }
    }
}
