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
mod contract;
mod daemon;
mod disk;
mod discovery;
#[cfg(feature = "fleet")]
mod enrolment_walkthrough;
mod faults;
mod faults_rtsp;
mod fuzz;
mod kills;
mod layering;
mod links;
mod masks;
mod metrics;
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
