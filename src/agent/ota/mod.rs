//! Models over the air: signed, proven, reversible. No attacker and no accident puts this device on a bad model, and
//! whenever it loses power it wakes up classifying.
//!
//! ```text
//!   command "look" ─► updates ─► updater ─┬─ trust (TUF) ◄── remote ◄── repository: a web server, a USB stick
//!                     (ledger)            ├─ fetch ─► slots
//!                        │                ├─ prove (a child process)
//!                        ▼                ├─ bench: shadow, trial      (`run` implements it)
//!                    the disk first       └─ judge
//! ```
//!
//! | file | is |
//! |---|---|
//! | `ledger` | what the device knows of its models; every transition (pure) |
//! | `updates` | the ledger in use: commands on one side, the updater on the other |
//! | `updater` | the thread that moves a release on |
//! | `trust`, `remote`, `fault` | signed metadata, the way to them, and the attacks by their names |
//! | `slots`, `fetch` | models on the disk, and how they come there |
//! | `prove`, `judge` | what a model must show, alone, in shadow and on trial |
//! | `bench` | what an update needs of the rest of the device (traits) |
//!
//! What does not belong here: how a model looks at frames (`infer`), who serves (`run`), the agent's own updates (the
//! package manager's affair: `deploy/fleet`).

pub mod bench;
pub mod fault;
pub mod fetch;
pub mod judge;
pub mod ledger;
pub mod prove;
pub mod remote;
pub mod slots;
pub mod trust;
pub mod updater;
pub mod updates;
