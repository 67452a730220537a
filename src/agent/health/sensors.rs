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

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::Serialize;

use crate::base::clock::Wall;
use crate::contract::alert::ClockState;

/// A synchronisation counts for so long: after it, at the 500 ppm that Linux allows for an undisciplined clock, 16 s
/// of error are possible, and the kernel too calls its clock unsynchronised. timesyncd asks every 34 minutes or
/// more often.
const SYNCHRONISED_FOR_S: u64 = 32_000;

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

/// Space of the file system that a directory lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DiskReading {
    /// Bytes that this user can still write.
    pub free_bytes: u64,
    /// All of it, in bytes.
    pub total_bytes: u64,
}

/// One thermal zone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Temperature {
    /// Its kind as the kernel names it, for example `cpu-thermal`.
    pub zone: String,
    /// Degrees Celsius.
    pub celsius: f32,
}

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Readings {
    /// The clock.
    #[serde(flatten)]
    pub clock: ClockReading,
    /// Memory of this process that is resident, in bytes.
    pub resident_bytes: Option<u64>,
    /// The disk of the state directory.
    pub disk: Option<DiskReading>,
    /// By zone number.
    pub temperatures: Vec<Temperature>,
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
            resident_bytes: self.resident_bytes(),
            disk: self.disk().ok(),
            temperatures: self.temperatures(),
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

    /// Space on the disk of the state directory.
    pub fn disk(&self) -> io::Result<DiskReading> {
        let fs = rustix::fs::statvfs(&self.state_dir)?;
        Ok(DiskReading {
            free_bytes: fs.f_bavail.saturating_mul(fs.f_frsize),
            total_bytes: fs.f_blocks.saturating_mul(fs.f_frsize),
        })
    }

    fn resident_bytes(&self) -> Option<u64> {
        resident_bytes(&fs::read_to_string(self.root.join("proc/self/status")).ok()?)
    }

    fn temperatures(&self) -> Vec<Temperature> {
        let Ok(zones) = fs::read_dir(self.root.join("sys/class/thermal")) else {
            return Vec::new();
        };
        let mut found: Vec<(u32, Temperature)> = zones
            .filter_map(|zone| {
                let zone = zone.ok()?;
                let number = zone.file_name().to_str()?.strip_prefix("thermal_zone")?.parse().ok()?;
                // Reading a zone that is switched off is an error: it has no temperature then.
                let celsius = celsius(&fs::read_to_string(zone.path().join("temp")).ok()?)?;
                let kind = fs::read_to_string(zone.path().join("type")).ok()?;
                Some((number, Temperature { zone: kind.trim().to_string(), celsius }))
            })
            .collect();
        found.sort_by_key(|(number, _)| *number);
        found.into_iter().map(|(_, temperature)| temperature).collect()
    }
}

/// Of a clock that was last set at `set`.
fn clock_reading(set: Wall, now: Wall) -> ClockReading {
    // A clock that was stepped back since shows a time before that of the file.
    let age_s = now.unix_ms().saturating_sub(set.unix_ms()).max(0) as u64 / 1000;
    if age_s <= SYNCHRONISED_FOR_S { ClockReading::Synchronised { age_s } } else { ClockReading::NotSynchronised }
}

/// `VmRSS` of a `/proc/<pid>/status`, which counts in units of 1024 bytes (proc(5)).
fn resident_bytes(status: &str) -> Option<u64> {
    let kib: u64 = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// A thermal zone's `temp`: thousandths of a degree Celsius. Readings that no such machine survives are a broken
/// sensor's.
fn celsius(temp: &str) -> Option<f32> {
    let millidegrees: i32 = temp.trim().parse().ok()?;
    (-60_000..=200_000).contains(&millidegrees).then_some(millidegrees as f32 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::{Clock, SystemClock};
    use proptest::prelude::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn reads_a_machine() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/self/status", "Name:\tvedette\nVmHWM:\t  70000 kB\nVmRSS:\t   51234 kB\n");
        write(root.path(), "sys/class/thermal/thermal_zone10/type", "tj-thermal\n");
        write(root.path(), "sys/class/thermal/thermal_zone10/temp", "61250\n");
        write(root.path(), "sys/class/thermal/thermal_zone2/type", "cpu-thermal\n");
        write(root.path(), "sys/class/thermal/thermal_zone2/temp", "-4500\n");
        write(root.path(), "sys/class/thermal/thermal_zone3/type", "off\n");
        write(root.path(), "sys/class/thermal/cooling_device0/type", "fan\n");
        let readings = Sensors::under(root.path(), root.path()).read(Wall::from_unix_ms(0));
        assert_eq!(readings.resident_bytes, Some(51_234 * 1024));
        let zones: Vec<_> = readings.temperatures.iter().map(|t| (t.zone.as_str(), t.celsius)).collect();
        assert_eq!(zones, [("cpu-thermal", -4.5), ("tj-thermal", 61.25)]);
        let disk = readings.disk.unwrap();
        assert!(disk.free_bytes <= disk.total_bytes && disk.total_bytes > 0);
        assert_eq!(serde_json::to_value(&readings).unwrap()["clock"], "unknown");
    }

    #[test]
    fn what_is_not_there_is_absent_and_not_zero() {
        let root = tempfile::tempdir().unwrap();
        let readings = Sensors::under(root.path(), &root.path().join("gone")).read(Wall::from_unix_ms(0));
        assert_eq!(
            readings,
            Readings { clock: ClockReading::Unknown, resident_bytes: None, disk: None, temperatures: Vec::new() }
        );
    }

    #[test]
    fn the_clock_is_synchronised_while_timesyncd_says_so() {
        let root = tempfile::tempdir().unwrap();
        let sensors = Sensors::under(root.path(), root.path());
        let now = SystemClock::new().wall();
        assert_eq!(sensors.clock(now), ClockReading::Unknown);
        fs::create_dir_all(root.path().join("run/systemd/timesync")).unwrap();
        assert_eq!(sensors.clock(now), ClockReading::NotSynchronised);
        write(root.path(), "run/systemd/timesync/synchronized", "");
        let ClockReading::Synchronised { age_s } = sensors.clock(now) else { panic!("it was touched just now") };
        assert!(age_s < 600);
        let much_later = now + std::time::Duration::from_secs(2 * SYNCHRONISED_FOR_S);
        assert_eq!(sensors.clock(much_later), ClockReading::NotSynchronised);
        assert!(ClockState::from(ClockReading::Synchronised { age_s: 0 }).synchronised);
        assert!(!ClockState::from(ClockReading::Unknown).synchronised);
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
        assert!(readings.resident_bytes.unwrap() > 100_000);
        assert!(readings.disk.is_some());
    }

    proptest! {
        #[test]
        fn readings_are_what_was_written(junk in "\\PC*", kib in 0..1_u64 << 40, milli in any::<i32>()) {
            let status = format!("Name:\t{junk}\nVmRSS:\t {kib} kB\n");
            prop_assert_eq!(resident_bytes(&status), Some(kib * 1024));
            let status = format!("VmRSS:\t{junk}x kB\n");
            prop_assert_eq!(resident_bytes(&status), None);
            let expected = (-60_000..=200_000).contains(&milli).then_some(milli as f32 / 1000.0);
            prop_assert_eq!(celsius(&format!("{milli}\n")), expected);
            let temp = format!("{junk}C");
            prop_assert_eq!(celsius(&temp), None);
        }
    }
}
