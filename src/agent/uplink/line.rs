//! What can be said over one connection, and the broker's word on it.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use rumqttc::{
    AsyncClient, PubAckReason, PublishNotice, PublishNoticeError, PublishOptions, PublishProperties, PublishResult,
};

use super::error::{Pace, SessionError, words};

const END_KNOWN_WITHIN: Duration = Duration::from_millis(500);

/// What can be said over a connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) client: AsyncClient,
    pub(super) broker: Arc<str>,
    pub(super) max_packet_bytes: usize,
    /// A broker that acknowledges nothing for so long is taken for gone. The client's own ping does not see
    /// this while there is something to send.
    pub(super) patience: Duration,
    /// The broker ended the connection over something that was sent, or answered it as no broker should.
    pub(super) objected: Arc<AtomicBool>,
    /// It is known how the connection ended.
    pub(super) ended: Arc<Notify>,
}

/// A message to publish with QoS 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) retain: bool,
    /// How long a broker keeps it; none: for ever.
    pub(super) expiry_s: Option<u32>,
    pub(super) content_type: &'static str,
    pub(super) user_properties: Vec<(String, String)>,
}

/// What the broker did with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Took it; somebody gets it.
    Taken,
    /// Took it; nobody subscribes.
    NoSubscriber,
    /// Did not take it.
    Refused(PubAckReason),
    /// It was not sent: the broker takes no packet of that size, or retains nothing.
    NotSendable,
}

impl Line {
    /// The broker has been silent for too long.
    pub(super) fn silent(&self) -> SessionError {
        SessionError::Silent { broker: self.broker.to_string(), silence: self.patience }
    }

    /// Whether the connection that was lost was lost over something that was sent over it. Who waits for an answer hears of
    /// the end before it is known why: a moment is waited for that.
    pub(super) async fn objected(&self) -> bool {
        tokio::time::timeout(END_KNOWN_WITHIN, self.ended.notified()).await.ok();
        self.objected.load(Ordering::Relaxed)
    }

    /// The broker lets the device connect but not be itself.
    pub(super) fn not_allowed(&self, topic: &str) -> SessionError {
        let why = format!("it does not let this device speak on {topic}; are these the credentials of another device?");
        SessionError::Refused { broker: self.broker.to_string(), why, pace: Pace::Slowly }
    }

    fn lost(&self, why: &dyn Error) -> SessionError {
        SessionError::Lost { broker: self.broker.to_string(), source: words(why) }
    }

    /// Hands a message to the connection at once or not at all. None: the broker would not take its size.
    pub(super) fn send(&self, message: Message) -> Result<Option<PublishNotice>, SessionError> {
        let Message { topic, payload, retain, expiry_s, content_type, user_properties } = message;
        let properties_bytes: usize = user_properties.iter().map(|(k, v)| k.len() + v.len() + 5).sum();
        // Fixed header, topic's length, packet identifier, lengths and identifiers of properties: below 64 bytes.
        if payload.len() + topic.len() + properties_bytes + content_type.len() + 64 > self.max_packet_bytes {
            return Ok(None);
        }
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            content_type: Some(content_type.to_owned()),
            message_expiry_interval: expiry_s,
            user_properties,
            ..PublishProperties::default()
        };
        let options = PublishOptions::at_least_once().retain(retain).properties(properties);
        self.client.try_publish_tracked(topic, payload, options).map(Some).map_err(|e| self.lost(&e))
    }

    /// What came of a message that was sent.
    pub(super) fn verdict(&self, answer: Result<PublishResult, PublishNoticeError>) -> Result<Verdict, SessionError> {
        match answer {
            Ok(PublishResult::Qos1(ack)) => Ok(match ack.reason {
                PubAckReason::Success => Verdict::Taken,
                PubAckReason::NoMatchingSubscribers => Verdict::NoSubscriber,
                reason => Verdict::Refused(reason),
            }),
            Err(PublishNoticeError::RetainNotSupported) => Ok(Verdict::NotSendable),
            // Whatever else happened to it, it has to be sent again, on a connection whose state is sound.
            Ok(other) => Err(self.lost(&io::Error::other(format!("it answered {other:?} to QoS 1")))),
            Err(e) => Err(self.lost(&e)),
        }
    }

    /// Publishes and waits for the broker's word.
    pub(super) async fn publish(&self, message: Message) -> Result<Verdict, SessionError> {
        let Some(notice) = self.send(message)? else { return Ok(Verdict::NotSendable) };
        match tokio::time::timeout(self.patience, notice.wait_async()).await {
            Ok(answer) => self.verdict(answer),
            Err(_) => Err(self.silent()),
        }
    }
}
