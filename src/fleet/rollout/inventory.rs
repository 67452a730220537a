//! The devices there are, from a file: CSV with the columns `site`, `device` and `groups` (separated by spaces or `;`).
//!
//! What does not belong here: which of them take part (`plan`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::plan::DeviceId;
use crate::contract::topics::TopicError;

/// Why there is no inventory.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// No file, or no CSV.
    #[error("could not read {}: it is CSV with a first line site,device,groups", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: csv::Error,
    },
    /// A line names no device.
    #[error("{}, line {line}", path.display())]
    Name {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// What is wrong.
        source: TopicError,
    },
    /// A device stands there twice.
    #[error("{}, line {line}: {id} stands there a second time", path.display())]
    Twice {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// Who.
        id: DeviceId,
    },
}

#[derive(Deserialize)]
struct Row {
    site: String,
    device: String,
    #[serde(default)]
    groups: String,
}

/// Reads the file.
pub fn read(path: &Path) -> Result<BTreeMap<DeviceId, BTreeSet<String>>, InventoryError> {
    let unread = |source| InventoryError::Read { path: path.to_owned(), source };
    let mut devices = BTreeMap::new();
    let mut reader =
        csv::ReaderBuilder::new().trim(csv::Trim::All).comment(Some(b'#')).from_path(path).map_err(unread)?;
    let headers = reader.headers().map_err(unread)?.clone();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(unread)? {
        let line = record.position().map_or(0, csv::Position::line);
        let row: Row = record.deserialize(Some(&headers)).map_err(unread)?;
        let id = format!("{}/{}", row.site, row.device).parse::<DeviceId>();
        let id = id.map_err(|source| InventoryError::Name { path: path.to_owned(), line, source })?;
        let groups = row.groups.split([' ', ';']).filter(|g| !g.is_empty()).map(String::from).collect();
        if devices.insert(id.clone(), groups).is_some() {
            return Err(InventoryError::Twice { path: path.to_owned(), line, id });
        }
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<BTreeMap<DeviceId, BTreeSet<String>>, InventoryError> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("devices.csv");
        std::fs::write(&path, text).expect("writable");
        read(&path)
    }

    #[test]
    fn devices_and_their_groups_are_read() {
        let read = of("site,device,groups\n# the canaries\ndepot,gate-1,canary orin\ndepot , gate-2,\n").expect("CSV");
        assert_eq!(read.len(), 2);
        let first = &read[&"depot/gate-1".parse().expect("a name")];
        assert_eq!(first.iter().map(String::as_str).collect::<Vec<_>>(), ["canary", "orin"]);
        assert_eq!(of("site,device\na,b\n").expect("no groups").len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        assert!(of("site,device,groups\na,b,\na,b c,\n").expect_err("a name").to_string().contains("line 3"));
        assert!(of("site,device,groups\na,b,\na,b,\n").expect_err("twice").to_string().contains("second time"));
        assert!(of("place,device\na,b\n").expect_err("no site").to_string().contains("site,device,groups"));
    }
}
