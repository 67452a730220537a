//! How worn the device's own flash is, as far as it says so without privilege: eMMC does (JEDEC JESD84-B51: EXT_CSD
//! `DEVICE_LIFE_TIME_EST` and `PRE_EOL_INFO`, which Linux shows in sysfs). An NVMe or SATA disk tells only
//! root: it is left out.

use std::collections::BTreeMap;
use std::path::Path;

use super::sysfs::{entries, name, text};
use crate::contract::heartbeat::{Reserve, WearHealth};

/// By block device, such as `mmcblk0`. An SD card has no such registers and is left out.
pub(super) fn wear(root: &Path) -> BTreeMap<String, WearHealth> {
    let disks = entries(&root.join("sys/block"));
    disks.iter().filter_map(|disk| Some((name(disk).to_owned(), of_emmc(&disk.join("device"))?))).collect()
}

fn of_emmc(device: &Path) -> Option<WearHealth> {
    let life = text(&device.join("life_time"));
    let life_used_percent =
        life.and_then(|bands| bands.split_whitespace().filter_map(register).filter_map(life_used).max());
    let reserve = text(&device.join("pre_eol_info")).and_then(|r| register(&r)).and_then(reserve);
    (life_used_percent.is_some() || reserve.is_some()).then_some(WearHealth { life_used_percent, reserve })
}

/// `0x0a`.
fn register(text: &str) -> Option<u8> {
    u8::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

/// The upper end of the band of ten percent that the device is in; beyond its rated life it says 110. 0 is "not
/// defined".
fn life_used(band: u8) -> Option<u8> {
    (1..=11).contains(&band).then_some(band * 10)
}

fn reserve(level: u8) -> Option<Reserve> {
    match level {
        1 => Some(Reserve::Normal),
        2 => Some(Reserve::Warning),
        3 => Some(Reserve::Urgent),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_mean_what_the_standard_says() {
        let life = ["0x00", "0x01", "0x0a", "0x0b", "0x0c", "10", "0xzz"].map(|t| register(t).and_then(life_used));
        assert_eq!(life, [None, Some(10), Some(100), Some(110), None, None, None]);
        let left = ["0x00", "0x01", "0x02", "0x03", "0x04"].map(|t| register(t).and_then(reserve));
        assert_eq!(left, [None, Some(Reserve::Normal), Some(Reserve::Warning), Some(Reserve::Urgent), None]);
    }
}
