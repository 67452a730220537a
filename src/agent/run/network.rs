//! The tasks of the network's runtime, wired: the uplink, uploads, the local socket, HTTPS, metrics.

use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::doors;
use super::health::Health;
use super::live::Live;
use super::spawn::{Spawner, Task};
use crate::agent::config::Config;
use crate::agent::control::{Desk, Refusal};
use crate::agent::http::links::Links;
use crate::agent::http::{self, Api, AskUpdates, Install, media, metrics as metrics_page};
use crate::agent::identity::renewal::{self, Identity};
use crate::agent::store::Store;
use crate::agent::uplink;
use crate::agent::upload::{self, Uploads};
use crate::base::clock::Clock;
use crate::base::error::Chain;
use crate::base::stop::StopToken;
use crate::contract::command::CommandSink;
use crate::contract::heartbeat::HealthSource;
use crate::contract::outbox::Outbox;
use crate::contract::result::UpdateOffered;

/// Steps of releases that are shown.
const HISTORY_STEPS: u32 = 200;

/// What the tasks work with.
pub struct Network<'a> {
    pub config: &'a Config,
    pub store: &'a Store,
    pub health: &'a Arc<Health>,
    pub clock: &'a Arc<dyn Clock>,
    pub live: &'a Arc<Live>,
    pub spawn: &'a Spawner,
    pub runtime: &'a Runtime,
    /// HTTPS as the config wants it, if it does.
    pub https: Option<doors::Https>,
    /// Who the device is, where it was provisioned.
    pub identity: Option<Arc<Identity>>,
}

/// The identity that the device was provisioned with, if it is the one that `[mqtt]` shows.
pub fn identity(config: &Config, clock: &Arc<dyn Clock>) -> Option<Arc<Identity>> {
    let mqtt = config.mqtt.as_ref()?;
    let client = mqtt.tls.as_ref()?.client.as_ref()?;
    match Identity::open(&config.paths.state_dir, mqtt.renew_at, clock.clone()) {
        Ok(identity) => identity.filter(|identity| identity.is_shown_by(&client.cert)).map(Arc::new),
        Err(e) => {
            // The certificate may do all the same; that is the uplink's to find out.
            log::error!("this device's certificate is not renewed: {}", Chain(&e));
            None
        }
    }
}

/// Answers about updates.
fn updates(ask: AskUpdates, live: &Live, store: &Store, health: &Health) -> Result<serde_json::Value, String> {
    let json = |value: Result<serde_json::Value, serde_json::Error>| value.expect("texts and numbers");
    match ask {
        AskUpdates::Status => match health.update() {
            Some(status) => Ok(json(serde_json::to_value(status))),
            None => Err("this device takes no models from afar: its configuration has no [ota]".into()),
        },
        AskUpdates::History => {
            let steps = store.reader().updates(HISTORY_STEPS).map_err(|e| Chain(&e).to_string())?;
            Ok(json(serde_json::to_value(steps)))
        }
        AskUpdates::Install(Install { dir, release }) => {
            let refused = |refusal| match refusal {
                Refusal::Impossible(why) | Refusal::Failed(why) => why,
            };
            let what = format!("install release {release} from {}", dir.display());
            let offered = live.updates().map_err(refused)?.offer(release, None, Some(dir));
            let came = offered.as_ref().map_or_else(|e| format!("refused: {}", Chain(e)), |id| format!("offer {id}"));
            if let Err(e) = store.audit("cli", &format!("{what}: {came}")) {
                log::warn!("{}", Chain(&e));
            }
            let update = offered.map_err(|e| Chain(&e).to_string())?;
            Ok(json(serde_json::to_value(UpdateOffered { update })))
        }
    }
}

impl Network<'_> {
    /// Starts what the config wants. The uplink is the first: it ends first, and its last words must not wait for a slow
    /// request.
    pub fn start(mut self, listener: UnixListener, control: Arc<dyn CommandSink>, desk: Desk) -> Vec<Task> {
        let https = self.https.take();
        let links = https.as_ref().and_then(doors::Https::links);
        let mut tasks = Vec::new();
        let (shown, seen) = watch::channel(None);
        tasks.extend(self.uplink(desk, links.clone(), shown));
        tasks.extend(self.identity(seen));
        tasks.extend(self.upload());
        tasks.push(self.socket(listener, control, links));
        tasks.extend(https.and_then(|https| self.https(https)));
        tasks.extend(self.metrics());
        tasks
    }

    fn identity(&mut self, shown: watch::Receiver<Option<renewal::Shown>>) -> Option<Task> {
        let (stop, health, clock) = (StopToken::new(), self.health.clone(), self.clock.clone());
        let tell = self.health.clone();
        let parts = renewal::Parts {
            identity: self.identity.take()?,
            shown,
            now: Arc::new(move || health.knows_time_of_day().then(|| clock.wall())),
            tell: Arc::new(move |status| tell.identity_is(status)),
            stop: stop.clone(),
            beat: self.spawn.progress.register("identity"),
        };
        Some(self.spawn.task(self.runtime, "identity", stop, async {
            renewal::run(parts).await;
            Ok(())
        }))
    }

    fn uplink(
        &self,
        desk: Desk,
        links: Option<Arc<Links>>,
        shown: watch::Sender<Option<renewal::Shown>>,
    ) -> Option<Task> {
        let mqtt = self.config.mqtt.clone()?;
        let (link, link_seen) = watch::channel(uplink::Link::Starting);
        self.health.watch_uplink(Arc::new(self.store.clone()), link_seen);
        let stop = StopToken::new();
        let parts = uplink::Parts {
            mqtt,
            adapters: self.config.adapters.clone(),
            device: self.config.device.clone(),
            counter_file: self.config.paths.state_dir.join("uplink-session"),
            outbox: Arc::new(self.store.clone()) as Arc<dyn Outbox>,
            links: links.filter(|_| self.config.http.links_in_alerts).map(|links| {
                let clock = self.clock.clone();
                let to: uplink::LinksTo = Arc::new(move |id| doors::pair(&links, id, clock.wall()));
                to
            }),
            desk: Some(Arc::new(desk)),
            health: self.health.clone(),
            clock: self.clock.clone(),
            stop: stop.clone(),
            beat: self.spawn.progress.register("uplink"),
            link,
            shown,
        };
        Some(self.spawn.task(self.runtime, "uplink", stop, async { uplink::run(parts).await.map_err(Box::from) }))
    }

    fn upload(&self) -> Option<Task> {
        let upload = self.config.upload.clone()?;
        let counters = Arc::<upload::UploadCounters>::default();
        self.health.watch_uploads(self.store.clone(), counters.clone());
        let stop = StopToken::new();
        let parts = upload::Parts {
            upload,
            device: self.config.device.clone(),
            state_dir: self.config.paths.state_dir.clone(),
            store: self.store.clone(),
            knows_time_of_day: {
                let health = self.health.clone();
                Arc::new(move || health.knows_time_of_day())
            },
            clock: self.clock.clone(),
            pacing: upload::Pacing::default(),
            counters,
            stop: stop.clone(),
            beat: self.spawn.progress.register("upload"),
        };
        Some(self.spawn.task(self.runtime, "upload", stop, async { upload::run(parts).await.map_err(Box::from) }))
    }

    fn socket(&self, listener: UnixListener, commands: Arc<dyn CommandSink>, links: Option<Arc<Links>>) -> Task {
        let api = Api {
            commands,
            link: {
                let (store, clock) = (self.store.clone(), self.clock.clone());
                Arc::new(move |id| {
                    let links = doors::links_to(links.as_deref(), &store, id, clock.as_ref())?;
                    Ok(serde_json::to_value(links).expect("links are texts"))
                })
            },
            upload: {
                let uploads = Uploads::new(self.store.clone(), self.config.upload.as_ref());
                let json = |stored| serde_json::to_value(stored).expect("a row is texts and numbers");
                Arc::new(move |id| uploads.request(id, "cli").map(json).map_err(|e| Chain(&e).to_string()))
            },
            updates: {
                let (live, store, health) = (self.live.clone(), self.store.clone(), self.health.clone());
                Arc::new(move |ask| updates(ask, &live, &store, &health))
            },
            status: {
                let health = self.health.clone();
                Arc::new(move || {
                    serde_json::to_value(health.status()).expect("numbers and texts with textual keys are always JSON")
                })
            },
        };
        let stop = StopToken::new();
        let serving = http::serve(listener, api, stop.clone());
        self.spawn.task(self.runtime, "http", stop, async { serving.await.map_err(Box::from) })
    }

    fn https(&self, https: doors::Https) -> Option<Task> {
        self.health.watch_https(https.status.subscribe());
        let (links, acceptor) = https.ready?;
        let (reader, state_dir) = (self.store.reader().clone(), self.config.paths.state_dir.clone());
        let routes = media::routes(media::Media { links, reader, state_dir, clock: self.clock.clone() });
        let stop = StopToken::new();
        let say = move |trouble| https.status.send_modify(|status| status.trouble = trouble);
        let serving = doors::serve((https.listen, Some(acceptor)), routes, stop.clone(), say);
        Some(self.spawn.task(self.runtime, "https", stop, async {
            serving.await;
            Ok(())
        }))
    }

    fn metrics(&self) -> Option<Task> {
        let listen = self.config.metrics?;
        let health = self.health.clone();
        let routes = metrics_page::routes(Arc::new(move || health.status()));
        let stop = StopToken::new();
        let serving = doors::serve((listen, None), routes, stop.clone(), |_| {});
        Some(self.spawn.task(self.runtime, "metrics", stop, async {
            serving.await;
            Ok(())
        }))
    }
}
