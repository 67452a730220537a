//! Integration tests, one module per behaviour, one binary: linking GStreamer, SQLite and TLS once.

mod adapters;
mod bystanders;
mod capture;
mod capture_cameras;
mod changes;
mod commands;
mod common;
mod consumers;
mod contract;
mod daemon;
mod disk;
mod discovery;
mod faults;
mod faults_rtsp;
mod fuzz;
mod kills;
mod layering;
mod masks;
mod rtsp_oddities;
mod service;
mod uplink;
