//! `[mqtt]`: its keys, defaults and limits, and which of them go together.

use std::path::Path;
use std::time::Duration;

use super::kind::{boolean, days, days_long, distinct, integer, name, seconds};
use super::section::Section;
use super::units::Unit;
use super::url::Broker;
use super::{Mqtt, MqttTls, secret, url};

/// Reads the section.
pub(super) fn read(s: &mut Section<'_>, base_dir: &Path) -> Option<Mqtt> {
    let broker = s.required("url", url::broker());
    let allow_plaintext = s.or("allow_plaintext", false, boolean());
    let ca = s.optional("ca_file", secret::certificates(base_dir));
    let cert = s.optional("cert_file", secret::certificates(base_dir));
    let key = s.optional("key_file", secret::private_key(base_dir));
    let credentials = s.optional("credentials_file", secret::credentials(base_dir));
    let heartbeat_every = s.or("heartbeat_s", Duration::from_secs(30), seconds(1..=3600));
    let keep_alive = s.or("keep_alive_s", Duration::from_secs(30), seconds(5..=3600));
    let consumers = s.or("consumers", vec!["soc".to_string()], distinct(name()));
    let keep = s.or("keep_days", days_long(30), days(3650));
    let megabytes = integer(10..=100_000, Some(Unit::Megabytes)).map(|mb| u64::from(mb) * 1_000_000);
    let keep_bytes = s.or("keep_mb", 500_000_000, megabytes);

    check_client_certificate(s);
    match &broker {
        Some(Broker { tls: true, .. }) => check_encrypted(s),
        Some(broker) => check_plaintext(s, broker, allow_plaintext),
        None => {}
    }
    let (broker, client) = (broker?, cert?.zip(key?));
    let tls = match (broker.tls, ca?) {
        (true, Some(ca_pem)) => Some(MqttTls { ca_pem, client }),
        // Noted by `check_encrypted`.
        (true, None) => return None,
        (false, _) => None,
    };
    Some(Mqtt {
        host: broker.host,
        port: broker.port,
        tls,
        credentials: credentials?,
        heartbeat_every: heartbeat_every?,
        keep_alive: keep_alive?,
        consumers: consumers?,
        keep: keep?,
        keep_bytes: keep_bytes?,
    })
}

fn check_client_certificate(s: &Section<'_>) {
    for (one, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if s.has(one) && !s.has(other) {
            s.problem(one, format!("stands without {other}"), "give both or neither");
        }
    }
}

fn check_encrypted(s: &Section<'_>) {
    if !s.has("ca_file") {
        let remedy = "mqtts:// needs the PEM file of the authority that signed the broker's certificate";
        s.problem("ca_file", "is missing", remedy);
    }
}

fn check_plaintext(s: &Section<'_>, broker: &Broker, allow_plaintext: Option<bool>) {
    if !broker.is_loopback() && allow_plaintext == Some(false) {
        s.problem(
            "url",
            "alerts and passwords would cross the network unencrypted",
            "use mqtts://, or set allow_plaintext = true if the network itself is protected",
        );
    }
    for file in ["ca_file", "cert_file", "key_file"] {
        if s.has(file) {
            s.problem(file, "has no meaning with mqtt://, which is unencrypted", "use mqtts:// or leave it out");
        }
    }
}
