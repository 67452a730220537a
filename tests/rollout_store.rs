//! One suite for everything that keeps roll-outs, and what each of them promises beyond it.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use vedette::base::clock::Wall;
use vedette::fleet::rollout::orders::Order;
use vedette::fleet::rollout::plan::{DeviceId, Gates, Pace, Plan, Wave, Who};
use vedette::fleet::rollout::state::{Attempt, End, How, Record, Rollout};
use vedette::fleet::rollout::store::{Company, FileStore, PostgresStore, Store, StoreError};
use vedette::fleet::rollout::tls::Files;

use crate::common::pki::{NOW, Pki};
use crate::common::postgres::Postgres;

const START: Wall = Wall::from_unix_ms(1_790_000_000_000);
const PLAIN: Files<'static> = Files { ca: None, cert: None, key: None };

fn id(n: usize) -> DeviceId {
    format!("s/d{n}").parse().unwrap()
}

fn rollout(name: &str, devices: usize, started: Wall) -> Rollout {
    let plan = Plan {
        release: 7,
        salt: "s".into(),
        among: None,
        waves: vec![Wave { who: Who::Percent(0.1), soak_s: 60 }, Wave { who: Who::Percent(100.0), soak_s: 60 }],
        pace: Pace::default(),
        gates: Gates::default(),
        inventory: Some((0..devices).map(|n| (id(n), BTreeSet::from(["g".to_owned()]))).collect()),
    };
    Rollout::new(name.into(), plan, "kim".into(), started)
}

/// What every store promises; `first` and `second` are two managers' ways to the same one.
async fn suite(first: Arc<dyn Store>, second: Arc<dyn Store>) {
    // What is kept is what was given, whatever a device has said.
    let one = rollout("one", 300, START);
    first.create(&one, Company::Alone).await.unwrap();
    let stored = second.load("one").await.unwrap();
    assert_eq!((stored.version, &stored.rollout), (1, &one));
    assert!(matches!(first.create(&one, Company::Beside).await, Err(StoreError::Exists(_))));
    assert!(
        matches!(second.create(&rollout("two", 1, START), Company::Alone).await, Err(StoreError::Open(o)) if o == "one")
    );
    let two = rollout("two", 0, START + Duration::from_secs(5));
    second.create(&two, Company::Beside).await.unwrap();
    let mut next = one.clone();
    let record = next.devices.get_mut(&id(5)).unwrap();
    record.end = Some(End { how: How::Refused, words: Some("odd \u{0} \u{1b}[2J 𝄞 \" ' \\ ; DROP".into()) });
    record.offer = Some(Attempt { number: u32::MAX, at: START, until: Wall::from_unix_ms(i64::MAX) });
    next.devices.insert(id(1000), Record::new(1));
    let changed = BTreeSet::from([id(5), id(1000)]);
    assert_eq!(first.commit(1, &next, &changed).await.unwrap(), 2);
    assert_eq!(second.load("one").await.unwrap().rollout, next);
    assert_eq!((second.version("one").await.unwrap(), second.version("two").await.unwrap()), (2, 1));

    // Who was slower changes nothing.
    let abort = Order::Abort { why: None }.apply(START, "p", &next).unwrap();
    assert!(matches!(second.commit(1, &abort, &BTreeSet::new()).await, Err(StoreError::Conflict(_))));
    assert_eq!(first.load("one").await.unwrap().rollout, next);
    second.commit(2, &abort, &BTreeSet::new()).await.unwrap();
    let list = first.list().await.unwrap();
    let told: Vec<_> = list.iter().map(|e| (e.id.as_str(), e.version, e.phase.as_str(), e.open, e.over)).collect();
    assert_eq!(told, [("two", 1, "running", true, false), ("one", 3, "aborted", false, true)]);

    // Names that are none, and those of nobody.
    for bad in ["", "a/b", "..", "a b", "ü", &"x".repeat(65)] {
        assert!(
            matches!(first.create(&rollout(bad, 0, START), Company::Beside).await, Err(StoreError::Name(_))),
            "{bad}"
        );
        assert!(matches!(first.load(bad).await, Err(StoreError::Name(_))), "{bad}");
    }
    assert!(matches!(first.load("three").await, Err(StoreError::Missing(_))));
    assert!(matches!(first.version("three").await, Err(StoreError::Missing(_))));
    let three = rollout("three", 0, START);
    assert!(matches!(first.commit(1, &three, &BTreeSet::new()).await, Err(StoreError::Missing(_))));

    // Many at once: every change that was taken is there, and no other.
    let writers = (0..8usize).map(|w| {
        let store = Arc::clone(if w % 2 == 0 { &first } else { &second });
        tokio::spawn(async move {
            let mut taken = 0;
            while taken < 5 {
                let held = store.load("two").await.unwrap();
                let mut next = held.rollout;
                next.note(START, format!("{w} {taken}"));
                next.devices.insert(id(w * 100 + taken), Record::new(0));
                match store.commit(held.version, &next, &BTreeSet::from([id(w * 100 + taken)])).await {
                    Ok(_) => taken += 1,
                    Err(StoreError::Conflict(_)) => {}
                    Err(e) => panic!("{e}"),
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let two = second.load("two").await.unwrap();
    assert_eq!((two.version, two.rollout.devices.len(), two.rollout.head.history.len()), (41, 40, 41));

    // Of those who start one at the same moment, one may.
    let end = Order::Abort { why: None }.apply(START, "p", &two.rollout).unwrap();
    first.commit(two.version, &end, &BTreeSet::new()).await.unwrap();
    let starters = (0..6).map(|n| {
        let store = Arc::clone(if n % 2 == 0 { &first } else { &second });
        tokio::spawn(async move { store.create(&rollout(&format!("n{n}"), 3, START), Company::Alone).await.is_ok() })
    });
    let mut started = 0;
    for starter in starters.collect::<Vec<_>>() {
        started += usize::from(starter.await.unwrap());
    }
    assert_eq!(started, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_keeps_roll_outs() {
    let dir = tempfile::tempdir().unwrap();
    let open = || -> Arc<dyn Store> { Arc::new(FileStore::open(&dir.path().join("a/b")).unwrap()) };
    suite(open(), open()).await;
    // What a later version, or a bad disk, made of a file is not written over.
    let path = dir.path().join("a/b/one.rollout");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\"aborted\"", "\"suspended\"", 2)).unwrap();
    let e = open().load("one").await.unwrap_err();
    assert!(matches!(e, StoreError::Unreadable { .. }), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_keeps_roll_outs() {
    let postgres = Postgres::start();
    let open = async || {
        let store: Arc<dyn Store> = Arc::new(PostgresStore::open(&postgres.address(), PLAIN).await.unwrap());
        store
    };
    // The first to come makes the tables; of two that come at once, one does.
    let (first, second) = tokio::join!(open(), open());
    suite(first, second).await;

    let (client, connection) = tokio_postgres::connect(&postgres.address(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    // The connection is cut under it: the next use makes another.
    let store = open().await;
    let others =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'vedette-fleet rollout'";
    client.execute(others, &[]).await.unwrap();
    let again = async || store.list().await.map(|l| l.len());
    let found = match again().await {
        Ok(n) => n,
        Err(e) => {
            assert!(matches!(e, StoreError::Database { .. }), "{e}");
            again().await.unwrap()
        }
    };
    assert_eq!(found, 3);

    client.execute("UPDATE vedette_fleet.schema_version SET version = 99", &[]).await.unwrap();
    let later = PostgresStore::open(&postgres.address(), PLAIN).await.err().unwrap();
    assert!(matches!(later, StoreError::Later { found: 99, .. }), "{later}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_to_postgresql_is_encrypted_and_both_sides_are_known() {
    let pki = Pki::new();
    let files = pki.device("fleet", NOW);
    let postgres = Postgres::with_tls(&pki);
    let ca = pki.file("ca.crt");
    let ours = Files { ca: Some(&ca), cert: Some(&files.cert), key: Some(&files.key) };
    let store = PostgresStore::open(&postgres.address(), ours).await.unwrap();
    store.create(&rollout("one", 3, START), Company::Alone).await.unwrap();
    assert_eq!(store.load("one").await.unwrap().rollout.devices.len(), 3);

    let why = |e: Option<StoreError>| vedette::base::error::Chain(&e.unwrap()).to_string();
    let unknown = Files { cert: None, key: None, ..ours };
    let e = why(PostgresStore::open(&postgres.address(), unknown).await.err());
    assert!(e.contains("certificate"), "{e}");
    let stranger = Pki::new();
    let other = stranger.file("ca.crt");
    let e = why(PostgresStore::open(&postgres.address(), Files { ca: Some(&other), ..ours }).await.err());
    assert!(e.contains("certificate"), "{e}");
    // The certificate is for 127.0.0.1.
    let named = postgres.address().replace("host=127.0.0.1", "host=localhost hostaddr=127.0.0.1");
    let e = why(PostgresStore::open(&named, ours).await.err());
    assert!(e.contains("certificate"), "{e}");
    let e = why(PostgresStore::open(&postgres.address(), PLAIN).await.err());
    assert!(e.contains("database"), "{e}");
    for far in ["host=db.example.net user=x", "host=db.example.net user=x sslmode=prefer"] {
        assert!(matches!(PostgresStore::open(far, PLAIN).await, Err(StoreError::Plain)), "{far}");
    }
}
