//! Labelled clips as `evaluate` reads them: a CSV file with a header, columns `clip` and `label`, and optionally
//! `source_video`; clip paths are relative to the file. All problems are reported at once, by line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clip {
    /// The clip as the file names it.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Index of its class.
    pub label: usize,
    /// Its source video, if the file names one.
    pub source: Option<String>,
}

/// Why a list of clips cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClipsError {
    /// It could not be read.
    #[error("cannot read the clips of {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        source: csv::Error,
    },
    /// It was read, and is wrong.
    #[error("{} cannot be used:\n{}", .path.display(), .problems.join("\n"))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Each thing that is wrong with it.
        problems: Vec<String>,
    },
}

/// Problems listed one by one; the rest is counted.
const MOST_PROBLEMS: usize = 20;

/// Reads the list. A label is looked up in `map` first, then must be one of `classes`.
pub fn read(path: &Path, classes: &[String], map: &BTreeMap<String, String>) -> Result<Vec<Clip>, ClipsError> {
    let unreadable = |source| ClipsError::Read { path: path.to_owned(), source };
    let invalid = |problems| ClipsError::Invalid { path: path.to_owned(), problems };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_path(path).map_err(unreadable)?;
    let header = reader.headers().map_err(unreadable)?.clone();
    let column = |name: &str| header.iter().position(|h| h.trim_start_matches('\u{feff}') == name);
    let (clip, label) = match (column("clip"), column("label")) {
        (Some(clip), Some(label)) => (clip, label),
        _ => {
            let found: Vec<_> = header.iter().collect();
            return Err(invalid(vec![format!(
                "line 1: the header must name the columns clip,label[,source_video]; it is {:?}",
                found.join(",")
            )]));
        }
    };
    let source = column("source_video");
    let base = path.parent().unwrap_or(Path::new("."));
    let (mut clips, mut problems) = (Vec::new(), Vec::new());
    for to in map.values().filter(|to| !classes.contains(to)) {
        problems.push(format!("--map: the model has no class {to:?}; it has {}", classes.join(", ")));
    }
    for row in reader.records() {
        let row = row.map_err(unreadable)?;
        let line = row.position().map_or(0, csv::Position::line);
        let (name, said) = (&row[clip], &row[label]);
        let class = map.get(said).map_or(said, String::as_str);
        let file = base.join(name);
        if !file.is_file() {
            problems.push(format!("line {line}: no file {}", file.display()));
        }
        match classes.iter().position(|c| c == class) {
            None if !map.contains_key(said) => problems.push(format!(
                "line {line}: the model has no class {said:?}; it has {}. To count it as one of them: --map {said}=CLASS",
                classes.join(", ")
            )),
            None => {}
            Some(label) => clips.push(Clip {
                name: name.to_owned(),
                path: file,
                label,
                source: source.map(|s| row[s].to_owned()).filter(|s| !s.is_empty()),
            }),
        }
    }
    if clips.is_empty() && problems.is_empty() {
        problems.push("it lists no clip".into());
    }
    if problems.is_empty() {
        return Ok(clips);
    }
    let more = problems.len().saturating_sub(MOST_PROBLEMS);
    problems.truncate(MOST_PROBLEMS);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    Err(invalid(problems))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("clips.csv");
        std::fs::write(&path, text).expect("writable");
        std::fs::write(dir.path().join("a.mp4"), "").expect("writable");
        (dir, path)
    }

    fn classes() -> Vec<String> {
        ["Fighting", "Normal"].map(String::from).into()
    }

    #[test]
    fn maps_labels_and_keeps_sources() {
        let (dir, path) = write("clip,label,source_video\na.mp4,Vandalism,v1\na.mp4, Normal ,v2\n");
        let map = BTreeMap::from([("Vandalism".to_string(), "Fighting".to_string())]);
        let clips = read(&path, &classes(), &map).expect("valid");
        assert_eq!((clips[0].label, clips[1].label), (0, 1));
        assert_eq!(clips[1].source.as_deref(), Some("v2"));
        assert_eq!(clips[0].path, dir.path().join("a.mp4"));
    }

    #[test]
    fn says_everything_that_is_wrong_by_line() {
        let (_dir, path) = write("clip,label\nb.mp4,Normal\na.mp4,Abuse\n");
        let said = read(&path, &classes(), &BTreeMap::new()).expect_err("two problems").to_string();
        assert!(said.contains("line 2: no file") && said.contains("b.mp4"), "{said}");
        assert!(said.contains("line 3: the model has no class \"Abuse\"") && said.contains("--map Abuse="), "{said}");
        let (_dir, path) = write("file,class\na.mp4,Normal\n");
        let said = read(&path, &classes(), &BTreeMap::new()).expect_err("no header").to_string();
        assert!(said.contains("clip,label[,source_video]") && said.contains("file,class"), "{said}");
        let (_dir, path) = write("clip,label\n");
        assert!(read(&path, &classes(), &BTreeMap::new()).expect_err("empty").to_string().contains("no clip"));
    }
}
