//! Whether what is measured is measured beside a daemon: its decoding and its engine are load, and what comes out is not
//! to be compared with another device's.

use std::path::Path;
use std::time::Duration;

use crate::agent::http::client::{self, ClientError};

/// The daemon has better things to do when it is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// The daemon that runs, in words for people; none: there is none.
pub fn daemon(runtime_dir: &Path) -> anyhow::Result<Option<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(match runtime.block_on(client::status(runtime_dir, PATIENCE)) {
        Ok(status) => {
            let engine = status["health"]["inference"]["engine"].as_str().unwrap_or("no engine");
            Some(format!("beside a daemon that runs ({engine}): these times are under its load"))
        }
        Err(ClientError::Absent { source, .. }) if source.kind() != std::io::ErrorKind::PermissionDenied => None,
        Err(_) => Some("beside a daemon that does not say what it does: these times may be under its load".into()),
    })
}
