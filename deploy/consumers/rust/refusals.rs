//! What the broker refuses, in words that say what to do: a client that keeps it to itself looks like one that has nothing
//! to do.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::ErrorKind;

use rumqttc::{ConnectionError, DisconnectReasonCode, PubAck, PubAckReason, StateError, SubAck, SubscribeReasonCode};

/// What is on its way over one connection, and what was said of it.
#[derive(Default)]
pub struct Refusals {
    /// Topics that were handed over and have no packet identifier yet, in their order.
    handed_over: VecDeque<String>,
    sent: HashMap<u16, String>,
    said: HashSet<String>,
}

impl Refusals {
    /// A message was handed to the client.
    pub fn published(&mut self, topic: String) {
        self.handed_over.push_back(topic);
    }

    /// The client has sent the next of them.
    pub fn sent(&mut self, packet_id: u16) {
        if let Some(topic) = self.handed_over.pop_front() {
            self.sent.insert(packet_id, topic);
        }
    }

    /// The broker's word on one. The topic of one that it refuses, which is said once for each kind of topic.
    pub fn answered(&mut self, ack: &PubAck, name: &str) -> Option<String> {
        let topic = self.sent.remove(&ack.pkid)?;
        if matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers) {
            return None;
        }
        let (what, channel) = match topic.contains("/ack/") {
            true => ("confirmation", format!("ack/{name}")),
            false => ("command", "cmd/+".to_owned()),
        };
        let reason = ack.reason;
        if self.said.insert(format!("{what} {reason:?}")) {
            eprintln!(
                "the broker refuses a {what} ({reason:?}), first on {topic}: let this user write vedette/v1/+/+/{channel} in \
                 the broker's access rules (ACL)"
            );
        }
        Some(topic)
    }
}

/// Why a subscription does not come about.
pub fn of_subscription(ack: &SubAck) -> Option<String> {
    let refused = ack.return_codes.iter().find(|code| !matches!(code, SubscribeReasonCode::Success(_)))?;
    Some(format!(
        "the broker refuses a subscription ({refused:?}); let this user read vedette/v1/# in the broker's access rules (ACL)"
    ))
}

/// Why a connection ended or did not come about.
pub fn of_connection(e: &ConnectionError, client_id: &str) -> String {
    match e {
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            ..
        }) => format!("taken over: another client uses the identifier {client_id:?}; {OWN_NAME}"),
        // Mosquitto 2.0.11 does so to who is put out by another of its name.
        e if is_closed(e) => {
            format!("{e}: it was stopped, or another client uses the identifier {client_id:?}; {OWN_NAME}")
        }
        e => e.to_string(),
    }
}

const OWN_NAME: &str = "each program needs its own (--client-id), and a broker user of its own where the broker makes \
     identifiers of user names";

/// Whether the broker closed the connection without a word.
fn is_closed(e: &ConnectionError) -> bool {
    match e {
        ConnectionError::MqttState(StateError::ConnectionAborted) => true,
        ConnectionError::Io(e)
        | ConnectionError::MqttState(StateError::Io(e) | StateError::Deserialization(rumqttc::Error::Io(e))) => {
            matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::UnexpectedEof)
        }
        _ => false,
    }
}
