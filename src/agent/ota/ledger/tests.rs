use proptest::prelude::*;

use super::*;
use crate::contract::update::ReleaseFacts;

const NOW: Wall = Wall::from_unix_ms(1_000);

fn model() -> ModelRef {
    ModelRef { name: "m".into(), version: "1.0.0".into(), digest: "0".into() }
}

fn offer(release: u64) -> Offer {
    Offer { id: Uuid::from_u128(u128::from(release)), release, rollout: None, from: model(), from_dir: None }
}

fn release(number: u64, version: &str, downgrade: Option<&str>) -> Release {
    let facts = ReleaseFacts {
        release: number,
        model: "m".into(),
        version: version.into(),
        published: NOW.rfc3339(),
        downgrade: downgrade.map(str::to_owned),
    };
    Release { facts, digest: format!("{number:064}"), size_bytes: 1 }
}

fn bad(fault: UpdateFault) -> UpdateReason {
    UpdateReason { fault, words: "it is bad".into() }
}

/// Brings a release to its trial.
fn on_trial(ledger: &mut Ledger, number: u64, version: &str) {
    ledger.offer(offer(number), NOW).expect("taken up");
    ledger.identify(&release(number, version, None)).expect("it may be put in");
    ledger.advance(UpdateState::Trial, NOW);
    ledger.attempt.as_mut().expect("on its way").trial.boot = "boot".into();
}

fn committed(number: u64, version: &str) -> Ledger {
    let mut ledger = Ledger::default();
    on_trial(&mut ledger, number, version);
    ledger.commit(NOW).expect("committed");
    ledger
}

#[test]
fn the_same_offer_changes_nothing_and_another_pushes_it_aside() {
    let mut ledger = Ledger::default();
    assert_eq!(ledger.offer(offer(1), NOW), Ok(Offered::New(Uuid::from_u128(1), None)));
    let before = ledger.clone();
    assert_eq!(ledger.offer(Offer { id: Uuid::max(), ..offer(1) }, NOW), Ok(Offered::Known(Uuid::from_u128(1))));
    assert_eq!(ledger, before);
    let Ok(Offered::New(_, Some(aside))) = ledger.offer(offer(2), NOW) else { panic!("release 1 was pushed aside") };
    assert_eq!((aside.release, aside.state), (1, UpdateState::Cancelled));
    on_trial(&mut ledger, 2, "1.1.0");
    assert_eq!(ledger.offer(offer(3), NOW), Err(NoOffer::OnTrial(2)));
    ledger.commit(NOW);
    assert_eq!(ledger.offer(offer(2), NOW), Err(NoOffer::Serves(2)));
}

#[test]
fn what_was_refused_for_what_it_is_is_not_tried_again_and_what_came_damaged_is() {
    let mut ledger = Ledger::default();
    for (number, fault, again) in [(1, UpdateFault::GoldenVectors, false), (2, UpdateFault::DamagedFile, true)] {
        ledger.offer(offer(number), NOW).expect("taken up");
        assert_eq!(ledger.fail(bad(fault), NOW).map(|r| r.state), Some(UpdateState::Refused));
        assert_eq!(ledger.offer(offer(number), NOW).is_ok(), again, "{fault:?}");
    }
}

#[test]
fn nothing_goes_below_what_was_committed_but_a_signed_downgrade() {
    let mut ledger = committed(5, "2.0.0");
    ledger.offer(offer(4), NOW).expect("the numbers are looked at with the metadata");
    let why = |ledger: &mut Ledger, r: &Release| ledger.identify(r).expect_err("it is older").fault;
    assert_eq!(why(&mut ledger, &release(4, "3.0.0", None)), UpdateFault::Rollback);
    assert_eq!(why(&mut ledger, &release(4, "1.0.0", Some("2.0.0 is deaf"))), UpdateFault::Rollback);
    assert_eq!(why(&mut ledger, &release(6, "1.9.9", None)), UpdateFault::Rollback);
    assert_eq!(why(&mut ledger, &release(6, "two", None)), UpdateFault::ExtraneousTarget);
    assert_eq!(ledger.identify(&release(6, "1.0.0", Some("2.0.0 is deaf"))), Ok(()));
    ledger.advance(UpdateState::Trial, NOW);
    ledger.commit(NOW);
    assert_eq!((ledger.floor, &ledger.versions["m"]), (6, &Version::new(1, 0, 0)));
    // The floor stands though the model went back.
    ledger.offer(offer(5), NOW).expect("taken up");
    assert_eq!(why(&mut ledger, &release(5, "2.0.0", None)), UpdateFault::Rollback);
}

#[test]
fn a_start_in_the_middle_of_a_trial_knows_why_it_is_one() {
    let start = |orderly: bool, boots: &[&str]| {
        let mut ledger = committed(1, "1.0.0");
        on_trial(&mut ledger, 2, "1.1.0");
        ledger.attempt.as_mut().expect("on trial").trial.orderly = orderly;
        boots.iter().map(|boot| ledger.start(boot, NOW)).last().expect("a start")
    };
    assert!(matches!(start(true, &["boot"]), (Serve::OnTrial(_), None)), "restarted by somebody");
    assert!(matches!(start(false, &["other"]), (Serve::OnTrial(_), None)), "the power was cut");
    for (orderly, boots) in [(false, &["boot"][..]), (true, &["boot", "boot"]), (false, &["other", "third"])] {
        let (serve, over) = start(orderly, boots);
        assert!(matches!(serve, Serve::Current(slot) if slot.release == 1));
        let reason = over.expect("it is rolled back").reason.expect("with a reason");
        assert_eq!(reason.fault, UpdateFault::Restarted, "{boots:?}");
    }
}

#[test]
fn what_is_damaged_falls_back_to_what_served_before_and_then_to_the_package() {
    let mut ledger = committed(1, "1.0.0");
    on_trial(&mut ledger, 2, "1.1.0");
    ledger.commit(NOW);
    assert!(matches!(ledger.fall_back(), Serve::Current(slot) if slot.release == 1));
    assert_eq!(ledger.fall_back(), Serve::Factory);
    assert_eq!(ledger.floor, 2, "the floor stays");
}

#[test]
fn a_damaged_file_is_no_empty_ledger() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("ledger.json");
    assert_eq!(Ledger::load(&path).expect("none"), None);
    let ledger = committed(3, "1.0.0");
    ledger.save(&path).expect("writable");
    assert_eq!(Ledger::load(&path).expect("readable"), Some(ledger));
    std::fs::write(&path, "{").expect("writable");
    assert_eq!(Ledger::load(&path).expect_err("damaged").kind(), io::ErrorKind::InvalidData);
}

#[derive(Debug, Clone)]
enum Act {
    Offer(u64),
    Identify(u64, bool),
    Advance(UpdateState),
    Commit,
    Fail(UpdateFault),
    Cancel,
    Start(bool),
    FallBack,
}

fn act() -> impl Strategy<Value = Act> {
    use UpdateState::*;
    prop_oneof![
        (1_u64..9).prop_map(Act::Offer),
        (0_u64..4, any::<bool>()).prop_map(|(v, d)| Act::Identify(v, d)),
        prop::sample::select(vec![Downloading, Verified, Building, Proving, Shadow, Trial]).prop_map(Act::Advance),
        Just(Act::Commit),
        prop::sample::select(vec![UpdateFault::GoldenVectors, UpdateFault::DamagedFile]).prop_map(Act::Fail),
        Just(Act::Cancel),
        any::<bool>().prop_map(Act::Start),
        Just(Act::FallBack),
    ]
}

proptest! {
    #[test]
    fn no_history_breaks_the_invariants(acts in prop::collection::vec(act(), 1..60)) {
        let mut ledger = Ledger::default();
        let mut proven = std::collections::BTreeSet::new();
        let mut never = std::collections::BTreeSet::new();
        for act in acts {
            let before = ledger.clone();
            match act {
                Act::Offer(n) => {
                    if matches!(ledger.offer(offer(n), NOW), Ok(Offered::New(..))) {
                        prop_assert!(!never.contains(&n), "release {} was refused for what it is", n);
                    }
                }
                Act::Identify(v, d) => {
                    let Some(n) = ledger.attempt.as_ref().map(|a| a.report.release) else { continue };
                    let r = release(n, &format!("{v}.0.0"), d.then_some("why"));
                    if let Err(reason) = ledger.identify(&r) {
                        ledger.fail(reason, NOW);
                    }
                }
                // The updater goes no further with what is not identified.
                Act::Advance(state) => {
                    if ledger.attempt.as_ref().is_some_and(|a| a.slot.is_some()) {
                        ledger.advance(state, NOW);
                    }
                }
                Act::Commit => {
                    if ledger.attempt.as_ref().is_some_and(|a| a.report.state == UpdateState::Trial) {
                        ledger.commit(NOW);
                        proven.insert(ledger.current.clone().expect("committed").release);
                    }
                }
                Act::Fail(fault) => {
                    if let Some(n) = ledger.attempt.as_ref().map(|a| a.report.release) {
                        ledger.fail(UpdateReason { fault, words: String::new() }, NOW);
                        if !fault.may_pass() {
                            never.insert(n);
                        }
                    }
                }
                Act::Cancel => drop(ledger.cancel(NOW)),
                Act::Start(same) => {
                    let n = ledger.attempt.as_ref().map(|a| a.report.release);
                    let (serve, over) = ledger.start(if same { "boot" } else { "other" }, NOW);
                    if over.is_some() {
                        never.extend(n);
                    }
                    if let Serve::Current(slot) = serve {
                        prop_assert!(proven.contains(&slot.release));
                    }
                }
                Act::FallBack => drop(ledger.fall_back()),
            }
            prop_assert!(ledger.floor >= before.floor);
            for slot in [&ledger.current, &ledger.previous].into_iter().flatten() {
                prop_assert!(proven.contains(&slot.release), "{} was never committed", slot.release);
                prop_assert!(slot.release <= ledger.floor);
            }
            prop_assert!(ledger.refused.len() <= REFUSED_MOST);
            if let Some(attempt) = &ledger.attempt {
                prop_assert!(!attempt.report.state.is_final());
            }
            // It survives the disk.
            let text = serde_json::to_string(&ledger).expect("plain data");
            prop_assert_eq!(&serde_json::from_str::<Ledger>(&text).expect("what was written"), &ledger);
        }
    }
}
