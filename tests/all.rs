//! Integration tests, one module per behaviour.

mod capture;
mod common;
