//! `vedette cameras --network`: who answers WS-Discovery, and the section to paste for each.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::json;

use super::super::Outcome;
use super::super::out::Out;
use crate::agent::capture::discovery::{GROUP, NetworkCamera, PORT, Search, own_addresses, search};
use crate::base::clock::SystemClock;

/// How the network is searched.
#[derive(Debug, clap::Args)]
pub struct NetworkArgs {
    /// List the cameras in the network instead, by ONVIF's WS-Discovery
    #[arg(long)]
    pub network: bool,

    /// Ask from this network interface only, by name or IPv4 address [default: from all]
    #[arg(long, value_name = "NAME", requires = "network")]
    interface: Option<String>,

    /// Ask this address alone, also behind a router; may be repeated [default: the multicast group]
    #[arg(long, value_name = "ADDRESS", requires = "network", value_parser = whom)]
    ask: Vec<SocketAddr>,

    /// How long to wait for answers
    #[arg(long, value_name = "SECONDS", requires = "network", default_value_t = 3,
          value_parser = clap::value_parser!(u16).range(1..=60))]
    wait: u16,
}

/// An address, with or without a port.
fn whom(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT)).or_else(|_| text.parse());
    address.ok().filter(SocketAddr::is_ipv4).ok_or_else(|| "expected an IPv4 address".into())
}

pub fn run(args: &NetworkArgs, as_json: bool) -> anyhow::Result<Outcome> {
    let to = if args.ask.is_empty() { vec![GROUP] } else { args.ask.clone() };
    let from = own_addresses(args.interface.as_deref())?;
    let within = Duration::from_secs(args.wait.into());
    let cameras = search(&Search { from, to, within }, &SystemClock::new())?;
    let mut out = Out::new();
    if as_json {
        let shown = cameras.iter().enumerate().map(|(i, camera)| {
            let mut about = json!(camera);
            about["section"] = section(camera, i + 1).into();
            about
        });
        out.json(&json!({ "cameras": shown.collect::<Vec<_>>() }))?;
    } else if cameras.is_empty() {
        out.line(format_args!(
            "no camera has answered within {} s; is ONVIF (WS-Discovery) switched on in the camera, and is it in the \
             same network? Behind a router use --ask ADDRESS",
            args.wait
        ))?;
    } else {
        for (i, camera) in cameras.iter().enumerate() {
            show(&mut out, camera, i + 1)?;
        }
    }
    Ok(if cameras.is_empty() { Outcome::SomethingWrong } else { Outcome::Good })
}

fn show(out: &mut Out, camera: &NetworkCamera, number: usize) -> anyhow::Result<()> {
    out.line(camera.name.as_deref().or(camera.hardware.as_deref()).unwrap_or("a camera without a name"))?;
    let line = |out: &mut Out, word: &str, text: &str| match text {
        "" => Ok(()),
        text => out.line(format_args!("  {word:<9} {text}")),
    };
    line(out, "address", &camera.address.to_string())?;
    line(out, "hardware", camera.hardware.as_deref().unwrap_or(""))?;
    line(out, "location", &camera.location.join(", "))?;
    line(out, "service", &camera.services.join(", "))?;
    out.line("")?;
    out.line(section(camera, number))?;
    Ok(())
}

/// What is known, and what has to be looked up.
fn section(camera: &NetworkCamera, number: usize) -> String {
    format!(
        "[[camera]]\nid = \"camera-{number}\"\nkind = \"rtsp\"\n\
         # The path is in the camera's manual or its web page, often under \"RTSP\" or \"stream\".\n\
         url = \"rtsp://{}/PATH\"\n# Two lines, user and password; chmod 600.\n#credentials_file = \"camera-{number}.credentials\"\n",
        camera.address
    )
}
