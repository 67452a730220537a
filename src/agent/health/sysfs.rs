//! Reading `/proc` and `/sys`: one value a file, numbered entries of a directory. What is not there, or does not read
//! as expected, is `None` or left out.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A file's text without the white space around it.
pub(super) fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_string())
}

/// A file that holds one value.
pub(super) fn value<T: FromStr>(path: &Path) -> Option<T> {
    text(path)?.parse().ok()
}

/// The entries of `dir` that are called `prefix` and a number, by number.
pub(super) fn numbered(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix(prefix)?.parse::<u32>().ok();
    let mut found: Vec<_> = entries(dir).into_iter().filter_map(|path| Some((number(&path)?, path))).collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// All entries of `dir`, by name.
pub(super) fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())).collect();
    found.sort();
    found
}

/// Inserts under the name of its kind; of several of one kind, later ones with their number behind it.
pub(super) fn insert_apart<V>(found: &mut BTreeMap<String, V>, kind: String, number: impl Display, value: V) {
    let key = if found.contains_key(&kind) { format!("{kind} {number}") } else { kind };
    found.insert(key, value);
}

/// The last part of a path, as text.
pub(super) fn name(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or_default()
}
