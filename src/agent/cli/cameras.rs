//! `vedette cameras`: which local cameras are there (`network`: which others), what they offer, and the section to paste for each.

mod network;

use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::Outcome;
use super::out::Out;
use crate::agent::capture;
use crate::agent::capture::survey::{Found, What, local_cameras};
use crate::agent::capture::v4l2::{Abilities, Kernel, Takes, offered};
use crate::base::error::Chain;

/// Frames a second that the model which comes with the program looks at.
const SAMPLE_FPS: f32 = 8.0;

/// List the cameras that are plugged in, or in the network: what each offers, what would be taken of it, and the [[camera]] section to paste
///
/// A camera is named by its link below /dev/v4l/by-id where it has one (the same camera wherever it is plugged in), else by
/// that below /dev/v4l/by-path (whatever is plugged in there).
/// Looking sets nothing and disturbs nobody. Exit code 0: there are some. 1: there is none, or one that can't be used.
#[derive(Debug, Args)]
pub struct CamerasArgs {
    /// One JSON object: {"cameras": [{"device", "node", "card", "offers", "takes", "controls", "in_use", "problem", "section"}]};
    /// with --network: {"cameras": [{"address", "endpoint", "name", "hardware", "location", "services", "section"}]}
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    network: network::NetworkArgs,
}

/// One camera, as it is shown: what is missing is null.
struct Shown {
    about: Value,
    /// Its lines for a person: a word and what it stands for.
    lines: Vec<(&'static str, String)>,
    title: String,
    section: Option<String>,
    usable: bool,
}

pub fn run(args: CamerasArgs) -> anyhow::Result<Outcome> {
    if args.network.network {
        return network::run(&args.network, args.json);
    }
    capture::init()?;
    let cameras: Vec<Shown> =
        local_cameras(&Kernel, SAMPLE_FPS).iter().enumerate().map(|(i, found)| show(found, i + 1)).collect();
    let mut out = Out::new();
    if args.json {
        out.json(&json!({ "cameras": cameras.iter().map(|c| &c.about).collect::<Vec<_>>() }))?;
    } else if cameras.is_empty() {
        out.line("no camera is plugged in: /dev has no video node that gives pictures")?;
    }
    for camera in cameras.iter().filter(|_| !args.json) {
        out.line(&camera.title)?;
        for (word, text) in &camera.lines {
            out.line(format_args!("  {word:<9} {text}"))?;
        }
        if let Some(section) = &camera.section {
            out.line("")?;
            out.line(section)?;
        }
    }
    let good = !cameras.is_empty() && cameras.iter().all(|c| c.usable);
    Ok(if good { Outcome::Good } else { Outcome::SomethingWrong })
}

fn show(found: &Found, number: usize) -> Shown {
    let device = found.device.display();
    match &found.what {
        What::V4l2 { abilities, choice } => {
            let Abilities { node, card, modes, controls, in_use } = abilities;
            let takes = choice.as_ref().map(ToString::to_string).map_err(|e| Chain(e).to_string());
            let section = takes.is_ok().then(|| v4l2_section(number, &found.device));
            let named = match *node == found.device {
                true => device.to_string(),
                false => format!("{device} ({})", node.display()),
            };
            let mut lines = vec![("device", named), ("offers", offered(modes))];
            lines.push(takes.as_ref().map_or_else(|e| ("problem", e.clone()), |t| ("takes", t.clone())));
            let settable = controls.iter().filter(|c| !c.read_only && c.takes != Takes::Other);
            let said: Vec<String> = settable.clone().map(|c| format!("{} ({})", c.name, c.takes)).collect();
            lines.extend((!said.is_empty()).then(|| ("controls", said.join("; "))));
            lines.extend(in_use.as_ref().map(|holder| ("in use", format!("by {holder}"))));
            let offers = modes.iter().map(|m| {
                let fps = m.rate.map(|r| r.fps());
                json!({ "format": m.format.to_string(), "width": m.width, "height": m.height, "fps": fps })
            });
            let about = json!({
                "device": found.device, "node": node, "card": card,
                "offers": offers.collect::<Vec<_>>(),
                "takes": takes.as_ref().ok(),
                "controls": settable.map(|c| json!({ "name": c.name, "takes": c.takes.to_string() })).collect::<Vec<_>>(),
                "in_use": in_use, "problem": takes.as_ref().err(), "section": section,
            });
            Shown { about, lines, title: card.clone(), usable: section.is_some(), section }
        }
        What::Csi { sensor_id, card } => {
            let section = format!("[[camera]]\nid = \"camera-{number}\"\nkind = \"csi\"\nsensor_id = {sensor_id}\n");
            let takes = "through libargus (nvarguscamerasrc)";
            let about = json!({ "device": found.device, "card": card, "takes": takes, "section": section });
            let lines = vec![("sensor", format!("{sensor_id} ({device})")), ("takes", takes.to_owned())];
            Shown { about, lines, title: card.clone(), section: Some(section), usable: true }
        }
        What::Unknown(e) => {
            let problem = Chain(e).to_string();
            let about = json!({ "device": found.device, "problem": problem });
            let lines = vec![("problem", problem)];
            Shown { about, lines, title: device.to_string(), section: None, usable: false }
        }
    }
}

fn v4l2_section(number: usize, device: &Path) -> String {
    let device = toml::Value::String(device.to_string_lossy().into_owned());
    format!("[[camera]]\nid = \"camera-{number}\"\nkind = \"v4l2\"\ndevice = {device}\n")
}
