//! What several commands of `keys` and `release` take: a repository, keys to sign with; and how signing is told.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::agent::cli::out::Out;
use crate::fleet::keys::secret::Secrets;
use crate::fleet::keys::{KeySpec, SigningKey, spec};
use crate::fleet::release::signing::Signing;

/// The manager's copy of a repository.
#[derive(Debug, Args)]
pub struct RepositoryArgs {
    /// Directory of the repository (your copy of it; what devices see is what you publish)
    #[arg(short, long, value_name = "DIR", default_value = "repository")]
    pub repository: PathBuf,
}

/// Keys to sign with.
#[derive(Debug, Args)]
pub struct KeyArgs {
    /// A key to sign with: a file, or a pkcs11: URI with a module-path; may be given several times
    #[arg(short, long, value_name = "KEY")]
    pub key: Vec<KeySpec>,

    #[command(flatten)]
    pub passphrases: PassphraseArgs,
}

/// Where passphrases come from.
#[derive(Debug, Args)]
pub struct PassphraseArgs {
    /// File whose first line is the passphrase (or PIN); given once it is for all keys, else one for each in their order
    ///
    /// Without it the variable VEDETTE_FLEET_PASSPHRASE is used, and without that the terminal is asked.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Vec<PathBuf>,
}

impl PassphraseArgs {
    pub fn secrets(&self) -> Secrets {
        Secrets::new(self.passphrase_file.clone())
    }
}

impl KeyArgs {
    pub fn open(&self) -> anyhow::Result<Vec<SigningKey>> {
        Ok(spec::open_all(&self.key, &self.passphrases.secrets())?)
    }
}

/// Says what was signed, and who has to sign yet.
pub fn tell(signing: &Signing) -> anyhow::Result<ExitCode> {
    let mut out = Out::new();
    for what in &signing.signed {
        out.line(format_args!("signed {what}"))?;
    }
    if signing.is_complete() {
        out.line("complete: vedette-fleet release publish brings it to the devices")?;
    }
    for standing in &signing.missing {
        out.line(format_args!("waits for {}", standing.words()))?;
    }
    Ok(ExitCode::SUCCESS)
}
