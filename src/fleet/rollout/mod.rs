//! Roll-outs: a release is offered to the fleet wave by wave, watched, and stopped by itself when it does harm.
//!
//! ```text
//!   broker ─► fleet ─► observations ─┐                       ┌─► store: the new state, if nobody else was faster
//!   store ──────────► state ─────────┴─► step (pure) ─► then ┴─► fleet ─► broker: `update_model`, `cancel_update`
//!                                         plan, gates
//! ```
//!
//! What belongs here: which device is offered what and when, and why no more. What does not: whether a release is to be
//! trusted (the device decides that by signed metadata), tables for a terminal (`cli`).
//!
//! Invariants: what is sent follows from what is stored, and is stored first; so a manager may be killed at any moment, and
//! two may run at once. A command has the same id whoever sends it, however often. What is known of a device only grows:
//! messages that come twice, late or in another order change nothing.

pub mod fleet;
pub mod gates;
pub mod inventory;
pub mod manager;
pub mod observe;
pub mod orders;
pub mod plan;
pub mod settings;
pub mod state;
pub mod statistics;
pub mod step;
pub mod store;
pub mod tls;
pub mod view;
