//! What a consumer says when a broker refuses it, on stderr and with what to do; and that it goes on trying.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use super::{Device, Program, python, rust};
use crate::common::agent::stderr;
use crate::common::broker::Broker;
use crate::common::pki::{NOW, Pki};
use crate::common::wait_for;

/// A running consumer whose words are kept; killed with its value.
struct Speaking {
    child: Child,
    dir: TempDir,
}

impl Speaking {
    fn start(program: &Program, port: u16, args: &[&str]) -> Speaking {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let words = std::fs::File::create(dir.path().join("words")).expect("writable");
        let mut command = program.command(&dir.path().join("alerts.db"), port);
        let child = command.args(args).stderr(words).spawn().expect("the program runs");
        Speaking { child, dir }
    }

    fn words(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("words")).expect("there")
    }

    /// Waits until it has said all of these.
    fn says(&self, wanted: &[&str]) {
        let words = || self.words();
        wait_for(&format!("{wanted:?}"), || wanted.iter().all(|w| words().contains(w)).then_some(()));
        assert!(!words().contains("Traceback"), "{}", words());
    }
}

impl Drop for Speaking {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary directories have plain names")
}

#[test]
fn the_consumer_in_python_says_why_it_is_not_let_in() {
    let Some(program) = python() else { return };
    let (pki, other) = (Pki::new(), Pki::new());
    let broker = Broker::production(&pki).start();
    let (ca, foreign_ca) = (pki.file("ca.crt"), other.file("ca.crt"));
    let expired = pki.device("soc-expired", (-3, -1));
    let foreign = other.device("soc", NOW);
    let with = |cert: &Path, key: &Path| ["--cert".into(), path(cert).to_owned(), "--key".into(), path(key).to_owned()];
    let (expired, foreign) = (with(&expired.cert, &expired.key), with(&foreign.cert, &foreign.key));
    for (args, wanted) in [
        (vec!["--cafile", path(&ca)], &["no connection", "--cert and --key"][..]),
        ([vec!["--cafile", path(&ca)], expired.iter().map(String::as_str).collect()].concat(), &["expired"]),
        (
            [vec!["--cafile", path(&ca)], foreign.iter().map(String::as_str).collect()].concat(),
            &["authority", "--cert"],
        ),
        (vec!["--cafile", path(&foreign_ca)], &["not signed by an authority in --cafile"]),
        (vec!["--cafile", path(&ca), "--host", "localhost"], &["mismatch", "--host must be"]),
        (vec![], &["before the broker answered", "TLS"]),
    ] {
        Speaking::start(&program, broker.port, &args).says(wanted);
    }

    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), "wrong\n").expect("writable");
    let broker = Broker::with_password("soc", "right").start();
    let args = ["--user", "soc", "--password-file", path(secret.path())];
    Speaking::start(&program, broker.port, &args).says(&["the broker refuses: Not authorized"]);
    let tls = ["--cafile", path(&ca)];
    Speaking::start(&program, broker.port, &tls).says(&["speak TLS"]);
}

#[test]
fn the_consumer_in_python_says_a_reason_once_and_goes_on_trying() {
    let Some(program) = python() else { return };
    let mut broker = Broker::plaintext().start();
    broker.kill();
    let consumer = Speaking::start(&program, broker.port, &[]);
    consumer.says(&["Connection refused; trying again"]);
    broker.restart();
    consumer.says(&["connected to 127.0.0.1"]);
    assert_eq!(consumer.words().matches("Connection refused").count(), 1, "{}", consumer.words());
}

#[test]
fn the_consumer_in_python_ends_over_arguments_that_cannot_work() {
    let Some(program) = python() else { return };
    let pki = Pki::new();
    let (ca, other) = (pki.file("ca.crt"), pki.device("test/other", NOW));
    let soc = pki.file("soc.crt");
    let no_pem = tempfile::NamedTempFile::new().expect("a file");
    for (args, wanted) in [
        (vec!["--cafile", "/not/there.crt"], "--cafile /not/there.crt: No such file or directory"),
        (vec!["--cafile", path(&ca), "--cert", path(&soc)], "--cert needs --key with it"),
        (vec!["--cert", path(&soc), "--key", path(&other.key)], "--cert needs --cafile with it"),
        (vec!["--cafile", path(&ca), "--cert", path(&soc), "--key", path(&other.key)], "does not hold what it should"),
        (vec!["--cafile", path(no_pem.path())], "does not hold what it should"),
        (vec!["--user", "soc"], "--user needs --password-file with it"),
        (vec!["--user", "soc", "--password-file", "/not/there"], "--password-file /not/there: No such file"),
        (vec!["--database", "/not/there/alerts.db"], "--database /not/there/alerts.db"),
    ] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ended = program.command(&dir.path().join("alerts.db"), 1).args(&args).output().expect("the program runs");
        let said = stderr(&ended);
        assert_eq!(ended.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(wanted) && !said.contains("Traceback"), "{args:?}: {said}");
    }
}

#[test]
fn the_consumer_in_python_says_that_it_is_put_out_by_another() {
    if let Some(program) = python() {
        says_that_it_is_put_out(&program);
    }
}

#[test]
fn the_consumer_in_rust_says_that_it_is_put_out_by_another() {
    says_that_it_is_put_out(&rust());
}

fn says_that_it_is_put_out(program: &Program) {
    let broker = Broker::plaintext().start();
    let consumer = Speaking::start(program, broker.port, &[]);
    wait_for("its connection", || broker.log().contains("as soc ").then_some(()));
    let other = Command::new("mosquitto_sub")
        .args(["-V", "mqttv5", "-p", &broker.port.to_string(), "-i", "soc", "-t", "nothing"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    consumer.says(&["another client uses", "--client-id"]);
    let mut other = other.expect("mosquitto_sub");
    other.kill().expect("our child");
    other.wait().expect("our child");

    // Mosquitto 2.0.11 only closes; others say why.
    let broker = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let consumer = Speaking::start(program, broker.local_addr().expect("bound").port(), &[]);
    let (mut stream, _) = broker.accept().expect("the consumer connects");
    assert!(stream.read(&mut [0; 1024]).expect("readable") > 0, "its CONNECT");
    // CONNACK, and DISCONNECT with reason 0x8E.
    stream.write_all(&[0x20, 3, 0, 0, 0, 0xe0, 2, 0x8e, 0]).expect("it reads");
    consumer.says(&["taken over", "another client uses", "--client-id"]);
}

#[test]
fn the_consumer_in_python_says_that_its_confirmation_is_refused() {
    if let Some(program) = python() {
        says_that_its_confirmation_is_refused(&program);
    }
}

#[test]
fn the_consumer_in_rust_says_that_its_confirmation_is_refused() {
    says_that_its_confirmation_is_refused(&rust());
}

fn says_that_its_confirmation_is_refused(program: &Program) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let rules = dir.path().join("acl");
    let granted = "topic readwrite vedette/v1/+/+/alerts/+\ntopic readwrite vedette/v1/+/+/outbox\n";
    std::fs::write(&rules, format!("{granted}topic read vedette/v1/#\n")).expect("writable");
    let mut broker = Broker::plaintext().also(&format!("acl_file {}", path(&rules))).start();
    let device = Device::at(&broker);
    let consumer = Speaking::start(program, broker.port, &[]);
    wait_for("its connection", || broker.log().contains("as soc ").then_some(()));
    device.send(&[1, 2], false);
    consumer.says(&["refuses a confirmation", "vedette/v1/depot/gate-1/ack/soc", "vedette/v1/+/+/ack/soc", "(ACL)"]);

    // Once it is granted, all is confirmed: nothing was taken for said.
    std::fs::write(&rules, format!("{granted}topic readwrite vedette/v1/#\n")).expect("writable");
    drop(device);
    broker.restart();
    let mut device = Device::at(&broker);
    // It is retained: the consumer hears it as soon as it is there again.
    device.outbox(json!({"newest": 2, "oldest_kept": 1, "pending": 0, "given_up": []}));
    device.confirmed(2);
}

#[test]
fn the_consumer_in_python_says_that_its_subscription_is_refused() {
    if let Some(program) = python() {
        says_that_its_subscription_is_refused(&program);
    }
}

#[test]
fn the_consumer_in_rust_says_that_its_subscription_is_refused() {
    says_that_its_subscription_is_refused(&rust());
}

/// Mosquitto's access file refuses no subscription, only what comes by it; its plugin for dynamic rules does.
fn says_that_its_subscription_is_refused(program: &Program) {
    let libraries = std::fs::read_dir("/usr/lib").expect("a system").filter_map(Result::ok).map(|d| d.path());
    let mut plugins = libraries.map(|dir| dir.join("mosquitto_dynamic_security.so"));
    let plugin = plugins.find(|p| p.exists()).expect("Debian's mosquitto comes with it");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let rules = dir.path().join("rules.json");
    let access =
        json!({"publishClientSend": true, "publishClientReceive": true, "subscribe": false, "unsubscribe": true});
    std::fs::write(&rules, json!({"defaultACLAccess": access}).to_string()).expect("writable");
    let lines = format!("plugin {}\nplugin_opt_config_file {}", path(&plugin), path(&rules));
    let broker = Broker::plaintext().also(&lines).start();
    let consumer = Speaking::start(program, broker.port, &[]);
    consumer.says(&["refuses", "subscription", "vedette/v1/#", "(ACL)"]);
}
