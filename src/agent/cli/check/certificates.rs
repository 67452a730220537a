//! Certificates and keys of `[mqtt]` and `[http]`, loaded as the daemon loads them, and held against the clock. What a
//! broker or a browser thinks of them only they can tell.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Note;
use crate::agent::config::x509::Certificate;
use crate::agent::config::{Config, Problem};
use crate::agent::health::Sensors;
use crate::agent::http::tls::Identity;
use crate::agent::uplink;
use crate::base::clock::{Clock, SystemClock, Wall};
use crate::base::error::Chain;

/// What is wrong, and what may be.
pub(super) fn judge(config: &Config) -> (Vec<Problem>, Vec<Note>) {
    let clock = SystemClock::new();
    let now = Now {
        wall: clock.wall(),
        is_known: Sensors::of_machine(&config.paths.state_dir).knows_time_of_day(clock.wall()),
    };
    let (mut problems, mut notes) = (Vec::new(), Vec::new());
    let mut unusable = |key: &str, message: String| {
        problems.push(problem(key, message, "give a certificate and the key that it was made for"));
    };
    let mut dated = Vec::new();
    // What the daemon alone sees (a systemd credential) is not judged, as elsewhere in `check`.
    if let Some((tls, Ok(pem))) = config.mqtt.as_ref().and_then(|mqtt| mqtt.tls.as_ref()).map(|tls| (tls, tls.read())) {
        if let Err(why) = uplink::check_tls(&pem, &tls.alpn, Arc::new(clock)) {
            let why = why.to_string();
            unusable(if why.starts_with("ca_file") { "mqtt.ca_file" } else { "mqtt.cert_file" }, why);
        }
        dated.extend(pem.client.map(|(certificate, _)| ("mqtt.cert_file", certificate)));
    }
    if let Some(pair) = &config.http.certificate {
        if let Err(e) = Identity::given(pair) {
            unusable("http.cert_file", Chain(&e).to_string());
        }
        dated.push(("http.cert_file", pair.0.clone()));
    }
    for (key, pem) in dated {
        match now.objects_to(&pem) {
            Some(why) if now.is_known => problems.push(problem(key, why, "renew it, or set the clock")),
            Some(why) => notes.push(Note {
                key: key.to_owned(),
                message: format!("{why}, but this machine does not know the time yet"),
            }),
            None => {}
        }
    }
    (problems, notes)
}

fn problem(key: &str, message: String, remedy: &str) -> Problem {
    Problem { key: key.to_owned(), line: None, message, remedy: remedy.to_owned() }
}

/// The time, and whether it is to be gone by.
struct Now {
    wall: Wall,
    is_known: bool,
}

impl Now {
    /// Why a certificate is not valid now. One that cannot be read is none of its business.
    fn objects_to(&self, pem: &[u8]) -> Option<String> {
        let certificate = Certificate::read(&CertificateDer::from_pem_slice(pem).ok()?)?;
        let (Certificate { not_before, not_after, .. }, now) = (certificate, self.wall);
        match () {
            () if now < not_before => {
                Some(format!("is valid from {} on, and it is {}", not_before.rfc3339(), now.rfc3339()))
            }
            () if now > not_after => Some(format!("expired {}, and it is {}", not_after.rfc3339(), now.rfc3339())),
            () => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_held_against_the_clock() {
        let mut params = rcgen::CertificateParams::default();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
        let pem = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
        let at = |text: &str| {
            let wall = Wall::from_unix_ms(text.parse::<jiff::Timestamp>().unwrap().as_millisecond());
            Now { wall, is_known: true }.objects_to(pem.as_bytes()).unwrap_or_default()
        };
        assert!(at("2019-06-01T00:00:00Z").starts_with("is valid from 2020-01-01"));
        assert_eq!(at("2020-06-01T00:00:00Z"), "");
        assert!(at("2021-06-01T00:00:00Z").starts_with("expired 2021-01-01"));
        assert_eq!(Now { wall: Wall::from_unix_ms(0), is_known: true }.objects_to(b"no PEM"), None);
    }
}
