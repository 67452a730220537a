//! Every change of what the device does, wherever it was asked for: looked at, carried out or rejected with the
//! reason, and written to the audit trail.

mod desk;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use crate::agent::config::CameraId;
use crate::agent::store::VerdictRow;
use crate::base::clock::Wall;
use crate::contract::command::{Command, CommandOutcome, CommandSink, NoRequest, time};
use crate::contract::result::{
    Armed, CertificateInstalled, ClipSent, Diagnostics, Reloaded, Replayed, Snapshot, UpdateOffered, as_sent,
};

pub use desk::{Clerk, Desk};

/// What control needs of the incident stage.
pub trait Incidents: Send + Sync {
    /// Opens a test incident; its id, or why not. Returns once the incident is on its way to the store.
    fn raise_test(&self, camera: &CameraId) -> Result<Uuid, String>;
    /// Has a clip made of a time that is past, as an incident of its own; its id, or why not.
    fn request_clip(&self, camera: &CameraId, from: Wall, to: Wall) -> Result<Uuid, String>;
}

/// What control needs of the audit trail.
pub trait Audit: Send + Sync {
    /// Notes that `who` asked for `what` and what came of it.
    fn note(&self, who: &str, what: &str, outcome: &str);
}

/// Why the device did not do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It asks for what is not there or cannot be.
    Impossible(String),
    /// Something went wrong.
    Failed(String),
}

/// Whether incidents open on a camera, by somebody's word instead of its schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ArmingWish {
    /// Whether they do.
    pub armed: bool,
    /// Until then; none: until told otherwise.
    pub until: Option<Wall>,
}

/// What else control can have the device do; `run` implements it.
pub trait Device: Send + Sync {
    /// The newest picture of a camera.
    fn snapshot(&self, camera: &CameraId) -> Result<Snapshot, Refusal>;
    /// Arms or disarms cameras; without a wish they follow their schedules again. Holds over restarts.
    fn arm(&self, cameras: &[CameraId], wish: Option<ArmingWish>) -> Result<(), Refusal>;
    /// Thresholds of a camera instead of the configured ones; empty: those again. Holds over restarts.
    fn set_thresholds(&self, camera: &CameraId, thresholds: BTreeMap<String, f32>) -> Result<(), Refusal>;
    /// Sends rows of the outbox again; how many there are.
    fn replay(&self, from: u64, to: u64) -> Result<u64, Refusal>;
    /// Has an incident's clip sent, for somebody; how that stands, and where it can be had meanwhile.
    fn clip(&self, incident: Uuid, who: &str) -> Result<ClipSent, Refusal>;
    /// Stores an operator's word.
    fn verdict(&self, verdict: VerdictRow) -> Result<(), Refusal>;
    /// Reads the configuration again; a line for each change.
    fn reload(&self) -> Result<Vec<String>, Refusal>;
    /// Offers a release to the device; the offer's id.
    fn update_model(&self, release: u64, rollout: Option<String>) -> Result<Uuid, Refusal>;
    /// Calls a release off; the offer's id.
    fn cancel_update(&self, release: Option<u64>) -> Result<Uuid, Refusal>;
    /// Shows this certificate from the next connection on.
    fn install_certificate(&self, certificate_pem: &str) -> Result<CertificateInstalled, Refusal>;
    /// Has the daemon end in good order; the service manager starts it again.
    fn restart(&self);
    /// How the device is, in full.
    fn diagnostics(&self) -> Diagnostics;
}

/// The device's [`CommandSink`].
pub struct Control {
    cameras: Vec<CameraId>,
    incidents: Arc<dyn Incidents>,
    device: Arc<dyn Device>,
    audit: Arc<dyn Audit>,
}

impl Control {
    /// Control over these cameras; at least one.
    pub fn new(
        cameras: Vec<CameraId>,
        incidents: Arc<dyn Incidents>,
        device: Arc<dyn Device>,
        audit: Arc<dyn Audit>,
    ) -> Self {
        Control { cameras, incidents, device, audit }
    }

    fn camera(&self, asked: Option<&str>) -> Result<&CameraId, Refusal> {
        let found = match asked {
            None => self.cameras.first(),
            Some(name) => self.cameras.iter().find(|c| &*c.0 == name),
        };
        found.ok_or_else(|| {
            let known: Vec<_> = self.cameras.iter().map(|c| &*c.0).collect();
            Refusal::Impossible(format!(
                "no camera is called {:?}; this device has {}",
                asked.unwrap_or(""),
                known.join(", ")
            ))
        })
    }

    /// The named camera, or all.
    fn cameras(&self, asked: Option<&str>) -> Result<Vec<CameraId>, Refusal> {
        match asked {
            None => Ok(self.cameras.clone()),
            Some(_) => self.camera(asked).map(|c| vec![c.clone()]),
        }
    }

    fn arm(&self, camera: Option<&str>, wish: Option<(bool, Option<String>)>) -> Result<CommandOutcome, Refusal> {
        let wish = match wish {
            None => None,
            Some((armed, until)) => {
                let until = until.map(|t| time("until", &t)).transpose();
                Some(ArmingWish { armed, until: until.map_err(|NoRequest(why)| Refusal::Impossible(why))? })
            }
        };
        let cameras = self.cameras(camera)?;
        self.device.arm(&cameras, wish)?;
        let cameras = cameras.iter().map(ToString::to_string).collect();
        Ok(CommandOutcome::done(as_sent(&Armed { cameras })))
    }

    fn carry_out(&self, from: &str, command: Command) -> Result<CommandOutcome, Refusal> {
        Ok(match command {
            Command::TestAlert { camera } => {
                let incident = self.incidents.raise_test(self.camera(camera.as_deref())?);
                CommandOutcome::Accepted { incident: Some(incident.map_err(Refusal::Impossible)?), result: None }
            }
            Command::Replay { from, to } => {
                let rows = self.device.replay(from, to.unwrap_or(u64::MAX))?;
                CommandOutcome::done(as_sent(&Replayed { rows }))
            }
            Command::Clip { incident } => CommandOutcome::done(as_sent(&self.device.clip(incident, from)?)),
            Command::ClipRange { camera, from, to } => {
                let read = |key, text: &str| time(key, text).map_err(|NoRequest(why)| Refusal::Impossible(why));
                let (from, to) = (read("from", &from)?, read("to", &to)?);
                let incident = self.incidents.request_clip(self.camera(Some(&camera))?, from, to);
                CommandOutcome::Accepted { incident: Some(incident.map_err(Refusal::Impossible)?), result: None }
            }
            Command::Snapshot { camera } => {
                CommandOutcome::done(as_sent(&self.device.snapshot(self.camera(camera.as_deref())?)?))
            }
            Command::Arm { camera, until } => self.arm(camera.as_deref(), Some((true, until)))?,
            Command::Disarm { camera, until } => self.arm(camera.as_deref(), Some((false, until)))?,
            Command::FollowSchedule { camera } => self.arm(camera.as_deref(), None)?,
            Command::SetThresholds { camera, thresholds } => {
                self.device.set_thresholds(self.camera(Some(&camera))?, thresholds)?;
                CommandOutcome::done(Value::Null)
            }
            Command::Verdict { incident, verdict, words } => {
                self.device.verdict(VerdictRow { incident, verdict, words, who: from.to_owned() })?;
                CommandOutcome::done(Value::Null)
            }
            Command::Reload {} => CommandOutcome::done(as_sent(&Reloaded { changes: self.device.reload()? })),
            Command::UpdateModel { release, rollout } => {
                let update = self.device.update_model(release, rollout)?;
                CommandOutcome::done(as_sent(&UpdateOffered { update }))
            }
            Command::CancelUpdate { release } => {
                CommandOutcome::done(as_sent(&UpdateOffered { update: self.device.cancel_update(release)? }))
            }
            Command::InstallCertificate { certificate_pem } => {
                CommandOutcome::done(as_sent(&self.device.install_certificate(&certificate_pem)?))
            }
            Command::Restart {} => {
                self.device.restart();
                CommandOutcome::done(Value::Null)
            }
            Command::Diagnostics {} => CommandOutcome::done(as_sent(&self.device.diagnostics())),
        })
    }
}

impl CommandSink for Control {
    fn submit(&self, from: &str, command: Command) -> CommandOutcome {
        let what = serde_json::to_string(&command).expect("commands are plain data");
        let outcome = self.carry_out(from, command).unwrap_or_else(|refusal| match refusal {
            Refusal::Impossible(reason) => CommandOutcome::Rejected { reason },
            Refusal::Failed(reason) => CommandOutcome::Failed { reason },
        });
        let came = match &outcome {
            CommandOutcome::Accepted { incident: Some(id), .. } => format!("accepted: incident {id}"),
            CommandOutcome::Accepted { incident: None, .. } => "accepted".to_owned(),
            CommandOutcome::Rejected { reason } => format!("rejected: {reason}"),
            CommandOutcome::Failed { reason } => format!("failed: {reason}"),
        };
        self.audit.note(from, &what, &came);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;
    use crate::contract::command::Verdict;
    use crate::contract::result::{ClipLinks, SignedLink};

    #[derive(Default)]
    struct Fake {
        raised: Mutex<Vec<CameraId>>,
        notes: Mutex<Vec<(String, String)>>,
        armed: Mutex<Vec<(usize, Option<ArmingWish>)>>,
    }

    impl Incidents for Fake {
        fn raise_test(&self, camera: &CameraId) -> Result<Uuid, String> {
            self.raised.lock().expect("no panic under it").push(camera.clone());
            Ok(Uuid::nil())
        }

        fn request_clip(&self, _: &CameraId, from: Wall, to: Wall) -> Result<Uuid, String> {
            if from < to { Ok(Uuid::max()) } else { Err("from is not before to".into()) }
        }
    }

    impl Device for Fake {
        fn snapshot(&self, _: &CameraId) -> Result<Snapshot, Refusal> {
            Err(Refusal::Failed("no picture has come yet".into()))
        }

        fn arm(&self, cameras: &[CameraId], wish: Option<ArmingWish>) -> Result<(), Refusal> {
            self.armed.lock().expect("no panic under it").push((cameras.len(), wish));
            Ok(())
        }

        fn set_thresholds(&self, _: &CameraId, thresholds: BTreeMap<String, f32>) -> Result<(), Refusal> {
            assert_eq!(thresholds["Fight"], 0.5);
            Ok(())
        }

        fn replay(&self, from: u64, to: u64) -> Result<u64, Refusal> {
            Ok(to - from)
        }

        fn clip(&self, _: Uuid, who: &str) -> Result<ClipSent, Refusal> {
            let link = |medium: &str| SignedLink { url: format!("{medium} for {who}"), expires: "soon".into() };
            Ok(ClipSent { upload: None, links: Some(ClipLinks { clip: link("clip"), peak: None }) })
        }

        fn verdict(&self, verdict: VerdictRow) -> Result<(), Refusal> {
            assert_eq!((verdict.verdict, verdict.who.as_str()), (Verdict::Confirmed, "cli"));
            Ok(())
        }

        fn reload(&self) -> Result<Vec<String>, Refusal> {
            Ok(vec!["clip.pre_roll_s: applied".into()])
        }

        fn update_model(&self, release: u64, rollout: Option<String>) -> Result<Uuid, Refusal> {
            assert_eq!((release, rollout.as_deref()), (7, Some("spring")));
            Ok(Uuid::max())
        }

        fn cancel_update(&self, release: Option<u64>) -> Result<Uuid, Refusal> {
            release.map(|_| Uuid::max()).ok_or_else(|| Refusal::Impossible("no release is on its way".into()))
        }

        fn install_certificate(&self, certificate_pem: &str) -> Result<CertificateInstalled, Refusal> {
            assert_eq!(certificate_pem, "PEM");
            Ok(CertificateInstalled { serial: "7".into(), not_after: "2026-03-01T12:00:00Z".into() })
        }

        fn restart(&self) {}

        fn diagnostics(&self) -> Diagnostics {
            panic!("there is a daemon in tests/control.rs to ask for it")
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
        let control = Control::new(cameras, fake.clone(), fake.clone(), fake.clone());
        let ask = |c: Option<&str>| control.submit("cli", Command::TestAlert { camera: c.map(String::from) });
        assert_eq!(ask(None), CommandOutcome::Accepted { incident: Some(Uuid::nil()), result: None });
        assert_eq!(ask(Some("yard")), CommandOutcome::Accepted { incident: Some(Uuid::nil()), result: None });
        let CommandOutcome::Rejected { reason } = ask(Some("roof")) else { panic!("there is no such camera") };
        assert!(reason.contains("\"roof\"") && reason.contains("door, yard"), "{reason}");
        assert_eq!(*fake.raised.lock().expect("no panic"), [CameraId::new("door"), CameraId::new("yard")]);
        let notes = fake.notes.lock().expect("no panic");
        assert_eq!(notes.len(), 3);
        assert!(notes.iter().all(|(who, _)| who == "cli") && notes[2].1.starts_with("rejected"));
    }
    #[test]
    fn every_command_reaches_the_device_and_says_what_came_of_it() {
        let fake = Arc::new(Fake::default());
        let cameras = vec![CameraId::new("door"), CameraId::new("yard")];
        let control = Control::new(cameras, fake.clone(), fake.clone(), fake.clone());
        for (asked, answer) in [
            (json!({"command": "replay", "from": 3, "to": 9}), json!({"status": "accepted", "result": {"rows": 6}})),
            (
                json!({"command": "clip_range", "camera": "door", "from": "1970-01-01T00:00:01Z", "to": "1970-01-01T00:00:02Z"}),
                json!({"status": "accepted", "incident": Uuid::max()}),
            ),
            (
                json!({"command": "clip_range", "camera": "door", "from": "1970-01-01T00:00:01Z", "to": "1970-01-01T00:00:01Z"}),
                json!({"status": "rejected", "reason": "from is not before to"}),
            ),
            (
                json!({"command": "clip", "incident": Uuid::nil()}),
                json!({"status": "accepted", "result": {"links": {
                    "clip": {"url": "clip for cli", "expires": "soon"}, "peak": null
                }}}),
            ),
            (json!({"command": "snapshot"}), json!({"status": "failed", "reason": "no picture has come yet"})),
            (
                json!({"command": "arm", "camera": "yard"}),
                json!({"status": "accepted", "result": {"cameras": ["yard"]}}),
            ),
            (
                json!({"command": "disarm", "until": "1970-01-01T00:00:02Z"}),
                json!({"status": "accepted", "result": {"cameras": ["door", "yard"]}}),
            ),
            (
                json!({"command": "follow_schedule"}),
                json!({"status": "accepted", "result": {"cameras": ["door", "yard"]}}),
            ),
            (
                json!({"command": "set_thresholds", "camera": "door", "thresholds": {"Fight": 0.5}}),
                json!({"status": "accepted", "result": null}),
            ),
            (
                json!({"command": "verdict", "incident": Uuid::nil(), "verdict": "confirmed"}),
                json!({"status": "accepted", "result": null}),
            ),
            (
                json!({"command": "update_model", "release": 7, "rollout": "spring"}),
                json!({"status": "accepted", "result": {"update": Uuid::max()}}),
            ),
            (json!({"command": "cancel_update"}), json!({"status": "rejected", "reason": "no release is on its way"})),
            (
                json!({"command": "reload"}),
                json!({"status": "accepted", "result": {"changes": ["clip.pre_roll_s: applied"]}}),
            ),
        ] {
            let command = serde_json::from_value(asked.clone()).expect("a command");
            let outcome = control.submit("cli", command);
            assert_eq!(serde_json::to_value(outcome).expect("plain data"), answer, "{asked}");
        }
        let until = Some(Wall::from_unix_ms(2000));
        let wishes = [Some(ArmingWish { armed: true, until: None }), Some(ArmingWish { armed: false, until }), None];
        let armed = fake.armed.lock().expect("no panic");
        assert_eq!(*armed, [(1, wishes[0]), (2, wishes[1]), (2, wishes[2])]);
        let bad = Command::Disarm { camera: None, until: Some("tomorrow".into()) };
        assert!(matches!(control.submit("cli", bad), CommandOutcome::Rejected { .. }));
        assert!(matches!(
            control.submit("cli", Command::Arm { camera: Some("roof".into()), until: None }),
            CommandOutcome::Rejected { .. }
        ));
        assert_eq!(fake.notes.lock().expect("no panic").len(), 15);
    }
}
