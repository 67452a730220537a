//! Every change of what the device does, wherever it was asked for: looked at, carried out or rejected with the
//! reason, and written to the audit trail.

use std::sync::Arc;

use uuid::Uuid;

use crate::agent::config::CameraId;
use crate::contract::command::{Command, CommandOutcome, CommandSink};

/// What control needs of the incident stage.
pub trait Incidents: Send + Sync {
    /// Opens a test incident; its id, or why not. Returns once the incident is on its way to the store.
    fn raise_test(&self, camera: &CameraId) -> Result<Uuid, String>;
}

/// What control needs of the audit trail.
pub trait Audit: Send + Sync {
    /// Notes that `who` asked for `what` and what came of it.
    fn note(&self, who: &str, what: &str, outcome: &str);
}

/// The device's [`CommandSink`].
pub struct Control {
    cameras: Vec<CameraId>,
    incidents: Arc<dyn Incidents>,
    audit: Arc<dyn Audit>,
}

impl Control {
    /// Control over these cameras; at least one.
    pub fn new(cameras: Vec<CameraId>, incidents: Arc<dyn Incidents>, audit: Arc<dyn Audit>) -> Self {
        Control { cameras, incidents, audit }
    }

    fn camera(&self, asked: Option<&str>) -> Result<&CameraId, String> {
        let found = match asked {
            None => self.cameras.first(),
            Some(name) => self.cameras.iter().find(|c| &*c.0 == name),
        };
        found.ok_or_else(|| {
            let known: Vec<_> = self.cameras.iter().map(|c| &*c.0).collect();
            format!("no camera is called {:?}; this device has {}", asked.unwrap_or(""), known.join(", "))
        })
    }
}

impl CommandSink for Control {
    fn submit(&self, from: &str, command: Command) -> CommandOutcome {
        let done = match &command {
            Command::TestAlert { camera } => {
                self.camera(camera.as_deref()).and_then(|camera| self.incidents.raise_test(camera))
            }
        };
        let what = serde_json::to_string(&command).expect("commands are plain data");
        match done {
            Ok(incident) => {
                self.audit.note(from, &what, &format!("accepted: incident {incident}"));
                CommandOutcome::Accepted { incident }
            }
            Err(reason) => {
                self.audit.note(from, &what, &format!("rejected: {reason}"));
                CommandOutcome::Rejected { reason }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Fake {
        raised: Mutex<Vec<CameraId>>,
        notes: Mutex<Vec<(String, String)>>,
    }

    impl Incidents for Fake {
        fn raise_test(&self, camera: &CameraId) -> Result<Uuid, String> {
            self.raised.lock().expect("no panic under it").push(camera.clone());
            Ok(Uuid::nil())
        }
    }

    impl Audit for Fake {
        fn note(&self, who: &str, _what: &str, outcome: &str) {
            self.notes.lock().expect("no panic under it").push((who.into(), outcome.into()));
        }
    }

    #[test]
    fn the_named_camera_or_the_first_and_always_a_note() {
        let fake = Arc::new(Fake::default());
        let cameras = vec![CameraId::new("door"), CameraId::new("yard")];
        let control = Control::new(cameras, fake.clone(), fake.clone());
        let ask = |c: Option<&str>| control.submit("cli", Command::TestAlert { camera: c.map(String::from) });
        assert_eq!(ask(None), CommandOutcome::Accepted { incident: Uuid::nil() });
        assert_eq!(ask(Some("yard")), CommandOutcome::Accepted { incident: Uuid::nil() });
        let CommandOutcome::Rejected { reason } = ask(Some("roof")) else { panic!("there is no such camera") };
        assert!(reason.contains("\"roof\"") && reason.contains("door, yard"), "{reason}");
        assert_eq!(*fake.raised.lock().expect("no panic"), [CameraId::new("door"), CameraId::new("yard")]);
        let notes = fake.notes.lock().expect("no panic");
        assert_eq!(notes.len(), 3);
        assert!(notes.iter().all(|(who, _)| who == "cli") && notes[2].1.starts_with("rejected"));
    }
}
