//! What is wrong with a configuration, in words for the person who wrote it.
//!
//! Invariant: no message or remedy ever holds a secret: not what a credentials or key file contains, not a URL
//! that has credentials in it, not the value of a key that nobody knows.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::Serialize;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The key, as a path: `clip.pre_roll_s`, `camera[gate].url`; `camera[#2].url` for the second camera if it
    /// has no valid id of its own. Empty if the text isn't TOML there.
    pub key: String,
    /// Line in the file, from 1; none if nothing in the file stands for it.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What is allowed instead, or what to do.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{} ({})", self.message, self.remedy)
    }
}

/// Why there is no [`super::Config`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file itself.
    #[error("the configuration {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is in it: every problem, in the order of the file. Displayed one a line.
    #[error("{}", listed(path, problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// At least one.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// What is wrong inside the file; empty if the file could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            ConfigError::Unreadable { .. } => &[],
            ConfigError::Invalid { problems, .. } => problems,
        }
    }
}

fn listed(path: &std::path::Path, problems: &[Problem]) -> String {
    let count = match problems.len() {
        1 => "one problem".to_string(),
        n => format!("{n} problems"),
    };
    let mut text = format!("{count} in the configuration {}", path.display());
    for problem in problems {
        text.push_str("\n  ");
        text.push_str(&problem.to_string());
    }
    text
}
