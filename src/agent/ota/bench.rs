//! What an update needs of the rest of the device. `run` implements it.

use super::fault::Trouble;
use super::judge::{ShadowSeen, TrialSeen};
use super::prove::Found;
use crate::agent::infer::Engine;
use crate::agent::infer::manifest::Manifest;
use crate::agent::infer::model::Model;
use crate::base::stop::StopToken;
use crate::contract::alert::ModelRef;
use crate::contract::notice::Trouble as Notice;
use crate::contract::update::{UpdateReport, UpdateStatus};

/// A model, made ready in this process.
pub struct Ready {
    /// The best engine that this machine has for it.
    pub engine: Engine,
    /// Median time of a frame and its share of a window on it, milliseconds; none: it runs on what proved it.
    pub frame_ms: Option<f64>,
}

/// Where models look and serve. Calls may take a while; they come from the updater's thread alone.
pub trait Bench: Send + Sync {
    /// What serves now.
    fn serves(&self) -> ModelRef;
    /// Whether this device's configuration goes with a model; else why not.
    fn fits(&self, manifest: &Manifest) -> Result<(), String>;
    /// Whether it can take over while capture goes on: it samples the same pixels at the same rate as what serves.
    fn is_hot(&self, manifest: &Manifest) -> bool;
    /// Proves a model in a process of its own; `loaded` is called when it could be loaded there.
    fn prove(&self, model: &Model, stop: &StopToken, loaded: &mut dyn FnMut()) -> Result<Found, Trouble>;
    /// Loads a model that has been proven.
    fn ready(&self, model: &Model, stop: &StopToken) -> Result<Ready, Trouble>;
    /// Lets it look at what the cameras see, beside what serves; nobody hears of it.
    fn shadow(&self, model: &Model, engine: Engine);
    /// What has been seen of it.
    fn shadow_seen(&self) -> ShadowSeen;
    /// Lets go of what looks on.
    fn end_shadow(&self);
    /// What looks on, this model, serves from now on: returns when it does.
    fn promote(&self, model: &Model) -> Result<(), Trouble>;
    /// What has been seen of what serves, since it does.
    fn trial_seen(&self) -> TrialSeen;
    /// Another model serves again: returns when it does.
    fn take_back(&self, model: &Model) -> Result<(), Trouble>;
    /// Ends the daemon in good order; it is started again.
    fn restart(&self);
    /// Incidents a second over the device's history, tests not counted.
    fn incidents_per_s(&self) -> f64;
    /// Whether the device knows the time of day.
    fn knows_time_of_day(&self) -> bool;
}

/// Where an update tells of itself.
pub trait Journal: Send + Sync {
    /// A step: into the history and on its way to the SOC, in one; whether it is there.
    fn step(&self, report: &UpdateReport) -> bool;
    /// How it stands has changed.
    fn status(&self, status: UpdateStatus);
    /// Trouble of the device's, or that it is over.
    fn trouble(&self, trouble: Notice, words: Option<String>);
}
