//! Where a passphrase comes from: a file, standard input, an environment variable, or whoever sits at the terminal. Never the
//! arguments, which every user of the machine can read.

use std::fs;
use std::io::{self, BufRead, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use age::secrecy::{ExposeSecret, SecretString};

/// Characters that a new passphrase has at the least.
pub const LEAST: usize = 8;
/// No passphrase is longer.
const LONGEST_BYTES: u64 = 4096;

/// Why there is no passphrase.
#[derive(Debug, thiserror::Error)]
pub enum PassphraseError {
    /// Its file cannot be read.
    #[error("cannot read the passphrase from {from}")]
    Read {
        /// Which.
        from: String,
        /// Why.
        source: io::Error,
    },
    /// Others may read the file.
    #[error("{} can be read by others (mode {mode:04o}): chmod 600 {}", path.display(), path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// There is nothing in it.
    #[error("{0} holds no passphrase")]
    Empty(String),
    /// There is nobody to ask.
    #[error("no passphrase for {0}: this is no terminal, so name a file that holds it")]
    NobodyToAsk(String),
    /// It was typed twice, differently.
    #[error("the two passphrases are not the same: begin again")]
    Differ,
    /// It protects nothing.
    #[error("a passphrase of {0} characters is too short: take {LEAST} or more")]
    Short(usize),
}

/// Where one passphrase comes from.
#[derive(Debug, Clone, Default)]
pub struct Passphrase {
    /// The first line of this file; `-` is standard input.
    pub file: Option<PathBuf>,
    /// Else this variable, if it is set.
    pub variable: Option<&'static str>,
}

impl Passphrase {
    /// The passphrase of what is called `what`.
    pub fn get(&self, what: &str) -> Result<SecretString, PassphraseError> {
        match self.without_asking()? {
            Some(secret) => Ok(secret),
            None => ask(what, &format!("Passphrase of {what}: ")),
        }
    }

    /// The passphrase of what is being made: typed twice where it is typed.
    pub fn get_new(&self, what: &str) -> Result<SecretString, PassphraseError> {
        let secret = match self.without_asking()? {
            Some(secret) => secret,
            None => {
                let first = ask(what, &format!("New passphrase of {what}: "))?;
                let second = ask(what, "The same again: ")?;
                if first.expose_secret() != second.expose_secret() {
                    return Err(PassphraseError::Differ);
                }
                first
            }
        };
        match secret.expose_secret().chars().count() {
            n if n < LEAST => Err(PassphraseError::Short(n)),
            _ => Ok(secret),
        }
    }

    fn without_asking(&self) -> Result<Option<SecretString>, PassphraseError> {
        match (&self.file, self.variable) {
            (Some(path), _) if path == Path::new("-") => first_line("standard input", io::stdin().lock()).map(Some),
            (Some(path), _) => {
                let from = path.display().to_string();
                let unreadable = |source| PassphraseError::Read { from: from.clone(), source };
                let file = fs::File::open(path).map_err(unreadable)?;
                let of = file.metadata().map_err(unreadable)?;
                // A pipe (`<(pass show ...)`) has no mode that means anything.
                if of.is_file() && of.mode() & 0o077 != 0 {
                    return Err(PassphraseError::Open { path: path.clone(), mode: of.mode() & 0o7777 });
                }
                first_line(&from, io::BufReader::new(file)).map(Some)
            }
            (None, Some(variable)) => match std::env::var(variable) {
                Ok(text) => first_line(variable, text.as_bytes()).map(Some),
                Err(_) => Ok(None),
            },
            (None, None) => Ok(None),
        }
    }
}

fn first_line(from: &str, source: impl BufRead) -> Result<SecretString, PassphraseError> {
    let mut line = String::new();
    let read = source.take(LONGEST_BYTES).read_line(&mut line);
    read.map_err(|source| PassphraseError::Read { from: from.to_owned(), source })?;
    let ends = line.trim_end_matches(['\n', '\r']).len();
    line.truncate(ends);
    if line.is_empty() { Err(PassphraseError::Empty(from.to_owned())) } else { Ok(SecretString::from(line)) }
}

fn ask(what: &str, prompt: &str) -> Result<SecretString, PassphraseError> {
    // What asks reads from the terminal itself, also where standard input is a pipe.
    if !io::stdin().is_terminal() && !io::stderr().is_terminal() {
        return Err(PassphraseError::NobodyToAsk(what.to_owned()));
    }
    let asked = rpassword::prompt_password(prompt);
    asked.map(SecretString::from).map_err(|source| PassphraseError::Read { from: "the terminal".into(), source })
}
