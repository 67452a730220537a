//! What a consumer says to the device: it has committed everything up to a number.
//!
//! Published to `.../ack/{consumer}` with QoS 1. It is cumulative, so the latest alone matters: a consumer
//! may retain it, repeat it, or confirm every hundredth alert.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ack {
    /// The highest number up to which nothing is missing at the consumer, after its own commit.
    pub seq: u64,
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
        assert_eq!(Ack::parse(br#"{"seq": 7}"#), Some(Ack { seq: 7 }));
        assert_eq!(Ack::parse(br#"{"seq": 7, "consumer_version": "later"}"#), Some(Ack { seq: 7 }));
        for bad in [&b""[..], b"7", b"{}", br#"{"seq": -1}"#, br#"{"seq": "7"}"#, br#"{"seq": 1.5}"#, b"\xff"] {
            assert_eq!(Ack::parse(bad), None);
        }
    }
}
