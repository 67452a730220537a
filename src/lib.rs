//! Vedette: the sentry posted ahead of the main body. An edge agent that watches local cameras with a
//! streaming CNN-LSTM, keeps the video around what it sees, and delivers alerts whatever happens.
//!
//! ```text
//!     camera ─► capture ─┬─ access units ─► ring ─────────────────┐
//!       decode, scale,   ├─ frames ──────► infer ───► evidence ─┐ │
//!       encode           └─ small luma ──► analytics ► evidence ┴►incident ─► store (incident + outbox row, one transaction)
//!                                                                   │ │             │
//!                                                                   └─┴─► clip ─────┤ (row first, then the file, then the row done)
//!                                                                                   └─► uplink ─► broker ─► consumer
//! ```
//!
//! # Layers
//!
//! [`base`] and [`contract`] are the foundations. Each program has one wing on top of them: [`agent`] (the
//! device), `fleet` (keys, releases, roll-outs; it may use `agent`), and later `soc`. Inside `agent` a module may import the modules listed before it in
//! `agent/mod.rs` and nothing after it. `tests/layering.rs` enforces all of it.

pub mod base;
pub mod contract;

#[cfg(feature = "agent")]
pub mod agent;

#[cfg(feature = "fleet")]
pub mod fleet;
