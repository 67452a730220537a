//! The composition root: the only module that knows all the stages. Builds them, wires them, starts them, and ends
//! them in an order in which nothing is lost.
//!
//! | file | is |
//! |---|---|
//! | `mod` | the daemon: start, reload, drain |
//! | `outcome` | how a start fails, and how the end went |
//! | `live`, `overrides` | what can be changed meanwhile, by SIGHUP and commands |
//! | `spawn`, `wishes` | how stages are started, and what of the config each works by |
//! | `cameras`, `inference`, `incidents`, `ledger`, `health` | what stands between two stages |
//! | `troubles` | which of what `health` knows the SOC must hear of |
//! | `network` | the tasks of the network's runtime |
//! | `doors` | what others may knock at over the network: HTTPS, metrics |
//! | `drain` | the end, in the order of the flow |
//! | `models`, `serving` | which model a start serves, and which serves now |
//! | `bench` | where a new model looks and serves, for `ota` |
//! | `pressure` | how often the model looks when there is too little time (pure) |
//! | `events` | what happens, for who wants to watch |
//! | `service` | systemd, signals, watchdog, journal |
//! | `repair` | what a start would put right, without one |
//! | `offline`, `metrics`, `clips_csv`, `dump` | the same pipeline over files: `replay`, `evaluate`, `frames` |
//!
//! Threads: one a camera, one each for inference, incidents, clips and the store; a small tokio runtime carries
//! uplink, upload and http. Every queue between them is bounded and says what happens when it is full.

pub mod clips_csv;
pub mod dump;
pub mod events;
pub mod metrics;
pub mod offline;
pub mod repair;
pub mod service;

mod bench;
mod cameras;
mod doors;
mod drain;
mod engines;
mod health;
mod incidents;
mod inference;
mod models;
mod ledger;
mod live;
mod network;
mod outcome;
mod overrides;
mod pressure;
mod serving;
mod spawn;
mod troubles;
mod wishes;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::agent::capture::{self, Capture, Frame, FrameTap, Snapshots, Wants};
use crate::agent::clip::{ClipOrder, ClipWorker, Rules, Wiring};
use crate::agent::config::{CameraId, Config, Pace, Source};
use crate::agent::control::{Clerk, Control, Desk};
use crate::agent::health::Sensors;
use crate::agent::http;
use crate::agent::incident::Machine;
use crate::agent::infer::Engine;
use crate::agent::infer::classifier::{Classifier, Options};
use crate::agent::infer::model::Model;
use crate::agent::ota::updates::Updates;
use crate::agent::ring::{Bounds, SharedRing};
use crate::agent::store::{DeviceContext, Store};
use crate::agent::upload::Uploads;
use crate::base::clock::Clock;
use crate::base::progress::Progress;
use crate::base::queue::{Full, Queue};
use crate::base::stage::Stage;
use crate::base::stop::StopToken;
use crate::contract::command::CommandSink;
use crate::contract::heartbeat::HealthSource;

use bench::Workbench;
use cameras::CameraSink;
use engines::{Better, Handover, Keeper, Keepers};
use events::Events;
use health::{Health, RingWatch};
use incidents::{Inbox, Worker};
use inference::Inference;
use inference::beside::{Board, Gallery};
use inference::company::Company;
use ledger::{AuditTrail, CapturedPictures, StoreLedger};
use live::Live;
use network::Network;
pub use outcome::{DrainReport, StartError};
use overrides::Overrides;
use serving::{InUse, Serving};
use spawn::{Spawner, Task};
use troubles::Watcher;
pub use wishes::{labels, outbox_policy};
use wishes::{limits, settings};

/// Frames of one camera that may wait for inference; a newer one replaces the oldest.
const FRAMES_PER_CAMERA: usize = 2;
/// Clip orders that may wait; an incident that opens beyond has its clip marked lost.
const CLIP_ORDERS: usize = 64;
/// What one group of stages may take to end.
const END_WITHIN: Duration = Duration::from_secs(8);
/// What all of them together may take: below the unit's `TimeoutStopSec` of 40 s.
const ALL_END_WITHIN: Duration = Duration::from_secs(30);

/// Where a better engine than the CPU's comes from, if there is one.
type MakeBetter = fn(&Config, &Model, &Arc<dyn Clock>) -> Option<Box<dyn Better>>;

/// A running daemon. Dropping it without [`Daemon::drain`] leaves its threads behind.
pub struct Daemon {
    live: Arc<Live>,
    classes: Vec<String>,
    events: Events,
    progress: Progress,
    panicked: StopToken,
    health: Arc<Health>,
    inbox: Inbox,
    // In the order in which they end.
    updates: Option<(Updates, Stage)>,
    keepers: Arc<Keepers>,
    capture: (StopToken, Vec<Stage>),
    inference: (Queue<Frame>, Vec<Stage>),
    incidents: Vec<Stage>,
    clips: (StopToken, Queue<ClipOrder>, Vec<Stage>),
    troubles: (StopToken, Vec<Stage>),
    commands: (StopToken, Vec<Stage>),
    store: (Store, Vec<Stage>),
    network: (Vec<Task>, Runtime),
    flat_out: bool,
}

impl Daemon {
    /// Builds and starts every stage; see [`StartError`].
    pub fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Daemon, StartError> {
        let m = config.model.clone();
        let load = move |model: &Model| offline::load_engine(model, m.precision, m.threads, m.onnxruntime.as_deref());
        Daemon::start_inner(config, clock, load, engines::better)
    }

    /// The same with an engine of the caller's for the model that the config names; `load` is asked only if a camera is
    /// classified.
    pub fn start_with(
        config: Config,
        clock: Arc<dyn Clock>,
        load: impl Fn(&Model) -> Result<Engine, offline::LoadError> + Send + Sync + 'static,
    ) -> Result<Daemon, StartError> {
        Daemon::start_inner(config, clock, load, |_, _, _| None)
    }

    fn start_inner(
        config: Config,
        clock: Arc<dyn Clock>,
        load: impl Fn(&Model) -> Result<Engine, offline::LoadError> + Send + Sync + 'static,
        make_better: MakeBetter,
    ) -> Result<Daemon, StartError> {
        // Before READY: a first scan of the plugins takes its time.
        capture::init()?;
        log::info!("{}", capture::hardware::summary());
        let progress = Progress::default();
        let panicked = StopToken::new();
        let events = Events::default();
        let spawn = Spawner { progress: progress.clone(), panicked: panicked.clone() };

        // A device that only records does without the networks and their memory.
        let models::Chosen { model, engine, updates: known_updates } = models::choose(&config, clock.wall(), &load)?;
        let load: bench::Load = Arc::new(load);
        let in_use = InUse::of(&model);
        let manifest = Arc::clone(&in_use.manifest);
        let serving = Arc::new(Serving::new(in_use));
        let wrong = config.check_classes(&manifest.classes);
        if !wrong.is_empty() {
            return Err(StartError::Classes(wrong));
        }
        let sample_fps = manifest.sample_fps;
        let reference = model.reference();

        let info = engine.as_ref().map(|e| e.info.clone());
        let sensors = Sensors::of_machine(&config.paths.state_dir);
        let health = Arc::new(Health::new(&config, (reference.clone(), &manifest), info, (clock.clone(), sensors)));
        let context = DeviceContext {
            site: config.device.site.clone(),
            device: config.device.id.clone(),
            outbox: outbox_policy(&config),
            labels: labels(&config),
            clock_state: {
                let health = health.clone();
                Arc::new(move || health.clock())
            },
        };
        let (store, writer) = Store::open(&config.paths.state_dir, context, clock.clone())?;
        store.keep(limits(&config));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("vedette-net")
            .enable_all()
            .build()
            .map_err(|source| StartError::Thread { what: "the network runtime".into(), source })?;
        let listener = {
            let _context = runtime.enter();
            http::bind(&config.paths.runtime_dir)?
        };
        let store_stage = spawn.stage("store", {
            let panicked = panicked.clone();
            move |beat| {
                // The database is damaged: going on would pretend to store.
                if let Err(e) = writer.run(beat) {
                    log::error!("store: {}", crate::base::error::Chain(&e));
                    panicked.stop();
                }
            }
        })?;

        let rings: BTreeMap<_, _> = config
            .cameras
            .iter()
            .map(|c| (c.id.clone(), SharedRing::new(Bounds { max_bytes: c.ring_max_bytes, max_time: c.ring_time })))
            .collect();
        let snapshots = Snapshots::default();
        let clip_rules = Arc::new(RwLock::new(Rules::new(&config.clip, &config.incident)));
        let clip_orders = Queue::new(CLIP_ORDERS, Full::Refuse);
        let clip_stop = StopToken::new();
        let worker = ClipWorker::new(Wiring {
            rings: rings.clone(),
            ledger: Arc::new(StoreLedger { store: store.clone(), events: events.clone() }),
            snapshots: Arc::new(CapturedPictures {
                pictures: snapshots.clone(),
                thumbnails: config.mqtt.as_ref().is_some_and(|mqtt| mqtt.thumbnails),
            }),
            clock: clock.clone(),
            state_dir: config.paths.state_dir.clone(),
            rules: clip_rules.clone(),
        });
        let clip_stage = spawn.stage("clip", {
            let (orders, stop) = (clip_orders.clone(), clip_stop.clone());
            move |beat| worker.run(&orders, &stop, beat)
        })?;

        let inbox = Inbox::default();
        let overrides = Overrides::load(&config.paths.state_dir);
        let settings = settings(&overrides.over(config.clone()), &overrides, &manifest.thresholds);
        let incident_stage = spawn.stage("incident", {
            let worker = Worker::new(incidents::Parts {
                longest_request: settings.incident.max_length,
                machine: Machine::new(manifest.classes.clone(), settings.incident, settings.thresholds)
                    .of_model(reference),
                inbox: inbox.clone(),
                store: store.clone(),
                clips: clip_orders.clone(),
                clip: settings.clip,
                schedules: settings.schedules,
                wishes: settings.wishes,
                clock: clock.clone(),
                events: events.clone(),
                health: health.clone(),
                most_clip_orders: CLIP_ORDERS,
            });
            move |beat| worker.run(beat)
        })?;

        let same_camera: fn(&_, &_) -> bool = |a: &Frame, b: &Frame| a.camera == b.camera;
        // In place: each camera's turn comes, however far inference falls behind.
        let frames = Queue::new(FRAMES_PER_CAMERA, Full::DropOldestInPlace(same_camera));
        let better = engine.is_some().then(|| make_better(&config, &model, &clock)).flatten();
        let options = Options { sample_fps: None, stride: config.model.stride, replaceable: better.is_some() };
        let (handover, board) = (Arc::new(Handover::default()), Arc::new(Board::default()));
        let keepers = Arc::new(Keepers::default());
        let keeper = better.map(|better| Keeper {
            better,
            fallback: {
                let load = Arc::clone(&load);
                Box::new(move || Ok(load(&model)?))
            },
            handover: handover.clone(),
            health: health.clone(),
        });
        let inference_stages = match engine {
            None => Vec::new(),
            Some(engine) => {
                let inference = Inference {
                    frames: frames.clone(),
                    classifier: Classifier::new(manifest.clone(), engine, options),
                    inbox: inbox.clone(),
                    events: events.clone(),
                    health: health.clone(),
                    clock: clock.clone(),
                    handover: handover.clone(),
                    company: Company::default(),
                    board: board.clone(),
                    gallery: Gallery::default(),
                    serving: serving.clone(),
                };
                vec![spawn.stage("infer", move |beat| inference.run(beat))?]
            }
        };
        let watch = |(id, ring): (&CameraId, &SharedRing)| {
            (id.clone(), Arc::new(RingWatch::new(id.clone(), ring.clone(), clip_rules.clone())))
        };
        let ring_watches: BTreeMap<_, _> = rings.iter().map(watch).collect();
        health.watch_queues(frames.clone(), inbox.clone(), store.clone(), ring_watches.clone());

        let watching = StopToken::new();
        let watcher = Watcher { health: health.clone(), store: store.clone(), clock: clock.clone() };
        let watch_stage = spawn.stage("troubles", {
            let stop = watching.clone();
            move |beat| watcher.run(&stop, beat)
        })?;

        let capture_stop = StopToken::new();
        let mut capture_stages = Vec::new();
        for camera in &config.cameras {
            let record = health.camera(&camera.id);
            let capture = Capture {
                camera: camera.clone(),
                wants: Wants {
                    access_units: true,
                    frames: camera.classify.then_some(FrameTap { sample_fps, region: camera.region }),
                },
                clock: clock.clone(),
                sink: Arc::new(CameraSink {
                    camera: camera.id.clone(),
                    ring: rings[&camera.id].clone(),
                    ring_watch: ring_watches[&camera.id].clone(),
                    clock: clock.clone(),
                    frames: frames.clone(),
                    inbox: inbox.clone(),
                    events: events.clone(),
                    health: health.clone(),
                    pace: match camera.source {
                        Source::File { pace, .. } => pace,
                        Source::Csi { .. } | Source::Rtsp { .. } | Source::Test { .. } | Source::V4l2 { .. } => {
                            Pace::Realtime
                        }
                    },
                    stop: capture_stop.clone(),
                    record: record.clone(),
                }),
                stats: record.stats.clone(),
                snapshots: snapshots.clone(),
            };
            let stop = capture_stop.clone();
            capture_stages.push(spawn.stage(format!("capture {}", camera.id), move |beat| {
                // Its error has been logged and reported as the camera's state; other cameras go on.
                capture.run(&stop, beat).ok();
                beat.end();
            })?);
        }

        let flat_out = config.cameras.iter().any(|c| matches!(c.source, Source::File { pace: Pace::FlatOut, .. }));
        let ids = config.cameras.iter().map(|c| c.id.clone()).collect();
        let audit = Arc::new(AuditTrail(store.clone()));
        let https = doors::https(&config);
        let identity = network::identity(&config, &clock);
        let live = Arc::new(Live::new(
            config.clone(),
            overrides,
            live::Parts {
                state_dir: config.paths.state_dir.clone(),
                serving: serving.clone(),
                updates: OnceLock::new(),
                identity: identity.clone(),
                clip_rules,
                store: store.clone(),
                inbox: inbox.clone(),
                health: health.clone(),
                snapshots: snapshots.clone(),
                uploads: Uploads::new(store.clone(), config.upload.as_ref()),
                links: https.as_ref().and_then(doors::Https::links),
                clock: clock.clone(),
            },
        ));
        let control: Arc<dyn CommandSink> = Arc::new(Control::new(ids, Arc::new(inbox.clone()), live.clone(), audit));
        let desk = Desk::new(store.clone());
        let clerk = Clerk {
            desk: desk.clone(),
            sink: control.clone(),
            clock: clock.clone(),
            knows_time_of_day: {
                let health = health.clone();
                Box::new(move || health.knows_time_of_day())
            },
        };
        let network = Network {
            config: &config,
            store: &store,
            health: &health,
            clock: &clock,
            live: &live,
            spawn: &spawn,
            runtime: &runtime,
            https,
            identity,
        };
        let network = network.start(listener, control, desk);
        if let Some(keeper) = keeper {
            keepers.start(keeper).map_err(|source| StartError::Thread { what: "engine".into(), source })?;
        }
        let updates = known_updates.map(|known| {
            let bench = Workbench {
                config: config.clone(),
                serving: serving.clone(),
                board,
                handover,
                keepers: keepers.clone(),
                health: health.clone(),
                store: store.clone(),
                clock: clock.clone(),
                load,
                better: make_better,
                restart: live.restart_token(),
                since: Mutex::default(),
            };
            bench.take_updates(known, runtime.handle())
        });
        let updates = updates.transpose().map_err(|source| StartError::Thread { what: "updates".into(), source })?;
        if let Some((updates, _)) = &updates {
            live.takes_updates(updates.clone());
        }
        let commands_stop = StopToken::new();
        let commands_stage = spawn.stage("commands", {
            let stop = commands_stop.clone();
            move |beat| clerk.run(&stop, beat)
        })?;
        Ok(Daemon {
            live,
            classes: manifest.classes.clone(),
            events,
            progress,
            panicked,
            health,
            inbox,
            updates,
            keepers,
            capture: (capture_stop, capture_stages),
            inference: (frames, inference_stages),
            incidents: vec![incident_stage],
            clips: (clip_stop, clip_orders, vec![clip_stage]),
            troubles: (watching, vec![watch_stage]),
            commands: (commands_stop, vec![commands_stage]),
            store: (store, vec![store_stage]),
            network: (network, runtime),
            flat_out,
        })
    }

    /// Where what happens can be watched.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The model's classes, in its order.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Whether every stage goes round.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Completes when a stage has panicked.
    pub async fn failed(&self) {
        self.panicked.stopped().await;
    }

    /// One line for systemd's status.
    pub fn summary(&self) -> String {
        self.health.summary()
    }

    /// What can be changed while it runs.
    pub fn live(&self) -> &Live {
        &self.live
    }
}
