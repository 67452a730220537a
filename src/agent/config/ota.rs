//! `[ota]`: its keys, defaults and limits, and which of them go together.

use std::path::Path;
use std::time::Duration;

use super::camera::{Context, named_schedule};
use super::kind::{Fault, Kind, boolean, distinct, fraction, integer, seconds};
use super::section::Section;
use super::units::Unit;
use super::{ClientFiles, Ota, files, secret, url};

/// More than any root metadata has.
const ROOT_MAX_BYTES: u64 = 1 << 20;

/// Reads the section.
pub(super) fn read(s: &mut Section<'_>, context: &Context<'_>) -> Option<Ota> {
    let repository = s.required("repository", url::repository(context.base_dir));
    let root = s.required("root_file", root(context.base_dir));
    let allow_plaintext = s.or("allow_plaintext", false, boolean());
    let ca_pem = s.optional("ca_file", secret::certificates_pem(context.base_dir));
    let cert = s.optional("cert_file", secret::certificates(context.base_dir));
    let key = s.optional("key_file", secret::private_key(context.base_dir));
    let check_every = s.or("check_every_s", Duration::from_secs(3600), seconds(10..=604_800));
    let kbps = integer(8..=10_000_000, Some(Unit::KilobitsPerSecond)).map(|kbps| u64::from(kbps) * 125);
    let limit_bytes_per_s = s.optional("limit_kbps", kbps);
    let schedule = named_schedule(s, context);
    let shadow = s.or("shadow_s", Duration::from_secs(600), seconds(0..=604_800));
    let trial = s.or("trial_s", Duration::from_secs(1800), seconds(1..=604_800));
    let min_agreement = s.or("min_agreement", 0.8, fraction(0.0..=1.0));
    let max_alert_factor = s.or("max_alert_factor", 3, integer(1..=100, None));
    let max_model_bytes = s.or("max_model_mb", 500_000_000, megabytes(1..=4_000));
    let proof_memory_bytes = s.or("proof_memory_mb", 2_000_000_000, megabytes(128..=32_768));
    let proof_within = s.or("proof_within_s", Duration::from_secs(300), seconds(10..=7_200));
    let hardware = s.or("hardware", Vec::new(), distinct(hardware_class()));
    if let Some(Some(place)) = repository.as_ref().map(|r| r.web.as_ref())
        && !place.tls
        && !place.is_loopback()
        && allow_plaintext == Some(false)
    {
        s.problem(
            "repository",
            "what is fetched would cross the network unencrypted",
            "use https://, or set allow_plaintext = true: what is installed is signed, and others may see it",
        );
    }
    let client = match (cert?, key?) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some(ClientFiles { cert, key }),
        (cert, _) => {
            let (there, missing) = if cert.is_some() { ("cert_file", "key_file") } else { ("key_file", "cert_file") };
            s.problem(missing, format!("is missing, and {there} is there"), "give both, or neither");
            return None;
        }
    };
    Some(Ota {
        repository: repository?.url,
        root_json: root?,
        ca_pem: ca_pem?,
        client,
        check_every: check_every?,
        limit_bytes_per_s: limit_bytes_per_s?,
        schedule: schedule?,
        shadow: shadow?,
        trial: trial?,
        min_agreement: min_agreement?,
        max_alert_factor: max_alert_factor?,
        max_model_bytes: max_model_bytes?,
        proof_memory_bytes: proof_memory_bytes?,
        proof_within: proof_within?,
        hardware: hardware?,
    })
}

fn megabytes(range: std::ops::RangeInclusive<u32>) -> Kind<'static, u64> {
    integer(range, Some(Unit::Megabytes)).map(|mb| u64::from(mb) * 1_000_000)
}

/// A root of TUF metadata; whether it signs itself is looked at when it is used.
fn root(base_dir: &Path) -> Kind<'_, Vec<u8>> {
    Kind::of_text("the path of the repository's root.json, as it was given out with the device", move |text| {
        let path = files::resolve(base_dir, text)?;
        let read = || {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut std::io::Read::take(files::open(&path)?, ROOT_MAX_BYTES), &mut bytes)?;
            Ok(bytes)
        };
        let bytes =
            read().map_err(|e: std::io::Error| Fault::new(format!("{}: {}", path.display(), files::why(&e))))?;
        let json: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
        match json.as_ref().and_then(|json| json["signed"]["_type"].as_str()) {
            Some("root") => Ok(bytes),
            _ => Err(Fault::with_remedy(
                format!("{} is no root metadata of TUF", path.display()),
                "take N.root.json from the repository's metadata, over a way that you trust",
            )),
        }
    })
}

fn hardware_class<'a>() -> Kind<'a, String> {
    Kind::of_text("1 to 64 of a-z 0-9 - _", |text| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        match (1..=64).contains(&text.len()) && text.bytes().all(plain) {
            true => Ok(text.to_owned()),
            false => Err(Fault::new(format!("{text:?} is no hardware class"))),
        }
    })
}
