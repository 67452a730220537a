//! The durable queue: how long one alert takes to the disk, and how fast many drain to a broker with a consumer that
//! confirms, beside a bare client of the same library that publishes the same number of bytes to the same broker.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, PublishOptions, QoS};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;
use vedette::agent::config::{self, CameraId};
use vedette::agent::incident::{EvidenceSource, Incident, Transition};
use vedette::agent::store::{ClipIntent, DeviceContext, IncidentRecord, Labels, OutboxPolicy, Store, Times};
use vedette::agent::uplink;
use vedette::base::clock::{Clock, SystemClock};
use vedette::base::progress::Beat;
use vedette::base::stop::StopToken;
use vedette::contract::ack::Ack;
use vedette::contract::alert::ClockState;
use vedette::contract::heartbeat::{HealthReport, HealthSource};
use vedette::contract::outbox::Outbox;
use vedette::contract::state::{CameraCondition, DeviceFacts};

use crate::ms;

const PREFIX: &str = "vedette/v1/bench/this-machine";
const CONSUMER: &str = "soc";
/// A consumer confirms every so many alerts.
const CONFIRM_EVERY: u64 = 200;
/// Alerts whose way to the disk is timed, one after the other.
const TIMED: usize = 300;
/// The bare client sends this part of the alerts.
const BARE_PART: usize = 5;
/// Nothing came for so long: something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Setup {
    pub broker: u16,
    pub dir: PathBuf,
    pub alerts: usize,
}

pub fn measure(setup: &Setup) -> anyhow::Result<Value> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let state_dir = setup.dir.join("state");
    let context = DeviceContext {
        site: "bench".into(),
        device: "this-machine".into(),
        outbox: OutboxPolicy::Queue {
            consumers: vec![CONSUMER.into()],
            keep: Duration::from_secs(86_400),
            max_bytes: u64::MAX,
        },
        labels: Labels::default(),
        clock_state: Arc::new(|| ClockState { synchronised: true, estimated_error_ms: None }),
    };
    let (store, writer) = Store::open(&state_dir, context, clock.clone())?;
    let writing = std::thread::spawn(move || writer.run(&Beat::detached()));

    let mut to_disk_ms = Vec::new();
    for _ in 0..TIMED {
        let began = clock.now();
        record(&store, clock.as_ref())?;
        store.flush()?;
        to_disk_ms.push(ms(clock.now().since(began)));
    }
    let began = clock.now();
    for n in TIMED..setup.alerts {
        record(&store, clock.as_ref())?;
        if n % 500 == 0 {
            store.flush()?;
        }
    }
    store.flush()?;
    let queued_s = clock.now().since(began).as_secs_f64();

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let before_mb = resident_mb();
    let (drained, most_mb) = runtime.block_on(drain(setup, &store, clock.clone()))?;
    let payload = vec![b'x'; drained.payload_bytes as usize];
    let count = setup.alerts / BARE_PART;
    let bare_s = runtime.block_on(bare(setup.broker, payload, count, clock.as_ref()))?;
    store.close();
    if let Err(e) = writing.join().expect("the writer does not panic") {
        bail!("the store's writer: {e}");
    }
    Ok(json!({
        "alerts": setup.alerts,
        "to_disk_ms": to_disk_ms,
        "queued_per_s": (setup.alerts - TIMED) as f64 / queued_s,
        "drained_per_s": setup.alerts as f64 / drained.seconds,
        "bare_per_s": count as f64 / bare_s,
        "payload_bytes": drained.payload_bytes,
        "repeated": drained.repeated,
        "out_of_order": drained.out_of_order,
        "resident_before_mb": before_mb,
        "resident_most_mb": most_mb,
    }))
}

/// One incident that opens.
fn record(store: &Store, clock: &dyn Clock) -> anyhow::Result<()> {
    let now = clock.now();
    let id = vedette::agent::incident::new_id(clock.wall());
    let incident = Incident {
        id,
        camera: CameraId::new("street"),
        source: EvidenceSource::Classifier,
        class: "Fighting".into(),
        start: now,
        end: now,
        peak_score: 0.875,
        peak_at: now,
        peak_scores: BTreeMap::from([("Normal".into(), 0.125), ("Fighting".into(), 0.875)]),
        peak_fps: 8.0,
        threshold: 0.5,
        windows: 2,
        model: None,
        later_model: None,
    };
    let label = clock.wall();
    let clock_state = ClockState { synchronised: true, estimated_error_ms: None };
    let times = Times { start: label, end: label, peak: label, event: label, clock: clock_state };
    let record = IncidentRecord { transition: Transition::Opened(incident), times, clip: ClipIntent::None };
    store.record(record).map_err(|e| anyhow::anyhow!("{e}"))
}

struct Drained {
    seconds: f64,
    payload_bytes: u64,
    repeated: u64,
    out_of_order: u64,
}

/// From the start of the uplink until the consumer has all and the device has let go of all.
async fn drain(setup: &Setup, store: &Store, clock: Arc<dyn Clock>) -> anyhow::Result<(Drained, f64)> {
    let (seen_is, mut seen) = mpsc::unbounded_channel();
    let (granted_is, mut granted) = mpsc::unbounded_channel();
    let consumer = tokio::spawn(consume(setup.broker, granted_is, seen_is));
    tokio::time::timeout(PATIENCE, granted.recv()).await.context("the broker granted no subscription")?;
    let stop = StopToken::new();
    let (link, _link) = watch::channel(uplink::Link::Starting);
    let began = clock.now();
    let up = tokio::spawn(uplink::run(uplink::Parts {
        mqtt: configured(setup)?,
        adapters: config::Adapters::default(),
        device: config::Device { site: "bench".into(), id: "this-machine".into(), place: None },
        counter_file: setup.dir.join("uplink-session"),
        outbox: Arc::new(store.clone()) as Arc<dyn Outbox>,
        links: None,
        desk: None,
        health: Arc::new(Fine(watch::Sender::new(0))),
        clock: clock.clone(),
        stop: stop.clone(),
        beat: Beat::detached(),
        link,
        shown: watch::channel(None).0,
    }));
    let (mut ids, mut most_mb, mut last) = (HashSet::new(), resident_mb(), 0);
    let mut drained = Drained { seconds: 0.0, payload_bytes: 0, repeated: 0, out_of_order: 0 };
    while ids.len() < setup.alerts {
        let Some((id, seq, bytes)) = tokio::time::timeout(PATIENCE, seen.recv()).await? else {
            bail!("the consumer ended");
        };
        drained.repeated += u64::from(!ids.insert(id));
        drained.out_of_order += u64::from(seq < last);
        (last, drained.payload_bytes) = (seq, bytes);
        if ids.len() % 1000 == 0 {
            most_mb = most_mb.max(resident_mb());
        }
    }
    while store.status()?.oldest_kept.is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drained.seconds = clock.now().since(began).as_secs_f64();
    stop.stop();
    up.await??;
    consumer.abort();
    Ok((drained, most_mb))
}

fn configured(setup: &Setup) -> anyhow::Result<config::Mqtt> {
    let text = format!(
        "[device]\nsite = \"bench\"\nid = \"this-machine\"\n[model]\ndir = \"engines/activity-v1\"\n\
         [[camera]]\nid = \"street\"\nkind = \"test\"\n[mqtt]\nurl = \"mqtt://127.0.0.1:{}\"\n",
        setup.broker
    );
    let here = std::env::current_dir()?;
    let config = config::parse(&text, &here).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    config.mqtt.context("there is a section [mqtt]")
}

/// Subscribes, tells of each alert, and confirms as a consumer does that has committed.
async fn consume(
    port: u16,
    granted: mpsc::UnboundedSender<()>,
    seen: mpsc::UnboundedSender<(Uuid, u64, u64)>,
) -> anyhow::Result<()> {
    let mut options = MqttOptions::new("bench-consumer", ("127.0.0.1", port));
    options.set_keep_alive(30);
    let (client, mut events) = AsyncClient::builder(options).capacity(64).build();
    client.subscribe(format!("{PREFIX}/alerts/+"), QoS::AtLeastOnce).await?;
    // In order but for what comes again: the highest contiguous number is easily kept.
    let (mut contiguous, mut above, mut confirmed) = (0_u64, HashSet::new(), 0);
    loop {
        match events.poll().await? {
            Event::Incoming(Incoming::SubAck(_)) => granted.send(())?,
            Event::Incoming(Incoming::Publish(message)) => {
                let event: Value = serde_json::from_slice(&message.payload)?;
                let seq: u64 = event["sequence"].as_str().unwrap_or("0").parse()?;
                let id: Uuid = event["id"].as_str().unwrap_or_default().parse()?;
                above.insert(seq);
                while above.remove(&(contiguous + 1)) {
                    contiguous += 1;
                }
                seen.send((id, seq, message.payload.len() as u64))?;
                let idle = above.is_empty() && contiguous % 10 == 0;
                if contiguous >= confirmed + CONFIRM_EVERY || (idle && contiguous > confirmed) {
                    confirmed = contiguous;
                    let epoch = event["epoch"].as_str().and_then(|e| e.parse().ok());
                    let ack = serde_json::to_vec(&Ack { seq: confirmed, epoch })?;
                    client
                        .try_publish(format!("{PREFIX}/ack/{CONSUMER}"), ack, PublishOptions::new(QoS::AtLeastOnce))
                        .context("the consumer cannot confirm")?;
                }
            }
            _ => {}
        }
    }
}

/// So many messages of QoS 1 by a client that does nothing else, to a subscriber; seconds until all are acknowledged.
async fn bare(port: u16, payload: Vec<u8>, count: usize, clock: &dyn Clock) -> anyhow::Result<f64> {
    let (granted_is, mut granted) = mpsc::unbounded_channel();
    let subscriber = tokio::spawn(async move {
        let mut options = MqttOptions::new("bench-listener", ("127.0.0.1", port));
        options.set_keep_alive(30);
        let (client, mut events) = AsyncClient::builder(options).capacity(16).build();
        client.subscribe("bench/bare", QoS::AtLeastOnce).await?;
        loop {
            if let Event::Incoming(Incoming::SubAck(_)) = events.poll().await? {
                granted_is.send(())?;
            }
        }
        #[allow(unreachable_code, reason = "gives the block its type")]
        Ok::<(), anyhow::Error>(())
    });
    tokio::time::timeout(PATIENCE, granted.recv()).await.context("the broker granted no subscription")?;
    let mut options = MqttOptions::new("bench-publisher", ("127.0.0.1", port));
    options.set_keep_alive(30);
    let (client, mut events) = AsyncClient::builder(options).capacity(64).build();
    let began = clock.now();
    let publisher = tokio::spawn(async move {
        for _ in 0..count {
            client.publish("bench/bare", payload.clone(), PublishOptions::new(QoS::AtLeastOnce)).await?;
        }
        // Keeps the connection until all is acknowledged.
        Ok::<_, anyhow::Error>(client)
    });
    let mut acknowledged = 0;
    while acknowledged < count {
        if let Event::Incoming(Incoming::PubAck(_)) = tokio::time::timeout(PATIENCE, events.poll()).await?? {
            acknowledged += 1;
        }
    }
    let seconds = clock.now().since(began).as_secs_f64();
    drop(publisher.await??);
    subscriber.abort();
    Ok(seconds)
}

/// A device that is well.
struct Fine(watch::Sender<u64>);

impl HealthSource for Fine {
    fn report(&self) -> HealthReport {
        HealthReport::default()
    }

    fn facts(&self) -> DeviceFacts {
        DeviceFacts { agent_version: "bench".into(), model: None }
    }

    fn cameras(&self) -> Vec<CameraCondition> {
        Vec::new()
    }

    fn clock(&self) -> ClockState {
        ClockState { synchronised: true, estimated_error_ms: None }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib * 1024.0 / 1e6)
}
