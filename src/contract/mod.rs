//! What crosses the wire: topics, messages and their versions, and the few traits through which wings and
//! stages meet without knowing each other. Serde types and JSON Schemas; no I/O.
//!
//! Compatibility rule of `vedette/v1`: fields are only ever added, never renamed, retyped or given another
//! unit; a consumer ignores what it does not know.

pub mod ack;
pub mod alert;
pub mod cloudevent;
pub mod command;
pub mod heartbeat;
pub mod identity;
pub mod notice;
pub mod outbox;
pub mod result;
pub mod schema;
pub mod state;
pub mod status;
pub mod topics;
pub mod update;
