//! What a consumer says to the device: it has committed everything up to a number.
//!
//! Published to `.../ack/{consumer}` with QoS 1. It is cumulative, so the latest alone matters: a consumer
//! may retain it, repeat it, or confirm every hundredth alert.
//!
//! Numbers count within an epoch: a device that lost its state directory begins a new one at 1. A consumer that says
//! which epoch it means cannot release alerts of another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ack {
    /// The highest number up to which nothing is missing at the consumer, after its own commit.
    pub seq: u64,
    /// The `epoch` of the alerts that it counts; absent: whatever the device's is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Uuid>,
}

impl Ack {
    /// Reads a payload; none if it is no confirmation.
    pub fn parse(payload: &[u8]) -> Option<Ack> {
        serde_json::from_slice(payload).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_consumers_may_say_and_nothing_else() {
        let seven = Ack { seq: 7, epoch: None };
        assert_eq!(Ack::parse(br#"{"seq": 7}"#), Some(seven));
        assert_eq!(Ack::parse(br#"{"seq": 7, "consumer_version": "later"}"#), Some(seven));
        let epoch = Uuid::from_u128(5);
        let said = format!(r#"{{"seq": 7, "epoch": "{epoch}"}}"#);
        assert_eq!(Ack::parse(said.as_bytes()), Some(Ack { epoch: Some(epoch), ..seven }));
        for bad in [
            &b""[..],
            b"7",
            b"{}",
            br#"{"seq": -1}"#,
            br#"{"seq": "7"}"#,
            br#"{"seq": 1.5}"#,
            br#"{"seq": 7, "epoch": "today"}"#,
            b"\xff",
        ] {
            assert_eq!(Ack::parse(bad), None);
        }
    }
}
