//! The store as its users see it.

mod durability;
mod files;
mod model;
mod rig;
mod rows;
