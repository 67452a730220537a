//! The model in use: what scores, thresholds and messages are made by. It can change while the daemon runs.
//!
//! Who changes it is the inference stage alone, at the moment at which another model takes over.

use std::sync::{Arc, RwLock};

use crate::agent::infer::manifest::Manifest;
use crate::agent::infer::model::Model;
use crate::contract::alert::ModelRef;

/// A model that serves, or may.
#[derive(Debug, Clone)]
pub struct InUse {
    /// As others know it.
    pub reference: ModelRef,
    /// What it is.
    pub manifest: Arc<Manifest>,
}

impl InUse {
    /// Of a model.
    pub fn of(model: &Model) -> InUse {
        InUse { reference: model.reference(), manifest: Arc::new(model.manifest().clone()) }
    }
}

/// See the module's doc.
#[derive(Debug)]
pub struct Serving(RwLock<InUse>);

impl Serving {
    /// This one serves.
    pub fn new(model: InUse) -> Serving {
        Serving(RwLock::new(model))
    }

    /// What serves now.
    pub fn now(&self) -> InUse {
        self.0.read().expect("nothing panics under this lock").clone()
    }

    /// Another one serves from now on.
    pub fn is(&self, model: InUse) {
        *self.0.write().expect("nothing panics under this lock") = model;
    }
}
