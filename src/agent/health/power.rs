//! Electrical power: what the board draws, by rail, and the power mode that it was set to.
//!
//! | what | from |
//! |---|---|
//! | INA3221, three rails | hwmon: `in[123]_label`, `in[123]_input` in mV times `curr[123]_input` in mA |
//! | INA219, INA226, INA238 and their like, one rail | hwmon: `power1_input` in microwatts; labels are rare |
//! | power mode | `/var/lib/nvpmodel/status`, named in `/etc/nvpmodel.conf` |
//!
//! Not a rail, though files beside the rails look like one: of an INA3221 `in[456]` (voltages at the shunts, in
//! microvolts), `in7` and `curr4` (sums of the three); of the others `in0` (at the shunt). So channels 1 to 3 are read.
//! Rails overlap: `VDD_IN` of an Orin Nano or NX has the others in it; nothing is added up here.
//!
//! Known from documents and from others' boards, not run on a Jetson:
//! - the files: the kernel's hwmon/ina3221, ina2xx, ina238 and sysfs-interface;
//! - the rails: NVIDIA's Jetson Linux Developer Guide, "Platform Power and Performance", r34.1 and r35.4.1, as others quote
//!   it; channels called `NC` are not connected. A Thor's INA238 has no label; `tegrastats` calls it `VIN`
//!   (jetson_stats #900);
//! - JetPack 5 has hwmon on Orin and Xavier (alumet #212; jetson_stats #154; meta-tegra-community #92). The `ina3221x` files
//!   under iio were JetPack 4's and are not read;
//! - some kernels (L4T 35, by one account) let only root read a rail: it is missing then;
//! - `pmode:0002`, and that anyone may read it: scripts of others who do.

use std::collections::BTreeMap;
use std::path::Path;

use super::sysfs::{insert_apart, name, numbered, text, value};

/// What the drivers of the sensors are called begins so.
const CHIPS: &str = "ina";
/// Channels of a chip that can be a rail.
const CHANNELS: std::ops::RangeInclusive<u8> = 1..=3;
/// The label of a channel that is not connected.
const NOT_CONNECTED: &str = "NC";
/// More than any supply of such a board gives, either way, is a broken sensor's.
const MOST_UW: i64 = 1_000_000_000;

/// Watts by rail, by its label, or by the chip's name where it has none. Below zero is what flows back, or a sensor's
/// error about zero.
pub(super) fn rails(root: &Path) -> BTreeMap<String, f32> {
    let mut found = BTreeMap::new();
    for monitor in numbered(&root.join("sys/class/hwmon"), "hwmon") {
        let Some(chip) = text(&monitor.join("name")).filter(|name| name.starts_with(CHIPS)) else { continue };
        for channel in CHANNELS {
            // A channel that is switched off cannot be read.
            let Some(watts) = microwatts(&monitor, channel).and_then(watts) else { continue };
            let label = text(&monitor.join(format!("in{channel}_label"))).or_else(|| text(&monitor.join("label")));
            let rail = label.filter(|l| !l.is_empty()).unwrap_or_else(|| chip.clone());
            if rail != NOT_CONNECTED {
                insert_apart(&mut found, rail, format_args!("{}-{channel}", name(&monitor)), watts);
            }
        }
    }
    found
}

fn microwatts(monitor: &Path, channel: u8) -> Option<i64> {
    let input = |what: &str| value::<i64>(&monitor.join(format!("{what}{channel}_input")));
    input("power").or_else(|| input("in")?.checked_mul(input("curr")?))
}

/// To the milliwatt, which is finer than the sensors.
fn watts(microwatts: i64) -> Option<f32> {
    (-MOST_UW..=MOST_UW).contains(&microwatts).then_some((microwatts / 1000) as f32 / 1000.0)
}

/// The name of the power mode in force, or its number where it has no name.
pub(super) fn mode(root: &Path) -> Option<String> {
    let id = mode_in_force(&text(&root.join("var/lib/nvpmodel/status"))?)?;
    let modes = text(&root.join("etc/nvpmodel.conf")).unwrap_or_default();
    Some(modes.lines().find_map(|line| named(line, id)).map_or_else(|| format!("mode {id}"), str::to_owned))
}

/// Of `pmode:0002`.
fn mode_in_force(status: &str) -> Option<u32> {
    status.split_whitespace().find_map(|word| word.strip_prefix("pmode:")?.parse().ok())
}

/// The name in a line such as `< POWER_MODEL ID=2 NAME=MODE_15W >`, if it is of this mode.
fn named(line: &str, id: u32) -> Option<&str> {
    let mut words = line.trim().strip_prefix('<')?.strip_suffix('>')?.split_whitespace();
    let of_model = words.next()? == "POWER_MODEL";
    let field = |key| words.clone().find_map(|word| word.strip_prefix(key));
    (of_model && field("ID=")?.parse() == Ok(id)).then(|| field("NAME="))?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_mode_is_named_by_its_own_line_and_no_other() {
        let line = "< POWER_MODEL ID=2 NAME=MODE_15W_6CORE >";
        assert_eq!((named(line, 2), named(line, 1)), (Some("MODE_15W_6CORE"), None));
        for other in [
            "# < POWER_MODEL ID=2 NAME=OLD >",
            "< PM_CONFIG DEFAULT=2 >",
            "< PARAM TYPE=FILE NAME=CPU_ONLINE >",
            "< POWER_MODEL ID=2 >",
            "< POWER_MODEL ID= NAME=X >",
            "<>",
            "CPU_ONLINE CORE_2 1",
        ] {
            assert_eq!(named(other, 2), None, "{other}");
        }
        assert_eq!(
            ["pmode:0002 fmode:fanNull", "pmode:", "pmode:x", "", "mode:2"].map(mode_in_force),
            [Some(2), None, None, None, None]
        );
    }

    proptest! {
        #[test]
        fn a_broken_sensor_has_no_power(microwatts in any::<i64>()) {
            prop_assert_eq!(watts(microwatts).is_some(), microwatts.unsigned_abs() <= MOST_UW as u64);
        }

        #[test]
        fn power_is_what_was_measured(milliwatts in -1_000_000_i64..=1_000_000) {
            let watts = watts(milliwatts * 1000);
            prop_assert!(watts.is_some_and(|w| (f64::from(w) - milliwatts as f64 / 1e3).abs() < 1e-3), "{watts:?}");
        }

        #[test]
        fn modes_are_what_was_written(id in any::<u32>(), name in "[A-Za-z0-9_]{1,40}", junk in "\\PC*") {
            prop_assert_eq!(mode_in_force(&format!("pmode:{id:04}")), Some(id));
            let line = format!("< POWER_MODEL ID={id} NAME={name} >");
            prop_assert_eq!(named(&line, id), Some(name.as_str()));
            prop_assert_eq!(named(&line, id.wrapping_add(1)), None);
            // Whatever else there is: no panic, and a name only from a line of the mode.
            mode_in_force(&junk);
            prop_assert!(named(&junk, id).is_none());
        }
    }
}
