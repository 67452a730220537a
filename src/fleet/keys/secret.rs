//! Where a passphrase or a PIN comes from: a file, an environment variable, or whoever sits at the terminal. Never the
//! arguments, which every user of the machine can read.

use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use age::secrecy::SecretString;

/// The variable that is asked where no file was named.
pub const VARIABLE: &str = "VEDETTE_FLEET_PASSPHRASE";

/// Why there is no passphrase.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Its file cannot be read.
    #[error("cannot read the passphrase file {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
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
    #[error("{from} holds no passphrase")]
    Empty {
        /// Which file or variable.
        from: String,
    },
    /// There is nobody to ask.
    #[error(
        "no passphrase for {what}: this is no terminal, so name a file with --passphrase-file, or set {VARIABLE} in the \
         environment"
    )]
    NobodyToAsk {
        /// The key.
        what: String,
    },
    /// The terminal failed.
    #[error("the passphrase for {what} could not be asked for")]
    Prompt {
        /// The key.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// It was typed twice, differently.
    #[error("the two passphrases are not the same: begin again")]
    Differ,
    /// It is too short to protect anything.
    #[error("a passphrase of {found} characters is too short: take {LEAST} or more")]
    Short {
        /// Its characters.
        found: usize,
    },
    /// More keys than files.
    #[error("{files} passphrase files and {keys} keys: name one file for all keys, or one for each, in their order")]
    Count {
        /// Files that were named.
        files: usize,
        /// Keys that were named.
        keys: usize,
    },
}

/// Characters that a new passphrase has at the least.
pub const LEAST: usize = 8;

/// Where the passphrases of a command's keys come from.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    files: Vec<PathBuf>,
    from_environment: bool,
}

impl Secrets {
    /// From these files (one for all keys, or one for each in their order); where there are none from the environment, and
    /// where that has none from the terminal.
    pub fn new(files: Vec<PathBuf>) -> Secrets {
        Secrets { files, from_environment: true }
    }

    /// Whether there are as many files as these many keys need.
    pub fn check_count(&self, keys: usize) -> Result<(), SecretError> {
        match self.files.len() {
            0 | 1 => Ok(()),
            n if n == keys => Ok(()),
            files => Err(SecretError::Count { files, keys }),
        }
    }

    /// The passphrase of the key at `index`, which is called `what`.
    pub fn of(&self, index: usize, what: &str) -> Result<SecretString, SecretError> {
        match self.without_asking(index)? {
            Some(secret) => Ok(secret),
            None => ask(what, &format!("Passphrase of {what}: ")),
        }
    }

    /// The passphrase of a key that is being made: typed twice where it is typed.
    pub fn for_new(&self, what: &str) -> Result<SecretString, SecretError> {
        use age::secrecy::ExposeSecret;

        let secret = match self.without_asking(0)? {
            Some(secret) => secret,
            None => {
                let first = ask(what, &format!("New passphrase of {what}: "))?;
                let second = ask(what, "The same again: ")?;
                if first.expose_secret() != second.expose_secret() {
                    return Err(SecretError::Differ);
                }
                first
            }
        };
        match secret.expose_secret().chars().count() {
            found if found < LEAST => Err(SecretError::Short { found }),
            _ => Ok(secret),
        }
    }

    fn without_asking(&self, index: usize) -> Result<Option<SecretString>, SecretError> {
        if let Some(file) = self.files.get(index).or(self.files.first()) {
            return read(file).map(Some);
        }
        match std::env::var(VARIABLE) {
            Ok(text) if self.from_environment => not_empty(text, || format!("the variable {VARIABLE}")).map(Some),
            _ => Ok(None),
        }
    }
}

/// The first line of a file that only its owner may read.
pub fn read(path: &Path) -> Result<SecretString, SecretError> {
    let unreadable = |source| SecretError::Read { path: path.to_owned(), source };
    let of = fs::metadata(path).map_err(unreadable)?;
    // A pipe (`--passphrase-file <(pass show ...)`) has no mode that means anything.
    if of.is_file() && of.mode() & 0o077 != 0 {
        return Err(SecretError::Open { path: path.to_owned(), mode: of.mode() & 0o7777 });
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    not_empty(text, || path.display().to_string())
}

fn not_empty(text: String, from: impl Fn() -> String) -> Result<SecretString, SecretError> {
    let first = text.lines().next().unwrap_or_default().to_owned();
    if first.is_empty() { Err(SecretError::Empty { from: from() }) } else { Ok(SecretString::from(first)) }
}

fn ask(what: &str, prompt: &str) -> Result<SecretString, SecretError> {
    // rpassword reads from the terminal itself, also where standard input is a pipe; a script without one has to be told.
    if !io::stdin().is_terminal() && !io::stderr().is_terminal() {
        return Err(SecretError::NobodyToAsk { what: what.to_owned() });
    }
    rpassword::prompt_password(prompt)
        .map(SecretString::from)
        .map_err(|source| SecretError::Prompt { what: what.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use age::secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_file_holds_one_line_and_is_its_owners() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("passphrase");
        fs::write(&path, "correct horse\nsecond line\n").expect("writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("ours");
        assert!(read(&path).expect_err("readable by all").to_string().contains("mode 0644"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
        assert_eq!(read(&path).expect("ours alone").expose_secret(), "correct horse");
        let secrets = Secrets::new(vec![path.clone()]);
        assert_eq!(secrets.of(3, "a key").expect("one for all").expose_secret(), "correct horse");
        assert!(!format!("{secrets:?} {:?}", read(&path)).contains("horse"));
        assert!(secrets.check_count(3).is_ok());
        assert!(Secrets::new(vec![path.clone(), path.clone()]).check_count(3).is_err());
        fs::write(&path, "\n").expect("writable");
        assert!(read(&path).expect_err("nothing in it").to_string().contains("holds no passphrase"));
        fs::write(&path, "short\n").expect("writable");
        assert!(matches!(secrets.for_new("a key"), Err(SecretError::Short { found: 5 })));
    }
}
