//! Devices that exist in memory only: plugged in and out, held and let go by a test. They keep the same contract as the
//! kernel's (`contract`).

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::controls::{Control, Refusal, Setting, Takes};
use super::device::{Abilities, DeviceError, Devices, FourCc, Listed, Mode, Rate};

/// See the module's doc.
#[derive(Default)]
pub struct Scripted {
    plugged: Mutex<Vec<Plugged>>,
}

struct Plugged {
    by_id: PathBuf,
    abilities: Abilities,
    values: Vec<(u32, i64)>,
}

impl Scripted {
    /// Plugs a camera in, at this node; the first one always gets the same link, whatever its node.
    pub fn plug(&self, node: &str, modes: &[(&[u8; 4], u32, u32, u32)]) {
        let mode = |(format, width, height, fps): &(&[u8; 4], u32, u32, u32)| Mode {
            format: FourCc(**format),
            width: *width,
            height: *height,
            rate: Some(Rate { frames: *fps, seconds: 1 }),
        };
        let number = Takes::Number { minimum: 0, maximum: 255, step: 1 };
        let abilities = Abilities {
            node: node.into(),
            card: "Scripted camera".into(),
            modes: modes.iter().map(mode).collect(),
            controls: vec![
                Control { id: 1, name: "brightness".into(), takes: number, read_only: false },
                Control { id: 2, name: "stubborn".into(), takes: Takes::Switch, read_only: false },
            ],
            in_use: None,
        };
        let mut plugged = self.plugged.lock().unwrap();
        let by_id = format!("/dev/v4l/by-id/usb-Scripted-video-index{}", plugged.len()).into();
        plugged.push(Plugged { by_id, abilities, values: Vec::new() });
    }

    /// Plugs all out.
    pub fn unplug(&self) {
        self.plugged.lock().unwrap().clear();
    }

    /// Somebody takes all of them, or lets them go.
    pub fn hold(&self, holder: Option<&str>) {
        for p in self.plugged.lock().unwrap().iter_mut() {
            p.abilities.in_use = holder.map(str::to_owned);
        }
    }

    /// What a control was set to.
    pub fn value(&self, id: u32) -> Option<i64> {
        let plugged = self.plugged.lock().unwrap();
        let values = plugged.first()?.values.iter();
        values.rev().find(|(i, _)| *i == id).map(|(_, v)| *v)
    }

    fn with<T>(&self, path: &Path, act: impl FnOnce(&mut Plugged) -> T) -> Result<T, DeviceError> {
        let mut plugged = self.plugged.lock().unwrap();
        let found = plugged.iter_mut().find(|p| p.abilities.node == path || p.by_id == path);
        found.map(act).ok_or_else(|| DeviceError::Absent { path: path.to_owned() })
    }
}

impl Devices for Scripted {
    fn list(&self) -> Vec<Listed> {
        let plugged = self.plugged.lock().unwrap();
        plugged.iter().map(|p| Listed { node: p.abilities.node.clone(), link: Some(p.by_id.clone()) }).collect()
    }

    fn probe(&self, path: &Path) -> Result<Abilities, DeviceError> {
        self.with(path, |p| p.abilities.clone())
    }

    fn set(&self, path: &Path, settings: &[Setting]) -> Result<Vec<Refusal>, DeviceError> {
        self.with(path, |p| {
            let (refused, made): (Vec<_>, Vec<_>) = settings.iter().partition(|s| s.name == "stubborn");
            p.values.extend(made.iter().map(|s| (s.id, s.value)));
            refused.iter().map(|s| Refusal { name: s.name.clone(), why: "the camera refuses it".into() }).collect()
        })
    }
}
