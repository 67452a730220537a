//! Any history of incidents and clips, a power cut anywhere in what the disk got, and the next start: what was
//! committed before the cut is there, nothing is open, and nothing is invented.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use uuid::Uuid;
use vedette::agent::config::CameraId;
use vedette::agent::incident::{CloseReason, EvidenceSource, Incident, Transition};
use vedette::agent::store::{
    ClipIntent, ClipRecording, ClipState, DeviceContext, Filter, IncidentRecord, IncidentState, Labels, OutboxPolicy,
    Store, Times, database_path,
};
use vedette::base::clock::{Clock, ManualClock, Mono, Wall};
use vedette::base::progress::Beat;
use vedette::contract::alert::ClockState;

use super::video::some;

const CLOCK: ClockState = ClockState { synchronised: true, estimated_error_ms: None };

#[derive(Debug, Arbitrary)]
enum Act {
    Open(u8),
    Update(u8),
    Close(u8),
    ClipBegins(u8),
    ClipLost(u8),
    Audit,
}

/// See [`super`].
pub fn check(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok((cut, garbage)) = <(u32, u8)>::arbitrary(&mut u) else { return };
    let Ok(acts) = some::<Act>(&mut u, 40) else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    // How long the log was when these were known to be committed.
    let mut committed: Vec<(u64, BTreeSet<Uuid>)> = Vec::new();
    let after = tempfile::tempdir().expect("a temporary directory");
    with_store(dir.path(), |store| {
        let (mut opened, mut known) = (BTreeSet::new(), BTreeMap::new());
        // The schema as it was made; the log begins behind it.
        fs::copy(database_path(dir.path()), database_path(after.path())).expect("copied");
        for act in &acts {
            carry_out(store, act, &mut known);
            if let Act::Open(n) = act {
                opened.insert(id(*n));
            }
            committed.push((log_bytes(dir.path()).len() as u64, opened.clone()));
        }
        // What a power cut leaves: the log up to somewhere, and perhaps a sector of something else behind it.
        let mut log = log_bytes(dir.path());
        let at = cut as usize % (log.len() + 1);
        log.truncate(at);
        log.extend(std::iter::repeat_n(garbage, usize::from(garbage) * 4));
        committed.retain(|(length, _)| *length <= at as u64);
        fs::write(log_path(after.path()), log).expect("writable");
    });
    let must = committed.pop().map_or(BTreeSet::new(), |(_, ids)| ids);
    let ever: BTreeSet<_> =
        acts.iter().filter_map(|a| if let Act::Open(n) = a { Some(id(*n)) } else { None }).collect();
    with_store(after.path(), |store| {
        let found = store.reader().incidents(&Filter::default()).expect("readable");
        let ids: BTreeSet<_> = found.iter().map(|i| i.report.id).collect();
        let unfinished = store.reader().unfinished_clips().expect("readable");
        let unfinished: BTreeSet<_> = unfinished.iter().map(|c| c.incident).collect();
        assert!(must.is_subset(&ids), "committed and gone: {:?}", must.difference(&ids));
        assert!(ids.is_subset(&ever), "invented: {:?}", ids.difference(&ever));
        for i in &found {
            assert_eq!(i.state, IncidentState::Closed, "open for ever");
            // What becomes of one that was being recorded is for its file to say: see `clip::recovery`.
            let begun = unfinished.contains(&i.report.id);
            let over = |state| matches!(state, ClipState::Done | ClipState::Lost);
            assert!(begun || i.clip.as_ref().is_none_or(|c| over(c.state)), "{i:?}");
        }
    });
}

fn log_path(dir: &Path) -> std::path::PathBuf {
    database_path(dir).with_extension("db-wal")
}

fn log_bytes(dir: &Path) -> Vec<u8> {
    fs::read(log_path(dir)).unwrap_or_default()
}

/// Opens the store, lets `work` use it, and ends it in good order.
fn with_store(dir: &Path, work: impl FnOnce(&Store)) {
    let context = DeviceContext {
        site: "harbour".into(),
        device: "d1".into(),
        outbox: OutboxPolicy::Queue {
            consumers: vec!["soc".into()],
            keep: Duration::from_secs(86_400),
            max_bytes: u64::MAX,
        },
        labels: Labels::default(),
        clock_state: Arc::new(|| CLOCK),
    };
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Wall::from_unix_ms(1_700_000_000_000)));
    let (store, writer) = Store::open(dir, context, clock).expect("a store opens after any power cut");
    let writing = std::thread::spawn(move || writer.run(&Beat::detached()));
    work(&store);
    store.close();
    writing.join().expect("the writer does not panic").expect("the writer ends well");
}

fn carry_out(store: &Store, act: &Act, known: &mut BTreeMap<u8, Incident>) {
    let record = |transition: Transition| {
        let i = transition.incident();
        let label = |t: Mono| Wall::from_unix_ms(1_700_000_000_000 + t.as_millis() as i64);
        let times = Times {
            start: label(i.start),
            end: label(i.end),
            peak: label(i.peak_at),
            event: label(i.end),
            clock: CLOCK,
        };
        let clip = ClipIntent::Planned { start: times.start };
        store.record(IncidentRecord { transition, times, clip }).expect("taken");
        store.flush().expect("committed");
    };
    match act {
        Act::Open(n) if !known.contains_key(n) => {
            let i = incident(*n);
            known.insert(*n, i.clone());
            record(Transition::Opened(i));
        }
        Act::Open(_) => {}
        Act::Update(n) => {
            if let Some(i) = known.get_mut(n) {
                i.end = i.end + Duration::from_secs(1);
                record(Transition::Updated(i.clone()));
            }
        }
        Act::Close(n) => {
            if let Some(i) = known.get(n) {
                record(Transition::Closed(i.clone(), CloseReason::Quiet));
            }
        }
        // Refusals are answers too: the order of clips and incidents is any.
        Act::ClipBegins(n) => {
            drop(store.clip_recording(ClipRecording { incident: id(*n), path: format!("clips/{n}.mp4") }))
        }
        Act::ClipLost(n) => drop(store.clip_lost(id(*n), "fuzzed")),
        Act::Audit => store.audit("fuzz", "looked").expect("committed"),
    }
}

fn id(n: u8) -> Uuid {
    Uuid::from_u128(u128::from(n) + 1)
}

fn incident(n: u8) -> Incident {
    let at = Mono::from_millis(10_000 + u64::from(n) * 1_000);
    Incident {
        id: id(n),
        camera: CameraId::new("gate"),
        source: EvidenceSource::Classifier,
        class: "Fighting".into(),
        start: at,
        end: at + Duration::from_secs(2),
        peak_score: 0.9,
        peak_at: at + Duration::from_secs(1),
        peak_scores: BTreeMap::from([("Fighting".into(), 0.9)]),
        peak_fps: 8.0,
        threshold: 0.5,
        windows: 2,
        model: None,
        later_model: None,
    }
}
