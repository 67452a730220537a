//! Integration tests, one module per behaviour.

mod common;

mod uplink;
