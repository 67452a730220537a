//! Integration tests, one module per behaviour, one binary: linking GStreamer, SQLite and TLS once.

mod broker_faults;
mod broker_kills;
mod broker_sessions;
mod adapters;
mod bystanders;
mod capture;
mod capture_cameras;
mod certificates;
mod changes;
mod commands;
mod common;
mod control;
mod consumers;
#[cfg(feature = "fleet")]
mod contract;
mod daemon;
mod disk;
mod discovery;
#[cfg(feature = "fleet")]
mod enrolment_walkthrough;
mod faults;
mod faults_rtsp;
#[cfg(feature = "fleet")]
mod fleet_cli;
#[cfg(feature = "fleet")]
mod fleet_keys;
#[cfg(feature = "fleet")]
mod fleet_release;
mod fuzz;
mod kills;
mod layering;
mod links;
mod masks;
mod metrics;
#[cfg(feature = "fleet")]
mod ota;
#[cfg(feature = "fleet")]
mod ota_attacks;
#[cfg(feature = "fleet")]
mod ota_cuts;
#[cfg(feature = "fleet")]
mod ota_trials;
#[cfg(feature = "fleet")]
mod rollout;
#[cfg(feature = "fleet")]
mod rollout_store;
#[cfg(feature = "fleet")]
mod provisioning;
#[cfg(feature = "fleet")]
mod renewal;
mod rtsp_oddities;
mod service;
mod tensorrt;
mod troubles;
mod uplink;
mod uploads;
