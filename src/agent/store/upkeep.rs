//! What the writer does between commits: lets go of what is too old or takes too much room, and keeps count of the time
//! that the daemon has run. In bounded steps; what cannot be done now is done at the next round, and complained of once.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::Connection;

use super::age::Present;
use super::error::sql;
use super::expire::{self, Expired};
use super::reserve::Reserve;
use super::retention::{Limits, Why};
use super::{Shared, StoreError, outbox, reserve};
use crate::base::clock::Mono;
use crate::base::error::Chain;

/// How often what has grown too old is looked for.
const OLD_EVERY: Duration = Duration::from_secs(600);
/// How far the count of the running time may be behind when something is made.
const COUNT_EVERY: Duration = Duration::from_secs(60);
/// How often all clips together are measured.
const BYTES_EVERY: Duration = Duration::from_secs(60);
/// How often it is asked what is left of the disk.
const SPACE_EVERY: Duration = Duration::from_secs(2);

/// What upkeep works on.
pub(super) struct Site<'a> {
    pub conn: &'a mut Connection,
    pub path: &'a Path,
    pub state_dir: &'a Path,
    pub shared: &'a Shared,
    pub reserve: &'a Reserve,
}

/// See the module's doc.
#[derive(Default)]
pub(super) struct Upkeep {
    /// How long the daemon had run at `counted`, over all its starts.
    ran: Duration,
    counted: Mono,
    old_at: Mono,
    bytes_at: Mono,
    space_at: Mono,
    /// Said, and still so.
    failing: bool,
    short: bool,
}

impl Upkeep {
    /// With the time that the daemon ran before; `now` on the clock of the rounds.
    pub(super) fn new(conn: &Connection, path: &Path, now: Mono) -> Result<Upkeep, StoreError> {
        let ran_ms: i64 = conn
            .query_row("SELECT ms FROM running", [], |r| r.get(0))
            .map_err(sql("read how long the daemon has run", path))?;
        let ran = Duration::from_millis(ran_ms.max(0) as u64);
        Ok(Upkeep { ran, counted: now, old_at: now, bytes_at: now, space_at: now, ..Upkeep::default() })
    }

    /// Does what is due. An error means that the database is damaged.
    pub(super) fn round(&mut self, site: &mut Site<'_>) -> Result<(), StoreError> {
        let now = site.shared.clock.now();
        let old = if now >= self.old_at {
            self.old_at = now + OLD_EVERY;
            self.old(site)
        } else {
            Ok(())
        };
        let expired = self.expire(site, now);
        match old.and(expired) {
            Ok(()) => self.failing = false,
            Err(e) if e.is_corruption() => return Err(e),
            Err(e) => {
                if !std::mem::replace(&mut self.failing, true) {
                    log::error!("store: what is old stays for now: {}", Chain(&e));
                }
            }
        }
        Ok(())
    }

    /// Before something is made that will grow old: brings the count of the running time up to date, roughly.
    pub(super) fn count_roughly(&mut self, conn: &Connection, path: &Path, now: Mono) {
        if now.since(self.counted) >= COUNT_EVERY
            && let Err(e) = self.count(conn, path, now)
        {
            log::debug!("store: {}", Chain(&e));
        }
    }

    /// Keeps count of the running time.
    pub(super) fn count(&mut self, conn: &Connection, path: &Path, now: Mono) -> Result<(), StoreError> {
        let ran = self.ran + now.since(self.counted);
        conn.execute("UPDATE running SET ms = ?1", [ran.as_millis() as i64])
            .map_err(sql("record how long the daemon has run", path))?;
        (self.ran, self.counted) = (ran, now);
        Ok(())
    }

    fn present(&self, site: &Site<'_>) -> Present {
        let synchronised = (site.shared.context.clock_state)().synchronised;
        let ran = self.ran + site.shared.clock.now().since(self.counted);
        Present { at: synchronised.then(|| site.shared.clock.wall()), ran }
    }

    fn old(&mut self, site: &mut Site<'_>) -> Result<(), StoreError> {
        self.count(site.conn, site.path, site.shared.clock.now())?;
        let (now, wall) = (self.present(site), site.shared.clock.wall());
        let given_up = outbox::retire(site.conn, site.path, &site.shared.context.outbox, wall, now)?;
        for (why, ranges) in [
            ("are too old (mqtt.keep_days)", given_up.too_old),
            ("are the oldest of more than may be kept (mqtt.keep_mb)", given_up.too_many),
        ] {
            for (first, last) in ranges {
                log::error!("store: alerts {first} to {last} were never confirmed and {why}: given up");
                site.shared.counters.given_up.fetch_add(last - first + 1, Ordering::Relaxed);
            }
        }
        if let Some(at) = now.at {
            expire::start_ageing(site.conn, site.path, at)?;
            let keep = site.shared.limits().keep_rows;
            let rows = expire::old_rows(site.conn, site.path, at, keep)?;
            if rows > 0 {
                log::info!("store: {rows} incidents older than storage.keep_incidents_days are forgotten");
            }
        }
        Ok(())
    }

    fn expire(&mut self, site: &mut Site<'_>, now: Mono) -> Result<(), StoreError> {
        let limits = site.shared.limits();
        if now < self.space_at {
            return Ok(());
        }
        self.space_at = now + SPACE_EVERY;
        let full = expire::free_bytes(site.state_dir).is_some_and(|free| free < limits.min_free_bytes);
        if !full && now < self.bytes_at {
            self.short = false;
            return Ok(());
        }
        if now >= self.bytes_at && site.reserve.fill() {
            log::info!("store: there is room again, {} MB of it are kept for the database", reserve::BYTES >> 20);
        }
        let at = self.present(site);
        let clock = site.shared.clock.as_ref();
        let done = expire::step(site.conn, (site.path, site.state_dir), &site.shared.context, clock, (&limits, at))?;
        if done.more {
            (self.space_at, self.bytes_at) = (now, now);
        } else {
            self.bytes_at = now + BYTES_EVERY;
        }
        self.say(site, &limits, &done);
        if let Some(newest) = done.newest {
            site.shared.added.send_replace(newest);
        }
        Ok(())
    }

    /// A line for each reason, and counts.
    fn say(&mut self, site: &Site<'_>, limits: &Limits, done: &Expired) {
        for why in [Why::Age, Why::Bytes, Why::Space] {
            let of = |delivered: bool| done.clips.iter().filter(move |(c, w)| *w == why && c.delivered == delivered);
            let sum = |delivered| (of(delivered).count() as u64, of(delivered).map(|(c, _)| c.bytes).sum::<u64>());
            let ((clips, bytes), (untold, untold_bytes)) = (sum(true), sum(false));
            let counter = match why {
                Why::Age => &site.shared.counters.expired_by_age,
                Why::Bytes | Why::Space => &site.shared.counters.expired_for_room,
            };
            counter.fetch_add(clips + untold, Ordering::Relaxed);
            site.shared.counters.expired_undelivered.fetch_add(untold, Ordering::Relaxed);
            if clips > 0 {
                log::info!("store: {clips} clips ({}) deleted: {}", megabytes(bytes), why.as_str());
            }
            if untold > 0 {
                let took = megabytes(untold_bytes);
                log::error!(
                    "store: {untold} clips ({took}) deleted although nobody has confirmed their alerts: {}, and no other \
                     clip was left",
                    why.as_str()
                );
            }
        }
        match done.short_of_space {
            Some(free) if !std::mem::replace(&mut self.short, true) => log::error!(
                "store: {} of the disk are free, storage.min_free_mb wants {}, and no clip is left to delete: make room \
                 on the disk of {}",
                megabytes(free),
                limits.min_free_bytes / 1_000_000,
                site.state_dir.display()
            ),
            Some(_) => {}
            None => self.short = false,
        }
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
