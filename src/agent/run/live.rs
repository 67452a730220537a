//! What can be changed while the daemon runs, and who changes it: SIGHUP and commands. The configuration in force is the
//! file's, with what commands have set over it (`overrides`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

use super::doors;
use super::health::Health;
use super::incidents::{Inbox, Work};
use super::overrides::Overrides;
use super::serving::Serving;
use super::wishes::{limits, settings};
use crate::agent::capture::Snapshots;
use crate::agent::clip::Rules;
use crate::agent::config::{self, Applies, CameraId, Config};
use crate::agent::control::{ArmingWish, Device, Refusal};
use crate::agent::http::links::Links;
use crate::agent::identity::renewal::{Identity, InstallError};
use crate::agent::ota::updates::{UpdateError, Updates};
use crate::agent::store::{AuditEntry, Store, StoreCounters, StoreError, VerdictRow};
use crate::agent::upload::{RequestError, Uploads};
use crate::base::clock::{Clock, Wall};
use crate::base::error::Chain;
use crate::base::stop::StopToken;
use crate::contract::alert::NORMAL;
use crate::contract::outbox::{Outbox, OutboxError};
use crate::contract::result::{
    ArmingReport, AuditReport, CertificateInstalled, ClipSent, Diagnostics, OverridesReport, Snapshot,
};

/// A snapshot that is sent is at most so wide,
const SNAPSHOT_WIDTH: u32 = 640;
/// and of so many bytes of JPEG: in base64 they fit into an answer.
const SNAPSHOT_MOST_BYTES: usize = 38 * 1024;
/// A roll-out's name is at most so long.
const ROLLOUT_CHARS: usize = 64;
/// Entries of the audit trail in a diagnosis.
const AUDIT_ENTRIES: u32 = 50;
/// Characters of each that are told: all must fit into one message.
const AUDIT_CHARS: usize = 200;

/// See the module's doc.
pub struct Live {
    /// As the file says, as far as it is in force, and what stands over it.
    in_force: Mutex<(Config, Overrides)>,
    /// Where SIGHUP and commands read it again.
    config_path: OnceLock<PathBuf>,
    parts: Parts,
    restart: StopToken,
}

/// What it works on.
pub struct Parts {
    pub state_dir: PathBuf,
    pub serving: Arc<Serving>,
    /// Where releases are offered; empty where the config has no `[ota]`.
    pub updates: OnceLock<Updates>,
    /// Who the device is, where it was provisioned.
    pub identity: Option<Arc<Identity>>,
    pub clip_rules: Arc<RwLock<Rules>>,
    pub store: Store,
    pub inbox: Inbox,
    pub health: Arc<Health>,
    pub snapshots: Snapshots,
    pub uploads: Uploads,
    /// Makes links to the device's own HTTPS, where it has one.
    pub links: Option<Arc<Links>>,
    pub clock: Arc<dyn Clock>,
}

impl Live {
    /// With the configuration that the daemon was started with, and what stands over it.
    pub fn new(config: Config, overrides: Overrides, parts: Parts) -> Self {
        let in_force = Mutex::new((config, overrides));
        Live { in_force, config_path: OnceLock::new(), parts, restart: StopToken::new() }
    }

    /// Commands read the configuration here again.
    pub fn reads(&self, path: &Path) {
        self.config_path.set(path.to_path_buf()).ok();
    }

    /// Completes when a command asks for a new start.
    pub async fn restart_asked(&self) {
        self.restart.stopped().await;
    }

    /// Takes over what it can of a new config; a line for everything that changed, applied or not.
    pub fn take_over(&self, new: Config) -> Vec<String> {
        let wrong = new.check_classes(&self.parts.serving.now().manifest.classes);
        if !wrong.is_empty() {
            return wrong.iter().map(|p| format!("nothing is applied: {p}")).collect();
        }
        let mut in_force = self.in_force.lock().expect("nothing panics while it holds the config");
        let (config, overrides) = &mut *in_force;
        let changes = config.diff(&new);
        if changes.iter().any(|c| c.applies == Applies::Live) {
            *config = config.with_live_from(&new);
            self.apply(config, overrides);
        }
        changes.iter().map(ToString::to_string).collect()
    }

    /// Where releases are offered.
    pub fn updates(&self) -> Result<&Updates, Refusal> {
        let none =
            || Refusal::Impossible("this device takes no models from afar: its configuration has no [ota]".into());
        self.parts.updates.get().ok_or_else(none)
    }

    /// Releases are offered here from now on.
    pub fn takes_updates(&self, updates: Updates) {
        self.parts.updates.set(updates).ok();
    }

    /// What a new start is asked by.
    pub fn restart_token(&self) -> StopToken {
        self.restart.clone()
    }

    fn apply(&self, config: &Config, overrides: &Overrides) {
        let config = overrides.over(config.clone());
        let p = &self.parts;
        *p.clip_rules.write().expect("nothing panics while it holds the rules") =
            Rules::new(&config.clip, &config.incident);
        p.store.keep(limits(&config));
        p.inbox.push(Work::Reconfigure(Box::new(settings(&config, overrides, &p.serving.now().manifest.thresholds))));
    }

    /// Changes what stands over the config: durable first, then in force.
    fn set(&self, change: impl FnOnce(&Config, &mut Overrides) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let mut in_force = self.in_force.lock().expect("nothing panics while it holds the config");
        let (config, overrides) = &mut *in_force;
        let mut new = overrides.clone();
        change(config, &mut new)?;
        new.save(&self.parts.state_dir)
            .map_err(|e| Refusal::Failed(format!("it could not be made durable, and is not in force: {e}")))?;
        *overrides = new;
        self.apply(config, overrides);
        Ok(())
    }
}

impl Device for Live {
    fn snapshot(&self, camera: &CameraId) -> Result<Snapshot, Refusal> {
        let picture = self.parts.snapshots.latest(camera).ok_or_else(|| {
            Refusal::Failed(format!("there is no picture of {camera}: it is not live, or is not classified"))
        })?;
        let small = picture
            .to_small_jpeg(SNAPSHOT_WIDTH, SNAPSHOT_MOST_BYTES)
            .map_err(|e| Refusal::Failed(format!("no JPEG of {camera}: {}", Chain(&e))))?
            .ok_or_else(|| Refusal::Failed(format!("no JPEG of {camera} is small enough for a message")))?;
        Ok(Snapshot {
            camera: camera.to_string(),
            time: self.parts.clock.wall_at(picture.at).rfc3339(),
            width: small.width,
            height: small.height,
            jpeg_base64: STANDARD.encode(small.data),
        })
    }

    fn arm(&self, cameras: &[CameraId], wish: Option<ArmingWish>) -> Result<(), Refusal> {
        self.set(|_, overrides| {
            for camera in cameras {
                match wish {
                    Some(wish) => overrides.arming.insert(camera.to_string(), wish),
                    None => overrides.arming.remove(&*camera.0),
                };
            }
            Ok(())
        })
    }

    fn set_thresholds(&self, camera: &CameraId, thresholds: BTreeMap<String, f32>) -> Result<(), Refusal> {
        let classes = &self.parts.serving.now().manifest.classes;
        self.set(|config, overrides| {
            let hysteresis = config.incident.hysteresis;
            for (class, threshold) in &thresholds {
                let wrong = if class == NORMAL || !classes.contains(class) {
                    let known: Vec<_> = classes.iter().filter(|c| *c != NORMAL).map(String::as_str).collect();
                    Some(format!("the model has no class {class:?} that makes incidents; it has {}", known.join(", ")))
                } else if !(*threshold > hysteresis && *threshold <= 1.0) {
                    Some(format!("{class}: {threshold} is not above the hysteresis ({hysteresis}) and at most 1"))
                } else {
                    None
                };
                if let Some(wrong) = wrong {
                    return Err(Refusal::Impossible(wrong));
                }
            }
            match thresholds.is_empty() {
                true => overrides.thresholds.remove(&*camera.0),
                false => overrides.thresholds.insert(camera.to_string(), thresholds),
            };
            Ok(())
        })
    }

    fn replay(&self, from: u64, to: u64) -> Result<u64, Refusal> {
        let failed = |e: OutboxError| Refusal::Failed(Chain(&e).to_string());
        let store = &self.parts.store;
        let status = store.status().map_err(failed)?;
        if from > to {
            return Err(Refusal::Impossible(format!("from = {from} is above to = {to}")));
        }
        store.resend(from, to.min(status.newest)).map_err(failed)?;
        store.kept(from, to).map_err(|e| Refusal::Failed(Chain(&e).to_string()))
    }

    fn clip(&self, incident: Uuid, who: &str) -> Result<ClipSent, Refusal> {
        let p = &self.parts;
        let links = doors::links_to(p.links.as_deref(), &p.store, incident, p.clock.as_ref());
        match p.uploads.request(incident, who) {
            Ok(upload) => Ok(ClipSent { upload: Some(upload), links: links.ok() }),
            // What is sent nowhere may still be fetched.
            Err(RequestError::Never) if p.links.is_some() => {
                Ok(ClipSent { upload: None, links: Some(links.map_err(Refusal::Impossible)?) })
            }
            Err(e) => Err(Refusal::Impossible(Chain(&e).to_string())),
        }
    }

    fn verdict(&self, verdict: VerdictRow) -> Result<(), Refusal> {
        let incident = verdict.incident;
        self.parts.store.put_verdict(verdict).map_err(|e| match e {
            StoreError::UnknownIncident(_) => Refusal::Impossible(format!("this device knows no incident {incident}")),
            e => Refusal::Failed(Chain(&e).to_string()),
        })
    }

    fn reload(&self) -> Result<Vec<String>, Refusal> {
        let Some(path) = self.config_path.get() else {
            return Err(Refusal::Failed("this daemon was started without a configuration file".into()));
        };
        let config = config::load(path).map_err(|e| {
            Refusal::Impossible(format!("{} is not applied, the old config stays: {}", path.display(), Chain(&e)))
        })?;
        Ok(self.take_over(config))
    }

    fn update_model(&self, release: u64, rollout: Option<String>) -> Result<Uuid, Refusal> {
        if rollout.as_ref().is_some_and(|r| r.is_empty() || r.chars().count() > ROLLOUT_CHARS) {
            return Err(Refusal::Impossible(format!("rollout: 1 to {ROLLOUT_CHARS} characters")));
        }
        self.updates()?.offer(release, rollout, None).map_err(refusal)
    }

    fn cancel_update(&self, release: Option<u64>) -> Result<Uuid, Refusal> {
        self.updates()?.cancel(release).map_err(refusal)
    }

    fn install_certificate(&self, certificate_pem: &str) -> Result<CertificateInstalled, Refusal> {
        let Some(identity) = &self.parts.identity else {
            return Err(Refusal::Impossible(
                "this device was not provisioned: its certificates are files of its own".into(),
            ));
        };
        identity.install(certificate_pem).map_err(|e| {
            let why = Chain(&e).to_string();
            match e {
                InstallError::Holdings(_) => Refusal::Failed(why),
                InstallError::NotAsked | InstallError::OtherKey | InstallError::Paper(_) => Refusal::Impossible(why),
            }
        })
    }

    fn restart(&self) {
        self.restart.stop();
    }

    fn diagnostics(&self) -> Diagnostics {
        let p = &self.parts;
        let troubles = p.store.reader().troubles().unwrap_or_default();
        let mut audit = p.store.reader().audit(AUDIT_ENTRIES).unwrap_or_default();
        for text in audit.iter_mut().flat_map(|entry| [&mut entry.who, &mut entry.what]) {
            if let Some((end, _)) = text.char_indices().nth(AUDIT_CHARS) {
                text.truncate(end);
            }
        }
        let (_, overrides) = &*self.in_force.lock().expect("nothing panics while it holds the config");
        let audit = audit.into_iter().map(|AuditEntry { at_unix_ms, who, what }| AuditReport {
            at_unix_ms,
            at: at_unix_ms.rfc3339(),
            who,
            what,
        });
        Diagnostics {
            status: p.health.status(),
            troubles,
            overrides: report(overrides),
            store: counters(&p.store),
            audit: audit.collect(),
        }
    }
}

fn refusal(e: UpdateError) -> Refusal {
    let why = Chain(&e).to_string();
    match e {
        UpdateError::NoOffer(_) | UpdateError::Nothing(_) => Refusal::Impossible(why),
        UpdateError::Disk { .. } => Refusal::Failed(why),
    }
}

fn report(Overrides { thresholds, arming }: &Overrides) -> OverridesReport {
    let arming = arming.iter().map(|(camera, ArmingWish { armed, until })| {
        (camera.clone(), ArmingReport { armed: *armed, until: *until, until_time: until.map(Wall::rfc3339) })
    });
    OverridesReport { thresholds: thresholds.clone(), arming: arming.collect() }
}

fn counters(store: &Store) -> BTreeMap<String, u64> {
    let StoreCounters {
        refused,
        lost,
        failed_commits,
        expired_by_age,
        expired_for_room,
        expired_undelivered,
        given_up,
    } = store.counters();
    [
        ("refused", refused),
        ("lost", lost),
        ("failed_commits", failed_commits),
        ("expired_by_age", expired_by_age),
        ("expired_for_room", expired_for_room),
        ("expired_undelivered", expired_undelivered),
        ("given_up", given_up),
    ]
    .map(|(what, count)| (what.to_owned(), count))
    .into()
}
