//! What a retired or stolen device no longer is to have.
//!
//! ```text
//!   mark (state_dir/wiping) ─► keys and certificates ─► credentials, configuration ─► models ─► evidence ─► mark gone
//! ```
//!
//! Each step can be done twice; a wipe that was cut short is finished by the next, and nothing is provisioned before.
//! What was deleted is deleted as files are: from a disk that is not encrypted it may be brought back with tools.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::holdings::{HoldingsError, failed, read_if_there, remove, write_private};
use super::provision::{BROKER_CA, CONFIG, Places, ROOT};
use crate::base::fail_point;

/// What stays of a state directory where incidents are kept: the database, its journal and the clips.
const EVIDENCE: [&str; 4] = ["vedette.db", "vedette.db-wal", "vedette.db-shm", "clips"];
/// Bundles that were taken are never taken again, also after a wipe.
const USED: &str = "used-bundles.json";

/// What becomes of incidents and clips.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// They go.
    Removed,
    /// They stay.
    Kept,
}

/// What goes, in its order, and what stays.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// What goes.
    pub removed: Vec<PathBuf>,
    /// What stays of the directories that are gone through.
    pub kept: Vec<PathBuf>,
}

/// Looks what a wipe would remove.
pub fn plan(places: &Places, evidence: Evidence) -> Result<Plan, HoldingsError> {
    let state = |name: &str| places.state_dir.join(name);
    let mut removed: Vec<PathBuf> =
        ["identity", "identity.new", "identity.ready", "identity.old", "identity.asked"].map(state).into();
    let config = places.config_dir.join(CONFIG);
    let text = read_if_there(&config)?.unwrap_or_default();
    removed.extend(secrets(&text, &places.config_dir));
    removed.extend([config, places.config_dir.join(BROKER_CA), places.config_dir.join(ROOT)]);
    let mut kept = Vec::new();
    let mut rest = entries(&places.state_dir)?;
    rest.retain(|path| !removed.contains(path) && *path != places.wiping());
    for path in rest {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let stays = name == USED || evidence == Evidence::Kept && EVIDENCE.contains(&name);
        if stays { kept.push(path) } else { removed.push(path) }
    }
    removed.retain(|path| path.symlink_metadata().is_ok());
    Ok(Plan { removed, kept })
}

/// Removes what the plan says.
pub fn wipe(places: &Places, plan: &Plan) -> Result<(), HoldingsError> {
    if places.state_dir.exists() {
        write_private(&places.wiping(), b"")?;
    }
    for path in &plan.removed {
        remove(path)?;
        fail_point::reach("wipe_step");
    }
    remove(&places.wiping())
}

/// Whether a wipe was cut short.
pub fn is_under_way(places: &Places) -> bool {
    places.wiping().exists()
}

/// Files beside the configuration that it names as somebody's secret or certificate.
fn secrets(text: &str, config_dir: &Path) -> BTreeSet<PathBuf> {
    fn walk(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Table(table) => table.iter().for_each(|(key, value)| match value {
                Value::String(file) if ["credentials_file", "key_file", "cert_file"].contains(&key.as_str()) => {
                    found.push(file.clone());
                }
                value => walk(value, found),
            }),
            Value::Array(values) => values.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    let table: Table = text.parse().unwrap_or_default();
    let mut found = Vec::new();
    walk(&Value::Table(table), &mut found);
    let below = |file: String| Some(config_dir.join(file)).filter(|path| path.starts_with(config_dir));
    found.into_iter().filter_map(below).filter(|p| !p.components().any(|c| c.as_os_str() == "..")).collect()
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, HoldingsError> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let read = std::fs::read_dir(dir).map_err(failed("read", dir))?;
    let mut entries: Vec<_> = read.filter_map(Result::ok).map(|e| e.path()).collect();
    entries.sort();
    Ok(entries)
}
