//! What follows from what a device says of its certificate: its request is answered, or what it had before is withdrawn.
//!
//! ```text
//!   identity message ─► connected with which? ─► the certificates before that one go on the revocation list
//!                    └─ requested ─► in its own name, enrolled, a new key? ─► signed ─► `install_certificate`
//! ```
//!
//! What does not belong here: MQTT (`line`).
//!
//! Invariant: who a message is from is what its topic says; the broker's access rules let nobody write there but the device.

use super::office::{Office, OfficeError};
use crate::base::clock::Wall;
use crate::contract::command::{Command, Request};
use crate::contract::identity::{IdentityMessage, IdentityState};
use crate::contract::topics::{Channel, DeviceTopics, Name};

/// Larger than any such message.
const LARGEST_BYTES: usize = 64 * 1024;

/// What was done for a message, and is to be.
#[derive(Debug)]
pub enum Answer {
    /// This goes to the device.
    Send {
        /// Its name.
        device: String,
        /// Serial number of its next certificate.
        serial: String,
        /// Where to.
        topic: String,
        /// What.
        payload: Vec<u8>,
    },
    /// A new revocation list is there: this device's earlier certificates are on it.
    Withdrawn(String),
    /// It is not done.
    Refused {
        /// Who asked.
        device: String,
        /// Why.
        why: OfficeError,
    },
}

/// Deals with a message of the broker's.
pub fn answer(office: &Office, topic: &str, payload: &[u8], now: Wall) -> Vec<Answer> {
    let Ok((device, Channel::Identity)) = DeviceTopics::parse(topic) else { return Vec::new() };
    if payload.len() > LARGEST_BYTES {
        return Vec::new();
    }
    let Ok(message) = serde_json::from_slice::<IdentityMessage>(payload) else { return Vec::new() };
    let name = device.broker_user();
    let refused = |why| Answer::Refused { device: name.clone(), why };
    // Whatever it asks for, it says with which it is connected: the certificates before that one are done with.
    let mut done = match office.settle(&name, &message.status.serial, now) {
        Ok(true) => vec![Answer::Withdrawn(name.clone())],
        Ok(false) => Vec::new(),
        Err(why) => return vec![refused(why)],
    };
    if let (IdentityState::Requested, Some(request)) = (message.status.state, &message.status.request_pem) {
        let sent = office.renew(&name, request, now).map(|issued| Answer::Send {
            device: name.clone(),
            topic: device.topic(&Channel::Command(order(&issued.serial))),
            payload: render(issued.pem),
            serial: issued.serial,
        });
        done.push(sent.unwrap_or_else(refused));
    }
    done
}

/// A new id each time: a device that could not carry it out is asked again, and one that has done it says so.
fn order(serial: &str) -> Name {
    let text = format!("certificate-{}-{:08x}", serial.get(..16).unwrap_or(serial), fastrand::u32(..));
    text.parse().expect("hexadecimal digits and dashes")
}

fn render(certificate_pem: String) -> Vec<u8> {
    let request = Request {
        command: Command::InstallCertificate { certificate_pem },
        expires_at: None,
        requested_by: Some("vedette-fleet enrol renew".into()),
    };
    serde_json::to_vec(&request).expect("texts")
}
