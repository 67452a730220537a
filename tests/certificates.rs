//! The certificates that a site makes for itself (`deploy/mosquitto/make-certificates.sh`), and what `vedette check` says of
//! those that cannot work.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::agent::{Agent, PATTERN, json_lines, stderr, stdout};
use crate::common::broker::Broker;
use crate::common::pki::{NOW, Pki, write_private};

fn make(dir: &Path, args: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/mosquitto/make-certificates.sh");
    Command::new(script).arg(dir).args(args).output().expect("bash")
}

fn mqtt(url: &str, ca: &Path, cert: &Path, key: &Path) -> String {
    format!("[mqtt]\nurl = {url:?}\nca_file = {ca:?}\ncert_file = {cert:?}\nkey_file = {key:?}\n")
}

#[test]
fn a_site_makes_its_certificates_and_a_device_gets_in_with_them() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let certs = dir.path().join("certs");
    let file = |name: &str| certs.join(name);
    for args in [&["127.0.0.1", "broker.example.net"][..], &["--client", "test/unit", "soc-2"]] {
        let made = make(&certs, args);
        assert!(made.status.success(), "{}", stderr(&made));
    }
    let names: Vec<PathBuf> = certs.read_dir().expect("readable").map(|f| f.expect("a file").path()).collect();
    assert_eq!(names.len(), 12, "{names:?}");
    for key in names.iter().filter(|name| name.extension().is_some_and(|e| e == "key")) {
        let mode = key.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", key.display());
    }

    let broker = Broker::with_certificates(&certs).start();
    let mut monitor = broker.subscribe("vedette/v1/test/unit/#");
    let url = format!("mqtts://127.0.0.1:{}", broker.port);
    let mqtt = mqtt(&url, &file("ca.crt"), &file("test.unit.crt"), &file("test.unit.key"));
    let device = Agent::new(PATTERN, &mqtt);
    let check = device.command(&["check"]);
    assert!(check.status.success(), "{}", stdout(&check));
    let _device = device.start();
    monitor.wait_for("its birth", |m| m.topic.ends_with("/state") && m.payload["online"] == true);

    let before = std::fs::read(file("ca.key")).expect("readable");
    for args in [&["127.0.0.1"][..], &["--client", "test/unit"], &["--client", "a b"], &["--client"], &[]] {
        assert!(!make(&certs, args).status.success(), "{args:?}");
    }
    assert_eq!(std::fs::read(file("ca.key")).expect("readable"), before, "nothing is overwritten");
    assert_eq!(certs.read_dir().expect("readable").count(), 12, "nothing is left behind");
    assert!(!make(&dir.path().join("empty"), &["--client", "soc"]).status.success(), "there is no authority");
}

/// `openssl x509 -req -signkey` without `-extfile`.
const VERSION_1: &str = "-----BEGIN CERTIFICATE-----
MIIBGDCBvwIUArfKV2pnmSbVbR00zalyTMvTUFYwCgYIKoZIzj0EAwIwDjEMMAoG
A1UEAwwDb2xkMCAXDTI2MTEyMjE3MjY1NVoYDzIxMjYxMDI5MTcyNjU1WjAOMQww
CgYDVQQDDANvbGQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAT06Ibn/oXWwAoG
pgeMJpZKuTI9WuTjA//Mq4W80j6kU/OWhzPi3lq9iH5xG0shuhJv8N0QPrqNfTo0
iqfubx1eMAoGCCqGSM49BAMCA0gAMEUCIQDLKrlCKY9hg6IwuLvqMDXnQnQZ/w7k
9/GMBal+xStqyAIgKQfRRpHuV/boaqDD679rh8QN2ksGoJx5IkN3uuOFnBM=
-----END CERTIFICATE-----
";

#[test]
fn check_finds_certificates_that_cannot_work() {
    let pki = Pki::new();
    let ca = pki.file("ca.crt");
    let (good, other) = (pki.device("test/unit", NOW), pki.device("test/other", NOW));
    let (expired, early) = (pki.device("test/expired", (-3, -1)), pki.device("test/early", (1, 2)));
    let old = pki.file("old.crt");
    write_private(&old, VERSION_1);
    let url = "mqtts://broker.example.net";
    let fine = Agent::new(PATTERN, &mqtt(url, &ca, &good.cert, &good.key)).command(&["check"]);
    assert!(fine.status.success(), "{}", stdout(&fine));
    for (cert, key, in_mqtt, in_http) in [
        (&good.cert, &other.key, "cert_file and key_file do not belong together", "do not go together"),
        (&expired.cert, &expired.key, "expired 20", "expired 20"),
        (&early.cert, &early.key, "is valid from 20", "is valid from 20"),
        (&old, &good.key, "is an X.509 version 1 certificate", "is an X.509 version 1 certificate"),
    ] {
        let http = format!("[http]\nlisten = \"127.0.0.1:8443\"\ncert_file = {cert:?}\nkey_file = {key:?}\n");
        let device = Agent::new(PATTERN, &format!("{}{http}", mqtt(url, &ca, cert, key)));
        let check = device.command(&["check", "--json"]);
        assert_eq!(check.status.code(), Some(1), "{in_mqtt}");
        let report = &json_lines(&check)[0];
        let config = std::fs::read_to_string(device.config()).expect("readable");
        for (key, wanted) in [("mqtt.cert_file", in_mqtt), ("http.cert_file", in_http)] {
            let said = report["problems"].as_array().expect("a list").iter();
            let problem = said.clone().find(|p| p["key"] == key && p["message"].to_string().contains(wanted));
            let problem = problem.unwrap_or_else(|| panic!("{key}, {wanted}: {report}"));
            let line = problem["line"].as_u64().expect("a line") as usize;
            assert!(config.lines().nth(line - 1).expect("it is in the file").starts_with("cert_file"), "{problem}");
        }
    }
}
