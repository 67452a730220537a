//! What the operating system shows of the machine, through files alone.
//!
//! Every reading may be absent: a machine without the sensor, a zone that is switched off. A reading that is
//! absent is `None` or missing from its list, never zero.
//!
//! The kernel tells whether its clock is disciplined, and its estimate of the error, only through `adjtimex(2)`,
//! for which there is no safe wrapper that we want to depend on. So what is known comes from systemd-timesyncd
//! (the default of JetPack, Debian and Ubuntu), which touches a file at each successful synchronisation. Under
//! another time service (chrony, ntpd, PTP) nothing is known, and [`ClockReading::Unknown`] says just that; no
//! estimate of the error is ever given.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::Serialize;

use super::{memory, power, thermal, wear};
use crate::base::clock::Wall;
use crate::contract::alert::ClockState;
use crate::contract::heartbeat::{DiskHealth, MemoryHealth, StallHealth, ThrottlingHealth, WearHealth};

/// A synchronisation counts for so long: after it, at the 500 ppm that Linux allows for an undisciplined clock, 16 s
/// of error are possible, and the kernel too calls its clock unsynchronised. timesyncd asks every 34 minutes or
/// more often.
const SYNCHRONISED_FOR_S: u64 = 32_000;

/// 2026-01-01T00:00:00Z: this program is younger. A clock before it was never set.
const THIS_PROGRAM: Wall = Wall::from_unix_ms(1_767_225_600_000);

/// What is known of the device's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "clock", rename_all = "snake_case")]
pub enum ClockReading {
    /// systemd-timesyncd has set it lately.
    Synchronised {
        /// Seconds since it last did.
        age_s: u64,
    },
    /// systemd-timesyncd runs, but has not set it (not yet, or not lately).
    NotSynchronised,
    /// No time service that could be asked.
    Unknown,
}

impl From<ClockReading> for ClockState {
    /// What is unknown is not called synchronised.
    fn from(reading: ClockReading) -> Self {
        let synchronised = matches!(reading, ClockReading::Synchronised { .. });
        ClockState { synchronised, estimated_error_ms: None }
    }
}

/// Everything at one moment, as the heartbeat carries it.
#[derive(Debug, Clone, PartialEq)]
pub struct Readings {
    /// The clock.
    pub clock: ClockReading,
    /// Of the machine and of this process.
    pub memory: Option<MemoryHealth>,
    /// By what is short.
    pub stalls: BTreeMap<String, StallHealth>,
    /// The disk of the state directory.
    pub disk: Option<DiskHealth>,
    /// By block device.
    pub wear: BTreeMap<String, WearHealth>,
    /// Degrees Celsius by thermal zone.
    pub temperatures_c: BTreeMap<String, f32>,
    /// What holds the machine back.
    pub throttling: Option<ThrottlingHealth>,
    /// Watts by rail.
    pub power_w: BTreeMap<String, f32>,
    /// The power mode in force.
    pub power_mode: Option<String>,
}

/// Where the readings come from.
#[derive(Debug, Clone)]
pub struct Sensors {
    root: PathBuf,
    state_dir: PathBuf,
}

impl Sensors {
    /// This machine's.
    pub fn of_machine(state_dir: &Path) -> Self {
        Sensors::under(Path::new("/"), state_dir)
    }

    /// Those of a machine whose `/proc`, `/run` and `/sys` lie under `root` (tests).
    pub fn under(root: &Path, state_dir: &Path) -> Self {
        Sensors { root: root.to_path_buf(), state_dir: state_dir.to_path_buf() }
    }

    /// Everything; `now` is the wall clock. Takes some file reads, so not for a hot path.
    pub fn read(&self, now: Wall) -> Readings {
        Readings {
            clock: self.clock(now),
            memory: memory::memory(&self.root),
            stalls: memory::stalls(&self.root),
            disk: self.disk().ok(),
            wear: wear::wear(&self.root),
            temperatures_c: thermal::temperatures(&self.root),
            throttling: thermal::throttling(&self.root),
            power_w: power::rails(&self.root),
            power_mode: power::mode(&self.root),
        }
    }

    /// The clock alone: what an alert says of the time it carries.
    pub fn clock(&self, now: Wall) -> ClockReading {
        let timesyncd = self.root.join("run/systemd/timesync");
        let touched = fs::metadata(timesyncd.join("synchronized")).and_then(|m| m.modified()).ok();
        // A time before 1970 is no synchronisation.
        let touched = touched.and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        match touched {
            Some(at) => clock_reading(Wall::from_unix_ms(at.as_millis() as i64), now),
            None if timesyncd.is_dir() => ClockReading::NotSynchronised,
            None => ClockReading::Unknown,
        }
    }

    /// Whether the clock's time of day can be gone by. Once timesyncd has set it in this boot it can, also when that was
    /// long ago; without a time service that could be asked it can if it shows a time that is possible.
    pub fn knows_time_of_day(&self, now: Wall) -> bool {
        match self.clock(now) {
            ClockReading::Synchronised { .. } => true,
            ClockReading::NotSynchronised => self.root.join("run/systemd/timesync/synchronized").exists(),
            ClockReading::Unknown => now >= THIS_PROGRAM,
        }
    }

    /// Space on the disk of the state directory.
    pub fn disk(&self) -> io::Result<DiskHealth> {
        let fs = rustix::fs::statvfs(&self.state_dir)?;
        Ok(DiskHealth {
            free_bytes: fs.f_bavail.saturating_mul(fs.f_frsize),
            total_bytes: fs.f_blocks.saturating_mul(fs.f_frsize),
        })
    }
}

/// Of a clock that was last set at `set`.
fn clock_reading(set: Wall, now: Wall) -> ClockReading {
    // A clock that was stepped back since shows a time before that of the file.
    let age_s = now.unix_ms().saturating_sub(set.unix_ms()).max(0) as u64 / 1000;
    if age_s <= SYNCHRONISED_FOR_S { ClockReading::Synchronised { age_s } } else { ClockReading::NotSynchronised }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Clock, SystemClock};

    #[test]
    fn what_is_not_there_is_absent_and_not_zero() {
        let root = tempfile::tempdir().unwrap();
        let readings = Sensors::under(root.path(), &root.path().join("gone")).read(Wall::from_unix_ms(0));
        let nothing = Readings {
            clock: ClockReading::Unknown,
            memory: None,
            stalls: BTreeMap::new(),
            disk: None,
            wear: BTreeMap::new(),
            temperatures_c: BTreeMap::new(),
            throttling: None,
            power_w: BTreeMap::new(),
            power_mode: None,
        };
        assert_eq!(readings, nothing);
    }

    #[test]
    fn the_clock_is_synchronised_while_timesyncd_says_so() {
        let root = tempfile::tempdir().unwrap();
        let sensors = Sensors::under(root.path(), root.path());
        let now = SystemClock::new().wall();
        assert_eq!(sensors.clock(now), ClockReading::Unknown);
        fs::create_dir_all(root.path().join("run/systemd/timesync")).unwrap();
        assert_eq!(sensors.clock(now), ClockReading::NotSynchronised);
        fs::write(root.path().join("run/systemd/timesync/synchronized"), "").unwrap();
        let ClockReading::Synchronised { age_s } = sensors.clock(now) else { panic!("it was touched just now") };
        assert!(age_s < 600);
        let much_later = now + std::time::Duration::from_secs(2 * SYNCHRONISED_FOR_S);
        assert_eq!(sensors.clock(much_later), ClockReading::NotSynchronised);
        assert!(ClockState::from(ClockReading::Synchronised { age_s: 0 }).synchronised);
        assert!(!ClockState::from(ClockReading::Unknown).synchronised);
    }

    #[test]
    fn the_time_of_day_is_known_from_the_first_synchronisation_of_a_boot_on() {
        let root = tempfile::tempdir().unwrap();
        let sensors = Sensors::under(root.path(), root.path());
        let now = SystemClock::new().wall();
        assert!(sensors.knows_time_of_day(THIS_PROGRAM), "chrony, say");
        assert!(!sensors.knows_time_of_day(Wall::from_unix_ms(0)), "a clock without a battery");
        fs::create_dir_all(root.path().join("run/systemd/timesync")).unwrap();
        assert!(!sensors.knows_time_of_day(now), "timesyncd has not set it yet");
        fs::write(root.path().join("run/systemd/timesync/synchronized"), "").unwrap();
        let next_week = now + std::time::Duration::from_secs(7 * 86_400);
        assert!(sensors.knows_time_of_day(now) && sensors.knows_time_of_day(next_week));
    }

    #[test]
    fn a_stepped_clock_does_not_confuse_the_age() {
        let [early, late] = [0, 1_000_000_000_000].map(Wall::from_unix_ms);
        assert_eq!(clock_reading(late, early), ClockReading::Synchronised { age_s: 0 });
        assert_eq!(clock_reading(early, late), ClockReading::NotSynchronised);
    }

    #[test]
    fn this_machine_has_a_process_with_memory() {
        let readings = Sensors::of_machine(Path::new("/")).read(SystemClock::new().wall());
        let memory = readings.memory.unwrap();
        assert!(memory.resident_bytes > 100_000);
        assert!(memory.available_bytes <= memory.total_bytes && memory.total_bytes > Some(memory.resident_bytes));
        let disk = readings.disk.unwrap();
        assert!(disk.free_bytes <= disk.total_bytes && disk.total_bytes > 0);
    }
}
