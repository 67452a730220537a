//! The store as its users see it.

mod durability;
mod files;
mod model;
mod retention;
mod rig;
mod rows;
mod soc;
