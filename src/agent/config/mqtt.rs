//! `[mqtt]`: its keys, defaults and limits, and which of them go together.

use std::path::Path;
use std::time::Duration;

use super::kind::{Fault, Kind, boolean, days, days_long, distinct, fraction, integer, name, seconds};
use super::section::Section;
use super::units::Unit;
use super::{Broker, ClientFiles, Mqtt, MqttTls, secret, url};

/// Reads the section.
pub(super) fn read(s: &mut Section<'_>, base_dir: &Path) -> Option<Mqtt> {
    let brokers = s.required("url", url::brokers());
    let allow_plaintext = s.or("allow_plaintext", false, boolean());
    let ca = s.optional("ca_file", secret::certificates(base_dir));
    let cert = s.optional("cert_file", secret::certificates(base_dir));
    let key = s.optional("key_file", secret::private_key(base_dir));
    let alpn = s.or("alpn", Vec::new(), distinct(protocol()));
    let credentials = s.optional("credentials_file", secret::credentials_file(base_dir));
    let heartbeat_every = s.or("heartbeat_s", Duration::from_secs(30), seconds(1..=3600));
    let keep_alive = s.or("keep_alive_s", Duration::from_secs(30), seconds(5..=3600));
    let renew_at = s.or("renew_at", 0.33, fraction(0.05..=0.95));
    let consumers = s.or("consumers", vec!["soc".to_string()], distinct(name()));
    let keep = s.or("keep_days", days_long(30), days(3650));
    let megabytes = integer(10..=100_000, Some(Unit::Megabytes)).map(|mb| u64::from(mb) * 1_000_000);
    let keep_bytes = s.or("keep_mb", 500_000_000, megabytes);
    let thumbnails = s.or("thumbnails", false, boolean());

    check_client_certificate(s);
    if let Some(brokers) = &brokers {
        check_encryption(s, brokers, allow_plaintext);
    }
    let (brokers, ca, client) = (brokers?, ca?, cert?.zip(key?));
    let tls = match (brokers.iter().any(|b| b.tls), ca) {
        (true, Some(ca_file)) => {
            Some(MqttTls { ca_file, client: client.map(|(cert, key)| ClientFiles { cert, key }), alpn: alpn? })
        }
        // Noted by `check_encryption`.
        (true, None) => return None,
        (false, _) => None,
    };
    Some(Mqtt {
        brokers,
        tls,
        credentials_file: credentials?,
        heartbeat_every: heartbeat_every?,
        keep_alive: keep_alive?,
        renew_at: renew_at?,
        consumers: consumers?,
        keep: keep?,
        keep_bytes: keep_bytes?,
        thumbnails: thumbnails?,
    })
}

/// A protocol's name in the TLS handshake (RFC 7301), such as `mqtt`.
fn protocol<'a>() -> Kind<'a, String> {
    Kind::of_text("1 to 32 printable characters, such as \"mqtt\"", |text| {
        match (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            true => Ok(text.to_owned()),
            false => Err(Fault::new("is no name of a protocol")),
        }
    })
}

fn check_client_certificate(s: &Section<'_>) {
    for (one, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if s.has(one) && !s.has(other) {
            s.problem(one, format!("stands without {other}"), "give both or neither");
        }
    }
}

fn check_encryption(s: &Section<'_>, brokers: &[Broker], allow_plaintext: Option<bool>) {
    if brokers.iter().any(|b| !b.tls && !b.is_loopback()) && allow_plaintext == Some(false) {
        s.problem(
            "url",
            "alerts and passwords would cross the network unencrypted",
            "use mqtts:// or wss://, or set allow_plaintext = true if the network itself is protected",
        );
    }
    if brokers.iter().any(|b| b.tls) {
        if !s.has("ca_file") {
            let remedy = "mqtts:// and wss:// need the PEM file of the authority that signed the broker's certificate";
            s.problem("ca_file", "is missing", remedy);
        }
        return;
    }
    for key in ["ca_file", "cert_file", "key_file", "alpn"] {
        if s.has(key) {
            let remedy = "use mqtts:// or wss://, or leave it out";
            s.problem(key, "has no meaning with mqtt:// and ws://, which are unencrypted", remedy);
        }
    }
}
