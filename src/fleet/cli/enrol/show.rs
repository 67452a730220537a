//! What is printed of the registry.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use crate::agent::cli::out::Out;
use crate::base::clock::Wall;
use crate::fleet::enrol::authority::Authority;
use crate::fleet::enrol::registry::{Holder, Issued, Registry};

/// A device, in a line.
#[derive(Debug, Serialize)]
struct Row<'a> {
    name: &'a str,
    groups: &'a [String],
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_after: Option<String>,
}

fn row<'a>(name: &'a str, holder: &'a Holder, now: Wall) -> Row<'a> {
    let current = holder.current();
    let left = |c: &Issued| c.not_after_unix_ms.unix_ms() - now.unix_ms();
    let state = match current {
        _ if holder.revoked_unix_ms.is_some() => "revoked",
        None => "withdrawn",
        Some(c) if left(c) <= 0 => "expired",
        Some(c) if left(c) < Duration::from_secs(14 * 24 * 3600).as_millis() as i64 => "expires soon",
        Some(_) => "good",
    };
    let serial = current.map(|c| c.serial.as_str());
    Row { name, groups: &holder.groups, state, serial, not_after: current.map(|c| c.not_after_unix_ms.rfc3339()) }
}

/// Everybody, a line each.
pub fn list(ca: &Path, json: bool, now: Wall, out: &mut Out) -> anyhow::Result<()> {
    Authority::open(ca)?;
    let registry = Registry::read(ca)?;
    for (name, holder) in registry.devices.iter().chain(&registry.others) {
        let row = row(name, holder, now);
        match json {
            true => out.json(&row)?,
            false => {
                let until = row.not_after.as_deref().unwrap_or("-");
                let (serial, groups) = (row.serial.unwrap_or("-"), row.groups.join(","));
                out.line(
                    format_args!("{name:32} {:12} {serial:32} {until} {groups}", row.state).to_string().trim_end(),
                )?;
            }
        }
    }
    match registry.crl_next_unix_ms {
        Some(next) if !json => {
            out.line(format_args!("revocation list {}: until {}", registry.crl_number, next.rfc3339()))?
        }
        _ => {}
    }
    Ok(())
}

/// One of them, with all its certificates.
pub fn one(ca: &Path, name: &str, json: bool, now: Wall, out: &mut Out) -> anyhow::Result<()> {
    Authority::open(ca)?;
    let registry = Registry::read(ca)?;
    let holder = registry.devices.get(name).or_else(|| registry.others.get(name));
    let holder = holder.with_context(|| format!("{name} is not enrolled: vedette-fleet enrol list says who is"))?;
    if json {
        return Ok(out.json(holder)?);
    }
    let row = row(name, holder, now);
    out.line(format_args!("{name}: {}; groups: {}", row.state, holder.groups.join(", ")))?;
    for c in &holder.certificates {
        let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let (purpose, standing) = (serde_json::to_value(c.purpose)?, serde_json::to_value(c.standing)?);
        out.line(format_args!(
            "  {} {:8} {:10} since {}, valid until {}",
            c.serial,
            word(purpose),
            word(standing),
            c.since_unix_ms.rfc3339(),
            c.not_after_unix_ms.rfc3339()
        ))?;
    }
    Ok(())
}
