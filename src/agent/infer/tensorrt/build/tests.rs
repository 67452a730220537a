//! The agent's side of a build, with shell scripts for children.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::base::clock::{ManualClock, Wall};

const LIMITS: Limits = Limits { within: Duration::from_secs(3600), keeps_free_bytes: 1 << 20 };

struct Rig {
    dir: TempDir,
    builder: Builder,
    clock: ManualClock,
    stop: StopToken,
    workspace_bytes: u64,
}

impl Rig {
    /// A child that does what `script` says; `$1 $2` are "engine build-child", its own directory is `$HERE`.
    fn new(script: &str) -> Rig {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let program = dir.path().join("program");
        let text = format!("#!/bin/sh\nHERE={}\n{script}\n", dir.path().display());
        std::fs::write(&program, text).expect("writable");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("ours");
        let meminfo = dir.path().join("meminfo");
        std::fs::write(&meminfo, "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n").expect("writable");
        let builder = Builder::new(&program).with_meminfo(&meminfo);
        Rig { dir, builder, clock: ManualClock::new(Wall::from_unix_ms(0)), stop: StopToken::new(), workspace_bytes: 1 }
    }

    fn build(&self, progress: &mut dyn FnMut(&Step)) -> Result<(), BuildError> {
        let spec = Spec {
            model_dir: "/m".into(),
            model_sha256: "ab".into(),
            library: "l".into(),
            parser: "p".into(),
            shim: "s".into(),
            precision: "fp16".into(),
            max_batch: 4,
            likely_batch: 2,
            dla_core: None,
            workspace_bytes: self.workspace_bytes,
            out: "/o".into(),
            timing_cache: "/t".into(),
            memory_bytes: 1,
        };
        self.builder.build(&spec, LIMITS, (&self.clock, &self.stop), progress)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    /// Whether the process whose number is in the file is gone.
    fn is_gone(&self, name: &str) -> bool {
        !Path::new(&format!("/proc/{}", self.read(name).trim())).exists()
    }
}

#[test]
fn the_child_is_told_what_to_build_and_tells_how_far_it_is() {
    let rig = Rig::new(
        r#"echo "$1 $2" > $HERE/args; cat > $HERE/spec
echo '{"step":{"network":"encoder","phase":"Tactic","step":3,"of":9}}'
echo 'a library prints what it likes'
printf 'no end of line, and no JSON either: {"built"'; echo
sleep 0.5
echo '{"built":{}}'"#,
    );
    let mut steps = Vec::new();
    rig.build(&mut |step| steps.push(step.to_string())).expect("it says that it is built");
    assert_eq!(rig.read("args"), "engine build-child\n");
    let spec: Spec = serde_json::from_str(&rig.read("spec")).expect("all of it");
    assert_eq!((spec.max_batch, &spec.precision[..]), (4, "fp16"));
    assert!(steps.iter().any(|s| s == "encoder, Tactic, step 3 of 9"), "{steps:?}");
}

#[test]
fn what_it_fails_of_is_its_own_words() {
    let rig = Rig::new(
        r#"echo '{"failed":{"message":"the head (head.fp16.onnx): node 7 (Foo): no such operator","lasting":true}}'"#,
    );
    let e = rig.build(&mut |_| {}).expect_err("it says so");
    assert!(e.to_string().contains("node 7 (Foo)") && e.is_lasting(), "{e}");
}

#[test]
fn a_child_that_dies_is_told_from_one_that_fails() {
    for (script, said) in [("kill -SEGV $$", "signal: 11"), ("exit 7", "exit status: 7")] {
        let rig = Rig::new(&format!(
            "echo '{{\"step\":{{\"network\":\"head\",\"phase\":\"\",\"step\":0,\"of\":0}}}}'; {script}"
        ));
        let e = rig.build(&mut |_| {}).expect_err("it is dead");
        assert!(e.to_string().contains(said) && e.to_string().contains("while it built the head"), "{e}");
        assert!(e.is_lasting());
    }
    let e = Rig::new("kill -KILL $$").build(&mut |_| {}).expect_err("it was killed");
    assert!(!e.is_lasting(), "it may have been the kernel, for want of memory: {e}");
    let rig = Rig::new("");
    let nowhere = Builder::new(&rig.dir.path().join("not there"));
    let e = Rig { builder: nowhere, ..rig }.build(&mut |_| {}).expect_err("no such program");
    assert!(matches!(e, BuildError::Spawn(_)) && !e.is_lasting(), "{e}");
}

#[test]
fn a_build_ends_when_it_is_told_to_takes_too_long_or_takes_all_memory_and_its_process_with_it() {
    let endless = "echo $$ > $HERE/pid; echo '{\"step\":{\"network\":\"encoder\",\"phase\":\"\",\"step\":0,\"of\":0}}'; exec sleep 600";

    let rig = Rig::new(endless);
    let e = rig.build(&mut |_| rig.stop.stop()).expect_err("told to stop");
    assert!(matches!(e, BuildError::Stopped) && !e.is_lasting(), "{e}");
    assert!(rig.is_gone("pid"));

    let rig = Rig::new(endless);
    let e = rig.build(&mut |_| rig.clock.advance(Duration::from_secs(3601))).expect_err("an hour has passed");
    assert!(e.to_string().contains("3600 s (tensorrt.build_within_s)") && !e.is_lasting(), "{e}");
    assert!(rig.is_gone("pid"));

    let rig = Rig::new(endless);
    let short = || std::fs::write(rig.dir.path().join("meminfo"), "MemAvailable: 900 kB\n").expect("writable");
    let e = rig.build(&mut |_| short()).expect_err("there is no memory left");
    assert!(e.to_string().contains("left the machine 0 MB") && !e.is_lasting(), "{e}");
    assert!(rig.is_gone("pid"));
}

#[test]
fn a_layer_s_scratch_memory_is_what_the_machine_can_spare_when_the_build_begins() {
    for (available_kb, asked, given) in [
        (4_000_000, 512_000_000, 512_000_000),
        // 400 MB less what has to stay free.
        (400_000, 512_000_000, 400_000 * 1024 - LIMITS.keeps_free_bytes),
        (2_000, 512_000_000, LEAST_WORKSPACE_BYTES),
    ] {
        let mut rig = Rig::new("cat > $HERE/spec; echo '{\"built\":{}}'");
        rig.workspace_bytes = asked;
        let meminfo = format!("MemAvailable: {available_kb} kB\n");
        std::fs::write(rig.dir.path().join("meminfo"), meminfo).expect("writable");
        rig.build(&mut |_| {}).expect("it says that it is built");
        let spec: Spec = serde_json::from_str(&rig.read("spec")).expect("all of it");
        assert_eq!(spec.workspace_bytes, given, "{available_kb} kB");
    }
}
