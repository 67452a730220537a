//! Integration tests, one module per behaviour, one binary: linking GStreamer, SQLite and TLS once.

mod capture;
mod capture_cameras;
mod commands;
mod common;
mod daemon;
mod disk;
mod faults;
mod fuzz;
mod kills;
mod layering;
mod service;
mod uplink;
