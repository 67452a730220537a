//! What others may ask the device to do, whatever way they come: MQTT, the device's page, the CLI.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Raise an incident marked `test` that takes the whole way: clip, store, outbox, broker.
    TestAlert {
        /// Camera; absent: the first one.
        camera: Option<String>,
    },
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum CommandOutcome {
    /// Done, or durably under way.
    Accepted {
        /// The incident that it raised.
        incident: Uuid,
    },
    /// Not done, and why.
    Rejected {
        /// For the person who asked.
        reason: String,
    },
}

/// Where requests go; `control` implements it, `http` and `uplink` are given it.
pub trait CommandSink: Send + Sync {
    /// Carries out a request; `from` names who asked, for the audit trail. May block briefly.
    fn submit(&self, from: &str, command: Command) -> CommandOutcome;
}
