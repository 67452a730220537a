//! `[upload]`: its keys, defaults and limits, and which of them go together.

use super::camera::{Context, named_schedule};
use super::kind::{boolean, choice, integer};
use super::section::Section;
use super::units::Unit;
use super::url::{self, Place};
use super::{Upload, UploadPolicy, UploadTarget, secret};

const POLICIES: [(&str, Option<UploadPolicy>); 3] =
    [("never", None), ("on_request", Some(UploadPolicy::OnRequest)), ("always", Some(UploadPolicy::Always))];

/// Reads the section. What it names is looked at whatever its policy, so that a policy can be changed alone.
pub(super) fn read(s: &mut Section<'_>, context: &Context<'_>) -> Option<Option<Upload>> {
    let policy = s.or("policy", None, choice(POLICIES));
    let place = s.optional("url", url::upload());
    let endpoint = s.optional("endpoint", url::endpoint_of_s3());
    let region = s.or_text("region", "us-east-1", url::region());
    let ca = s.optional("ca_file", secret::certificates_pem(context.base_dir));
    let credentials = s.optional("credentials_file", secret::credentials(context.base_dir));
    let allow_plaintext = s.or("allow_plaintext", false, boolean());
    let kbps = integer(8..=10_000_000, Some(Unit::KilobitsPerSecond)).map(|kbps| u64::from(kbps) * 125);
    let limit_bytes_per_s = s.optional("limit_kbps", kbps);
    let schedule = named_schedule(s, context);
    let part = integer(6..=100, Some(Unit::Megabytes)).map(|mb| mb as usize * 1_000_000);
    let part_bytes = s.or("part_mb", 8_000_000, part);

    if let (Some(Some(policy)), Some(None)) = (policy, &place) {
        let word = POLICIES.iter().find(|(_, p)| *p == Some(policy)).map_or("", |(word, _)| word);
        let remedy = "give s3://bucket[/prefix] or https://host[:port][/path], or set policy = \"never\"";
        s.problem("url", format!("is missing, and policy is {word:?}"), remedy);
    }
    check_encrypted(s, place.as_ref()?.as_ref(), endpoint.as_ref()?.as_ref(), allow_plaintext);
    let target = match place? {
        None => None,
        Some(Place::Bucket { bucket, prefix }) => {
            if !s.has("credentials_file") {
                let remedy = "name a file of two lines, access key and secret key, that only its owner may read";
                s.problem("credentials_file", "is missing, and s3:// needs it", remedy);
            }
            let endpoint = endpoint?.map(|place| place.url);
            Some(UploadTarget::S3 { bucket, prefix, endpoint, region: region? })
        }
        Some(Place::Web(place)) => {
            for key in ["endpoint", "region"] {
                if s.has(key) {
                    s.problem(key, "goes with s3:// only", "leave it out, or give an s3:// url");
                }
            }
            Some(UploadTarget::Http { url: place.url })
        }
    };
    let (ca_pem, credentials, limit_bytes_per_s) = (ca?, credentials?, limit_bytes_per_s?);
    let (policy, schedule, part_bytes) = (policy?, schedule?, part_bytes?);
    let upload = policy.zip(target).map(|(policy, target)| Upload {
        policy,
        target,
        ca_pem,
        credentials,
        limit_bytes_per_s,
        schedule,
        part_bytes,
    });
    Some(upload)
}

fn check_encrypted(s: &Section<'_>, place: Option<&Place>, endpoint: Option<&url::Web>, allow_plaintext: Option<bool>) {
    let (key, web) = match (place, endpoint) {
        (Some(Place::Web(web)), _) => ("url", web),
        (_, Some(web)) => ("endpoint", web),
        _ => return,
    };
    if !web.tls && s.has("ca_file") {
        s.problem("ca_file", "has no meaning with http://, which is unencrypted", "use https:// or leave it out");
    }
    if !web.tls && !web.is_loopback() && allow_plaintext == Some(false) {
        s.problem(
            key,
            "clips and passwords would cross the network unencrypted",
            "use https://, or set allow_plaintext = true if the network itself is protected",
        );
    }
}
