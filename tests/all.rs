//! Integration tests, one module per behaviour, one binary: linking GStreamer, SQLite and TLS once.

mod broker_faults;
mod broker_kills;
mod broker_sessions;
mod bystanders;
mod capture;
mod capture_cameras;
mod changes;
mod commands;
mod common;
mod control;
mod daemon;
mod disk;
mod discovery;
mod faults;
mod faults_rtsp;
mod fuzz;
mod kills;
mod layering;
mod links;
mod masks;
mod metrics;
mod rtsp_oddities;
mod service;
mod uplink;
mod uploads;
