//! What happens in the daemon, for whoever wants to watch: the demo today, the device's page later. Watching
//! never slows what is watched: a watcher who falls behind loses the oldest and is told so.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::agent::config::CameraId;
use crate::agent::incident::Transition;
use crate::agent::infer::Score;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A camera came, went or ended.
    Camera {
        /// Which.
        camera: CameraId,
        /// Its new state, in words.
        state: String,
    },
    /// A window was scored.
    Score(Score),
    /// An incident changed.
    Incident(Arc<Transition>),
    /// A clip is whole and in place, or lost.
    Clip {
        /// Its incident.
        incident: uuid::Uuid,
        /// Path below the state directory, or why there is none.
        result: Result<String, String>,
    },
}

/// Where events are announced and watched; clones share it.
#[derive(Debug, Clone)]
pub struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Events(broadcast::Sender::new(256))
    }
}

impl Events {
    /// Tells whoever watches; nobody may.
    pub fn announce(&self, event: Event) {
        // The error says that nobody watches.
        self.0.send(event).ok();
    }

    /// Watches from now on.
    pub fn watch(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}
