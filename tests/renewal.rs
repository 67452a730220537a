//! A provisioned device renews its certificate over a real broker that goes by a revocation list: `vedette-fleet enrol renew`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use vedette::agent::identity::key::PrivateKey;
use vedette::agent::identity::papers::Paper;

use crate::common::agent::{stderr, stdout};
use crate::common::broker::{Broker, Message, Subscriber};
use crate::common::enrol::{Blank, Fleet, With};
use crate::common::wait_for;

const DEVICE: &str = "depot/gate-1";

/// A fleet, its broker, and a device that was provisioned and does not run.
struct Site {
    fleet: Fleet,
    broker: Broker,
    blank: Blank,
    daemon: Option<Child>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.blank.file("log")).unwrap_or_default();
            std::io::Write::write_all(&mut std::io::stderr(), format!("the daemon's log:\n{log}").as_bytes()).ok();
        }
    }
}

impl Site {
    fn new() -> Site {
        let fleet = Fleet::new();
        let crl = format!("crlfile {}", fleet.path("ca/crl.pem"));
        // Mosquitto takes settings of the last listener that was named.
        let certs = fleet.file("certs");
        let broker = Broker::with_certificates(&certs).with(
            "mosquitto.conf",
            "require_certificate true",
            &format!("require_certificate true\n{crl}"),
        );
        let broker = broker.start();
        let blank = Blank::new();
        let site = Site { fleet, broker, blank, daemon: None };
        let bundle = site.bundle(DEVICE, "first.bundle");
        site.blank.take(&site.fleet, &bundle);
        site
    }

    fn bundle(&self, device: &str, file: &str) -> PathBuf {
        let url = format!("mqtts://127.0.0.1:{}", self.broker.port);
        let config = self.blank.config();
        let args = ["--config", config.to_str().expect("UTF-8")];
        self.fleet.bundle(device, file, &With { broker: &url, args: &args })
    }

    fn spawn(&mut self, fail_point: Option<&str>) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.blank.file("log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_vedette"));
        command.args(["run", "--config"]).arg(self.blank.file("etc/vedette.toml")).stdin(Stdio::null());
        command.current_dir(env!("CARGO_MANIFEST_DIR")).stdout(Stdio::null()).stderr(log.expect("writable"));
        if let Some(place) = fail_point {
            command.env("VEDETTE_FAIL_POINT", place);
        }
        self.daemon = Some(command.spawn().expect("the program was built with its tests"));
    }

    fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().ok();
            daemon.wait().ok();
        }
    }

    /// Waits for the daemon's own end, at a fail point.
    fn wait_for_its_end(&mut self) {
        let mut daemon = self.daemon.take().expect("it runs");
        let status = wait_for("the daemon's end", || daemon.try_wait().expect("our child"));
        assert!(!status.success());
    }

    /// `renew`, once.
    fn renew(&self, more: &[&str]) -> String {
        let url = format!("mqtts://127.0.0.1:{}", self.broker.port);
        let (cert, key) = (self.fleet.path("certs/fleet-enrol.crt"), self.fleet.path("certs/fleet-enrol.key"));
        let args = ["renew", "--broker", &url, "--cert", &cert, "--key", &key];
        let done = self.fleet.try_enrol(&[&args[..], more].concat());
        assert!(done.status.success(), "{}", stderr(&done));
        stderr(&done)
    }

    fn serial(&self) -> String {
        let pem = std::fs::read_to_string(self.blank.file("state/identity/current/device.crt")).expect("readable");
        Paper::read(&pem).expect("a certificate").serial
    }

    fn slots(&self) -> usize {
        self.blank.file("state/identity/slots").read_dir().expect("readable").count()
    }

    /// What the device says of its certificate, as it comes.
    fn identity(&self) -> Subscriber {
        self.broker.subscribe(&format!("vedette/v1/{DEVICE}/identity"))
    }

    /// Whether a file of certificate and key is let in by the broker now.
    fn is_let_in(&self, cert: &Path, key: &Path) -> bool {
        let out = Command::new("mosquitto_pub")
            .args(["-V", "mqttv5", "-h", "127.0.0.1", "-p", &self.broker.port.to_string(), "-q", "1"])
            .args([
                "-t",
                &format!("vedette/v1/{DEVICE}/probe"),
                "-m",
                "x",
                "--cafile",
                &self.fleet.path("certs/ca.crt"),
            ])
            .args([Path::new("--cert"), cert, Path::new("--key"), key])
            .output();
        out.expect("mosquitto_pub").status.success()
    }
}

fn state<'a>(state: &'a str, travelled: bool) -> impl FnMut(&Message) -> bool + 'a {
    move |m| m.payload["state"] == state && m.payload["travelled"] == travelled
}

#[test]
fn the_key_that_travelled_is_replaced_at_the_first_connection_and_revoked() {
    let mut site = Site::new();
    let first = site.serial();
    let saved = [site.blank.file("first.crt"), site.blank.file("first.key")];
    for (to, name) in saved.iter().zip(["device.crt", "device.key"]) {
        std::fs::copy(site.blank.file("state/identity/current").join(name), to).expect("readable");
    }
    let mut identity = site.identity();
    site.spawn(None);
    let asks = identity.wait_for("a request", state("requested", true));
    assert_eq!(asks.payload["serial"], first.as_str());
    let said = site.renew(&[]);
    assert!(said.contains("is on its way"), "{said}");
    let settled = identity.wait_for("its end", state("settled", false));
    let own = site.serial();
    assert_eq!(settled.payload["serial"], own.as_str());
    assert_ne!(own, first);
    assert_eq!(site.slots(), 1, "the key that travelled is gone");
    assert!(site.is_let_in(&saved[0], &saved[1]), "until the fleet hears of it");
    let said = site.renew(&[]);
    assert!(said.contains("the ones before it are revoked"), "{said}");
    let shown = site.fleet.show(DEVICE);
    let standings: Vec<&Value> =
        shown["certificates"].as_array().expect("a list").iter().map(|c| &c["standing"]).collect();
    assert_eq!(standings, [&json!("superseded"), &json!("current")]);
    // Whoever subscribes does so by one name, which has one connection.
    drop(identity);
    let state = |site: &Site| site.broker.subscribe(&format!("vedette/v1/{DEVICE}/state"));
    let before = state(&site).wait_for("the device", |m| m.payload["online"] == true).payload["session"].clone();
    // The broker reads its list when it starts.
    site.broker.restart();
    assert!(!site.is_let_in(&saved[0], &saved[1]), "what travelled is of no use any more");
    let again = |m: &Message| m.payload["online"] == true && m.payload["session"].as_u64() > before.as_u64();
    state(&site).wait_for("the device with its own certificate", again);

    // A stolen device.
    site.fleet.enrol(&["revoke", DEVICE]);
    site.broker.restart();
    wait_for("the broker's word in the log", || {
        let log = std::fs::read_to_string(site.blank.file("log")).expect("readable");
        log.contains("revoked").then_some(())
    });
    let listed = site.fleet.enrol(&["list", "--json"]);
    let row = listed.lines().find(|l| l.contains(DEVICE)).expect("it is listed");
    assert!(row.contains("\"state\":\"revoked\""), "{row}");
    // And enrolled anew, as somebody that it was before.
    site.stop();
    let wiped = site.blank.provision(&["--wipe", "--yes"], None);
    assert!(wiped.status.success(), "{}", stderr(&wiped));
    let anew = site.bundle(DEVICE, "anew.bundle");
    site.blank.take(&site.fleet, &anew);
    let mut identity = site.identity();
    site.spawn(None);
    identity.wait_for("a request", |m| m.payload["travelled"] == true && m.payload["serial"] == site.serial().as_str());
}

#[test]
fn a_certificate_is_renewed_in_time_and_the_connection_stays() {
    let mut site = Site::new();
    let config = site.blank.file("etc/vedette.toml");
    let text = std::fs::read_to_string(&config).expect("readable");
    std::fs::write(&config, text.replace("[mqtt]", "[mqtt]\nrenew_at = 0.9")).expect("writable");
    let mut identity = site.identity();
    site.spawn(None);
    identity.wait_for("a request", state("requested", true));
    // Half of its life is behind it when it is made: a day for wrong clocks.
    site.renew(&["--days", "1"]);
    let asks = identity.wait_for("the next request", state("requested", false));
    let short = asks.payload["serial"].as_str().expect("a number").to_owned();
    let first_request = asks.payload["request_pem"].as_str().expect("a request").to_owned();
    // A watching service answers by itself, and withdraws.
    let url = format!("mqtts://127.0.0.1:{}", site.broker.port);
    let (cert, key) = (site.fleet.path("certs/fleet-enrol.crt"), site.fleet.path("certs/fleet-enrol.key"));
    let hook = site.fleet.file("hook");
    std::fs::write(&hook, "#!/bin/sh\ncp \"$1\" \"$1.brought\"\n").expect("writable");
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let args = [
        "renew",
        "--watch",
        "--broker",
        &url,
        "--cert",
        &cert,
        "--key",
        &key,
        "--on-crl",
        hook.to_str().expect("UTF-8"),
    ];
    let mut service = site.fleet.command(&args).spawn().expect("it was built");
    let settled =
        identity.wait_for("its end", |m| m.payload["state"] == "settled" && m.payload["serial"] != short.as_str());
    let own = settled.payload["serial"].as_str().expect("a number").to_owned();
    let brought = site.fleet.file("ca/crl.pem.brought");
    wait_for("the list at the broker's", || brought.exists().then_some(()));
    wait_for("its standing", || {
        let shown = site.fleet.show(DEVICE);
        let certificates = shown["certificates"].as_array().expect("a list").clone();
        let current = certificates.iter().find(|c| c["standing"] == "current")?;
        (current["serial"] == own.as_str()).then_some(())
    });
    let stopped = Command::new("kill").args(["-s", "TERM", &service.id().to_string()]).status().expect("kill");
    assert!(stopped.success() && service.wait().expect("our child").success());
    drop(identity);
    // What others send for certificates is refused by the device: one for another key, one of another authority.
    let other = PrivateKey::generate().expect("a key").request(DEVICE).expect("a request");
    assert_ne!(other, first_request);
    let send = |id: &str, pem: &str| {
        let mut status = site.broker.subscribe(&format!("vedette/v1/{DEVICE}/cmd/{id}/status"));
        let order = json!({"command": "install_certificate", "certificate_pem": pem}).to_string();
        site.broker.publish(&format!("vedette/v1/{DEVICE}/cmd/{id}"), &order);
        let done =
            status.wait_for("an answer", |m| m.payload["state"] != "QUEUED" && m.payload["state"] != "IN_PROGRESS");
        (done.payload["state"].clone(), done.payload["reason"].clone(), done.payload["result"]["serial"].clone())
    };
    let soc = std::fs::read_to_string(site.fleet.file("certs/soc.crt")).expect("readable");
    assert_eq!(send("a", &soc).1, "this device has asked for no certificate");
    assert_eq!(send("b", "noise").0, "REJECTED");
    let own_pem = std::fs::read_to_string(site.blank.file("state/identity/current/device.crt")).expect("readable");
    assert_eq!(send("c", &own_pem), (json!("SUCCEEDED"), Value::Null, json!(own)), "the same again changes nothing");
}

#[test]
fn a_certificate_that_the_broker_refuses_is_given_up_for_the_one_before() {
    let mut site = Site::new();
    let first = site.serial();
    let mut identity = site.identity();
    site.spawn(None);
    identity.wait_for("a request", state("requested", true));
    site.renew(&[]);
    identity.wait_for("its end", state("settled", false));
    let good = site.serial();
    assert_ne!(good, first);
    site.stop();
    drop(identity);
    // As if it had been cut off right after a switch to a certificate that the broker does not take.
    let identity_dir = site.blank.file("state/identity");
    let stranger = Fleet::new();
    let foreign = stranger.enrol(&["client", "stranger", "--out", &stranger.path("certs")]);
    assert!(foreign.contains("stranger.crt"));
    let slot = identity_dir.join("slots/abc");
    std::fs::create_dir_all(&slot).expect("writable");
    std::fs::copy(stranger.file("certs/stranger.crt"), slot.join("device.crt")).expect("readable");
    std::fs::copy(stranger.file("certs/stranger.key"), slot.join("device.key")).expect("readable");
    let record = identity_dir.join("record.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&record).expect("readable")).expect("JSON");
    json["switch"] = json!({"from": good, "to": "abc"});
    std::fs::write(&record, json.to_string()).expect("writable");
    let mut identity = site.identity();
    site.spawn(None);
    let back = identity.wait_for("the old one", |m| m.payload["state"] == "settled" && !m.payload["trouble"].is_null());
    assert_eq!(back.payload["serial"], good.as_str());
    let trouble = back.payload["trouble"].as_str().expect("words");
    assert!(trouble.contains("abc was given up") && trouble.contains("does not know the authority"), "{trouble}");
    assert_eq!((site.serial(), site.slots()), (good, 1));
}

#[test]
fn a_power_cut_at_any_step_of_a_renewal_is_finished() {
    let mut site = Site::new();
    for place in ["identity_slot", "identity_intent", "identity_switched", "identity_settled"] {
        // A key that has travelled, again: the device asks at once.
        let record = site.blank.file("state/identity/record.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&record).expect("readable")).expect("JSON");
        json["travelled"] = true.into();
        std::fs::write(&record, json.to_string()).expect("writable");
        let before = site.serial();
        site.broker.restart_without_memory();
        let mut identity = site.identity();
        site.spawn(Some(place));
        identity.wait_for("a request", state("requested", true));
        site.renew(&[]);
        site.wait_for_its_end();
        drop(identity);
        let mut identity = site.identity();
        site.spawn(None);
        // One that had not got so far asks again, and is given the same.
        if place == "identity_slot" {
            site.renew(&[]);
        }
        let settled =
            identity.wait_for(place, |m| m.payload["state"] == "settled" && m.payload["serial"] != before.as_str());
        assert_eq!(settled.payload["serial"], site.serial().as_str(), "{place}");
        wait_for("one slot", || (site.slots() == 1).then_some(()));
        assert!(!site.blank.file("state/identity/pending").exists(), "{place}");
        site.stop();
        site.renew(&[]);
        let shown = site.fleet.show(DEVICE);
        let alive =
            shown["certificates"].as_array().expect("a list").iter().filter(|c| c["standing"] == "current").count();
        assert_eq!(alive, 1, "{place}: {shown}");
    }
}

#[test]
fn a_request_in_anothers_name_or_of_a_stranger_is_refused() {
    let site = Site::new();
    let say = |topic: &str, name: &str| {
        let request = PrivateKey::generate().expect("a key").request(name).expect("a request");
        let message = json!({
            "site": "x", "device": "y", "session": 1, "publish_time": "2026-03-01T12:00:00.000Z",
            "clock": {"synchronised": true}, "state": "requested", "serial": "1", "not_after": "2026-03-01T12:00:00.000Z",
            "travelled": false, "request_pem": request,
        });
        message_as(&site, topic, &message.to_string());
        site.renew(&[])
    };
    // By the broker's rules the device itself can write there, nobody else.
    let said = say(DEVICE, "depot/gate-2");
    assert!(said.contains("in the name of \"depot/gate-2\""), "{said}");
    site.fleet.enrol(&["revoke", DEVICE]);
    let said = say(DEVICE, DEVICE);
    assert!(said.contains("depot/gate-1 is revoked"), "{said}");
    let listed = site.fleet.enrol(&["list"]);
    assert!(listed.contains("revoked") && !listed.contains("gate-2"), "{listed}");
    assert!(stdout(&site.fleet.try_enrol(&["show", "depot/gate-2"])).is_empty());
}

/// Publishes, as the device would, retained.
fn message_as(site: &Site, device: &str, payload: &str) {
    let current = site.blank.file("state/identity/current");
    let out = Command::new("mosquitto_pub")
        .args(["-V", "mqttv5", "-h", "127.0.0.1", "-p", &site.broker.port.to_string(), "-q", "1", "-r"])
        .args(["-t", &format!("vedette/v1/{device}/identity"), "-m", payload])
        .args(["--cafile", &site.fleet.path("certs/ca.crt")])
        .args([Path::new("--cert"), &current.join("device.crt"), Path::new("--key"), &current.join("device.key")])
        .output()
        .expect("mosquitto_pub");
    assert!(out.status.success(), "{}", stderr(&out));
}
