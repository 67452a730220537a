//! Starting stages (threads) and tasks (on the network's runtime) so that the watchdog knows them and that the end of one
//! that must not end is the end of the daemon.

use tokio::runtime::Runtime;

use super::StartError;
use crate::base::progress::{Beat, Progress};
use crate::base::stage::Stage;
use crate::base::stop::StopToken;

/// A task on the network's runtime.
pub struct Task {
    pub name: &'static str,
    pub stop: StopToken,
    pub handle: tokio::task::JoinHandle<()>,
}

/// Starts stages that the watchdog knows and whose panic ends the daemon.
pub struct Spawner {
    pub progress: Progress,
    pub panicked: StopToken,
}

impl Spawner {
    pub fn stage(
        &self,
        name: impl Into<String>,
        body: impl FnOnce(&Beat) + Send + 'static,
    ) -> Result<Stage, StartError> {
        let name = name.into();
        let (beat, panicked) = (self.progress.register(&name), self.panicked.clone());
        Stage::spawn(name.clone(), move || panicked.stop(), move || body(&beat))
            .map_err(|source| StartError::Thread { what: name, source })
    }

    /// A task that is to run until its stop: one that panics or ends before ends the daemon, as a stage's panic does.
    pub fn task(
        &self,
        runtime: &Runtime,
        name: &'static str,
        stop: StopToken,
        body: impl Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    ) -> Task {
        let (asked, panicked) = (stop.clone(), self.panicked.clone());
        let inner = runtime.spawn(body);
        let handle = runtime.spawn(async move {
            let ended = inner.await;
            if let Ok(Err(e)) = &ended {
                log::error!("{name}: {}", crate::base::error::Chain(e.as_ref()));
            }
            if !asked.is_stopped() || ended.is_err() {
                log::error!("{name} has ended and must not");
                panicked.stop();
            }
        });
        Task { name, stop, handle }
    }
}
