//! Memory of the machine and of this process, and how much of the time work waits for what the machine is short of
//! (the kernel's pressure stall information).

use std::collections::BTreeMap;
use std::path::Path;

use super::sysfs::text;
use crate::contract::heartbeat::{MemoryHealth, StallHealth};

/// What work can wait for, as the kernel's files are called.
const WAITED_FOR: [&str; 3] = ["cpu", "memory", "io"];

/// None where not even this process's own memory can be read.
pub(super) fn memory(root: &Path) -> Option<MemoryHealth> {
    let machine = text(&root.join("proc/meminfo")).unwrap_or_default();
    Some(MemoryHealth {
        resident_bytes: bytes_of(&text(&root.join("proc/self/status"))?, "VmRSS:")?,
        available_bytes: bytes_of(&machine, "MemAvailable:"),
        total_bytes: bytes_of(&machine, "MemTotal:"),
    })
}

/// Memory that programs can still have without others losing theirs, by an account like `/proc/meminfo`.
pub fn available_memory_bytes(meminfo: &Path) -> Option<u64> {
    bytes_of(&text(meminfo)?, "MemAvailable:")
}

/// Empty where the kernel keeps no account.
pub(super) fn stalls(root: &Path) -> BTreeMap<String, StallHealth> {
    let read = |what: &str| {
        let said = text(&root.join("proc/pressure").join(what))?;
        // Older kernels have no second line for the processor.
        Some(StallHealth { some_percent: last_minute(&said, "some")?, all_percent: last_minute(&said, "full") })
    };
    WAITED_FOR.iter().filter_map(|what| Some(((*what).to_owned(), read(what)?))).collect()
}

/// A line such as `VmRSS:  51234 kB`, which counts in units of 1024 bytes (proc(5)).
fn bytes_of(lines: &str, key: &str) -> Option<u64> {
    let kib: u64 = lines.lines().find_map(|l| l.strip_prefix(key))?.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// `avg60` of a line such as `some avg10=0.31 avg60=1.40 avg300=1.02 total=1234`.
fn last_minute(lines: &str, who: &str) -> Option<f32> {
    let line = lines.lines().find_map(|l| l.strip_prefix(who))?;
    let percent: f32 = line.split_whitespace().find_map(|field| field.strip_prefix("avg60="))?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn readings_are_what_was_written(junk in "\\PC*", kib in 0..1_u64 << 40, percent in any::<f32>()) {
            let status = format!("Name:\t{junk}\nVmRSS:\t {kib} kB\n");
            prop_assert_eq!(bytes_of(&status, "VmRSS:"), Some(kib * 1024));
            let status = format!("VmRSS:\t{junk}x kB\n");
            prop_assert_eq!(bytes_of(&status, "VmRSS:"), None);
            let stall = format!("some avg10=1 avg60={percent} total=9\nfull avg60={junk}x\n");
            prop_assert_eq!(last_minute(&stall, "some"), Some(percent).filter(|p| (0.0..=100.0).contains(p)));
            prop_assert_eq!(last_minute(&stall, "full"), None);
        }
    }
}
