//! Integration tests, one module per behaviour, one binary: linking GStreamer, SQLite and TLS once.

mod layering;
