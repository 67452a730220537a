use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn key(model: &str) -> Key {
    Key {
        model: model.into(),
        model_sha256: "ab".into(),
        tensorrt: "TensorRT 10.3.0".into(),
        cuda: 12_060,
        gpu: "Orin, 8.7, 8 multiprocessors".into(),
        precision: "fp16".into(),
        max_batch: 4,
        likely_batch: 2,
        dla_core: None,
        workspace_bytes: 1 << 29,
    }
}

fn cache() -> (TempDir, Cache) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cache = Cache::new(dir.path());
    cache.make_ready().expect("writable");
    (dir, cache)
}

fn build(cache: &Cache, key: &Key, at_ms: i64) {
    let part = cache.begin(key).expect("writable");
    fs::write(part.join("encoder.plan"), "the encoder").expect("writable");
    fs::write(part.join("head.plan"), "the head").expect("writable");
    cache.finish(key, Wall::from_unix_ms(at_ms), 12.5).expect("writable");
}

#[test]
fn what_was_built_is_found_again_and_only_for_its_key() {
    let (_dir, cache) = cache();
    assert!(matches!(cache.find(&key("m 1")), Found::Nothing(why) if why.contains("none yet")));
    build(&cache, &key("m 1"), 5);
    assert!(matches!(cache.find(&key("m 1")), Found::Plans { encoder, head }
        if encoder == b"the encoder" && head == b"the head"));
    let others = [
        Key { model: "m 2".into(), ..key("m 1") },
        Key { model_sha256: "cd".into(), ..key("m 1") },
        Key { tensorrt: "TensorRT 10.4.0".into(), ..key("m 1") },
        Key { cuda: 12_080, ..key("m 1") },
        Key { gpu: "another".into(), ..key("m 1") },
        Key { precision: "fp32".into(), ..key("m 1") },
        Key { max_batch: 5, ..key("m 1") },
        Key { likely_batch: 1, ..key("m 1") },
        Key { dla_core: Some(0), ..key("m 1") },
        Key { workspace_bytes: 1, ..key("m 1") },
    ];
    for other in others {
        assert!(matches!(cache.find(&other), Found::Nothing(_)), "{other:?}");
    }
    let listed = cache.list();
    let listing = listed[0].listing.as_ref().expect("readable");
    assert_eq!((listed.len(), listing.build_s, listing.built_unix_ms, &listing.key), (1, 12.5, 5, &key("m 1")));
}

#[test]
fn what_is_truncated_changed_moved_or_garbled_is_nothing() {
    type Harm = fn(&Path);
    let harms: [(Harm, &str); 6] = [
        (|d| fs::write(d.join("encoder.plan"), "the enc").expect("writable"), "encoder.plan is damaged"),
        (|d| fs::write(d.join("head.plan"), "The head").expect("writable"), "head.plan is damaged"),
        (|d| fs::remove_file(d.join("head.plan")).expect("there"), "head.plan"),
        (|d| fs::write(d.join(LISTING), "{").expect("writable"), "plans.json"),
        (|d| fs::write(d.join(LISTING), vec![b' '; 100_000]).expect("writable"), "too large"),
        (
            |d| {
                let text = fs::read_to_string(d.join(LISTING)).expect("there");
                fs::write(d.join(LISTING), text.replace("m 1", "m 9")).expect("writable");
            },
            "for something else",
        ),
    ];
    for (harm, said) in harms {
        let (_dir, cache) = cache();
        build(&cache, &key("m 1"), 5);
        harm(&cache.dir().join(key("m 1").id()));
        assert!(matches!(cache.find(&key("m 1")), Found::Nothing(why) if why.contains(said)), "{said}");
        build(&cache, &key("m 1"), 6);
        assert!(matches!(cache.find(&key("m 1")), Found::Plans { .. }), "built anew over it");
    }
}

#[test]
fn a_refusal_is_remembered_until_it_is_built_anew() {
    let (_dir, cache) = cache();
    build(&cache, &key("m 1"), 5);
    cache.refuse(&key("m 1"), "off by 0.3", Wall::from_unix_ms(6)).expect("writable");
    assert!(matches!(cache.find(&key("m 1")), Found::Refused(why) if why == "off by 0.3"));
    assert!(!cache.dir().join(key("m 1").id()).join("encoder.plan").exists(), "it takes no room");
    build(&cache, &key("m 1"), 7);
    assert!(matches!(cache.find(&key("m 1")), Found::Plans { .. }));
}

#[test]
fn a_build_that_was_cut_off_leaves_nothing() {
    let (dir, cache) = cache();
    build(&cache, &key("m 1"), 5);
    let part = cache.begin(&key("m 1")).expect("writable");
    fs::write(part.join("encoder.plan"), "half").expect("writable");
    let again = Cache::new(dir.path());
    again.make_ready().expect("writable");
    assert!(!part.exists() && matches!(again.find(&key("m 1")), Found::Plans { .. }));
}

#[test]
fn a_cache_that_cannot_be_written_says_so_before_anything_is_built() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("engines"), "a file").expect("writable");
    let e = Cache::new(dir.path()).make_ready().expect_err("a file is in the way").to_string();
    assert!(e.contains("plans cannot be kept") && e.contains("engines"), "{e}");
}

proptest! {
    #[test]
    fn what_stays_is_kept_or_fits_and_is_of_this_machine(
        sizes in proptest::collection::vec((0_u64..100, 0_u8..4, any::<bool>()), 0..12),
        most in 0_u64..300,
    ) {
        let entries: Vec<Entry> = sizes
            .iter()
            .enumerate()
            .map(|(n, (bytes, kind, _))| {
                let mut k = key("m");
                if *kind == 1 {
                    k.gpu = "another".into();
                }
                let listing = Listing {
                    key: k, encoder: None, head: None, built_unix_ms: 100 - n as u64, build_s: 0.0, refused: None, agent: AGENT.into(),
                };
                Entry { id: format!("{n:016x}"), listing: (*kind != 2).then_some(listing), bytes: *bytes }
            })
            .collect();
        let keep: Vec<String> =
            entries.iter().zip(&sizes).filter(|(_, (_, _, kept))| *kept).map(|(e, _)| e.id.clone()).collect();
        let gone = to_collect(&entries, Some(&key("m")), &keep, most);
        prop_assert!(gone.iter().all(|id| !keep.contains(id)));
        let stays: Vec<&Entry> = entries.iter().filter(|e| !gone.contains(&e.id)).collect();
        let chosen: u64 = stays.iter().filter(|e| !keep.contains(&e.id)).map(|e| e.bytes).sum();
        let kept: u64 = stays.iter().filter(|e| keep.contains(&e.id)).map(|e| e.bytes).sum();
        prop_assert!(chosen == 0 || chosen + kept <= most);
        for e in stays.iter().filter(|e| !keep.contains(&e.id)) {
            prop_assert!(e.listing.as_ref().is_some_and(|l| l.key.gpu.starts_with("Orin")));
        }
    }
}

#[test]
fn two_do_not_build_at_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cache = Cache::new(dir.path());
    let lock = cache.make_ready().expect("nobody else is there");
    let e = cache.clone().make_ready().expect_err("somebody is");
    assert!(e.may_pass(), "{e}");
    drop(lock);
    assert!(cache.make_ready().is_ok());
}

#[test]
fn a_plan_that_takes_the_process_with_it_is_not_used_for_ever() {
    let (_dir, cache) = cache();
    build(&cache, &key("m 1"), 5);
    for _ in 0..TRIALS {
        assert!(matches!(cache.find(&key("m 1")), Found::Plans { .. }));
        cache.begin_trial(&key("m 1")).expect("writable");
    }
    assert!(matches!(cache.find(&key("m 1")), Found::Refused(why) if why.contains("3 times the agent ended")));
    build(&cache, &key("m 1"), 6);
    assert!(matches!(cache.find(&key("m 1")), Found::Plans { .. }), "a new one is another one");
    cache.begin_trial(&key("m 1")).expect("writable");
    cache.end_trial(&key("m 1"));
    assert_eq!(cache.trials(&key("m 1")), 0);
}

#[test]
fn what_another_agent_refused_is_tried_by_this_one() {
    let (_dir, cache) = cache();
    cache.refuse(&key("m 1"), "off by 0.3", Wall::from_unix_ms(6)).expect("writable");
    let path = cache.dir().join(key("m 1").id()).join(LISTING);
    let text = fs::read_to_string(&path).expect("there");
    fs::write(&path, text.replace(&format!("\"{AGENT}\""), "\"0.0.1\"")).expect("writable");
    assert!(matches!(cache.find(&key("m 1")), Found::Nothing(why) if why.contains("another version")));
}

#[test]
fn timing_caches_of_other_machines_go() {
    let (_dir, cache) = cache();
    let other = Key { cuda: 11_040, ..key("m 1") };
    for k in [&key("m 1"), &other] {
        fs::write(cache.timing_path(k), "timings").expect("writable");
    }
    let lock = cache.lock().expect("nobody else is there");
    cache.collect(&lock, Some(&key("m 1")), &[], 1 << 30).expect("writable");
    assert!(cache.timing_path(&key("m 1")).exists() && !cache.timing_path(&other).exists());
}

#[test]
fn what_is_held_is_not_let_go_and_nothing_is_while_somebody_builds() {
    let (dir, cache) = cache();
    let (served, old) = (key("m 1"), key("m 2"));
    build(&cache, &served, 5);
    build(&cache, &old, 6);
    // Another process: another open file, which is what the locks are of.
    let other = Cache::new(dir.path());
    let building = other.make_ready().expect("nobody else is there");
    assert!(cache.lock().expect_err("somebody builds").may_pass());
    drop(building);
    let serves = other.hold(&served).expect("it is there");
    let lock = cache.lock().expect("nobody builds");
    assert_eq!(cache.collect(&lock, None, &[], 0).expect("writable"), [old.id()]);
    assert!(matches!(other.find(&served), Found::Plans { .. }), "it is still all there");
    drop(serves);
    assert_eq!(cache.collect(&lock, None, &[], 0).expect("writable"), [served.id()]);
    assert!(other.hold(&served).is_none());
}
