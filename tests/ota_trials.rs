//! What a model is refused or taken back for, what is waited for, and what commands do meanwhile: the real updater on a
//! scripted bench.

use std::time::Duration;

use vedette::agent::ota::fault::Trouble;
use vedette::agent::ota::judge::{ShadowSeen, TrialSeen};
use vedette::agent::ota::ledger::NoOffer;
use vedette::agent::ota::prove::Found;
use vedette::agent::ota::updates::UpdateError;
use vedette::contract::update::{UpdateFault, UpdateState};

use crate::common::fleet::{Fleet, now, repository_with};
use crate::common::updating::{Script, Updating};
use crate::common::wait_for;
use crate::ota::versions;

/// A repository with three releases, and a device that has committed none.
fn fleet() -> Fleet {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let models = versions(scratch.path(), &["1.3.0", "1.4.0", "1.5.0"]);
    repository_with(&models.iter().map(|m| m.as_path()).collect::<Vec<_>>())
}

fn device(fleet: &Fleet, name: &str) -> Updating {
    device_with(fleet, name, |_| ())
}

fn device_with(fleet: &Fleet, name: &str, change: impl FnOnce(&mut vedette::agent::config::Ota)) -> Updating {
    let repository = format!("file://{}", fleet.published().display());
    Updating::new(&fleet.scratch().join(name), &repository, &fleet.first_root(), change)
}

#[test]
fn a_model_is_refused_or_taken_back_for_each_of_its_failures_and_not_tried_again() {
    let fleet = fleet();
    let device = device(&fleet, "device");
    assert_eq!(device.offer(1).state, UpdateState::Committed);
    type Break = fn(&mut Script);
    let cases: [(Break, UpdateState, UpdateFault); 9] = [
        (|s| s.misfit = Some("no class".into()), UpdateState::Refused, UpdateFault::Incompatible),
        (
            |s| s.proven = Err(Trouble::fault(UpdateFault::GoldenVectors, "off by 1")),
            UpdateState::Refused,
            UpdateFault::GoldenVectors,
        ),
        (
            |s| s.proven = Err(Trouble::fault(UpdateFault::BuildCrashed, "died")),
            UpdateState::Refused,
            UpdateFault::BuildCrashed,
        ),
        (|s| s.proven = Ok(Found { frame_ms: 1e4, memory_bytes: 1 }), UpdateState::Refused, UpdateFault::Latency),
        (
            |s| s.shadow = ShadowSeen { windows: 100, agreed: 70, ..s.shadow },
            UpdateState::Refused,
            UpdateFault::Disagreement,
        ),
        (|s| s.shadow.incidents = 50, UpdateState::Refused, UpdateFault::AlertFlood),
        (|s| s.trial = TrialSeen { incidents: 50, ..s.trial }, UpdateState::RolledBack, UpdateFault::AlertFlood),
        (|s| s.trial = TrialSeen { errors: 9, ..s.trial }, UpdateState::RolledBack, UpdateFault::EngineErrors),
        (|s| s.trial = TrialSeen { overrun: 9, ..s.trial }, UpdateState::RolledBack, UpdateFault::Latency),
    ];
    for (number, (spoil, state, fault)) in cases.into_iter().enumerate() {
        // Each on a device of its own: what is refused for what it is, is not tried again.
        let device = device_with(&fleet, &format!("device-{number}"), |_| ());
        assert_eq!(device.offer(1).state, UpdateState::Committed);
        spoil(&mut device.bench.script());
        let report = device.offer(2);
        assert_eq!((report.state, report.reason.as_ref().map(|r| r.fault)), (state, Some(fault)), "{report:#?}");
        let status = device.status();
        assert_eq!((status.current.release, status.floor), (Some(1), 1), "{fault:?}: what was proven serves");
        // What the configuration keeps out may be let in by the configuration.
        if fault != UpdateFault::Incompatible {
            let again = device.updates.offer(2, None, None).expect_err("it was refused for what it is");
            assert!(matches!(again, UpdateError::NoOffer(NoOffer::Refused(_))), "{again}");
        }
        assert_eq!(status.refused, [2]);
        // The next one is another matter.
        device.bench.mend();
        assert_eq!(device.offer(3).state, UpdateState::Committed, "{fault:?}");
        assert_eq!(device.status().previous.and_then(|p| p.release), Some(1), "2 never was");
    }
}

#[test]
fn commands_twice_at_once_and_in_the_middle() {
    let fleet = fleet();
    let device = device_with(&fleet, "device", |ota| ota.trial = Duration::from_secs(3600));
    // The same twice: one offer.
    let first = device.updates.offer(1, Some("spring".into()), None).expect("taken up");
    assert_eq!(device.updates.offer(1, None, None).expect("the same"), first);
    wait_for("the trial", || (device.states(1).last() == Some(&UpdateState::Trial)).then_some(()));
    // Another while one is on trial waits its turn; called off, what was proven serves again.
    let e = device.updates.offer(2, None, None).expect_err("one is on trial");
    assert!(matches!(e, UpdateError::NoOffer(NoOffer::OnTrial(1))), "{e}");
    let e = device.updates.cancel(Some(2)).expect_err("another one is on its way");
    assert!(e.to_string().contains("release 1"), "{e}");
    let served = device.bench.script().serves.clone();
    assert_eq!(device.updates.cancel(Some(1)).expect("on its way"), first);
    let report = device.end_of(1);
    assert_eq!(
        (report.state, report.reason, report.rollout.as_deref()),
        (UpdateState::RolledBack, None, Some("spring"))
    );
    wait_for("the other model", || (device.bench.script().serves != served).then_some(()));
    assert_eq!(device.updates.cancel(None).expect_err("nothing is").to_string(), "no release is on its way");
    // What was called off may be offered again; another offer pushes aside what has not served.
    device.bench.script().knows_time = false;
    device.updates.offer(1, None, None).expect("taken up");
    assert!(device.waits(1).contains("time"), "without the time nothing signed is judged");
    device.updates.offer(2, None, None).expect("taken up");
    wait_for("that 1 is pushed aside", || device.states(1).contains(&UpdateState::Cancelled).then_some(()));
    device.bench.script().knows_time = true;
    wait_for("the trial of 2", || (device.states(2).last() == Some(&UpdateState::Trial)).then_some(()));
}

#[test]
fn a_start_goes_on_where_the_last_one_ended() {
    let fleet = fleet();
    let on = device_with(&fleet, "device", |ota| ota.trial = Duration::from_secs(3600));
    on.updates.offer(1, None, None).expect("taken up");
    wait_for("the trial", || (on.states(1).last() == Some(&UpdateState::Trial)).then_some(()));
    on.updates.mark_orderly();
    on.end();
    // In good order, in the middle of a trial: it serves, and is committed.
    let on = device(&fleet, "device");
    assert_eq!(on.end_of(1).state, UpdateState::Committed);
    on.end();
    // A repository that is gone, and comes back.
    let gone = fleet.published().with_extension("gone");
    std::fs::rename(fleet.published(), &gone).expect("ours");
    let on = device(&fleet, "device");
    on.updates.offer(2, None, None).expect("taken up");
    on.waits(2);
    on.end();
    std::fs::rename(&gone, fleet.published()).expect("ours");
    assert_eq!(device(&fleet, "device").end_of(2).state, UpdateState::Committed);
}

#[test]
fn a_slot_that_was_tampered_with_is_not_served() {
    let fleet = fleet();
    let on = device(&fleet, "device");
    on.offer(1);
    // The candidate is changed on the disk between fetching and proving: the window is closed in between.
    let slots = on.dir.join("slots");
    on.bench.script().proven = Err(Trouble::Wait("wait here".into()));
    on.updates.offer(2, None, None).expect("taken up");
    on.waits(2);
    let current = on.status().current.model.digest;
    let candidate = std::fs::read_dir(&slots).expect("slots").flatten().find(|e| *e.file_name() != *current);
    let network = candidate.expect("a second slot").path().join("head.fp32.onnx");
    let mut bytes = std::fs::read(&network).expect("readable");
    bytes[100] ^= 1;
    std::fs::remove_file(&network).expect("ours");
    std::fs::write(&network, bytes).expect("writable");
    on.bench.script().proven = Ok(Found { frame_ms: 1.0, memory_bytes: 1 });
    let report = on.end_of(2);
    assert_eq!(report.reason.map(|r| r.fault), Some(UpdateFault::SlotDamaged));
    assert_eq!(on.status().current.release, Some(1));
    // It came to harm here: it may be offered again.
    assert_eq!(on.offer(2).state, UpdateState::Committed);
}

#[test]
fn a_release_that_was_signed_by_a_wrong_clock_stops_nobody() {
    let mut fleet = fleet();
    let dir = versions(fleet.scratch(), &["1.6.0"]).remove(0);
    let model = vedette::agent::infer::model::Model::open(&dir).expect("a model");
    let later = now() + Duration::from_secs(70 * 365 * 86_400);
    fleet.repository.add(&model, None, later).expect("a release");
    assert!(fleet.sign().is_complete());
    fleet.publish();
    let device = device(&fleet, "device");
    assert_eq!(device.offer(4).state, UpdateState::Committed);
    // The time of who signed it is not taken for the present.
    let again = fleet.release(&versions(fleet.scratch(), &["1.7.0"])[0]);
    assert_eq!(device.offer(again).state, UpdateState::Committed);
}

#[test]
fn the_same_model_under_a_new_number_leaves_what_it_goes_back_to() {
    let mut fleet = fleet();
    let device = device(&fleet, "device");
    device.offer(1);
    device.offer(2);
    let older = device.status().previous;
    let dir = versions(fleet.scratch(), &["1.4.0"]).remove(0);
    let again = fleet.downgrade(&dir, "once more");
    assert_eq!(device.offer(again).state, UpdateState::Committed);
    let status = device.status();
    assert_eq!((status.current.release, status.previous), (Some(again), older));
}

#[test]
fn a_stick_installs_by_the_same_signatures() {
    let (fleet, thief) = (fleet(), fleet());
    let device = device_with(&fleet, "device", |ota| ota.repository = "http://127.0.0.1:1".into());
    let install = |from: &Fleet, release| {
        device.updates.offer(release, None, Some(from.published())).expect("taken up");
        device.end_of(release)
    };
    let report = install(&thief, 1);
    assert_eq!(report.reason.map(|r| r.fault), Some(UpdateFault::ArbitrarySoftware));
    assert_eq!(install(&fleet, 2).state, UpdateState::Committed);
}
