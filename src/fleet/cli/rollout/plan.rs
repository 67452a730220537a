//! `vedette-fleet rollout start`: from the command line to a plan.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use crate::base::clock::Wall;
use crate::fleet::rollout::inventory;
use crate::fleet::rollout::plan::{Gates, Pace, Plan, Wave, Who};

/// Start a roll-out, and carry it out in this terminal until it is done
///
/// In waves: each device has a fixed place by a hash of its name, and each wave is watched for its soak before the next begins.
/// A broken gate stops it; who is at it by then is called off. A second roll-out waits until the first is over, unless --beside.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// The release's number in the repository
    #[arg(long, value_name = "N")]
    release: u64,
    /// Default: the release's number and the time
    #[arg(long)]
    name: Option<String>,
    /// A wave: 10% (of all, those of earlier waves included), group:NAME, or list:SITE/DEVICE,...; with @4h its own soak.
    /// Once for each [default: 1% 10% 50% 100%]
    #[arg(long = "wave", value_name = "WHO[@SOAK]")]
    waves: Vec<WaveArg>,
    /// How long a wave is watched after its last device has ended
    #[arg(long, default_value = "4h", value_name = "TIME")]
    soak: Seconds,
    /// Only these take part: 10%, group:NAME or list:SITE/DEVICE,...
    #[arg(long, value_name = "WHO")]
    among: Option<WhoArg>,
    /// CSV with site,device,groups; without it whoever is seen at the broker takes part
    #[arg(long, value_name = "FILE")]
    devices: Option<PathBuf>,
    /// What the draw of places depends on; the same salt draws the same devices first [default: the name]
    #[arg(long)]
    salt: Option<String>,
    /// Most devices that are at it at once
    #[arg(long, default_value_t = Pace::default().at_once, value_name = "DEVICES")]
    at_once: u64,
    /// Part of a wave that must have committed before the next begins, in percent
    #[arg(long, default_value = "50", value_name = "PERCENT")]
    quorum: Percent,
    /// Gate: devices that may fail (refuse, take back, give up, not take the command), in percent, or off
    #[arg(long, default_value = "5", value_name = "PERCENT")]
    max_failures: Limit<Percent>,
    /// Gate: devices that may take it back after it has served, in percent, or off
    #[arg(long, default_value = "2", value_name = "PERCENT")]
    max_rollbacks: Limit<Percent>,
    /// Gate: devices that may fall silent after the offer, in percent, or off
    #[arg(long, default_value = "10", value_name = "PERCENT")]
    max_silent: Limit<Percent>,
    /// What counts as silent
    #[arg(long, default_value = "15m", value_name = "TIME")]
    silent_after: Seconds,
    /// Gate: alerts for each that the devices' own histories let expect, or off
    #[arg(long, default_value = "2", value_name = "TIMES")]
    max_alerts: Limit<f64>,
    /// Gate: how many times as slow a frame may be (99th percentile), or off
    #[arg(long, default_value = "1.5", value_name = "TIMES")]
    max_latency: Limit<f64>,
    /// Devices that may be slower than that, in percent
    #[arg(long, default_value = "20", value_name = "PERCENT")]
    max_slower: Percent,
    /// How long a wave waits for devices that are away before it goes on without them; they have it later
    #[arg(long, default_value = "30m", value_name = "TIME")]
    reach_within: Seconds,
    /// How long a wave waits for a device to end after its offer
    #[arg(long, default_value = "24h", value_name = "TIME")]
    end_within: Seconds,
    /// How long an offer holds; then the device gets another
    #[arg(long, default_value = "1h", value_name = "TIME")]
    offer_holds: Seconds,
    /// Nobody is offered anything for so long after a connection to the broker
    #[arg(long, default_value = "10s", value_name = "TIME", hide = true)]
    settle: Seconds,
    /// Time between two attempts
    #[arg(long, default_value = "5m", value_name = "TIME", hide = true)]
    retry: Seconds,
    /// Start it though another one is not over: you know that they share no device
    #[arg(long)]
    pub beside: bool,
    /// Only write it down: `vedette-fleet rollout run` somewhere carries it out
    #[arg(long)]
    pub detach: bool,
    /// Who starts it, for the history; default: the user's name
    #[arg(long)]
    pub by: Option<String>,
}

impl StartArgs {
    /// Its name.
    pub fn name(&self, now: Wall) -> String {
        let time: String = now.rfc3339().chars().take(16).filter(|c| *c != ':').collect();
        self.name.clone().unwrap_or_else(|| format!("r{}-{time}", self.release))
    }

    /// What it is to do. Not yet checked.
    pub fn plan(self, name: &str) -> anyhow::Result<Plan> {
        let default = || [1.0, 10.0, 50.0, 100.0].map(|p| WaveArg { who: Who::Percent(p), soak: None }).into();
        let waves: Vec<WaveArg> = if self.waves.is_empty() { default() } else { self.waves };
        let waves = waves.into_iter().map(|w| Wave { who: w.who, soak_s: w.soak.unwrap_or(self.soak).0 });
        Ok(Plan {
            release: self.release,
            salt: self.salt.unwrap_or_else(|| name.to_owned()),
            among: self.among.map(|who| who.0),
            waves: waves.collect(),
            pace: Pace {
                at_once: self.at_once,
                offer_holds_s: self.offer_holds.0,
                settle_s: self.settle.0,
                reach_within_s: self.reach_within.0,
                end_within_s: self.end_within.0,
                retry_s: self.retry.0,
                quorum: self.quorum.0,
                ..Pace::default()
            },
            gates: Gates {
                failures: self.max_failures.0.map(|p| p.0),
                rollbacks: self.max_rollbacks.0.map(|p| p.0),
                silent: self.max_silent.0.map(|p| p.0),
                silent_after_s: self.silent_after.0,
                alerts: self.max_alerts.0,
                latency: self.max_latency.0,
                slower: self.max_slower.0,
            },
            inventory: self.devices.map(|path| inventory::read(&path)).transpose()?,
        })
    }
}

/// A time on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seconds(pub u64);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no = || format!("{text:?} is no time such as 90s, 15m, 4h or 2d");
        let (digits, unit) =
            text.split_at(text.len().checked_sub(1).filter(|i| text.is_char_boundary(*i)).ok_or_else(no)?);
        let each = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 24 * 3600,
            _ => return Err(no()),
        };
        let many: u64 = digits.parse().map_err(|_| no())?;
        many.checked_mul(each).map(Seconds).ok_or_else(no)
    }
}

/// A share on the command line, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percent(pub f64);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no = |_| format!("{text:?} is no percentage such as 5 or 0.5%");
        text.strip_suffix('%').unwrap_or(text).parse().map(|p: f64| Percent(p / 100.0)).map_err(no)
    }
}

/// A gate's limit, or `off`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit<T>(pub Option<T>);

impl<T: FromStr> FromStr for Limit<T>
where
    T::Err: ToString,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Limit(None)),
            text => text.parse().map(|limit| Limit(Some(limit))).map_err(|e: T::Err| e.to_string()),
        }
    }
}

/// Some devices on the command line.
#[derive(Debug, Clone, PartialEq)]
pub struct WhoArg(pub Who);

impl FromStr for WhoArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no = || format!("{text:?} names nobody: 10%, group:NAME or list:SITE/DEVICE,...");
        if let Some(group) = text.strip_prefix("group:").filter(|g| !g.is_empty()) {
            return Ok(WhoArg(Who::Group(group.to_owned())));
        }
        if let Some(list) = text.strip_prefix("list:") {
            let ids: Result<_, _> = list.split(',').map(str::parse).collect();
            return ids.map(|ids| WhoArg(Who::List(ids))).map_err(|e| format!("{}: {e}", no()));
        }
        let percent = text.strip_suffix('%').ok_or_else(no)?;
        percent.parse().map(|p| WhoArg(Who::Percent(p))).map_err(|_| no())
    }
}

/// A wave on the command line.
#[derive(Debug, Clone, PartialEq)]
pub struct WaveArg {
    who: Who,
    soak: Option<Seconds>,
}

impl FromStr for WaveArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (who, soak) = text.split_once('@').map_or((text, None), |(who, soak)| (who, Some(soak)));
        Ok(WaveArg { who: who.parse::<WhoArg>()?.0, soak: soak.map(str::parse).transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_and_times_are_read_or_refused() {
        assert_eq!("90s".parse(), Ok(Seconds(90)));
        assert_eq!("2d".parse(), Ok(Seconds(172_800)));
        for bad in ["", "4", "4 h", "h", "-1h", "1µ", "99999999999999999d"] {
            assert!(bad.parse::<Seconds>().is_err(), "{bad}");
        }
        let wave: WaveArg = "group:canary@24h".parse().expect("a wave");
        assert_eq!(wave, WaveArg { who: Who::Group("canary".into()), soak: Some(Seconds(86_400)) });
        assert_eq!("0.5%".parse::<WaveArg>().expect("a wave").who, Who::Percent(0.5));
        assert!(matches!("list:a/b,c/d".parse::<WaveArg>().expect("a wave").who, Who::List(l) if l.len() == 2));
        for bad in ["10", "group:", "list:a", "list:", "%", "10%@", "everybody"] {
            assert!(bad.parse::<WaveArg>().is_err(), "{bad}");
        }
        assert_eq!("off".parse(), Ok(Limit::<f64>(None)));
        assert_eq!("5%".parse(), Ok(Limit(Some(Percent(0.05)))));
    }
}
