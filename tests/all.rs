//! Integration tests, one module per behaviour.

mod capture;
mod capture_cameras;
mod common;
