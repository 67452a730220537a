//! The reference consumers of `deploy/consumers`, in Python and in Rust, by one suite: the cases of their ledgers, and the
//! whole of each at a real Mosquitto with a device that loses, repeats and disorders its messages.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rusqlite::OpenFlags;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::agent::Agent;
use crate::common::broker::{Broker, Subscriber};
use crate::common::pki::{NOW, Pki};
use crate::common::relay::{Network, Relay};
use crate::common::wait_for;

#[allow(dead_code, reason = "the program has more use for it than its contract")]
#[path = "../deploy/consumers/rust/ledger.rs"]
mod ledger;
mod refusals;

const SOURCE: &str = "/vedette/depot/gate-1";
const DEVICE: &str = "vedette/v1/depot/gate-1";

#[test]
fn the_ledger_in_rust_keeps_to_its_cases() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../deploy/consumers/cases.json")).expect("JSON");
    assert!(cases.len() > 10);
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (number, case) in cases.iter().enumerate() {
        let name = case["name"].as_str().expect("a name");
        let file = dir.path().join(format!("{number}.db"));
        let ledger = ledger::Ledger::open(file.to_str().expect("UTF-8")).expect("a database");
        let now = || {
            let epoch = ledger.current(SOURCE).expect("a database").expect("something came");
            let all = ledger.confirmable().expect("a database");
            let (_, epoch_of, upto) = all.into_iter().find(|(source, ..)| source == SOURCE).expect("something came");
            let missing = ledger.missing(SOURCE, &epoch).expect("a database");
            json!({"confirm": [upto, epoch_of], "missing": missing})
        };
        for step in case["steps"].as_array().expect("steps") {
            if let Some(expected) = step.get("expect") {
                assert_eq!(&now(), expected, "{name}");
            } else if let Some(state) = step.get("outbox") {
                assert!(ledger.outbox(SOURCE, state).expect("a database"), "{name}");
            } else {
                let mut event = json!({"source": SOURCE, "id": step["alert"][1], "epoch": "E1"});
                for key in ["source", "epoch"] {
                    if let Some(value) = step.get(key) {
                        event[key] = value.clone();
                    }
                }
                if let Some(seq) = step["alert"][0].as_u64() {
                    event["sequence"] = format!("{seq:020}").into();
                }
                assert!(ledger.alert(&event).expect("a database").is_some(), "{name}");
            }
        }
        assert_eq!(now(), json!({"confirm": case["confirm"], "missing": case["missing"]}), "{name}");
        let books = rusqlite::Connection::open(&file).expect("a database");
        let list = |question: &str, of: &[&str]| -> Value {
            let mut select = books.prepare(question).expect("its tables");
            let rows = select.query_map(rusqlite::params_from_iter(of), |row| row.get(0)).expect("rows");
            rows.map(|row| serde_json::from_str::<Value>(&row.map(|t: String| t).expect("a row")).expect("JSON"))
                .collect()
        };
        let ids = "SELECT json_quote(id) FROM events WHERE source = ? ORDER BY id";
        assert_eq!(list(ids, &[SOURCE]), case["stored"], "{name}");
        let spans = "SELECT json_array(first, last) FROM lost WHERE source = ? AND epoch = ? ORDER BY first";
        let epoch = case["confirm"][1].as_str().expect("an epoch");
        assert_eq!(list(spans, &[SOURCE, epoch]), case["lost"], "{name}");
        for (epoch, lost) in case["lost_before"].as_object().into_iter().flatten() {
            assert_eq!(&list(spans, &[SOURCE, epoch]), lost, "{name}");
        }
    }
}

#[test]
fn the_ledger_in_python_keeps_to_its_cases() {
    let tests = consumers().join("python/test_ledger.py");
    let run = Command::new("python3").arg(tests).output().expect("python3");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn the_consumer_in_python_loses_nothing_and_counts_nothing_twice() {
    if let Some(program) = python() {
        loses_nothing_and_counts_nothing_twice(&program);
    }
}

#[test]
fn the_consumer_in_rust_loses_nothing_and_counts_nothing_twice() {
    loses_nothing_and_counts_nothing_twice(&rust());
}

fn loses_nothing_and_counts_nothing_twice(program: &Program) {
    let broker = Broker::plaintext().start();
    let mut device = Device::at(&broker);
    let mut consumer = program.start(broker.port);
    consumer.subscribed(&device);

    // Of 300 alerts a fifth does not come, a fifth comes twice, and none at its place; and the consumer is killed.
    let (mut late, mut batches) = (Vec::new(), vec![Vec::new(); 6]);
    for seq in 1..=300_u64 {
        let batch = &mut batches[(seq as usize - 1) / 50];
        match seq % 5 {
            0 => late.push(seq),
            1 => batch.extend([seq, seq]),
            _ => batch.push(seq),
        }
    }
    for (round, mut batch) in batches.into_iter().enumerate() {
        fastrand::Rng::with_seed(round as u64).shuffle(&mut batch);
        device.send(&batch, false);
        let so_far = (round as i64 + 1) * 20;
        wait_for("a part of it", || (consumer.stored() >= so_far).then_some(()));
        consumer.kill();
        consumer = consumer.restart(broker.port);
    }
    device.outbox(json!({"newest": 300, "oldest_kept": 1, "pending": 0, "given_up": []}));
    assert_eq!(late.first(), Some(&5));
    let wanted = device.cmd.wait_for("a request for what is missing", |m| m.payload["command"] == "replay");
    assert!(wanted.topic.starts_with(&format!("{DEVICE}/cmd/soc-")), "{}", wanted.topic);
    assert_eq!((&wanted.payload["from"], &wanted.payload["to"]), (&json!(5), &json!(300)));
    device.send(&late, true);
    device.confirmed(300);
    assert_eq!(consumer.ids(), (1..=300).map(|seq| device.id(seq)).collect());

    // What the device gave up is not waited for.
    device.outbox(json!({"newest": 305, "oldest_kept": 304, "pending": 2, "given_up": [[301, 303]]}));
    device.send(&[304, 305], false);
    device.confirmed(305);

    // The device lost its database.
    device.epoch = "E2";
    device.send(&[2], false);
    device.outbox(json!({"newest": 2, "oldest_kept": 1, "pending": 1, "given_up": []}));
    device.send(&[1], false);
    device.confirmed(2);
    assert_eq!(consumer.stored(), 304);
}

#[test]
fn the_consumer_in_python_commits_before_it_acknowledges() {
    if let Some(program) = python() {
        commits_before_it_acknowledges(&program);
    }
}

#[test]
fn the_consumer_in_rust_commits_before_it_acknowledges() {
    commits_before_it_acknowledges(&rust());
}

fn commits_before_it_acknowledges(program: &Program) {
    let broker = Broker::plaintext().start();
    let relay = Relay::to(broker.port);
    let device = Device::at(&broker);
    let mut consumer = program.start(relay.port);
    consumer.subscribed(&device);
    // Its acknowledgement is on the way for so long that it can be kept from arriving.
    relay.set(Network::Slow(std::time::Duration::from_millis(700)));
    device.send(&[1], false);
    wait_for("the commit", || (consumer.stored() == 1).then_some(()));
    relay.set(Network::Cut);
    consumer.kill();
    // In the consumer's own session: the broker still has it to give.
    let mut session = broker.subscribe_as("soc", &format!("{DEVICE}/alerts/+"));
    let again = session.wait_for("the alert again", |_| true);
    assert_eq!(again.payload["id"], device.id(1));
}

/// With certificates, at the broker as it is shipped but for the second worker, whom its ACL shows how to let in.
#[test]
fn workers_share_the_alerts_and_one_that_dies_leaves_none_behind() {
    let (pki, camera) = (Pki::new(), "[[camera]]\nid = \"pattern\"\nkind = \"test\"\nclassify = false\n");
    let granted = [
        "user soc-2",
        "topic read vedette/v1/#",
        "topic write vedette/v1/+/+/ack/soc",
        "topic write vedette/v1/+/+/cmd/+",
    ];
    let commented = granted.map(|line| format!("#{line}\n")).concat();
    let broker = Broker::production(&pki).with("acl", &commented, &granted.map(|line| format!("{line}\n")).concat());
    let broker = broker.start();
    let mut acks = broker.subscribe_as("monitor", "vedette/v1/test/unit/ack/soc");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let database = dir.path().join("alerts.db");
    let start = |program: &Program, worker: &str| {
        let files = pki.device(worker, NOW);
        let mut command = program.command(&database, broker.port);
        command.args(["--share", "workers", "--client-id", worker, "--cafile"]).arg(pki.file("ca.crt"));
        let said = std::fs::File::create(dir.path().join(worker)).expect("writable");
        let child = command.arg("--cert").arg(files.cert).arg("--key").arg(files.key).stdout(said).spawn();
        child.expect("the program runs")
    };
    let said = |worker: &str| std::fs::read_to_string(dir.path().join(worker)).expect("there").lines().count();
    let stored = || {
        let books = rusqlite::Connection::open_with_flags(&database, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
        books.query_row("SELECT count(*), count(DISTINCT id) FROM events", [], |r| Ok((r.get(0)?, r.get(1)?))).ok()
    };
    // Where there is no Python client, both are of one kind.
    let (mut first, mut second) = (start(&rust(), "soc"), start(&python().unwrap_or_else(rust), "soc-2"));
    let files = pki.device("test/unit", NOW);
    let mqtt = format!(
        "[mqtt]\nurl = \"mqtts://127.0.0.1:{}\"\nca_file = {:?}\ncert_file = {:?}\nkey_file = {:?}\n",
        broker.port,
        pki.file("ca.crt"),
        files.cert,
        files.key
    );
    let device = Agent::new(camera, &format!("[clip]\npre_roll_s = 1\npost_roll_s = 0\n{mqtt}")).start();
    let newest = || device.status()["outbox"]["newest"].as_u64().expect("a number");
    wait_for("both at work", || {
        device.command(&["test-alert"]);
        (said("soc") > 2 && said("soc-2") > 2).then_some(())
    });
    first.kill().expect("our child");
    first.wait().expect("our child");
    for _ in 0..10 {
        device.command(&["test-alert"]);
    }
    let confirmed = wait_for("all to be confirmed by the one that is left", || {
        let upto = acks.everything().iter().filter_map(|m| m.payload["seq"].as_u64()).max()?;
        (upto == newest() && device.status()["outbox"]["unconfirmed"] == 0).then_some(upto)
    });
    assert_eq!(stored(), Some((confirmed as i64, confirmed as i64)), "each once");
    second.kill().expect("our child");
    second.wait().expect("our child");
}

fn consumers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/consumers")
}

/// How a consumer is called.
struct Program {
    command: Vec<PathBuf>,
    python_path: Option<PathBuf>,
}

/// None, loudly, where paho-mqtt could not be had.
#[allow(clippy::print_stderr, reason = "a test that tests nothing must be seen")]
fn python() -> Option<Program> {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/python");
    if !packages.join("paho").is_dir() {
        eprintln!(
            "SKIPPED: no paho-mqtt in .cache/python (deploy/dev/python.sh): the consumer in Python is not tested"
        );
        return None;
    }
    let command = vec!["python3".into(), consumers().join("python/consumer.py")];
    Some(Program { command, python_path: Some(packages) })
}

fn rust() -> Program {
    // Cargo builds examples with the tests, beside them; not where somebody asks for one binary of tests only.
    let tests = std::env::current_exe().expect("our own path");
    let profile = tests.ancestors().nth(2).expect("target/<profile>/deps");
    let program = profile.join("examples/consumer");
    if !program.exists() {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--example", "consumer", "--target-dir"])
            .arg(profile.parent().expect("target"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.is_ok_and(|status| status.success()) && program.exists(), "cargo build --example consumer");
    }
    Program { command: vec![program], python_path: None }
}

impl Program {
    fn start(&self, port: u16) -> Consumer<'_> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Consumer { program: self, child: self.spawn(dir.path(), port), dir }
    }

    fn spawn(&self, dir: &Path, port: u16) -> Child {
        self.command(&dir.join("alerts.db"), port).spawn().expect("the program runs")
    }

    fn command(&self, database: &Path, port: u16) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).args(["--replay-after", "2", "--retry", "0.2", "--port", &port.to_string()]);
        command.arg("--database").arg(database).stdin(Stdio::null()).stdout(Stdio::null());
        if let Some(path) = &self.python_path {
            command.env("PYTHONPATH", path);
        }
        command
    }
}

/// A running consumer; killed with its value.
struct Consumer<'a> {
    program: &'a Program,
    child: Child,
    dir: TempDir,
}

impl<'a> Consumer<'a> {
    /// Waits until the broker has granted its subscriptions.
    fn subscribed(&self, device: &Device<'_>) {
        // What is retained comes when a subscription is granted.
        device.outbox(json!({"newest": 0, "oldest_kept": null, "pending": 0, "given_up": []}));
        wait_for("its subscription", || {
            let known = self.ask("SELECT count(*) FROM current");
            (known == Some(1)).then_some(())
        });
    }

    /// `kill -9`.
    fn kill(&mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }

    fn restart(mut self, port: u16) -> Consumer<'a> {
        self.child = self.program.spawn(self.dir.path(), port);
        self
    }

    fn database(&self) -> Option<rusqlite::Connection> {
        let db =
            rusqlite::Connection::open_with_flags(self.dir.path().join("alerts.db"), OpenFlags::SQLITE_OPEN_READ_WRITE);
        db.ok()
    }

    fn ask(&self, question: &str) -> Option<i64> {
        self.database()?.query_row(question, [], |row| row.get(0)).ok()
    }

    /// How many alerts are committed.
    fn stored(&self) -> i64 {
        self.ask("SELECT count(*) FROM events").unwrap_or(0)
    }

    fn ids(&self) -> BTreeSet<String> {
        let db = self.database().expect("a database");
        let mut select = db.prepare("SELECT id FROM events").expect("its table");
        let ids: Vec<String> =
            select.query_map([], |row| row.get(0)).expect("rows").map(|r| r.expect("a row")).collect();
        let unique: BTreeSet<String> = ids.iter().cloned().collect();
        assert_eq!(unique.len(), ids.len());
        unique
    }
}

impl Drop for Consumer<'_> {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A device that says what a test has it say.
struct Device<'a> {
    broker: &'a Broker,
    epoch: &'static str,
    acks: Subscriber,
    cmd: Subscriber,
    confirmed: BTreeMap<String, u64>,
}

impl<'a> Device<'a> {
    fn at(broker: &'a Broker) -> Device<'a> {
        let [acks, cmd] = ["ack/soc", "cmd/+"].map(|channel| broker.subscribe(&format!("{DEVICE}/{channel}")));
        Device { broker, epoch: "E1", acks, cmd, confirmed: BTreeMap::new() }
    }

    fn id(&self, seq: u64) -> String {
        format!("{}-{seq}", self.epoch)
    }

    /// Alerts with these numbers, in this order.
    fn send(&self, seqs: &[u64], replayed: bool) {
        let mut publisher = Command::new("mosquitto_pub")
            .args(["-V", "mqttv5", "-q", "1", "-p", &self.broker.port.to_string()])
            .args(["-t", &format!("{DEVICE}/alerts/north"), "-l"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("mosquitto_pub");
        let mut lines = publisher.stdin.take().expect("piped");
        for seq in seqs {
            let sequence = format!("{seq:020}");
            let event = json!({"specversion": "1.0", "type": "org.vedette.alert.opened.v1", "source": SOURCE,
                "id": self.id(*seq), "epoch": self.epoch, "sequence": sequence, "replayed": replayed, "data": {}});
            writeln!(lines, "{event}").expect("it reads");
        }
        drop(lines);
        assert!(publisher.wait().expect("our child").success());
    }

    /// Its retained word on its queue.
    fn outbox(&self, mut state: Value) {
        state["site"] = "depot".into();
        state["device"] = "gate-1".into();
        state["epoch"] = self.epoch.into();
        let status = Command::new("mosquitto_pub")
            .args(["-V", "mqttv5", "-q", "1", "-r", "-p", &self.broker.port.to_string()])
            .args(["-t", &format!("{DEVICE}/outbox"), "-m", &state.to_string()])
            .status();
        assert!(status.expect("mosquitto_pub").success());
    }

    /// Waits until this number of this epoch is confirmed; confirmations never go back.
    fn confirmed(&mut self, upto: u64) {
        let (epoch, confirmed) = (self.epoch, &mut self.confirmed);
        self.acks.wait_for("the confirmation", |ack| {
            let seq = ack.payload["seq"].as_u64().expect("a number");
            let of = ack.payload["epoch"].as_str().expect("an epoch").to_owned();
            let before = confirmed.insert(of.clone(), seq);
            assert!(before.is_none_or(|before| before <= seq), "{before:?} then {seq}");
            (of, seq) == (epoch.to_owned(), upto)
        });
    }
}
