//! A fleet of simulated devices in one process: each has a connection of its own to a real broker and speaks the contract's
//! own types. What a device does with a release is an [`Updater`]'s: the scripted one here, or a real one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::{AsyncClient, Event, LastWill, MqttOptions, NetworkOptions, Packet, PublishOptions, QoS, Transport};
use serde::Serialize;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;
use vedette::base::clock::{Clock, Wall};
use vedette::base::stop::StopToken;
use vedette::contract::alert::{ClockState, ModelRef};
use vedette::contract::command::{Command, CommandOutcome, CommandReport, CommandState, CommandStatus, Order};
use vedette::contract::heartbeat::{CameraHealth, HealthReport, Heartbeat, InferenceHealth, Timing};
use vedette::contract::state::{DeviceFacts, DeviceState, Origin, StateReason};
use vedette::contract::topics::{Channel, DeviceTopics};
use vedette::contract::update::{
    SlotReport, UpdateFault, UpdateFigures, UpdateMessage, UpdateReason, UpdateReport, UpdateState, UpdateStatus,
};

use super::pki::Pki;

const TICK: Duration = Duration::from_millis(20);
/// Devices that connect in one tick: a broker's queue of new connections is short.
const AT_ONCE: usize = 20;
/// How old a device is when a test begins: it has a history.
const AGE_S: u64 = 48 * 3600;

/// What carries out a release on a device.
pub trait Updater: Send + Sync + 'static {
    /// Takes `update_model` or `cancel_update`; says what comes of it by [`Device::update`].
    fn carry_out(&self, device: &Arc<Device>, command: Command) -> CommandOutcome;
}

/// What a scripted device makes of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// It commits.
    Commits,
    /// Its golden vectors do not fit.
    Refuses,
    /// It raises twenty alerts a minute while it serves; the device itself does not notice.
    Floods,
    /// It stays in shadow until it is called off.
    Hangs,
}

/// Takes a release's steps one after the other, each so long after the one before.
pub struct Scripted {
    /// What comes of it.
    pub script: Script,
    /// Time of a step.
    pub step: Duration,
}

impl Updater for Scripted {
    fn carry_out(&self, device: &Arc<Device>, command: Command) -> CommandOutcome {
        match command {
            Command::UpdateModel { release, rollout } => {
                if let Some(id) = device.begin(release, rollout) {
                    let (device, script, step) = (Arc::clone(device), self.script, self.step);
                    tokio::spawn(async move { play(&device, id, script, step).await });
                }
                CommandOutcome::Accepted { incident: None, result: None }
            }
            Command::CancelUpdate { release } => match device.cancel(release) {
                true => CommandOutcome::Accepted { incident: None, result: None },
                false => CommandOutcome::Rejected { reason: "there is nothing to call off".into() },
            },
            other => CommandOutcome::Rejected { reason: format!("not simulated: {other:?}") },
        }
    }
}

async fn play(device: &Device, id: Uuid, script: Script, step: Duration) {
    use UpdateState as S;
    let steps = [S::Downloading, S::Verified, S::Building, S::Proving, S::Shadow, S::Trial, S::Committed];
    for next in steps {
        tokio::time::sleep(step).await;
        let reason = |fault| UpdateReason { fault, words: "0.31 of at most 0.001".into() };
        let went = match (script, next) {
            (Script::Refuses, S::Proving) => device.update(id, S::Refused, Some(reason(UpdateFault::GoldenVectors))),
            (Script::Hangs, S::Trial) => return,
            (_, next) => device.update(id, next, None),
        };
        if !went {
            return;
        }
    }
}

/// A simulated device.
pub struct Device {
    /// Its topics.
    pub topics: DeviceTopics,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    outgoing: mpsc::UnboundedSender<(Channel, Vec<u8>)>,
    present: watch::Sender<bool>,
}

struct State {
    session: u64,
    status: UpdateStatus,
    commands: HashMap<String, CommandReport>,
    incidents: f64,
    counted: Wall,
    born: Wall,
    floods: bool,
    begun: Vec<Uuid>,
}

impl Device {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics under it")
    }

    /// How often it began with a release.
    pub fn begun(&self) -> usize {
        self.state().begun.len()
    }

    /// The release that serves.
    pub fn serves(&self) -> Option<u64> {
        self.state().status.current.release
    }

    /// Its last report.
    pub fn report(&self) -> Option<UpdateReport> {
        self.state().status.update.clone()
    }

    /// Loses its network, or has it again.
    pub fn set_present(&self, present: bool) {
        self.present.send_replace(present);
    }

    /// Begins with a release, unless it is at it: then there is nothing to do.
    pub fn begin(&self, release: u64, rollout: Option<String>) -> Option<Uuid> {
        let mut state = self.state();
        if state.status.update.as_ref().is_some_and(|u| u.release == release && !u.state.is_final()) {
            return None;
        }
        let id = Uuid::now_v7();
        state.begun.push(id);
        state.status.update = Some(UpdateReport {
            id,
            release,
            model: None,
            version: None,
            rollout,
            state: UpdateState::Offered,
            reason: None,
            waiting: None,
            from: Some(state.status.current.model.clone()),
            figures: UpdateFigures::default(),
            since: self.clock.wall().rfc3339(),
        });
        self.say_update(&state);
        Some(id)
    }

    /// How a real updater says that it stands.
    pub fn stands(&self, status: UpdateStatus) {
        let mut state = self.state();
        if state.status != status {
            state.status = status;
            self.say_update(&state);
        }
    }

    /// A real updater has begun with an offer.
    pub fn has_begun(&self, id: Uuid) {
        self.state().begun.push(id);
    }

    /// Takes a step; false: the offer is over.
    pub fn update(&self, id: Uuid, next: UpdateState, reason: Option<UpdateReason>) -> bool {
        let mut state = self.state();
        let Some(update) = state.status.update.as_mut().filter(|u| u.id == id && !u.state.is_final()) else {
            return false;
        };
        (update.state, update.reason, update.since) = (next, reason, self.clock.wall().rfc3339());
        let release = update.release;
        let was = state.status.previous.clone();
        match next {
            UpdateState::Trial => {
                let slot = SlotReport { model: model(release), release: Some(release) };
                state.status.previous = Some(std::mem::replace(&mut state.status.current, slot));
            }
            UpdateState::Committed => state.status.floor = release,
            UpdateState::RolledBack | UpdateState::Refused => state.status.refused.push(release),
            _ => {}
        }
        if let (UpdateState::RolledBack, Some(was)) = (next, was) {
            state.status.current = was;
        }
        self.say_update(&state);
        !next.is_final()
    }

    /// Leaves a release; false: there is none to leave.
    pub fn cancel(&self, release: Option<u64>) -> bool {
        let report = self.report().filter(|u| !u.state.is_final() && release.is_none_or(|r| r == u.release));
        report.map(|u| self.update(u.id, UpdateState::Cancelled, None)).is_some()
    }

    fn origin(&self, session: u64) -> Origin {
        let clock = ClockState { synchronised: true, estimated_error_ms: Some(1.0) };
        let (site, device) = (self.topics.site.to_string(), self.topics.device.to_string());
        Origin { site, device, session, publish_time: self.clock.wall().rfc3339(), clock }
    }

    fn say(&self, channel: Channel, message: &impl Serialize) {
        // The test may be over.
        self.outgoing.send((channel, serde_json::to_vec(message).expect("JSON"))).unwrap_or(());
    }

    fn say_update(&self, state: &State) {
        let message = UpdateMessage { origin: self.origin(state.session), status: state.status.clone() };
        self.say(Channel::Update, &message);
    }

    fn birth(&self, session: u64, online: bool) -> DeviceState {
        let reason = if online { StateReason::Connected } else { StateReason::ConnectionLost };
        let facts = DeviceFacts { agent_version: "0.1.0".into(), model: None };
        DeviceState { origin: self.origin(session), online, reason, since: None, facts }
    }

    fn say_heartbeat(&self) {
        let mut state = self.state();
        let now = self.clock.wall();
        let minutes = (now.unix_ms() - state.counted.unix_ms()) as f64 / 60_000.0;
        let serves_it = state.floods
            && state.status.update.as_ref().is_some_and(|u| Some(u.release) == state.status.current.release);
        state.incidents += minutes * if serves_it { 20.0 } else { 1.0 / 120.0 };
        state.counted = now;
        let camera = CameraHealth { incidents: state.incidents as u64, ..CameraHealth::default() };
        let timing = Timing { count: 1000, median: 8.0, p99: 12.0, max: 20.0, sum: 8000.0 };
        let health = HealthReport {
            uptime_s: (now.unix_ms() - state.born.unix_ms()) as u64 / 1000,
            cameras: BTreeMap::from([("north".to_owned(), camera)]),
            inference: Some(InferenceHealth {
                engine: "scripted".into(),
                frame_ms: timing,
                ..InferenceHealth::default()
            }),
            ..HealthReport::default()
        };
        self.say(Channel::Heartbeat, &Heartbeat { origin: self.origin(state.session), health, outbox: None });
    }

    /// Takes a command as the agent's `control` does: once for each id, not after its time.
    fn command(self: &Arc<Self>, id: &str, payload: &[u8], updater: &dyn Updater) {
        let known = self.state().commands.get(id).cloned();
        let report = known.unwrap_or_else(|| {
            let outcome = match Order::parse(payload) {
                Err(e) => CommandOutcome::Rejected { reason: e.to_string() },
                Ok(order) if order.expires.is_some_and(|t| self.clock.wall() > t) => {
                    CommandOutcome::Rejected { reason: "it came too late".into() }
                }
                Ok(order) => updater.carry_out(self, order.command),
            };
            let (state, reason) = match outcome {
                CommandOutcome::Accepted { .. } => (CommandState::Succeeded, None),
                CommandOutcome::Rejected { reason } => (CommandState::Rejected, Some(reason)),
                CommandOutcome::Failed { reason } => (CommandState::Failed, Some(reason)),
            };
            CommandReport { id: id.to_owned(), state, reason, result: None, since: self.clock.wall().rfc3339() }
        });
        let mut state = self.state();
        state.commands.insert(id.to_owned(), report.clone());
        let status = CommandStatus { origin: self.origin(state.session), report };
        self.say(Channel::CommandStatus(id.parse().expect("a name: it was in a topic")), &status);
    }
}

/// Where devices find their broker.
#[derive(Clone)]
pub struct Way {
    /// Its port on this machine.
    pub port: u16,
    /// Whose certificates the devices show; none: no encryption.
    pub pki: Option<Arc<Pki>>,
}

/// The fleet; ends with its value.
pub struct Simulation {
    /// The devices, in the order of their names: `s0/d0000`, ...
    pub devices: Vec<Arc<Device>>,
    stop: StopToken,
    runtime: Option<Runtime>,
    beat: watch::Sender<u64>,
}

impl Simulation {
    /// So many devices that serve release 1 and hear of others over this way.
    pub fn start(n: usize, way: &Way, clock: Arc<dyn Clock>, script: impl Fn(usize) -> Scripted) -> Simulation {
        Simulation::of(n, way, clock, |i| {
            let scripted = script(i);
            (scripted.script == Script::Floods, Arc::new(scripted) as Arc<dyn Updater>)
        })
    }

    /// The same with what carries out releases on each, and whether one that serves a release floods.
    pub fn of(
        n: usize,
        way: &Way,
        clock: Arc<dyn Clock>,
        updater: impl Fn(usize) -> (bool, Arc<dyn Updater>),
    ) -> Simulation {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let stop = StopToken::new();
        let beat = watch::Sender::new(0);
        let devices = (0..n).map(|i| {
            let (floods, updater) = updater(i);
            let (outgoing, waiting) = mpsc::unbounded_channel();
            let born = clock.wall() - Duration::from_secs(AGE_S);
            let status = UpdateStatus {
                current: SlotReport { model: model(1), release: Some(1) },
                previous: None,
                floor: 1,
                hardware: vec!["x86_64".into()],
                update: None,
                refused: Vec::new(),
                checked: None,
                trouble: None,
            };
            let state = State {
                session: 0,
                status,
                commands: HashMap::new(),
                // Each at another time: alerts of all devices at one moment are what a gate is there for.
                incidents: AGE_S as f64 / 7200.0 + (i % 97) as f64 / 97.0,
                counted: clock.wall(),
                born,
                floods,
                begun: Vec::new(),
            };
            let topics = DeviceTopics::new(&format!("s{}", i % 5), &format!("d{i:04}")).expect("names");
            let device = Arc::new(Device {
                topics,
                clock: Arc::clone(&clock),
                state: Mutex::new(state),
                outgoing,
                present: watch::Sender::new(true),
            });
            let life = Life {
                device: Arc::clone(&device),
                way: way.clone(),
                updater,
                waiting,
                beat: beat.subscribe(),
                stop: stop.clone(),
                after: TICK * (i / AT_ONCE) as u32,
            };
            runtime.spawn(life.live());
            device
        });
        let devices = devices.collect();
        Simulation { devices, stop, runtime: Some(runtime), beat }
    }

    /// Everybody who is there says how he is.
    pub fn heartbeats(&self) {
        self.beat.send_modify(|n| *n += 1);
    }

    /// Heartbeats by themselves, so often.
    pub fn heartbeats_every(&self, every: Duration) {
        let (beat, stop) = (self.beat.clone(), self.stop.clone());
        self.handle().spawn(async move {
            while !stop.is_stopped() {
                tokio::time::sleep(every).await;
                beat.send_modify(|n| *n += 1);
            }
        });
    }

    fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("it runs until it is dropped").handle()
    }

    /// How many serve a release.
    pub fn serving(&self, release: u64) -> usize {
        self.devices.iter().filter(|d| d.serves() == Some(release)).count()
    }

    /// How many ever began with one.
    pub fn touched(&self) -> usize {
        self.devices.iter().filter(|d| d.begun() > 0).count()
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Life {
    device: Arc<Device>,
    way: Way,
    updater: Arc<dyn Updater>,
    waiting: mpsc::UnboundedReceiver<(Channel, Vec<u8>)>,
    beat: watch::Receiver<u64>,
    stop: StopToken,
    after: Duration,
}

impl Life {
    async fn live(mut self) {
        tokio::time::sleep(self.after).await;
        let mut present = self.device.present.subscribe();
        while !self.stop.is_stopped() {
            if present.wait_for(|p| *p).await.is_err() {
                return;
            }
            let mut gone = self.device.present.subscribe();
            let stop = self.stop.clone();
            tokio::select! {
                () = stop.stopped() => return,
                // The connection is cut without a word.
                () = async { gone.wait_for(|p| !*p).await.map(drop).unwrap_or(()) } => {}
                () = self.connection() => tokio::time::sleep(10 * TICK).await,
            }
        }
    }

    async fn connection(&mut self) {
        let device = Arc::clone(&self.device);
        let session = {
            let mut state = device.state();
            state.session += 1;
            state.session
        };
        let Ok((client, mut events)) = AsyncClient::builder(self.options(session)).capacity(1024).try_build() else {
            return;
        };
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => break,
                Ok(_) => {}
                Err(_) => return,
            }
        }
        if client.try_subscribe(device.topics.commands(), QoS::AtLeastOnce).is_err() {
            return;
        }
        device.say(Channel::State, &device.birth(session, true));
        device.say_update(&device.state());
        device.say_heartbeat();
        loop {
            tokio::select! {
                event = events.poll() => match event {
                    Ok(Event::Incoming(Packet::Publish(p))) => self.take(&p),
                    Ok(_) => {}
                    Err(_) => return,
                },
                Some((channel, payload)) = self.waiting.recv() => {
                    let options = PublishOptions::at_least_once().retain(true);
                    if client.try_publish(device.topics.topic(&channel), payload, options).is_err() {
                        return;
                    }
                }
                Ok(()) = self.beat.changed() => device.say_heartbeat(),
            }
        }
    }

    fn take(&self, p: &rumqttc::Publish) {
        let topic = std::str::from_utf8(&p.topic).expect("our own topics");
        if let Ok((_, Channel::Command(id))) = DeviceTopics::parse(topic) {
            self.device.command(id.as_str(), &p.payload, &*self.updater);
        }
    }

    fn options(&self, session: u64) -> MqttOptions {
        let user = self.device.topics.broker_user();
        let mut options = MqttOptions::new(user.clone(), rumqttc::Broker::tcp("127.0.0.1", self.way.port));
        if let Some(pki) = &self.way.pki {
            let files = pki.device(&user, super::pki::NOW);
            let read = |path| std::fs::read(path).expect("just written");
            options.set_transport(Transport::tls(
                pki.read("ca.crt"),
                Some((read(&files.cert), read(&files.key))),
                None,
            ));
        }
        let will = serde_json::to_vec(&self.device.birth(session, false)).expect("JSON");
        let topic = self.device.topics.topic(&Channel::State);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        options
            .set_last_will(LastWill::new(topic, will, QoS::AtLeastOnce, true, None))
            .set_keep_alive(60)
            .set_clean_start(true);
        // The client sets room aside for as many: by default 16 MB for each device.
        options.set_outgoing_inflight_upper_limit(32);
        options
    }
}

fn model(release: u64) -> ModelRef {
    ModelRef { name: "m".into(), version: format!("{release}.0.0"), digest: format!("{release:064x}") }
}
