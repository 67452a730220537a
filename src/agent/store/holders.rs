//! Who holds a lock that we wait for: an operator needs a name, not "database is locked". Best effort, from
//! `/proc/locks` (proc(5)); a lock whose holder cannot be seen from here has none.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The processes that hold a lock on one of these files, as `name (pid n)`, without ourselves; "another process" where
/// that cannot be told.
pub(super) fn of(files: &[&Path]) -> String {
    let inodes: Vec<u64> = files.iter().filter_map(|f| fs::metadata(f).ok()).map(|m| m.ino()).collect();
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let mut holders: Vec<String> = pids(&locks, &inodes)
        .into_iter()
        .filter(|pid| *pid != std::process::id())
        .map(|pid| match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => format!("{} (pid {pid})", name.trim()),
            Err(_) => format!("pid {pid}"),
        })
        .collect();
    holders.sort();
    holders.dedup();
    if holders.is_empty() { "another process".to_owned() } else { holders.join(", ") }
}

/// The processes that `/proc/locks` names for files with these inode numbers. A process of another namespace is 0 there.
fn pids(locks: &str, inodes: &[u64]) -> Vec<u32> {
    let holder = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // "1: POSIX ADVISORY WRITE 1234 08:01:5678 0 EOF"; one that waits has "->" behind its number.
        let (pid, file) = (fields.get(4)?, fields.get(5)?);
        let inode = file.rsplit(':').next()?.parse().ok()?;
        let pid = pid.parse().ok().filter(|pid| *pid > 0)?;
        inodes.contains(&inode).then_some(pid)
    };
    locks.lines().filter_map(holder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_read_off_the_kernel_s_list() {
        let locks = "1: POSIX  ADVISORY  WRITE 412 08:01:77 1073741826 1073742335\n\
                     1: -> POSIX  ADVISORY  WRITE 9 08:01:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 413 00:2b:78 0 EOF\n3: OFDLCK ADVISORY READ -1 00:06:79 0 EOF\nx\n";
        assert_eq!(pids(locks, &[77]), [412]);
        assert_eq!(pids(locks, &[78, 79]), [413]);
        assert_eq!(of(&[Path::new("/nowhere")]), "another process");
    }
}
