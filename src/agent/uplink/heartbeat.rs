//! What is retained at the broker: birth and will, cameras, heartbeat, the state of the outbox. The latest only,
//! each said when it changes, the heartbeat also when it is due.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{LastWill, LastWillProperties, PubAckReason, QoS};
use serde::Serialize;
use tokio::sync::Notify;

use super::adapters::Adapters;
use super::error::SessionError;
use super::line::{Line, Message, Verdict};
use crate::base::clock::{Clock, Mono};
use crate::base::error::Chain;
use crate::contract::heartbeat::{HealthSource, Heartbeat, OutboxState};
use crate::contract::identity::{IdentityMessage, IdentityStatus};
use crate::contract::outbox::{Outbox, OutboxStatus};
use crate::contract::state::{
    CONTENT_TYPE, CameraCondition, CameraState, DeviceFacts, DeviceState, Origin, StateReason, WILL_DELAY_S,
};
use crate::contract::topics::{Channel, DeviceTopics};
use crate::contract::update::{UpdateMessage, UpdateStatus};

/// A broker keeps a heartbeat for as long as so many of them take, and at least this long.
const HEARTBEATS_KEPT: u32 = 10;
const HEARTBEAT_KEPT_LEAST: Duration = Duration::from_secs(600);
/// Changes are gathered for so long.
const GATHER: Duration = Duration::from_secs(1);

/// Says how the device is. Cheap to clone.
#[derive(Clone)]
pub(super) struct Reporter {
    pub(super) topics: DeviceTopics,
    pub(super) outbox: Arc<dyn Outbox>,
    pub(super) health: Arc<dyn HealthSource>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) adapters: Arc<Adapters>,
    pub(super) heartbeat_every: Duration,
    /// The outbox has changed by the uplink's doing.
    pub(super) touched: Arc<Notify>,
}

/// What one connection has said so far.
pub(super) struct Said {
    since: String,
    facts: DeviceFacts,
    cameras: BTreeMap<String, CameraCondition>,
    outbox: Option<OutboxStatus>,
    update: Option<UpdateStatus>,
    identity: Option<IdentityStatus>,
    heartbeat: Option<Mono>,
    /// What adapters said, by topic.
    adapted: BTreeMap<String, Vec<u8>>,
    /// Topics the broker would not take, complained about once.
    refused: BTreeSet<String>,
}

impl Reporter {
    pub(super) fn origin(&self, session: u64) -> Origin {
        Origin {
            site: self.topics.site.to_string(),
            device: self.topics.device.to_string(),
            session,
            publish_time: self.clock.wall().rfc3339(),
            clock: self.health.clock(),
        }
    }

    fn state(&self, session: u64, reason: StateReason, since: Option<String>) -> DeviceState {
        let online = reason == StateReason::Connected;
        DeviceState { origin: self.origin(session), online, reason, since, facts: self.health.facts() }
    }

    /// What the broker is to say should the connection be lost.
    pub(super) fn will(&self, session: u64) -> LastWill {
        let properties = LastWillProperties {
            delay_interval: Some(WILL_DELAY_S),
            payload_format_indicator: Some(1),
            message_expiry_interval: None,
            content_type: Some(CONTENT_TYPE.to_owned()),
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        let payload = to_json(&self.state(session, StateReason::ConnectionLost, None));
        LastWill::new(self.topics.topic(&Channel::State), payload, QoS::AtLeastOnce, true, Some(properties))
    }

    /// Says goodbye.
    pub(super) async fn goodbye(&self, line: &Line, session: u64) -> Result<(), SessionError> {
        let now = self.clock.wall().rfc3339();
        let state = self.state(session, StateReason::Stopped, Some(now));
        let verdict = line.publish(self.retained(&Channel::State, &state)).await?;
        log::debug!("goodbye: {verdict:?}");
        Ok(())
    }

    /// The first thing said over a connection: whether the broker lets the device be itself shows here.
    pub(super) async fn birth(&self, line: &Line, session: u64) -> Result<Said, SessionError> {
        let (since, facts) = (self.clock.wall().rfc3339(), self.health.facts());
        let state = self.state(session, StateReason::Connected, Some(since.clone()));
        let (cameras, adapted) = (BTreeMap::new(), BTreeMap::new());
        let mut said = Said {
            since,
            facts,
            cameras,
            outbox: None,
            update: None,
            identity: None,
            heartbeat: None,
            adapted,
            refused: BTreeSet::new(),
        };
        self.say(line, &mut said, Channel::State, &state).await?;
        Ok(said)
    }

    /// All else that is retained, and from then on what changes. Ends only with the connection.
    pub(super) async fn run(
        &self,
        line: &Line,
        session: u64,
        mut said: Said,
    ) -> Result<std::convert::Infallible, SessionError> {
        let (mut health, mut added) = (self.health.changed(), self.outbox.added());
        loop {
            let facts = self.health.facts();
            if said.facts != facts {
                let state = self.state(session, StateReason::Connected, Some(said.since.clone()));
                self.say(line, &mut said, Channel::State, &state).await?;
                said.facts = facts;
            }
            for condition in self.health.cameras() {
                let Ok(camera) = condition.camera.parse() else { continue };
                if said.cameras.get(&condition.camera) != Some(&condition) {
                    let state = CameraState { origin: self.origin(session), condition: condition.clone() };
                    self.say(line, &mut said, Channel::Camera(camera), &state).await?;
                    said.cameras.insert(condition.camera.clone(), condition);
                }
            }
            if let Some(status) = self.health.update().filter(|s| said.update.as_ref() != Some(s)) {
                let message = UpdateMessage { origin: self.origin(session), status: status.clone() };
                self.say(line, &mut said, Channel::Update, &message).await?;
                said.update = Some(status);
            }
            if let Some(status) = self.health.identity().filter(|s| said.identity.as_ref() != Some(s)) {
                let message = IdentityMessage { origin: self.origin(session), status: status.clone() };
                self.say(line, &mut said, Channel::Identity, &message).await?;
                said.identity = Some(status);
            }
            self.adapt(line, &mut said).await?;
            let status = self.outbox_status().await;
            if let Some(status) = status.clone().filter(|s| said.outbox.as_ref() != Some(s)) {
                let state = OutboxState { origin: self.origin(session), status: status.clone() };
                self.say(line, &mut said, Channel::Outbox, &state).await?;
                said.outbox = Some(status);
            }
            let now = self.clock.now();
            if said.heartbeat.is_none_or(|at| now.since(at) >= self.heartbeat_every) {
                let health = blocking(Arc::clone(&self.health), |h| h.report()).await;
                let heartbeat = Heartbeat { origin: self.origin(session), health, outbox: status };
                self.say(line, &mut said, Channel::Heartbeat, &heartbeat).await?;
                said.heartbeat = Some(now);
            }
            tokio::time::sleep(GATHER.min(self.heartbeat_every)).await;
            let due = said.heartbeat.map_or(Duration::ZERO, |at| (at + self.heartbeat_every).since(self.clock.now()));
            tokio::select! {
                Ok(()) = health.changed() => {}
                Ok(()) = added.changed() => {}
                () = self.touched.notified() => {}
                () = tokio::time::sleep(due) => {}
            }
        }
    }

    /// What has changed of the adapters' retained messages.
    async fn adapt(&self, line: &Line, said: &mut Said) -> Result<(), SessionError> {
        for message in self.adapters.states(&self.health.facts(), &self.health.cameras()) {
            if said.adapted.get(&message.topic) != Some(&message.payload) {
                let topic = message.topic.clone();
                said.adapted.insert(topic.clone(), message.payload.clone());
                match line.publish(message).await? {
                    Verdict::Taken | Verdict::NoSubscriber => {}
                    Verdict::Refused(PubAckReason::NotAuthorized) => self.adapters.give_up(&topic),
                    verdict => log::warn!("the broker did not take {topic}: {verdict:?}"),
                }
            }
        }
        Ok(())
    }

    async fn outbox_status(&self) -> Option<OutboxStatus> {
        let status = blocking(Arc::clone(&self.outbox), |o| o.status()).await;
        // The pump complains when it fails; here it is only left out.
        status.inspect_err(|e| log::debug!("no status of the outbox: {}", Chain(e))).ok()
    }

    fn heartbeat_expires(&self) -> Duration {
        (self.heartbeat_every * HEARTBEATS_KEPT).max(HEARTBEAT_KEPT_LEAST)
    }

    pub(super) fn retained(&self, channel: &Channel, message: &impl Serialize) -> Message {
        Message {
            topic: self.topics.topic(channel),
            payload: to_json(message),
            retain: true,
            // Old ones would fill the queue of a consumer that is away, and one that stays would speak for a device that is gone.
            expiry_s: (*channel == Channel::Heartbeat).then(|| self.heartbeat_expires().as_secs() as u32),
            content_type: CONTENT_TYPE,
            user_properties: Vec::new(),
        }
    }

    async fn say(
        &self,
        line: &Line,
        said: &mut Said,
        channel: Channel,
        message: &impl Serialize,
    ) -> Result<(), SessionError> {
        let message = self.retained(&channel, message);
        let topic = message.topic.clone();
        match line.publish(message).await? {
            // A retained message waits for its subscribers.
            Verdict::Taken | Verdict::NoSubscriber => {
                said.refused.remove(&topic);
            }
            Verdict::Refused(PubAckReason::NotAuthorized) if channel == Channel::State => {
                return Err(line.not_allowed(&topic));
            }
            verdict => {
                if said.refused.insert(topic.clone()) {
                    log::error!("the broker does not take {topic}: {verdict:?}");
                }
            }
        }
        Ok(())
    }
}

fn to_json(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("structs of texts and numbers with textual keys are always JSON")
}

/// Runs what may block where it may; its panic goes on here.
pub(super) async fn blocking<S, T>(source: Arc<S>, ask: impl FnOnce(&S) -> T + Send + 'static) -> T
where
    S: Send + Sync + ?Sized + 'static,
    T: Send + 'static,
{
    match tokio::task::spawn_blocking(move || ask(&source)).await {
        Ok(answer) => answer,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}
