//! Who this device is to others: its site and name, its key, its certificate; how it comes to them, and how they are renewed.
//!
//! ```text
//!   bundle or answer ─► provision ─► identity/current/ ─► uplink shows it
//!                                        ▲                   │ a third of its life is left, or its key has travelled
//!                                        │                   ▼
//!   `install_certificate` ◄─ the fleet ◄─ request (a new key, made here)
//! ```
//!
//! | file | is |
//! |---|---|
//! | `bundle` | what `vedette-fleet enrol` gives out for a device |
//! | `papers` | what certificates say, and whether one holds |
//! | `holdings` | all of it on the disk |
//! | `provision`, `config_text`, `wipe` | how it comes there, how the configuration learns of it, how it goes |
//! | `renewal` | the next certificate, in time |
//! | `key` | keys made here, and requests for their certificates |
//! | `passphrase` | where one comes from |
//!
//! What does not belong here: the connection (`uplink`), and whom the fleet trusts (`fleet::enrol`).
//!
//! Invariants: a private key is written with mode 0600 and shows in no message; a certificate is taken only for a key that
//! was made here or came in the bundle of this device, and only if the fleet's authority has signed it.

pub mod bundle;
pub mod config_text;
pub mod holdings;
pub mod key;
pub mod papers;
pub mod passphrase;
pub mod provision;
pub mod renewal;
pub mod wipe;
