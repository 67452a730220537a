//! A roll-out as a table. In a terminal it is drawn in place of the one before; elsewhere what happens comes line by line.

use std::collections::BTreeMap;

use crate::agent::cli::out::Out;
use crate::base::clock::Wall;
use crate::contract::command;
use crate::fleet::rollout::state::{Hold, Phase};
use crate::fleet::rollout::store::Entry;
use crate::fleet::rollout::view::{EventView, STANDINGS, View};

/// So many kinds of failure, and so many events: a table is to fit a terminal.
const AT_MOST: usize = 8;

/// Where tables go.
pub struct Screen {
    kind: Kind,
    /// Lines of the table that is there.
    drawn: usize,
    /// The latest event of each roll-out that was printed, where no table is drawn in place.
    printed: BTreeMap<String, EventView>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A terminal: in place.
    Live,
    /// A table whenever something has happened.
    Tables,
    /// A line for what has happened.
    Events,
}

impl Screen {
    /// `live`: a terminal.
    pub fn new(live: bool) -> Screen {
        Screen { kind: if live { Kind::Live } else { Kind::Tables }, drawn: 0, printed: BTreeMap::new() }
    }

    /// A line for whatever happens, in any roll-out.
    pub fn events() -> Screen {
        Screen { kind: Kind::Events, drawn: 0, printed: BTreeMap::new() }
    }

    /// Whether it is drawn in place.
    pub fn is_live(&self) -> bool {
        self.kind == Kind::Live
    }

    /// Shows how a roll-out stands.
    pub fn show(&mut self, view: &View, now: Wall, trouble: Option<&str>) -> anyhow::Result<()> {
        let mut out = Out::new();
        if self.is_live() {
            let lines = lines(view, now, trouble);
            let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
            // One write: a table that is half drawn flickers.
            let body: String = lines.iter().map(|line| format!("{line}\x1b[K\n")).collect();
            out.line(format_args!("{up}{}\x1b[J", body.trim_end_matches('\n')))?;
            self.drawn = lines.len();
            return Ok(());
        }
        let Some(latest) = view.history.last() else { return Ok(()) };
        let before = self.printed.insert(view.id.clone(), latest.clone());
        if before.as_ref() == Some(latest) {
            return Ok(());
        }
        if self.kind == Kind::Tables {
            return Ok(lines(view, now, trouble).iter().try_for_each(|line| out.line(line))?);
        }
        let new = view.history.iter().rev().take_while(|event| Some(*event) != before.as_ref());
        let new: Vec<_> = new.take(if before.is_some() { usize::MAX } else { 1 }).collect();
        new.iter().rev().try_for_each(|event| out.line(format_args!("{}  {}  {}", event.at, view.id, event.what)))?;
        Ok(())
    }
}

/// The table.
pub fn lines(view: &View, now: Wall, trouble: Option<&str>) -> Vec<String> {
    let mut lines = vec![format!("{}: release {}, {}", view.id, view.release, headline(view, now))];
    lines.extend(trouble.map(|why| format!("  no broker: {why}")));
    lines.push(String::new());
    lines.extend(waves(view));
    if !view.gates.is_empty() {
        lines.push(String::new());
    }
    for gate in &view.gates {
        let verdict = if gate.finding.broken { "BROKEN" } else { "ok" };
        lines.push(format!("  gate {:<10} {verdict:<7} {}", gate.finding.gate.as_str(), gate.words));
    }
    let failures = grouped(view.failures.values().map(|f| match &f.words {
        Some(words) => format!("{}: {words}", word(f.how)),
        None => word(f.how),
    }));
    lines.extend(listed("failed", &failures));
    lines.extend(listed("wait", &grouped(view.waiting.values().cloned())));
    lines.push(String::new());
    let events = view.history.iter().skip(view.history.len().saturating_sub(AT_MOST));
    lines.extend(events.map(|event| format!("  {}  {}", event.at, event.what)));
    lines
}

fn headline(view: &View, now: Wall) -> String {
    let of = format!("wave {} of {}", view.wave, view.waves.len());
    match &view.phase {
        Phase::Running => format!("running, {of}: {}", hold(view, now)),
        Phase::Paused { by } => format!("paused by {by} in {of}"),
        Phase::Done => "done".to_owned(),
        Phase::Stopped { finding } => format!("STOPPED in {of} by the gate {}: {finding}", finding.gate.as_str()),
        Phase::Aborted { by, why } => {
            format!("aborted by {by} in {of}{}", why.as_ref().map(|w| format!(": {w}")).unwrap_or_default())
        }
    }
}

fn hold(view: &View, now: Wall) -> String {
    match &view.hold {
        None => "about to begin".to_owned(),
        Some(Hold::AnyDevice) => "waits for any device to be seen at the broker".to_owned(),
        Some(Hold::UnderWay { devices }) => format!("{devices} devices are at it, or next"),
        Some(Hold::Away { devices, until }) => {
            format!("{devices} devices are away; goes on without them in {}", left(*until, now))
        }
        Some(Hold::Quorum { committed, needed }) => {
            format!("holds: {committed} have committed and {needed} must; the others are away, silent or failed")
        }
        Some(Hold::Soak) => {
            let until = view.soak_until.as_deref().and_then(|t| command::time("", t).ok());
            format!("watched for another {}", until.map_or("while".to_owned(), |until| left(until, now)))
        }
    }
}

/// The time that is left, as people say it.
fn left(until: Wall, now: Wall) -> String {
    let s = until.unix_ms().saturating_sub(now.unix_ms()).max(0) / 1000;
    match s {
        0..=119 => format!("{s} s"),
        120..=7199 => format!("{} min", s / 60),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

fn waves(view: &View) -> Vec<String> {
    let used: Vec<_> = STANDINGS.into_iter().filter(|s| view.waves.iter().any(|w| w.counts.contains_key(s))).collect();
    let mut rows = vec![
        ["wave", "who", "soak", "devices"]
            .into_iter()
            .chain(used.iter().copied())
            .map(String::from)
            .collect::<Vec<_>>(),
    ];
    for wave in &view.waves {
        let at = if wave.wave == view.wave && view.phase.is_open() { ">" } else { "" };
        let mut row = vec![format!("{at}{}", wave.wave), wave.who.clone(), span(wave.soak_s), wave.devices.to_string()];
        row.extend(used.iter().map(|s| wave.counts.get(s).map_or("-".to_owned(), u64::to_string)));
        rows.push(row);
    }
    aligned(&rows)
}

fn span(s: u64) -> String {
    match s {
        s if s % 3600 == 0 && s > 0 => format!("{} h", s / 3600),
        s if s % 60 == 0 && s > 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let cell = |(i, text): (usize, &String)| format!("{text:>width$}", width = widths[i]);
    rows.iter().map(|row| format!("  {}", row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  "))).collect()
}

fn word(how: impl serde::Serialize) -> String {
    serde_json::to_value(how).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default()
}

/// How often each is said, the most frequent first.
fn grouped(words: impl Iterator<Item = String>) -> Vec<(String, u64)> {
    let mut counts = BTreeMap::new();
    words.for_each(|w| *counts.entry(w).or_insert(0) += 1);
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}

fn listed(what: &str, groups: &[(String, u64)]) -> Vec<String> {
    let clean = |words: &str| words.chars().filter(|c| !c.is_control()).take(160).collect::<String>();
    let some = groups.iter().take(AT_MOST).map(|(words, count)| format!("  {count} {what}: {}", clean(words)));
    let rest = groups.len().saturating_sub(AT_MOST);
    let rest = (rest > 0).then(|| format!("  ... and {rest} other reasons (--json has all)"));
    some.chain(rest).collect()
}

/// All roll-outs as a table.
pub fn list(entries: &[Entry]) -> Vec<String> {
    let head = ["name", "release", "phase", "started", "by"].map(String::from).to_vec();
    let row = |e: &Entry| {
        let phase = if e.over || e.open { e.phase.clone() } else { format!("{}, calling off", e.phase) };
        vec![e.id.clone(), e.release.to_string(), phase, e.created.rfc3339(), e.created_by.clone()]
    };
    aligned(&std::iter::once(head).chain(entries.iter().map(row)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fleet::rollout::gates::{Finding, Gate};
    use crate::fleet::rollout::plan::{Gates, Pace, Plan, Wave, Who};
    use crate::fleet::rollout::state::{End, How, Record, Rollout};
    use crate::fleet::rollout::view::view;

    const NOW: Wall = Wall::from_unix_ms(1_700_000_000_000);

    fn rollout() -> Rollout {
        let waves = [10.0, 100.0].map(|p| Wave { who: Who::Percent(p), soak_s: 7200 });
        let (pace, gates) = (Pace::default(), Gates::default());
        let plan =
            Plan { release: 7, salt: "s".into(), among: None, waves: waves.into(), pace, gates, inventory: None };
        let mut rollout = Rollout::new("r7".into(), plan, "kim".into(), NOW);
        for (n, how) in [How::Committed, How::Refused, How::Refused].into_iter().enumerate() {
            let mut record = Record::new(0);
            let words = (how == How::Refused).then(|| "golden_vectors: off\x1b[2J by 0.3".to_owned());
            record.end = Some(End { how, words });
            rollout.devices.insert(format!("s/d{n}").parse().expect("a name"), record);
        }
        rollout
    }

    #[test]
    fn a_table_says_where_it_is_and_what_it_waits_for() {
        let mut rollout = rollout();
        rollout.head.hold = Some(Hold::Soak);
        rollout.head.soak_until = Some(NOW + Duration::from_secs(3 * 3600 + 120));
        let text = lines(&view(&rollout), NOW, Some("it is away")).join("\n");
        for part in [
            "r7: release 7, running, wave 1 of 2: watched for another 3 h 2 min",
            "no broker: it is away",
            "wave   who  soak  devices  committed  refused",
            ">1   10%   2 h        3          1        2",
            "2 failed: refused: golden_vectors: off[2J by 0.3",
            "started by kim: release 7, 2 waves",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains('\x1b'), "what a device says does not command the terminal");
    }

    #[test]
    fn a_stopped_one_names_its_gate_with_figures() {
        let mut rollout = rollout();
        let gate = Gate::Failures;
        let finding = Finding { gate, wave: Some(0), bad: 2, of: 3, total: 3, limit: 0.05, chance: 0.0, broken: true };
        rollout.head.findings = vec![finding.clone()];
        rollout.head.phase = Phase::Stopped { finding };
        let text = lines(&view(&rollout), NOW, None).join("\n");
        assert!(text.contains("STOPPED in wave 1 of 2 by the gate failures: 2 of 3 failed, limit 5 % of 3 (wave 1)"));
        assert!(text.contains("gate failures   BROKEN"), "{text}");
        let json = serde_json::to_value(view(&rollout)).expect("JSON");
        assert_eq!((&json["phase"], &json["gates"][0]["gate"]), (&"stopped".into(), &"failures".into()));
    }
}
