//! A fleet's certificate authority as its manager has it: a directory, and `vedette-fleet enrol`; and a device that is
//! provisioned from it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::agent::{PATTERN, model_dir, stderr, stdout};
use super::pki::write_private;

/// The authority, with all passphrases in files.
pub struct Fleet {
    dir: TempDir,
}

/// What a device's bundle says beside who it is.
pub struct With<'a> {
    /// Its broker.
    pub broker: &'a str,
    /// Further arguments.
    pub args: &'a [&'a str],
}

impl Fleet {
    /// An authority with an issuing one, and the certificates of a broker on 127.0.0.1, of `soc`, `monitor` and `fleet-enrol` in
    /// `certs`.
    pub fn new() -> Fleet {
        let fleet = Fleet::bare();
        for name in ["root", "issuing", "bundle"] {
            write_private(&fleet.file(&format!("{name}.pass")), &format!("{name} horse battery\n"));
        }
        fleet.enrol(&["ca", "init", "--issuing", "--root-passphrase-file", &fleet.path("root.pass")]);
        let out = fleet.path("certs");
        fleet.enrol(&["server", "127.0.0.1", "--out", &out]);
        for name in ["soc", "monitor", "fleet-enrol"] {
            fleet.enrol(&["client", name, "--out", &out]);
        }
        std::fs::copy(fleet.file("ca/ca.crt"), fleet.file("certs/ca.crt")).expect("writable");
        fleet.enrol(&["crl"]);
        fleet
    }

    fn bare() -> Fleet {
        Fleet { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    /// A file of it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Its path as text.
    pub fn path(&self, name: &str) -> String {
        self.file(name).to_str().expect("UTF-8").to_owned()
    }

    /// `vedette-fleet enrol`, to its end.
    pub fn try_enrol(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program was built with its tests")
    }

    /// `vedette-fleet enrol` with these arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vedette-fleet"));
        let common = ["--ca", &self.path("ca"), "--passphrase-file", &self.path("issuing.pass")].map(String::from);
        command.arg("enrol").args(common).args(args).stdin(Stdio::null());
        command
    }

    /// The same, and it must work; what it printed.
    pub fn enrol(&self, args: &[&str]) -> String {
        let output = self.try_enrol(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        stdout(&output)
    }

    /// Makes a bundle; its file.
    pub fn bundle(&self, device: &str, file: &str, with: &With<'_>) -> PathBuf {
        let (out, pass) = (self.path(file), self.path("bundle.pass"));
        let args = ["device", device, "--broker", with.broker, "--out", &out, "--bundle-passphrase-file", &pass];
        self.enrol(&[&args[..], with.args].concat());
        self.file(file)
    }

    /// `vedette-fleet enrol show --json`
    pub fn show(&self, device: &str) -> serde_json::Value {
        serde_json::from_str(&self.enrol(&["show", device, "--json"])).expect("JSON")
    }
}

/// A device's directories before it is anybody.
pub struct Blank {
    dir: TempDir,
}

impl Blank {
    /// With nothing in them.
    pub fn new() -> Blank {
        Blank { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    /// A file of it: `etc/...`, `state/...`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What a bundle brings for it: one camera, the tree's model.
    pub fn config(&self) -> PathBuf {
        let path = self.file("brought.toml");
        let text = format!(
            "[paths]\nstate_dir = \"../state\"\nruntime_dir = \"../run\"\n\n[model]\ndir = {:?}\n\n{PATTERN}",
            model_dir()
        );
        std::fs::write(&path, text).expect("writable");
        path
    }

    /// `vedette provision`, to its end.
    pub fn provision(&self, args: &[&str], fail_point: Option<&str>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vedette"));
        command.args(["provision", "--config-dir"]).arg(self.file("etc")).args(args).stdin(Stdio::null());
        command.args([Path::new("--state-dir"), &self.file("state")]);
        if let Some(place) = fail_point {
            command.env("VEDETTE_FAIL_POINT", place);
        }
        command.output().expect("the program was built with its tests")
    }

    /// Takes a bundle, and it must work.
    pub fn take(&self, fleet: &Fleet, bundle: &Path) {
        let bundle = bundle.to_str().expect("UTF-8");
        let done = self.provision(&[bundle, "--passphrase-file", &fleet.path("bundle.pass")], None);
        assert!(done.status.success(), "{}", stderr(&done));
    }
}
