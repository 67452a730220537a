//! The device. The modules stand in the order of the flow; each may import those above it, none below.
//!
//! A stage owns its output type. Only [`run`] knows all the stages.

pub mod config;
pub mod health;
pub mod identity;
pub mod capture;
pub mod ring;
pub mod infer;
pub mod incident;
pub mod store;
pub mod clip;
pub mod upload;
pub mod uplink;
pub mod ota;
pub mod control;
pub mod http;
pub mod run;
pub mod cli;
