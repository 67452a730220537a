//! Certificates, a key, or a password that are renewed on the disk while a connection stands.
//!
//! The next connection is made with them before the present one is let go: to the broker it is the same client, who takes
//! its session over. A file that is broken, or that the broker does not accept, therefore costs nothing: the present
//! connection stays, the error is said once, and the files are looked at again. What was on its way and not
//! acknowledged is sent again over the new connection, with the same id.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::access::{Access, Stamp};
use super::heartbeat::Reporter;
use super::session::Connection;
use crate::base::error::Chain;

/// Files that did not do are tried again after so long even where they stay the same: it may have been the network.
const AGAIN_AFTER: Duration = Duration::from_secs(300);

/// The way from one connection to the next.
pub(super) struct Renewal {
    pub(super) access: Arc<Access>,
    pub(super) reporter: Reporter,
    /// The next connection's number.
    pub(super) session: u64,
    connecting: AtomicBool,
}

impl Renewal {
    pub(super) fn new(access: Arc<Access>, reporter: Reporter, session: u64) -> Self {
        Renewal { access, reporter, session, connecting: AtomicBool::new(false) }
    }

    /// The next connection, once other files than those of the present one are there and do.
    pub(super) async fn next(&self, made_with: &Stamp) -> Connection {
        let mut tried = made_with.clone();
        let mut again_after = Duration::MAX;
        loop {
            tokio::select! {
                () = self.access.changed(&tried) => {}
                () = tokio::time::sleep(again_after) => {}
            }
            tried = self.access.stamp().await;
            if tried == *made_with {
                // Back to what they were.
                again_after = Duration::MAX;
                continue;
            }
            self.connecting.store(true, Ordering::Relaxed);
            let next = self.access.connect(self.reporter.will(self.session)).await;
            match next {
                Ok(next) => return next,
                Err(e) => log::error!("renewed files do not do; the present connection stays: {}", Chain(&e)),
            }
            self.connecting.store(false, Ordering::Relaxed);
            again_after = AGAIN_AFTER;
        }
    }

    /// Whether the next connection is being made: the present one may end by it.
    pub(super) fn under_way(&self) -> bool {
        self.connecting.load(Ordering::Relaxed)
    }
}
