//! `[adapters.*]`: whose formats the uplink speaks besides the contract's, and where.

use super::kind::{Fault, Kind, boolean, is_name};
use super::section::Section;
use super::{Adapters, FrigateAdapter, HomeAssistantAdapter, OnvifAdapter};

/// Reads the sections. `connected`: there is a broker to speak to.
pub(super) fn read(s: &mut Section<'_>, connected: bool) -> Option<Adapters> {
    let onvif = one(s, "onvif", "prefix", "vedette/v1", connected);
    let home_assistant = one(s, "home_assistant", "discovery_prefix", "homeassistant", connected);
    let frigate = one(s, "frigate", "prefix", "frigate", connected);
    Some(Adapters {
        onvif: onvif?.map(|prefix| OnvifAdapter { prefix }),
        home_assistant: home_assistant?.map(|discovery_prefix| HomeAssistantAdapter { discovery_prefix }),
        frigate: frigate?.map(|prefix| FrigateAdapter { prefix }),
    })
}

/// The prefix of one adapter, if it is switched on.
fn one(
    s: &mut Section<'_>,
    name: &'static str,
    key: &'static str,
    default: &str,
    connected: bool,
) -> Option<Option<String>> {
    s.section(name, |s| {
        let enabled = s.or("enabled", false, boolean());
        let prefix = s.or_text(key, default, topic());
        if enabled == Some(true) && !connected {
            s.problem("enabled", "has nobody to speak to without [mqtt]", "add the section [mqtt], or leave it off");
            return None;
        }
        let (enabled, prefix) = (enabled?, prefix?);
        Some(enabled.then_some(prefix))
    })
}

/// The first levels of a topic.
fn topic<'a>() -> Kind<'a, String> {
    Kind::of_text("1 to 8 levels of 1 to 64 of a-z A-Z 0-9 _ -, with / between them", |text| {
        let levels: Vec<&str> = text.split('/').collect();
        if levels.len() <= 8 && levels.iter().all(|level| is_name(level)) {
            Ok(text.to_owned())
        } else {
            Err(Fault::new(format!("is no beginning of a topic: {text:?}")))
        }
    })
}
