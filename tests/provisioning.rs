//! From a bundle to a device that is somebody, and back: `vedette-fleet enrol device`, `vedette provision`.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common::agent::{stderr, stdout, vedette};
use crate::common::enrol::{Blank, Fleet, With};

const BROKER: &str = "mqtts://broker.example";

/// All files below, with their content; links with where they lead.
fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return found };
    for entry in entries {
        let path = entry.expect("readable").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let of = path.symlink_metadata().expect("there");
        if of.is_dir() {
            found.extend(tree(&path).into_iter().map(|(below, content)| (format!("{name}/{below}"), content)));
        } else if of.is_symlink() {
            let to = std::fs::read_link(&path).expect("a link");
            found.insert(name, to.to_string_lossy().into_owned().into_bytes());
        } else {
            found.insert(name, std::fs::read(&path).expect("readable"));
        }
    }
    found
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("there").permissions().mode() & 0o777
}

/// A bundle for `device` with one camera and the tree's model.
fn bundle(fleet: &Fleet, blank: &Blank, device: &str, file: &str) -> String {
    let config = blank.config();
    std::fs::write(fleet.file("root.json"), r#"{"signed": {"_type": "root"}}"#).expect("writable");
    let (config, root) = (config.to_str().expect("UTF-8"), fleet.path("root.json"));
    let args = ["--config", config, "--repository", "https://models.example/v", "--root", &root, "--group", "north"];
    fleet.bundle(device, file, &With { broker: BROKER, args: &args });
    fleet.path(file)
}

#[test]
fn a_bundle_makes_a_device_once() {
    let (fleet, blank) = (Fleet::new(), Blank::new());
    let pass = fleet.path("bundle.pass");
    let first = bundle(&fleet, &blank, "depot/gate-1", "first.bundle");
    assert_eq!(mode(Path::new(&first)), 0o600);
    let take =
        |file: &str, more: &[&str]| blank.provision(&[&[file, "--passphrase-file", &pass][..], more].concat(), None);
    let wrong = blank.provision(&[&first, "--passphrase-file", &fleet.path("root.pass")], None);
    assert_eq!(wrong.status.code(), Some(3));
    assert!(stderr(&wrong).contains("the passphrase is not this bundle's"), "{}", stderr(&wrong));
    assert!(tree(&blank.file("etc")).is_empty() && tree(&blank.file("state")).is_empty(), "nothing was changed");

    let done = take(&first, &["--json"]);
    assert!(done.status.success(), "{}", stderr(&done));
    let said: serde_json::Value = serde_json::from_str(&stdout(&done)).expect("JSON");
    assert_eq!((&said["outcome"], &said["device"]), (&"provisioned".into(), &"depot/gate-1".into()));
    assert_eq!(said["config_problem"], serde_json::Value::Null, "the daemon can start with it");
    let current = blank.file("state/identity/current");
    assert_eq!(mode(&current.join("device.key")), 0o600);
    assert_eq!(mode(&blank.file("state/identity")), 0o700);
    assert_eq!(mode(&blank.file("etc/vedette.toml")), 0o644, "the daemon is another user than root");
    let text = std::fs::read_to_string(blank.file("etc/vedette.toml")).expect("readable");
    for line in ["site = \"depot\"", "id = \"gate-1\"", "url = \"mqtts://broker.example\"", "root_file = \"root.json\""]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
    let check = vedette([Path::new("check"), Path::new("--config"), &blank.file("etc/vedette.toml")]);
    assert!(check.status.success(), "{}", stdout(&check));
    assert!(!stdout(&done).contains("PRIVATE") && !text.contains("PRIVATE"));

    let (etc, state) = (tree(&blank.file("etc")), tree(&blank.file("state")));
    let again = take(&first, &[]);
    assert!(again.status.success() && stdout(&again).contains("nothing to do"), "{}", stderr(&again));
    let second = bundle(&fleet, &blank, "depot/gate-1", "second.bundle");
    let other = bundle(&fleet, &blank, "depot/gate-2", "other.bundle");
    for (file, why) in
        [(&second, "has an identity (depot/gate-1)"), (&other, "is for depot/gate-2, and this device is depot/gate-1")]
    {
        let refused = take(file, &[]);
        assert!(!refused.status.success() && stderr(&refused).contains(why), "{}", stderr(&refused));
    }
    assert_eq!((tree(&blank.file("etc")), tree(&blank.file("state"))), (etc, state), "nothing was changed");
    let replaced = take(&second, &["--replace"]);
    assert!(replaced.status.success(), "{}", stderr(&replaced));
    assert_eq!(tree(&blank.file("state/identity/slots")).len(), 2, "the old key is gone");
    let used = take(&first, &["--replace"]);
    assert!(stderr(&used).contains("was used on this device before"), "{}", stderr(&used));
    for (file, why) in [(blank.file("brought.toml"), "no provisioning bundle"), (blank.file("nothing"), "cannot read")]
    {
        let refused = take(file.to_str().expect("UTF-8"), &["--replace"]);
        assert!(stderr(&refused).contains(why), "{}", stderr(&refused));
    }
}

#[test]
fn the_reference_tool_reads_a_bundle_and_what_a_person_wrote_stays() {
    let (fleet, blank) = (Fleet::new(), Blank::new());
    let file = bundle(&fleet, &blank, "depot/gate-1", "first.bundle");
    let bytes = std::fs::read(&file).expect("readable");
    let opened = age::decrypt(&age::scrypt::Identity::new("bundle horse battery".to_owned().into()), &bytes);
    let json: serde_json::Value = serde_json::from_slice(&opened.expect("the passphrase")).expect("JSON");
    assert_eq!((&json["site"], &json["groups"][0]), (&"depot".into(), &"north".into()));

    std::fs::create_dir_all(blank.file("etc")).expect("writable");
    let mine = std::fs::read_to_string(blank.config()).expect("readable");
    let mine = format!("# By hand.\n[mqtt]\nurl = \"mqtts://old.example\" # old\nheartbeat_s = 7\n{mine}");
    std::fs::write(blank.file("etc/vedette.toml"), &mine).expect("writable");
    std::fs::set_permissions(blank.file("etc/vedette.toml"), std::fs::Permissions::from_mode(0o640)).expect("ours");
    blank.take(&fleet, Path::new(&file));
    let text = std::fs::read_to_string(blank.file("etc/vedette.toml")).expect("readable");
    for kept in ["# By hand.", "heartbeat_s = 7", "[[camera]]", "url = \"mqtts://broker.example\""] {
        assert!(text.contains(kept), "{kept}: {text}");
    }
    assert!(!text.contains("old.example"));
    assert_eq!(mode(&blank.file("etc/vedette.toml")), 0o640);
}

#[test]
fn a_power_cut_at_any_step_is_finished_or_undone_by_the_same_command() {
    let fleet = Fleet::new();
    let pass = fleet.path("bundle.pass");
    for (n, place) in [
        "provision_staged",
        "provision_committed",
        "provision_files",
        "provision_moved_away",
        "provision_in_place",
        "provision_configured",
        "provision_noted",
    ]
    .into_iter()
    .enumerate()
    {
        let blank = Blank::new();
        let before = bundle(&fleet, &blank, &format!("depot/old-{n}"), &format!("old-{n}.bundle"));
        blank.take(&fleet, Path::new(&before));
        let new = bundle(&fleet, &blank, &format!("depot/new-{n}"), &format!("new-{n}.bundle"));
        let args = [new.as_str(), "--passphrase-file", &pass, "--replace"];
        let cut = blank.provision(&args, Some(place));
        assert!(!cut.status.success() && stderr(&cut).contains(place), "{place}: {}", stderr(&cut));
        let check = vedette([Path::new("check"), Path::new("--config"), &blank.file("etc/vedette.toml")]);
        // Between two renames there is none.
        assert_eq!(check.status.success(), place != "provision_moved_away", "{place}: {}", stdout(&check));
        let done = blank.provision(&args, None);
        assert!(done.status.success(), "{place}: {}", stderr(&done));
        let already = blank.provision(&args, None);
        assert!(stdout(&already).contains("nothing to do"), "{place}: {}", stderr(&already));
        let state = tree(&blank.file("state"));
        let names: Vec<&String> = state.keys().filter(|name| !name.starts_with("identity/")).collect();
        assert_eq!(names, ["used-bundles.json"], "{place}");
        assert_eq!(tree(&blank.file("state/identity/slots")).len(), 2, "{place}");
        let text = std::fs::read_to_string(blank.file("etc/vedette.toml")).expect("readable");
        assert!(text.contains(&format!("new-{n}")), "{place}: {text}");
    }
}

#[test]
fn a_key_that_was_made_on_the_device_is_answered() {
    let (fleet, blank) = (Fleet::new(), Blank::new());
    let asked = blank.provision(&["--request", "depot/gate-1"], None);
    assert!(asked.status.success(), "{}", stderr(&asked));
    let again = blank.provision(&["--request", "depot/gate-1"], None);
    assert_eq!(stdout(&asked), stdout(&again), "the same until it is answered");
    std::fs::write(fleet.file("request"), stdout(&asked)).expect("writable");
    let config = blank.config();
    let (request, answer) = (fleet.path("request"), fleet.path("answer.json"));
    fleet.enrol(&["sign", &request, "--broker", BROKER, "--config", config.to_str().expect("UTF-8"), "--out", &answer]);
    let text = std::fs::read_to_string(&answer).expect("readable");
    assert!(!text.contains("PRIVATE KEY"));
    let elsewhere = Blank::new().provision(&["--answer", &answer], None);
    assert!(stderr(&elsewhere).contains("no request was made on this device"), "{}", stderr(&elsewhere));
    let done = blank.provision(&["--answer", &answer], None);
    assert!(done.status.success(), "{}", stderr(&done));
    let record = std::fs::read_to_string(blank.file("state/identity/record.json")).expect("readable");
    assert!(record.contains("\"travelled\": false"), "{record}");
    assert!(!blank.file("state/identity.asked").exists());
    let twice = fleet.try_enrol(&["sign", &request, "--broker", BROKER, "--out", &fleet.path("twice.json")]);
    assert!(stderr(&twice).contains("a key that has had a certificate"), "{}", stderr(&twice));
}

#[test]
fn a_wiped_device_is_nobody_and_can_be_somebody_again() {
    let (fleet, blank) = (Fleet::new(), Blank::new());
    let first = bundle(&fleet, &blank, "depot/gate-1", "first.bundle");
    blank.take(&fleet, Path::new(&first));
    for name in
        ["state/models/a/x", "state/clips/c.mp4", "state/vedette.db", "state/uplink-session", "etc/cam.credentials"]
    {
        let path = blank.file(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("writable");
        std::fs::write(path, name).expect("writable");
    }
    std::fs::write(blank.file("etc/mine.txt"), "kept").expect("writable");
    let config = blank.file("etc/vedette.toml");
    let text = std::fs::read_to_string(&config).expect("readable");
    std::fs::write(&config, text.replace("kind = \"test\"", "kind = \"test\"\ncredentials_file = \"cam.credentials\""))
        .expect("writable");
    let unasked = blank.provision(&["--wipe"], None);
    assert!(stderr(&unasked).contains("say --yes"), "{}", stderr(&unasked));
    assert!(config.exists());
    // Cut off after each of its steps, and finished.
    let mut cuts = 0;
    while !blank.provision(&["--wipe", "--yes", "--keep-incidents"], Some("wipe_step")).status.success() {
        cuts += 1;
        let file = fleet.path("first.bundle");
        let between = blank.provision(&[&file, "--passphrase-file", &fleet.path("bundle.pass"), "--replace"], None);
        assert!(stderr(&between).contains("a wipe was cut short"), "{}", stderr(&between));
        assert!(!blank.file("state/identity").exists(), "keys go first");
    }
    assert!(cuts > 5, "{cuts}");
    assert_eq!(tree(&blank.file("etc")).into_keys().collect::<Vec<_>>(), ["mine.txt"]);
    let kept: Vec<String> = tree(&blank.file("state")).into_keys().collect();
    assert_eq!(kept, ["clips/c.mp4", "used-bundles.json", "vedette.db"]);
    let pass = fleet.path("bundle.pass");
    let used = blank.provision(&[&first, "--passphrase-file", &pass], None);
    assert!(stderr(&used).contains("was used on this device before"), "{}", stderr(&used));
    let anew = bundle(&fleet, &blank, "depot/gate-7", "anew.bundle");
    blank.take(&fleet, Path::new(&anew));
    let all = blank.provision(&["--wipe", "--yes"], None);
    assert!(all.status.success() && stdout(&all).contains("keeps"), "{}", stderr(&all));
    assert_eq!(tree(&blank.file("state")).into_keys().collect::<Vec<_>>(), ["used-bundles.json"]);
}

#[test]
fn the_key_belongs_to_the_daemons_user() {
    let id = Command::new("id").arg("-u").output().expect("id");
    if stdout(&id).trim() != "0" {
        return;
    }
    let (fleet, blank) = (Fleet::new(), Blank::new());
    let file = bundle(&fleet, &blank, "depot/gate-1", "first.bundle");
    let pass = fleet.path("bundle.pass");
    let none = blank.provision(&[&file, "--passphrase-file", &pass, "--user", "nobody-of-that-name"], None);
    assert!(stderr(&none).contains("there is no user"), "{}", stderr(&none));
    let done = blank.provision(&[&file, "--passphrase-file", &pass, "--user", "nobody"], None);
    assert!(done.status.success(), "{}", stderr(&done));
    for name in ["state/identity/current/device.key", "state/identity/record.json", "state/used-bundles.json"] {
        let uid = std::os::unix::fs::MetadataExt::uid(&blank.file(name).metadata().expect("there"));
        assert_eq!(uid, 65534, "{name}");
    }
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&blank.file("etc/vedette.toml").metadata().expect("there")), 0);
}
