//! The fleet manager's wing: what signs releases, enrols devices and rolls releases out.
//!
//! ```text
//!   keys ─► release ─► a TUF repository: static files, on any web server ─────────────► devices look there
//!   enrol ─► a bundle, or an answer to a device's request ─► identity of a device       ▲
//!   rollout ─► `update_model` over MQTT, wave by wave; `update` messages come back ─────┘
//! ```
//!
//! It may use the agent: a release is judged by the device's own pipeline. What does not belong here: anything that a
//! device needs.

pub mod cli;
pub mod keys;
pub mod release;
pub mod rollout;
pub mod enrol;
