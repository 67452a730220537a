//! What commands have set instead of the configuration: thresholds, and whether cameras are armed. Kept in the state
//! directory, so that it holds over restarts; the configuration file is never written. In force is the file's value unless
//! one of these stands for the same camera.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::agent::config::Config;
use crate::agent::control::ArmingWish;
use crate::base::atomic_file;

const FILE: &str = "overrides.json";

/// By camera.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Overrides {
    /// Thresholds by class, instead of all that the configuration has for the camera.
    #[serde(default)]
    pub thresholds: BTreeMap<String, BTreeMap<String, f32>>,
    /// Whether it is armed, instead of by its schedule.
    #[serde(default)]
    pub arming: BTreeMap<String, ArmingWish>,
}

impl Overrides {
    /// Reads those of a state directory; a file that cannot be read is said and put aside, never taken for empty.
    pub fn load(state_dir: &Path) -> Overrides {
        let path = path(state_dir);
        match std::fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Overrides::default(),
            Err(e) => {
                log::error!("what commands have set is not in force: cannot read {}: {e}", path.display());
                Overrides::default()
            }
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|e| {
                let aside = path.with_extension("json.bad");
                log::error!(
                    "what commands have set is not in force: {} is damaged ({e}) and kept as {}",
                    path.display(),
                    aside.display()
                );
                if let Err(e) = std::fs::rename(&path, &aside) {
                    log::error!("cannot rename {}: {e}", path.display());
                }
                Overrides::default()
            }),
        }
    }

    /// Makes them durable.
    pub fn save(&self, state_dir: &Path) -> io::Result<()> {
        let json = serde_json::to_vec_pretty(self).expect("numbers and texts with textual keys are always JSON");
        atomic_file::write(&path(state_dir), &json)
    }

    /// The configuration with the thresholds that stand instead of its own. Those that no longer fit it (the hysteresis
    /// was raised, say) are said and left out.
    pub fn over(&self, mut config: Config) -> Config {
        let hysteresis = config.incident.hysteresis;
        for camera in &mut config.cameras {
            let Some(thresholds) = self.thresholds.get(&*camera.id.0) else { continue };
            if let Some((class, t)) = thresholds.iter().find(|(_, t)| **t <= hysteresis) {
                log::error!(
                    "{}: the threshold of {class} set by command, {t}, is not above the hysteresis: the configured ones are in force",
                    camera.id
                );
                continue;
            }
            camera.thresholds = thresholds.clone();
        }
        config
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Wall;

    #[test]
    fn they_hold_over_restarts_and_a_damaged_file_is_kept() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(Overrides::load(dir.path()), Overrides::default());
        let wish = ArmingWish { armed: false, until: Some(Wall::from_unix_ms(5)) };
        let set = Overrides {
            thresholds: [("gate".to_owned(), [("Fight".to_owned(), 0.9)].into())].into(),
            arming: [("gate".to_owned(), wish)].into(),
        };
        set.save(dir.path()).expect("writable");
        assert_eq!(Overrides::load(dir.path()), set);
        std::fs::write(path(dir.path()), "{").expect("writable");
        assert_eq!(Overrides::load(dir.path()), Overrides::default());
        assert!(dir.path().join("overrides.json.bad").exists());
    }
}
