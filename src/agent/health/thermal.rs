//! Heat, and what the machine does against it: thermal zones, cooling devices, the clocks of processors, and the
//! over-current events of a Jetson.
//!
//! What counts as held back: a cooling device in force that slows something down. On a Jetson these are the
//! `*-throttle-alert` devices (firmware throttles) and `cpufreq-*` and `devfreq-*` (the kernel does); elsewhere
//! `Processor`, `cpufreq-*`, `intel_powerclamp`. A fan that turns holds nothing back. A frequency limit below what the
//! processor is rated for is shown but is no sign by itself: a Jetson's power mode sets one on purpose.

use std::collections::BTreeMap;
use std::path::Path;

use super::sysfs::{entries, insert_apart, name, numbered, text, value};
use crate::contract::heartbeat::{CoolingLevel, ProcessorClock, ThrottlingHealth};

/// Cooling devices that slow nothing down, by a part of their kind in lower case: fans, a laptop's screen and radio,
/// Intel's offset of the limit, which is a setting, and a Jetson's warning that its surface is hot to the touch (from 70
/// degrees on, 29 below where it slows down; bound to no clock).
const SLOWS_NOTHING: [&str; 6] = ["fan", "tcc offset", "backlight", "lcd", "iwlwifi", "hot-surface-alert"];
/// What a Jetson's graphics processor is called among the devices with a frequency of their own (Nano and TX2, Xavier,
/// Orin under JetPack 5, Orin under JetPack 6, Thor).
const GRAPHICS: [&str; 5] = ["gp10b", "gv11b", "ga10b", ".gpu", "gpu-gpc"];

/// Degrees Celsius by thermal zone as the kernel names its kind; of several of one kind, later ones with their number
/// behind the name.
pub(super) fn temperatures(root: &Path) -> BTreeMap<String, f32> {
    let mut found = BTreeMap::new();
    for zone in numbered(&root.join("sys/class/thermal"), "thermal_zone") {
        // Reading a zone that is switched off is an error: it has no temperature then.
        let temperature = value(&zone.join("temp")).and_then(celsius);
        let (Some(celsius), Some(kind)) = (temperature, text(&zone.join("type"))) else { continue };
        insert_apart(&mut found, kind, name(&zone).trim_start_matches("thermal_zone"), celsius);
    }
    found
}

/// Thousandths of a degree Celsius. Readings that no such machine survives are a broken sensor's.
fn celsius(millidegrees: i32) -> Option<f32> {
    (-60_000..=200_000).contains(&millidegrees).then_some(millidegrees as f32 / 1000.0)
}

/// What holds the machine back; none where nothing of it can be read.
pub(super) fn throttling(root: &Path) -> Option<ThrottlingHealth> {
    let (known, cooling) = cooling(root);
    let clocks: BTreeMap<_, _> =
        [("cpu", cpu(root)), ("gpu", gpu(root))].into_iter().filter_map(|(k, c)| Some((k.to_owned(), c?))).collect();
    let over_current_events = over_current_events(root);
    let something = known || !clocks.is_empty() || over_current_events.is_some();
    something.then_some(ThrottlingHealth { active: !cooling.is_empty(), cooling, clocks, over_current_events })
}

/// Whether there are devices that could slow something down, and those that do.
fn cooling(root: &Path) -> (bool, BTreeMap<String, CoolingLevel>) {
    let (mut known, mut in_force) = (false, BTreeMap::new());
    for device in numbered(&root.join("sys/class/thermal"), "cooling_device") {
        let Some(kind) = text(&device.join("type")) else { continue };
        // intel_powerclamp says -1 while it is idle.
        let level = |file| value::<i64>(&device.join(file)).map(|n| u64::try_from(n).unwrap_or(0));
        let Some(level) = level("cur_state").zip(level("max_state")) else { continue };
        if SLOWS_NOTHING.iter().any(|harmless| kind.to_lowercase().contains(harmless)) {
            continue;
        }
        known = true;
        if level.0 > 0 {
            // There is one `Processor` a core: the one that is held back most stands for all.
            let worst: &mut CoolingLevel = in_force.entry(kind).or_default();
            if level.0 > worst.level {
                *worst = CoolingLevel { level: level.0, most: level.1 };
            }
        }
    }
    (known, in_force)
}

/// The cluster of cores that is held back most; of equals the first.
fn cpu(root: &Path) -> Option<ProcessorClock> {
    let policies = numbered(&root.join("sys/devices/system/cpu/cpufreq"), "policy");
    let clocks = policies.iter().filter_map(|policy| {
        let khz = |file| value::<u64>(&policy.join(file));
        clock(khz("scaling_cur_freq")?, khz("scaling_max_freq")?, khz("cpuinfo_max_freq")?, 1_000)
    });
    clocks.min_by_key(|c| u64::from(c.limit_mhz) * 1000 / u64::from(c.rated_mhz.max(1)))
}

fn gpu(root: &Path) -> Option<ProcessorClock> {
    let devices = entries(&root.join("sys/class/devfreq"));
    let gpu = devices.iter().find(|d| GRAPHICS.iter().any(|part| name(d).contains(part)))?;
    let hz = |file| value::<u64>(&gpu.join(file));
    let steps = text(&gpu.join("available_frequencies"))?;
    let rated = steps.split_whitespace().filter_map(|f| f.parse().ok()).max()?;
    clock(hz("cur_freq")?, hz("max_freq")?, rated, 1_000_000)
}

fn clock(now: u64, limit: u64, rated: u64, unit: u64) -> Option<ProcessorClock> {
    let mhz = |n: u64| u32::try_from(n / unit).ok();
    Some(ProcessorClock { now_mhz: mhz(now)?, limit_mhz: mhz(limit)?, rated_mhz: mhz(rated)? })
}

/// Times since boot that the supply or the board could not give the current asked for.
fn over_current_events(root: &Path) -> Option<u64> {
    let monitors = numbered(&root.join("sys/class/hwmon"), "hwmon");
    let soctherm = monitors.iter().find(|m| text(&m.join("name")).as_deref() == Some("soctherm_oc"))?;
    let counts = entries(soctherm).into_iter().filter(|f| name(f).ends_with("_event_cnt"));
    Some(counts.filter_map(|f| value::<u64>(&f)).sum())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_broken_sensor_has_no_temperature(millidegrees in any::<i32>()) {
            let expected = (-60_000..=200_000).contains(&millidegrees).then_some(millidegrees as f32 / 1000.0);
            prop_assert_eq!(celsius(millidegrees), expected);
        }
    }
}
