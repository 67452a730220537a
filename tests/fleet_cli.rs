//! `vedette-fleet` as people use it: the walk-through of the documents, keys in a PKCS#11 token, a bucket, two managers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::bucket::{ACCESS_KEY, Bucket, SECRET_KEY};
use crate::common::fleet::{tiny, variant};
use crate::fleet_release::{python, seen};

const PASSPHRASE: &str = "correct horse battery";

/// A directory to work in, with a model and another version of it.
fn desk() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    variant(&tiny(), &dir.path().join("model"), &[]);
    variant(&tiny(), &dir.path().join("model-2"), &[("1.2.3", "2.0.0")]);
    dir
}

fn program(dir: &Path, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let bin = Path::new(env!("CARGO_BIN_EXE_vedette-fleet")).parent().expect("it is in a directory");
    let path = std::env::join_paths(
        std::iter::once(bin.to_owned()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let onnx = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/onnxruntime/libonnxruntime.so");
    let mut command = Command::new(program);
    command
        .current_dir(dir)
        .env("PATH", path.expect("no colon in it"))
        .env("VEDETTE_FLEET_PASSPHRASE", PASSPHRASE)
        .env("ORT_DYLIB_PATH", onnx)
        .env("NO_PROXY", "127.0.0.1");
    command
}

fn ran(command: &mut Command) -> Output {
    let done = command.output().expect("it can be started");
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(!said.contains(PASSPHRASE), "a secret was printed: {said}");
    done
}

/// Runs it, which must be well; what it printed.
fn fleet(dir: &Path, args: &[&str]) -> String {
    let done = ran(program(dir, env!("CARGO_BIN_EXE_vedette-fleet")).args(args));
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Runs it, which must be refused; what it said.
fn refused(dir: &Path, args: &[&str]) -> String {
    let done = ran(program(dir, env!("CARGO_BIN_EXE_vedette-fleet")).args(args));
    assert_eq!(done.status.code(), Some(1), "{args:?}: {}", String::from_utf8_lossy(&done.stdout));
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

/// A repository with one key for everything, which has signed and waits for releases.
fn simple(dir: &Path, key: &str) {
    let all = ["--root-key", key, "--targets-key", key, "--snapshot-key", key, "--timestamp-key", key];
    fleet(dir, &[&["keys", "init"], &all[..]].concat());
    fleet(dir, &["keys", "sign-root", "--key", key]);
}

#[test]
fn the_walk_through_of_the_documents_works_as_it_stands() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(top.join("deploy/fleet/keys-and-releases.md")).expect("the document");
    let mut script = String::from("set -euo pipefail\n");
    let mut blocks = 0;
    for block in text.split("```sh\n").skip(1) {
        script += block.split("```").next().expect("a block");
        blocks += 1;
    }
    assert!(blocks > 8, "{blocks} blocks");
    let dir = desk();
    let done = ran(program(dir.path(), "bash").args(["-c", &script]));
    assert!(
        done.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    let (www, root) = (dir.path().join("www"), dir.path().join("repository/metadata/1.root.json"));
    let found = seen(&www, &root).expect("a device follows");
    assert_eq!(found.len(), 2, "{found:?}");
    let back = found.last().expect("two");
    assert_eq!((back.facts.release, back.facts.version.as_str(), back.facts.downgrade.is_some()), (3, "1.2.3", true));
    if let Some(found) = python(&www, &root, &dir.path().join("python")) {
        assert_eq!(found.expect("python-tuf follows")["versions"]["root"], 7);
    }
    let listed: serde_json::Value =
        serde_json::from_str(&fleet(dir.path(), &["keys", "list", "--json"])).expect("JSON");
    assert_eq!(listed["roots"][0]["root"]["roles"]["root"]["threshold"], 2, "{listed}");
}

#[test]
fn what_cannot_be_done_is_said_and_leaves_nothing_behind() {
    let dir = desk();
    let at = dir.path();
    fleet(at, &["keys", "new", "a.pem"]);
    assert!(refused(at, &["keys", "new", "a.pem"]).contains("never overwritten"));
    assert!(refused(at, &["release", "add", "model"]).contains("is no repository"));
    let all = ["--root-key", "a.pub", "--targets-key", "a.pub", "--snapshot-key", "a.pub", "--timestamp-key", "a.pub"];
    let init = [&["keys", "init"], &all[..]].concat();
    fleet(at, &init);
    assert!(refused(at, &init).contains("is a repository already"));
    let said = refused(at, &["release", "publish", "--to", "www"]);
    assert!(said.contains("not all have signed (root: 0 of 1 signatures"), "{said}");
    assert!(!at.join("www/metadata/timestamp.json").exists());
    fleet(at, &["keys", "sign-root", "--key", "a.pem"]);
    fs::set_permissions(at.join("a.pem"), fs::Permissions::from_mode(0o644)).expect("ours");
    assert!(refused(at, &["release", "sign", "--key", "a.pem"]).contains("chmod 600"));
    fs::set_permissions(at.join("a.pem"), fs::Permissions::from_mode(0o600)).expect("ours");
    assert!(refused(at, &["release", "sign", "--key", "a.pub"]).contains("public half"));
    let wrong = at.join("wrong");
    fs::write(&wrong, "another passphrase\n").expect("writable");
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o600)).expect("ours");
    let said = refused(at, &["release", "sign", "--key", "a.pem", "--passphrase-file", "wrong"]);
    assert!(said.contains("passphrase is not that of the key") && !said.contains("another passphrase"), "{said}");
    fleet(at, &["keys", "new", "stranger.pem"]);
    assert!(refused(at, &["release", "sign", "--key", "stranger.pem"]).contains("has no role here"));
    fleet(at, &["release", "add", "model-2"]);
    assert!(refused(at, &["release", "add", "model"]).contains("older than 2.0.0"));
    assert!(refused(at, &["release", "add", "model-2"]).contains("is release 1 already"));
    let said = refused(at, &["release", "add", "model", "--downgrade", "a\u{301}"]);
    assert!(said.contains("accents composed"), "{said}");
    variant(&tiny(), &at.join("other"), &[("1.2.3", "2.0.0"), ("= 0.75", "= 0.8")]);
    assert!(refused(at, &["release", "add", "other"]).contains("with other content"));
    fs::write(at.join("other/golden/p.f32"), [0; 16]).expect("writable");
    assert!(refused(at, &["release", "check", "other"]).contains("is damaged or was changed"));
    let listed = fleet(at, &["release", "list"]);
    assert!(listed.contains("release 1  tiny 2.0.0") && listed.contains("waits for signatures"), "{listed}");
    fleet(at, &["release", "sign", "--key", "a.pem"]);
    fleet(at, &["release", "remove", "1"]);
    fleet(at, &["release", "add", "model", "--downgrade", "2.0.0 was a mistake"]);
    assert!(fleet(at, &["release", "list"]).contains("release 2  tiny 1.2.3"), "a number is given once");
}

#[test]
fn a_worse_model_is_refused_with_the_numbers() {
    let dir = desk();
    let at = dir.path();
    let clips = at.join("clips");
    for (class, colour) in [("Fighting", "white"), ("Normal", "black")] {
        fs::create_dir_all(clips.join(class)).expect("writable");
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-f", "lavfi", "-i", &format!("color={colour}:size=160x90:rate=16:duration=3")])
            .args(["-pix_fmt", "yuv420p", "-c:v", "libx264"])
            .arg(clips.join(class).join("clip.mp4"))
            .output()
            .expect("ffmpeg is there");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let check = ["release", "check", "model", "--clips", "clips"];
    fleet(at, &[&check[..], &["--report", "report.json"]].concat());
    fs::write(at.join("high.toml"), "accuracy = 1.0\nspecificity = 1.0\n[recall]\nFighting = 1.0\n").expect("writable");
    let said = refused(at, &[&check[..], &["--baseline", "high.toml", "--report", "refused.json"]].concat());
    assert!(said.contains("REFUSED: accuracy is 0.5000, and at least 1.0000 is asked"), "{said}");
    simple_key(at);
    let said = refused(at, &["release", "add", "model", "--already-checked", "refused.json"]);
    assert!(said.contains("the model was refused"), "{said}");
    let said = refused(at, &["release", "add", "model-2", "--already-checked", "report.json"]);
    assert!(said.contains("does not speak for this model"), "{said}");
    // As good as itself, by its directory and by its report.
    for baseline in ["model-2", "report.json"] {
        fleet(at, &[&check[..], &["--baseline", baseline]].concat());
    }
    assert!(refused(at, &["release", "check", "model", "--baseline", "high.toml"]).contains("name them with --clips"));
    fleet(at, &["release", "add", "model", "--already-checked", "report.json"]);
}

fn simple_key(at: &Path) {
    fleet(at, &["keys", "new", "a.pem"]);
    simple(at, "a.pem");
}

#[test]
fn two_managers_do_not_give_one_number_twice() {
    let dir = desk();
    let at = dir.path();
    simple_key(at);
    let held = vedette::fleet::release::Repository::open(&at.join("repository")).expect("nobody has it");
    let said = refused(at, &["release", "add", "model"]);
    assert!(said.contains("is in use by process "), "{said}");
    drop(held);
    fleet(at, &["release", "sign", "--key", "a.pem"]);
    // Another copy, from which somebody else publishes.
    let copied = Command::new("cp").args(["-r", "repository", "theirs"]).current_dir(at).status().expect("cp is there");
    assert!(copied.success());
    for (copy, model) in [("theirs", "model-2"), ("repository", "model")] {
        fleet(at, &["release", "add", model, "-r", copy]);
        fleet(at, &["release", "sign", "--key", "a.pem", "-r", copy]);
    }
    fleet(at, &["release", "publish", "--to", "www", "-r", "theirs"]);
    let said = refused(at, &["release", "publish", "--to", "www"]);
    assert!(said.contains("somebody else has published"), "{said}");
    let found = seen(&at.join("www"), &at.join("repository/metadata/1.root.json")).expect("theirs holds");
    assert_eq!(found[0].facts.version, "2.0.0");
}

#[test]
fn what_nobody_needs_goes_and_what_a_device_may_be_fetching_stays() {
    let dir = desk();
    let at = dir.path();
    simple_key(at);
    variant(&tiny(), &at.join("big"), &[("1.2.3", "0.9.0")]);
    let card = at.join("big/CARD.md");
    fs::write(&card, "a file of this version alone").expect("writable");
    let digest = vedette::base::digest::of_file(&card).expect("readable").0;
    let manifest = at.join("big/manifest.toml");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    let entry = format!("\n[[file]]\npath = 'CARD.md'\nsha256 = '{digest}'\nsize_bytes = 28\n");
    fs::write(&manifest, text + &entry).expect("writable");
    for model in ["big", "model", "model-2"] {
        fleet(at, &["release", "add", model]);
        fleet(at, &["release", "sign", "--key", "a.pem"]);
        fleet(at, &["release", "publish", "--to", "www"]);
    }
    fleet(at, &["release", "remove", "1"]);
    fleet(at, &["release", "sign", "--key", "a.pem"]);
    fleet(at, &["release", "publish", "--to", "www"]);
    assert_eq!(fleet(at, &["release", "gc", "--to", "www"]), "", "the list of before counts for 30 days");
    // Forty days later.
    let old = Command::new("find")
        .args(["repository", "www", "-exec", "touch", "-d", "40 days ago", "{}", "+"])
        .current_dir(at)
        .status()
        .expect("find is there");
    assert!(old.success());
    let said = fleet(at, &["release", "gc", "--to", "www", "--dry-run"]);
    assert!(said.contains("would remove") && at.join("www/files").join(&digest).is_file(), "{said}");
    let said = fleet(at, &["release", "gc", "--to", "www"]);
    assert!(
        !at.join("www/files").join(&digest).exists() && !at.join("repository/files").join(&digest).exists(),
        "{said}"
    );
    assert!(!said.contains("root.json") && said.contains("1.targets.json"), "{said}");
    let root = at.join("repository/metadata/1.root.json");
    assert_eq!(seen(&at.join("www"), &root).expect("it holds").len(), 2);
    fleet(at, &["release", "publish", "--to", "www"]);
}

#[test]
fn a_bucket_is_published_to_and_cleared() {
    let dir = desk();
    let at = dir.path();
    let bucket = Bucket::s3();
    let endpoint = format!("http://127.0.0.1:{}", bucket.port());
    simple_key(at);
    fleet(at, &["release", "add", "model"]);
    fleet(at, &["release", "sign", "--key", "a.pem"]);
    let to = ["--to", "s3://models/fleet", "--s3-endpoint", &endpoint, "--s3-region", "eu-central-1"];
    let run = |args: &[&str]| {
        let mut command = program(at, env!("CARGO_BIN_EXE_vedette-fleet"));
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        let done = ran(command.args(args).args(to));
        let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(!said.contains(SECRET_KEY), "{said}");
        (done.status.code(), said)
    };
    let (code, said) = run(&["release", "publish"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(bucket.object("/models/fleet/metadata/timestamp.json").is_some(), "{:?}", bucket.keys());
    let puts: Vec<_> = bucket.log().into_iter().filter(|a| a.method == "PUT").map(|a| a.path).collect();
    assert!(puts.last().expect("some").ends_with("timestamp.json"), "{puts:?}");
    assert_eq!(run(&["release", "verify", "--root", "repository/metadata/1.root.json"]).0, Some(0));
    fleet(at, &["release", "timestamp", "--key", "a.pem"]);
    let (code, said) = run(&["release", "publish"]);
    assert!(code == Some(0) && said.starts_with("2 files written"), "{said}");
    let (code, said) = run(&["release", "gc"]);
    assert_eq!(code, Some(0), "{said}");
}

/// A token of SoftHSM with a P-256 and, where it can, an Ed25519 key; the configuration that it is found by.
fn softhsm(at: &Path) -> (PathBuf, PathBuf) {
    let places = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    ];
    let module = places.iter().map(PathBuf::from).find(|p| p.exists());
    let module = module.expect("SoftHSM is there: deploy/dev/setup.sh installs it");
    fs::create_dir_all(at.join("tokens")).expect("writable");
    let config = at.join("softhsm2.conf");
    fs::write(&config, format!("directories.tokendir = {}\n", at.join("tokens").display())).expect("writable");
    let tool = |args: &[&str]| {
        let done = Command::new("softhsm2-util").env("SOFTHSM2_CONF", &config).current_dir(at).args(args).output();
        let done = done.expect("softhsm2-util is there");
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    tool(&["--init-token", "--free", "--label", "fleet keys", "--pin", "4711-4711", "--so-pin", "0815-0815"]);
    for (name, id, algorithm) in
        [("p256", "01", &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"][..]), ("ed25519", "02", &["ED25519"])]
    {
        let made = Command::new("openssl")
            .current_dir(at)
            .args(["genpkey", "-out", "key.pem", "-algorithm"])
            .args(algorithm)
            .status();
        assert!(made.expect("openssl is there").success());
        tool(&["--import", "key.pem", "--token", "fleet keys", "--label", name, "--id", id, "--pin", "4711-4711"]);
    }
    (module, config)
}

#[test]
fn keys_in_a_token_sign_and_stay_there() {
    let dir = desk();
    let at = dir.path();
    let (module, config) = softhsm(at);
    let uri = |object: &str| format!("pkcs11:token=fleet%20keys;object={object}?module-path={}", module.display());
    let pin = at.join("pin");
    fs::write(&pin, "4711-4711\n").expect("writable");
    fs::set_permissions(&pin, fs::Permissions::from_mode(0o600)).expect("ours");
    let run = |args: &[&str], pin: &str| {
        let mut command = program(at, env!("CARGO_BIN_EXE_vedette-fleet"));
        let done = ran(command.env("SOFTHSM2_CONF", &config).args(args).args(["--passphrase-file", pin]));
        let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(!said.contains("4711"), "{said}");
        (done.status.code(), said)
    };
    let (p256, ed25519) = (uri("p256"), uri("ed25519"));
    let init = [
        "keys",
        "init",
        "--root-key",
        &p256,
        "--targets-key",
        &ed25519,
        "--snapshot-key",
        &p256,
        "--timestamp-key",
        &ed25519,
    ];
    let (code, said) = run(&init, "pin");
    assert_eq!(code, Some(0), "{said}");
    fs::write(at.join("wrong"), "1234-1234\n").expect("writable");
    fs::set_permissions(at.join("wrong"), fs::Permissions::from_mode(0o600)).expect("ours");
    let (code, said) = run(&["keys", "sign-root", "--key", &p256], "wrong");
    assert!(code == Some(1) && said.contains("PIN is not that of the token"), "{said}");
    let (code, said) = run(&["keys", "sign-root", "--key", &uri("nobody")], "pin");
    assert!(code == Some(1) && said.contains("0 private keys"), "{said}");
    assert_eq!(run(&["keys", "sign-root", "--key", &p256], "pin").0, Some(0));
    fleet(at, &["release", "add", "model"]);
    let (code, said) = run(&["release", "sign", "--key", &p256, "--key", &ed25519], "pin");
    assert!(code == Some(0) && said.contains("complete"), "{said}");
    fleet(at, &["release", "publish", "--to", "www"]);
    let root = at.join("repository/metadata/1.root.json");
    assert_eq!(seen(&at.join("www"), &root).expect("it holds").len(), 1);
    if let Some(found) = python(&at.join("www"), &root, &at.join("python")) {
        found.expect("python-tuf verifies them");
    }
}
