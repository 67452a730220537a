//! Where on the broker each message lives.
//!
//! ```text
//!     vedette/v1/{site}/{device}/alerts/{camera}   CloudEvents, QoS 1, not retained: alerts, notices of trouble,
//!                                                  steps of a release; what is of the device itself on alerts/_device
//!                               /state             birth and will, retained
//!                               /camera/{camera}   retained; holds only while `state` says online
//!                               /heartbeat         retained
//!                               /outbox            retained
//!                               /update            retained: how it stands with its model and a release of one
//!                               /identity          retained: its certificate, and its request for the next
//!                               /ack/{consumer}    towards the device: what a consumer has committed
//!                               /cmd/{id}          towards the device: what somebody asks of it
//!                               /cmd/{id}/status   what has become of that, retained for a day
//! ```
//!
//! A broker user named `{site}/{device}` may write and read below its own prefix and nowhere else, so that one
//! pattern serves every device. What does not belong here: payloads.
//!
//! Invariant: no segment is empty or contains `/`, `+`, `#`, or anything but `a-z A-Z 0-9 _ -`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// First levels of every topic: the product and the version of the contract.
pub const PREFIX: &str = "vedette/v1";

/// Stands where a camera's name would for what the device says of itself. No camera is called so: see `config`.
pub const DEVICE: &str = "_device";

const MAX_NAME_BYTES: usize = 64;

/// Why a name or a topic is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// A site, device, camera or consumer has an impossible name.
    #[error("{0:?} is no name: 1 to 64 of a-z A-Z 0-9 _ -")]
    Name(String),
    /// A topic has not the form of this contract.
    #[error("{0:?} is no topic of {PREFIX}")]
    Foreign(String),
}

/// One level of a topic: a site, a device, a camera or a consumer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = TopicError;

    fn from_str(s: &str) -> Result<Self, TopicError> {
        let fits = (1..=MAX_NAME_BYTES).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if fits { Ok(Name(Arc::from(s))) } else { Err(TopicError::Name(s.into())) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is said on a topic below a device's prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Alerts of a camera.
    Alerts(Name),
    /// Birth and will.
    State,
    /// State of a camera.
    Camera(Name),
    /// How the device is.
    Heartbeat,
    /// The state of the outbox.
    Outbox,
    /// The model, and a release on its way.
    Update,
    /// The certificate, and a request for the next.
    Identity,
    /// What a consumer has committed.
    Ack(Name),
    /// What somebody asks of the device; the sender's id.
    Command(Name),
    /// What has become of it.
    CommandStatus(Name),
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Channel::Alerts(camera) => write!(f, "alerts/{camera}"),
            Channel::State => f.write_str("state"),
            Channel::Camera(camera) => write!(f, "camera/{camera}"),
            Channel::Heartbeat => f.write_str("heartbeat"),
            Channel::Outbox => f.write_str("outbox"),
            Channel::Update => f.write_str("update"),
            Channel::Identity => f.write_str("identity"),
            Channel::Ack(consumer) => write!(f, "ack/{consumer}"),
            Channel::Command(id) => write!(f, "cmd/{id}"),
            Channel::CommandStatus(id) => write!(f, "cmd/{id}/status"),
        }
    }
}

/// The topics of one device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeviceTopics {
    /// Where it stands.
    pub site: Name,
    /// The device.
    pub device: Name,
}

impl DeviceTopics {
    /// Topics of `device` at `site`.
    pub fn new(site: &str, device: &str) -> Result<Self, TopicError> {
        Ok(DeviceTopics { site: site.parse()?, device: device.parse()? })
    }

    /// The topic of a channel.
    pub fn topic(&self, channel: &Channel) -> String {
        format!("{PREFIX}/{}/{channel}", self.broker_user())
    }

    /// The topic of a camera's alerts.
    pub fn alerts(&self, camera: &str) -> Result<String, TopicError> {
        Ok(self.topic(&Channel::Alerts(camera.parse()?)))
    }

    /// The topic of a camera's state.
    pub fn camera(&self, camera: &str) -> Result<String, TopicError> {
        Ok(self.topic(&Channel::Camera(camera.parse()?)))
    }

    /// The topic on which a consumer confirms.
    pub fn ack(&self, consumer: &str) -> Result<String, TopicError> {
        Ok(self.topic(&Channel::Ack(consumer.parse()?)))
    }

    /// The filter of everything that is asked of the device.
    pub fn commands(&self) -> String {
        format!("{PREFIX}/{}/cmd/+", self.broker_user())
    }

    /// The CloudEvents `source` of what this device says: a URI reference.
    pub fn source(&self) -> String {
        format!("/vedette/{}", self.broker_user())
    }

    /// The user name by which the broker's access rules know the device; its client identifier too.
    pub fn broker_user(&self) -> String {
        format!("{}/{}", self.site, self.device)
    }

    /// The device and the channel of a topic.
    pub fn parse(topic: &str) -> Result<(DeviceTopics, Channel), TopicError> {
        let foreign = || TopicError::Foreign(topic.into());
        let rest = topic.strip_prefix(PREFIX).and_then(|r| r.strip_prefix('/')).ok_or_else(foreign)?;
        let levels: Vec<&str> = rest.split('/').collect();
        let (site, device, channel) = match levels[..] {
            [site, device, "state"] => (site, device, Channel::State),
            [site, device, "heartbeat"] => (site, device, Channel::Heartbeat),
            [site, device, "outbox"] => (site, device, Channel::Outbox),
            [site, device, "update"] => (site, device, Channel::Update),
            [site, device, "identity"] => (site, device, Channel::Identity),
            [site, device, "alerts", camera] => (site, device, Channel::Alerts(camera.parse()?)),
            [site, device, "camera", camera] => (site, device, Channel::Camera(camera.parse()?)),
            [site, device, "ack", consumer] => (site, device, Channel::Ack(consumer.parse()?)),
            [site, device, "cmd", id] => (site, device, Channel::Command(id.parse()?)),
            [site, device, "cmd", id, "status"] => (site, device, Channel::CommandStatus(id.parse()?)),
            _ => return Err(foreign()),
        };
        Ok((DeviceTopics::new(site, device)?, channel))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn topics_are_as_published() {
        let t = DeviceTopics::new("depot", "gate-1").unwrap();
        assert_eq!(t.alerts("north").unwrap(), "vedette/v1/depot/gate-1/alerts/north");
        assert_eq!(t.camera("north").unwrap(), "vedette/v1/depot/gate-1/camera/north");
        assert_eq!(t.ack("soc").unwrap(), "vedette/v1/depot/gate-1/ack/soc");
        assert_eq!(t.topic(&Channel::State), "vedette/v1/depot/gate-1/state");
        assert_eq!(t.topic(&Channel::Heartbeat), "vedette/v1/depot/gate-1/heartbeat");
        assert_eq!(t.topic(&Channel::Outbox), "vedette/v1/depot/gate-1/outbox");
        assert_eq!(t.source(), "/vedette/depot/gate-1");
    }

    #[test]
    fn nothing_that_a_broker_gives_a_meaning_gets_into_a_topic() {
        for bad in ["", "a/b", "+", "#", "a b", "ä", "a\0", &"x".repeat(65)] {
            assert_eq!(DeviceTopics::new(bad, "d"), Err(TopicError::Name(bad.into())));
            assert!(DeviceTopics::new("s", "d").unwrap().alerts(bad).is_err());
        }
    }

    #[test]
    fn foreign_topics_are_told_apart() {
        for foreign in
            ["", "vedette/v1", "vedette/v2/s/d/state", "vedette/v1/s/d", "vedette/v1/s/d/state/x", "x/s/d/state"]
        {
            assert!(DeviceTopics::parse(foreign).is_err(), "{foreign}");
        }
    }

    fn channel() -> impl Strategy<Value = Channel> {
        let name = "[a-zA-Z0-9_-]{1,64}".prop_map(|n| n.parse::<Name>().unwrap());
        prop_oneof![
            name.clone().prop_map(Channel::Alerts),
            name.clone().prop_map(Channel::Camera),
            name.clone().prop_map(Channel::Ack),
            name.clone().prop_map(Channel::Command),
            name.prop_map(Channel::CommandStatus),
            Just(Channel::State),
            Just(Channel::Heartbeat),
            Just(Channel::Outbox),
            Just(Channel::Update),
            Just(Channel::Identity),
        ]
    }

    proptest! {
        #[test]
        fn every_topic_is_read_back(site in "[a-zA-Z0-9_-]{1,64}", device in "[a-zA-Z0-9_-]{1,64}", channel in channel()) {
            let topics = DeviceTopics::new(&site, &device).unwrap();
            prop_assert_eq!(DeviceTopics::parse(&topics.topic(&channel)), Ok((topics, channel)));
        }

        #[test]
        fn reading_never_panics(topic in ".{0,80}") {
            if let Ok((topics, channel)) = DeviceTopics::parse(&topic) {
                prop_assert_eq!(topics.topic(&channel), topic);
            }
        }
    }
}
