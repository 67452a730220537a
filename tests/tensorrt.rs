//! What a daemon and the commands do with TensorRT, on the doubles of `tests/tensorrt`: the program is the one that ships,
//! its CUDA code and its shim are the real ones; the libraries behind them compute on the host and fail when told to.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::agent::{Agent, PATTERN, stderr, stdout};
use crate::common::wait_for;

const FAULT: &str = "VEDETTE_TRT_FAULT";

fn doubles() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/tensorrt/doubles-10.16");
    assert!(dir.join("libvedette_trt.so").exists(), "{} is not there: run tests/tensorrt/doubles.sh", dir.display());
    dir
}

/// A device with the tiny model and the doubles; `fault`: what they fail of.
fn device(tensorrt: &str, fault: &str) -> Agent {
    let (dir, model) = (doubles(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/tiny"));
    let section = format!(
        "[tensorrt]\nlibrary = {:?}\nshim = {:?}\nprecision = \"fp32\"\n{tensorrt}",
        dir.join("libnvinfer.so.10"),
        dir.join("libvedette_trt.so")
    );
    let mut agent = Agent::new(PATTERN, &section);
    let text = std::fs::read_to_string(agent.config()).expect("written");
    let shipped = format!("{:?}", crate::common::agent::model_dir());
    std::fs::write(agent.config(), text.replace(&shipped, &format!("{model:?}"))).expect("writable");
    agent.environment(&environment(fault));
    agent
}

fn environment(fault: &str) -> [(&'static str, &str); 2] {
    static DIR: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let dir = DIR.get_or_init(|| doubles().to_str().expect("UTF-8").to_owned());
    [("LD_LIBRARY_PATH", dir), (FAULT, fault)]
}

fn inference(agent: &Agent) -> Value {
    agent.status()["health"]["inference"].clone()
}

fn serves(agent: &Agent, what: &str) {
    wait_for(what, || inference(agent)["engine"].as_str().filter(|e| e.contains(what)).map(drop));
}

/// Its words about a better engine.
fn better(agent: &Agent, words: &str) -> String {
    wait_for(words, || inference(agent)["better_engine"].as_str().filter(|w| w.contains(words)).map(String::from))
}

fn windows(agent: &Agent) -> u64 {
    agent.status()["health"]["cameras"]["pattern"]["windows"].as_u64().expect("counted")
}

fn goes_on(agent: &Agent) {
    let before = windows(agent);
    wait_for("another window", || (windows(agent) > before).then_some(()));
}

/// `vedette engine <what>` on this device's configuration.
fn engine(agent: &Agent, what: &str, fault: &str, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vedette"))
        .args(["engine", what, "--config"])
        .arg(agent.config())
        .args(more)
        .envs(environment(fault))
        .output()
        .expect("the program was built with its tests")
}

fn plan_of(agent: &Agent, name: &str) -> PathBuf {
    let engines = std::fs::read_dir(agent.state().join("engines")).expect("there");
    let found = engines.flatten().map(|e| e.path().join(name)).find(|p| p.exists());
    found.unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn the_cpu_serves_until_tensorrt_is_built_and_proven_and_then_it_takes_over() {
    // The first start: the build is slow, and nobody waits for it.
    let mut agent = device("", "Builder::buildSerializedNetwork:0:slow").start();
    serves(&agent, "ONNX Runtime");
    better(&agent, "TensorRT is being built: ");
    goes_on(&agent);
    serves(&agent, "TensorRT 10.16");
    goes_on(&agent);
    let log = agent.log();
    for said in ["a TensorRT engine is built (there is none yet)", "proven against its golden vectors", "serves now"] {
        assert!(log.contains(said), "{said} is missing in: {log}");
    }
    assert_eq!(inference(&agent)["better_engine"], Value::Null);
    assert!(agent.terminate().success());

    // The next: it is there.
    agent.environment(&environment(""));
    agent.restart();
    serves(&agent, "TensorRT 10.16");
    assert_eq!(agent.log().matches("a TensorRT engine is built").count(), 1, "{}", agent.log());
    assert!(agent.terminate().success());

    // A power cut that took half of it: built anew.
    let plan = plan_of(&agent, "encoder.plan");
    let half = std::fs::read(&plan).expect("there");
    std::fs::write(&plan, &half[..half.len() / 2]).expect("writable");
    agent.restart();
    serves(&agent, "TensorRT 10.16");
    assert!(agent.log().contains("encoder.plan is damaged"), "{}", agent.log());
    assert!(agent.terminate().success());

    // Another GPU: not used, built for it, and the other's let go.
    let mut with_gpu = environment("").to_vec();
    with_gpu.push(("VEDETTE_TRT_GPU", "Orin of another kind"));
    agent.environment(&with_gpu);
    agent.restart();
    serves(&agent, "Orin of another kind");
    assert!(agent.terminate().success());
    let listed: Value = serde_json::from_slice(&engine(&agent, "list", "", &["--json"]).stdout).expect("JSON");
    assert_eq!(listed.as_array().expect("rows").len(), 1, "{listed}");
}

#[test]
fn an_engine_that_computes_something_else_never_serves() {
    for fault in ["ExecutionContext::enqueueV3:0:wrong", "ExecutionContext::enqueueV3:0:nan"] {
        let mut agent = device("cuda_graph = false\n", fault).start();
        let words = better(&agent, "not in use");
        let numbers = words.contains("cosine") && words.contains("is the least");
        assert!(words.contains("is refused") && (numbers || words.contains("not a finite number")), "{words}");
        serves(&agent, "ONNX Runtime");
        goes_on(&agent);
        // It is remembered: not loaded, not built at the next start, though nothing would be wrong with it.
        assert!(agent.terminate().success());
        agent.environment(&environment(""));
        agent.restart();
        better(&agent, "was refused before");
        assert_eq!(agent.log().matches("a TensorRT engine is built").count(), 1);
        serves(&agent, "ONNX Runtime");
        // A person tries again.
        let built = engine(&agent, "build", "", &[]);
        assert!(built.status.success(), "{}", stderr(&built));
    }
}

#[test]
fn a_build_that_goes_wrong_harms_nobody() {
    for (fault, tensorrt, said) in [
        ("Builder::buildSerializedNetwork:1:crash", "", "ended by signal: 11"),
        ("Builder::buildSerializedNetwork:1:eat", "build_memory_mb = 256\n", "ended by signal: 6"),
        ("Builder::buildSerializedNetwork:1:oom", "", "OutOfMemory"),
        ("Builder::buildSerializedNetwork:1:fail", "", "encoder.fp32.onnx"),
        // What a parser that overflows its stack comes to; of the second network, too.
        ("Parser::parse:1:crash", "", "ended by signal: 11 (SIGSEGV) while it built the encoder"),
        ("Parser::parse:2:crash", "", "ended by signal: 11 (SIGSEGV) while it built the head"),
    ] {
        let mut agent = device(tensorrt, fault).start();
        let words = better(&agent, if fault.ends_with("oom") { "not yet" } else { "not in use" });
        assert!(words.contains(said) && words.contains("tiny 1.2.3"), "{fault}: {words}");
        serves(&agent, "ONNX Runtime");
        goes_on(&agent);
        assert!(agent.terminate().success());
        // Not at every start; what may pass is tried again.
        agent.restart();
        let again = if fault.ends_with("oom") { "could be built" } else { "was refused before" };
        better(&agent, again);
    }
}

/// The tiny model with other bytes for its encoder: a directory as somebody might sign it.
fn model_with(dir: &Path, encoder: &[u8]) {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/tiny");
    let copied = Command::new("cp").arg("-r").arg(&tiny).arg(dir).status().expect("cp");
    assert!(copied.success());
    let manifest = dir.join("manifest.toml");
    let text = std::fs::read_to_string(&manifest).expect("there");
    let file = dir.join("encoder.fp32.onnx");
    let old = std::fs::read(&file).expect("there");
    std::fs::write(&file, encoder).expect("writable");
    let digest = vedette::base::digest::of_bytes;
    let text = text.replace(&digest(&old), &digest(encoder)).replacen(
        &format!("size_bytes = {}", old.len()),
        &format!("size_bytes = {}", encoder.len()),
        1,
    );
    std::fs::write(manifest, text).expect("writable");
}

#[test]
fn a_network_of_graphs_in_one_another_is_refused_by_both_engines_before_a_runtime_sees_it() {
    let field = |number: u8, bytes: &[u8]| {
        let (mut field, mut length) = (vec![number << 3 | 2], bytes.len());
        while length >= 0x80 {
            field.push(length as u8 | 0x80);
            length >>= 7;
        }
        field.push(length as u8);
        [field, bytes.to_vec()].concat()
    };
    let mut graph = field(1, &field(4, b"Relu"));
    for _ in 0..10_000 {
        graph = field(1, &[field(4, b"If"), field(5, &field(6, &graph))].concat());
    }
    let agent = device("", "");
    let dir = agent.config().with_file_name("deep");
    model_with(&dir, &field(7, &graph));
    let text = std::fs::read_to_string(agent.config()).expect("there");
    let line = text.lines().find(|l| l.starts_with("dir = ")).expect("it names one");
    std::fs::write(agent.config(), text.replace(line, &format!("dir = {dir:?}"))).expect("writable");
    for (what, more) in [("build", &[][..]), ("bench", &["--cpu", "--passes", "10"][..])] {
        let refused = engine(&agent, what, "", more);
        assert_eq!(refused.status.code(), Some(3), "{what}: {}", stderr(&refused));
        let said = stderr(&refused);
        assert!(
            said.contains("encoder.fp32.onnx cannot be used") && said.contains("more than 8 deep"),
            "{what}: {said}"
        );
    }
    // It would come to the same, and is remembered.
    let again = engine(&agent, "verify", "", &[]);
    assert!(stderr(&again).contains("was refused before"), "{}", stderr(&again));
}

/// `tests/tensorrt/gpu.sh`; its exit code and all it said.
fn gpu_sh(variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tensorrt/gpu.sh");
    let ended = Command::new(script).envs(variables.iter().copied()).output().expect("a script");
    (ended.status.code(), stdout(&ended) + &stderr(&ended))
}

#[test]
fn the_report_of_a_machine_with_tensorrt_has_every_part_and_how_it_ended() {
    let out = tempfile::tempdir().expect("a temporary directory");
    doubles();
    let mut variables = vec![
        ("VEDETTE_TEST_GPU_DOUBLES", env!("CARGO_BIN_EXE_vedette")),
        ("VEDETTE_TEST_GPU_OUT", out.path().to_str().expect("UTF-8")),
        ("NEXTEST", "1"),
    ];
    let report = || std::fs::read_to_string(out.path().join("report.md")).expect("written");
    let (code, said) = gpu_sh(&variables);
    let text = report();
    assert_eq!((code, text.matches(": exit code 0").count()), (Some(0), 5), "{said} {text}");
    assert!(text.starts_with("# TensorRT on NO real machine") && said.contains("everything holds"), "{said}");
    for part in ["libvedette_trt-10.16.so for TensorRT 10.16", "proven", "encoder, batch 4: p50", "items/s"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    let rows: Value =
        serde_json::from_slice(&std::fs::read(out.path().join("bench.json")).expect("there")).expect("JSON");
    assert_eq!(rows["beside_daemon"], false);
    // A part that fails: the others are run all the same, and the end says so.
    variables.push((FAULT, "Builder::buildSerializedNetwork:0:fail"));
    let (code, said) = gpu_sh(&variables);
    let text = report();
    assert!(code == Some(1) && said.contains("SOMETHING FAILED"), "{said}");
    assert!(
        text.contains(": exit code 3") && text.contains("injected fault") && text.contains("## Measured"),
        "{text}"
    );
}

#[test]
#[allow(clippy::print_stderr, reason = "a test that tests nothing must be seen")]
fn a_machine_without_tensorrt_is_told_so_before_anything_is_built() {
    use vedette::agent::infer::tensorrt::machine::{MachineError, Places, library};
    if !matches!(library(&Places::default()), Err(MachineError::None)) {
        return eprintln!("SKIPPED: this machine has TensorRT, and `make test-gpu` is for it");
    }
    let (code, said) = gpu_sh(&[("PATH", "/usr/bin:/bin")]);
    assert!(code == Some(77) && said.contains("this machine has no TensorRT"), "{code:?} {said}");
    // By a path that has no cargo: nothing was built.
    assert!(said.contains("nothing was built"), "{said}");
}

#[test]
fn a_build_ends_with_the_daemon() {
    let mut agent = device("", "Builder::buildSerializedNetwork:1:hang").start();
    better(&agent, "TensorRT is being built");
    goes_on(&agent);
    let children = || {
        let pid = agent.pid();
        let ps = Command::new("pgrep").args(["-P", &pid.to_string()]).output().expect("pgrep (Debian package procps)");
        stdout(&ps).split_whitespace().map(String::from).collect::<Vec<_>>()
    };
    let found = children();
    assert_eq!(found.len(), 1, "one building process");
    let open = std::fs::read_dir(format!("/proc/{}/fd", found[0])).expect("it runs").flatten();
    let inherited: Vec<_> = open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect();
    let ours = |path: &PathBuf| path.starts_with(agent.state()) && !path.starts_with(agent.state().join("engines"));
    assert!(!inherited.iter().any(ours), "the daemon's files are not the build's: {inherited:?}");
    let nice = std::fs::read_to_string(format!("/proc/{}/stat", found[0])).expect("it runs");
    assert_eq!(nice.split_whitespace().nth(18), Some("19"), "last in every queue: {nice}");
    let adj = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", found[0])).expect("it runs");
    assert_eq!(adj.trim(), "1000", "first to go");
    agent.signal("KILL");
    agent.wait();
    wait_for("its end", || (!Path::new(&format!("/proc/{}", found[0])).exists()).then_some(()));
    // What it left is swept, and is no engine.
    agent.environment(&environment(""));
    agent.restart();
    serves(&agent, "TensorRT 10.16");
    assert!(agent.terminate().success());
}

#[test]
fn a_gpu_that_fails_while_it_serves_is_replaced_by_the_cpu() {
    // Some 450 launches go into proving and measuring; then it fails for good.
    let fault: Vec<String> = (600..1400).map(|n| format!("cuGraphLaunch:{n}")).collect();
    let agent = device("", &fault.join(",")).start();
    serves(&agent, "TensorRT 10.16");
    serves(&agent, "ONNX Runtime");
    goes_on(&agent);
    assert!(agent.log().contains("the CPU takes over"), "{}", agent.log());
    better(&agent, "is tried again");
}

#[test]
fn a_gpu_that_is_lost_to_the_process_is_left_alone_and_the_remedy_is_said() {
    // Some 450 passes go into proving and measuring. Then an illegal address: said by CUDA itself, or by TensorRT, which
    // has no number for it, only words.
    for (tensorrt, fault) in [("", "cuGraphLaunch:600:lost"), ("cuda_graph = false\n", "cuLaunchHostFunc:600:lost")] {
        let mut agent = device(tensorrt, fault).start();
        serves(&agent, "TensorRT 10.16");
        serves(&agent, "ONNX Runtime");
        goes_on(&agent);
        let words = better(&agent, "systemctl restart vedette");
        assert!(words.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{words}");
        let log = agent.log();
        assert_eq!(log.matches("systemctl restart vedette").count(), 1, "{log}");
        assert!(!log.contains("tried again"), "{log}");
        // It ends in good order, though nothing can be freed, and the next process has the GPU.
        assert!(agent.terminate().success());
        agent.environment(&environment(""));
        agent.restart();
        serves(&agent, "TensorRT 10.16");
        assert!(agent.terminate().success());
    }
}

#[test]
fn a_gpu_that_is_lost_while_an_engine_is_proven_is_not_tried_in_the_same_process() {
    let agent = device("", "cuGraphLaunch:5:lost").start();
    better(&agent, "systemctl restart vedette");
    serves(&agent, "ONNX Runtime");
    goes_on(&agent);
    assert!(!agent.log().contains("tried again"), "{}", agent.log());
}

#[test]
fn plans_that_cannot_be_kept_are_not_built_at_all() {
    let agent = device("", "");
    std::fs::write(agent.state().join("engines"), "a file in the way").expect("writable");
    let agent = agent.start();
    let words = better(&agent, "not in use");
    assert!(words.contains("it would have to be built anew at every start"), "{words}");
    serves(&agent, "ONNX Runtime");
    goes_on(&agent);
    assert!(!agent.log().contains("building:"), "{}", agent.log());
}

#[test]
fn a_machine_without_a_gpu_or_a_shim_says_what_is_missing() {
    let agent = device("", "");
    let mut none = environment("").to_vec();
    none.push(("VEDETTE_CUDA_NONE", "1"));
    let run = |variables: &[(&str, &str)], config: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_vedette"))
            .args(["engine", "verify", "--config"])
            .arg(config)
            .envs(variables.iter().copied())
            .output()
            .expect("the program was built with its tests");
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        stderr(&output)
    };
    let said = run(&none, &agent.config());
    assert!(said.contains("no GPU that it can use"), "{said}");
    let text = std::fs::read_to_string(agent.config()).expect("there");
    let line = text.lines().find(|l| l.starts_with("shim")).expect("it names one");
    let without = agent.config().with_file_name("without.toml");
    std::fs::write(&without, text.replace(line, "")).expect("writable");
    let said = run(&environment(""), &without);
    assert!(said.contains("no shim for it") && said.contains("vedette engine build-shim"), "{said}");
}

#[test]
fn every_function_of_the_libraries_may_fail_and_the_commands_end_with_a_word() {
    let agent = device("", "");
    let mut traced = environment("").to_vec();
    traced.extend([("VEDETTE_TRT_TRACE", "1"), ("RUST_LOG", "tensorrt=trace")]);
    let trace = Command::new(env!("CARGO_BIN_EXE_vedette"))
        .args(["engine", "build", "--config"])
        .arg(agent.config())
        .envs(traced)
        .output()
        .expect("the program was built with its tests");
    assert!(trace.status.success(), "{}", stderr(&trace));
    let said = stderr(&trace);
    let mut functions: Vec<&str> =
        said.lines().filter_map(|l| l.split_once("call ")).map(|(_, name)| name.trim()).collect();
    functions.sort_unstable();
    functions.dedup();
    assert!(functions.len() > 15, "{functions:?}");
    // CUDA's are many more calls than lines would be welcome of: by name.
    let driver = [
        "cuInit",
        "cuDeviceGet",
        "cuDeviceGetName",
        "cuDriverGetVersion",
        "cuDevicePrimaryCtxRetain",
        "cuCtxSetCurrent",
        "cuStreamCreate",
        "cuEventCreate",
        "cuEventRecord",
        "cuEventSynchronize",
        "cuMemAlloc_v2",
        "cuMemHostAlloc",
        "cuMemsetD8Async",
        "cuMemcpyHtoDAsync_v2",
        "cuMemcpyDtoDAsync_v2",
        "cuMemcpyDtoHAsync_v2",
        "cuStreamSynchronize",
        "cuStreamBeginCapture_v2",
        "cuStreamEndCapture",
        "cuGraphInstantiateWithFlags",
        "cuGraphLaunch",
    ];
    for function in functions.into_iter().chain(driver) {
        for nth in [1, 3] {
            let output = engine(&agent, "build", &format!("{function}:{nth}"), &[]);
            let code = output.status.code().unwrap_or_else(|| panic!("{function}:{nth}: {}", output.status));
            // Some failures cost nothing: a graph, a timing cache, a graph's end.
            assert!([0, 3].contains(&code), "{function}:{nth}: {code} {}", stderr(&output));
            if code != 0 {
                assert!(
                    stderr(&output).lines().any(|l| l.starts_with("vedette: ") && l.len() > 40),
                    "{}",
                    stderr(&output)
                );
            }
        }
    }
    let verified = engine(&agent, "build", "", &["--json"]);
    assert!(verified.status.success(), "{}", stderr(&verified));
    let last: Value = serde_json::from_str(stdout(&verified).lines().last().expect("a line")).expect("JSON");
    assert!(last["engine"]["proof"]["features_cosine"].as_f64().is_some_and(|c| c > 0.999), "{last}");
}

#[test]
fn the_shim_is_compiled_with_the_headers_that_are_there() {
    let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/tensorrt/headers/10.16");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let build = |headers: &Path| {
        Command::new(env!("CARGO_BIN_EXE_vedette"))
            .args(["engine", "build-shim", "--headers"])
            .arg(headers)
            .arg("--cuda")
            .arg(headers)
            .arg("--out")
            .arg(dir.path())
            .output()
            .expect("the program was built with its tests")
    };
    let built = build(&headers);
    assert!(built.status.success(), "{}", stderr(&built));
    assert!(dir.path().join("libvedette_trt-10.16.so").exists() && stdout(&built).contains("TensorRT 10.16"));
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("there").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let missing = build(dir.path());
    assert_eq!(missing.status.code(), Some(3));
    assert!(stderr(&missing).contains("NvInfer.h was not found") && stderr(&missing).contains("apt install"));
}

#[test]
fn a_build_keeps_nothing_open_that_the_daemon_had_open() {
    let mut child = Command::new("sh")
        .args(["-c", "exec 9</etc/passwd; exec \"$0\" engine build-child", env!("CARGO_BIN_EXE_vedette")])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("sh is everywhere");
    let (exe, fd) = (format!("/proc/{}/exe", child.id()), format!("/proc/{}/fd/9", child.id()));
    // It waits to be told what to build.
    let is_ours = || std::fs::read_link(&exe).is_ok_and(|exe| exe.ends_with("vedette"));
    wait_for("the building process without it", || (is_ours() && std::fs::read_link(&fd).is_err()).then_some(()));
    drop(child.stdin.take());
    let status = child.wait().expect("our own child");
    assert_eq!(status.code(), Some(1), "nothing is not what to build");
}

#[test]
fn a_tensorrt_that_lets_one_context_use_a_profile_computes_every_batch_size_with_it() {
    let agent = device("", "");
    let text = std::fs::read_to_string(agent.config()).expect("there");
    let more: String = (2..5).map(|n| PATTERN.replace("\"pattern\"", &format!("\"pattern-{n}\"")) + "\n").collect();
    std::fs::write(agent.config(), text + "\n" + &more).expect("writable");
    for one in ["", "1"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vedette"));
        command.args(["engine", "build", "--json", "--config"]).arg(agent.config()).envs(environment(""));
        if !one.is_empty() {
            command.env("VEDETTE_TRT_ONE_CONTEXT", one);
        }
        let built = command.output().expect("the program was built with its tests");
        assert!(built.status.success(), "{one}: {}", stderr(&built));
        let last: Value = serde_json::from_str(stdout(&built).lines().last().expect("a line")).expect("JSON");
        assert_eq!(last["engine"]["batch"], 4, "{last}");
    }
}

#[test]
fn the_deep_learning_accelerator_that_is_asked_for_is_built_for_run_on_and_part_of_the_key() {
    let agent = device("dla_core = 1\n", "");
    let text = std::fs::read_to_string(agent.config()).expect("there");
    let text = text + "\n" + &PATTERN.replace("\"pattern\"", "\"pattern-2\"");
    std::fs::write(agent.config(), &text).expect("writable");
    let run = |what: &str, cores: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vedette"));
        command.args(["engine", what, "--config"]).arg(agent.config()).args(more).envs(environment(""));
        command.envs([("VEDETTE_TRT_DLA", cores), ("VEDETTE_TRT_TRACE", "1"), ("RUST_LOG", "tensorrt=trace")]);
        command.output().expect("the program was built with its tests")
    };
    let none = run("build", "0", &[]);
    assert_eq!(none.status.code(), Some(3));
    assert!(stderr(&none).contains("DLA core 1 is asked for, and TensorRT finds 0"), "{}", stderr(&none));
    let built = run("build", "2", &["--json"]);
    assert!(built.status.success(), "{}", stderr(&built));
    // One batch size, that of both cameras; smaller passes are filled up, and prove themselves.
    for given in ["default device DLA, core 1, with the GPU for the rest", "batches 2, 2, 2", "run on DLA core 1"] {
        assert_eq!(stderr(&built).matches(given).count(), 2, "{given}, for each network: {}", stderr(&built));
    }
    let last: Value = serde_json::from_str(stdout(&built).lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["engine"]["key"]["dla_core"], 1, "{last}");
    assert!(run("verify", "2", &[]).status.success());
    // Another core's plans are others.
    std::fs::write(agent.config(), text.replace("dla_core = 1", "dla_core = 0")).expect("writable");
    let other = run("verify", "2", &["--json"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(stdout(&other).contains("there is none yet"), "{}", stdout(&other));
}

#[test]
fn the_largest_scratch_memory_of_a_layer_reaches_the_builder() {
    let agent = device("workspace_mb = 64\n", "");
    let mut traced = environment("").to_vec();
    traced.extend([("VEDETTE_TRT_TRACE", "1"), ("RUST_LOG", "tensorrt=trace")]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_vedette"));
    command.args(["engine", "build", "--config"]).arg(agent.config()).envs(traced);
    let built = command.output().expect("the program was built with its tests");
    assert_eq!(stderr(&built).matches("workspace 64000000 bytes").count(), 2, "{}", stderr(&built));
}

#[test]
fn a_build_that_eats_all_memory_does_not_harm_the_engine_that_serves() {
    let agent = device("build_memory_mb = 256\n", "").start();
    serves(&agent, "TensorRT 10.16");
    let built = engine(&agent, "build", "Builder::buildSerializedNetwork:1:eat", &[]);
    assert_eq!(built.status.code(), Some(3), "{}", stderr(&built));
    assert!(stderr(&built).contains("ended by signal: 6"), "{}", stderr(&built));
    goes_on(&agent);
    serves(&agent, "TensorRT 10.16");
}

#[test]
fn an_engine_that_takes_the_daemon_with_it_is_not_used_for_ever() {
    let mut agent = device("", "").start();
    serves(&agent, "TensorRT 10.16");
    assert!(agent.terminate().success());
    // The fifth launch: while it is proven, in the daemon itself.
    agent.environment(&environment("cuGraphLaunch:5:crash"));
    for _ in 0..3 {
        agent.spawn();
        let ended = agent.wait();
        assert!(!ended.success());
    }
    agent.restart();
    let words = better(&agent, "was refused before");
    assert!(words.contains("3 times the agent ended"), "{words}");
    serves(&agent, "ONNX Runtime");
    goes_on(&agent);
}

#[test]
fn what_is_measured_beside_a_daemon_says_so() {
    let mut agent = device("", "").start();
    serves(&agent, "TensorRT 10.16");
    let measured = |agent: &Agent| {
        let rows = agent.config().with_file_name("bench.json");
        let bench = engine(agent, "bench", "", &["--passes", "10", "--out", rows.to_str().expect("UTF-8")]);
        assert!(bench.status.success(), "{}", stderr(&bench));
        let rows: Value = serde_json::from_slice(&std::fs::read(rows).expect("written")).expect("JSON");
        let verified = engine(agent, "verify", "", &["--json"]);
        let verified: Value = serde_json::from_slice(&verified.stdout).expect("JSON");
        assert_eq!(rows["beside_daemon"], verified["engine"]["beside_daemon"]);
        let words = stdout(&bench) + &stdout(&engine(agent, "verify", "", &[]));
        (
            rows["beside_daemon"].as_bool(),
            words.to_lowercase().matches("measured beside a daemon that runs (tensorrt 10.16").count(),
        )
    };
    assert_eq!(measured(&agent), (Some(true), 2));
    assert!(agent.terminate().success());
    assert_eq!(measured(&agent), (Some(false), 0));
}

#[test]
fn what_is_let_go_is_not_what_a_daemon_serves_with_or_somebody_builds() {
    let agent = device("", "").start();
    serves(&agent, "TensorRT 10.16");
    // By another configuration the daemon's engine is not the one in use: it has one camera more.
    let text = std::fs::read_to_string(agent.config()).expect("there");
    let two = agent.config().with_file_name("two.toml");
    std::fs::write(&two, text + "\n" + &PATTERN.replace("\"pattern\"", "\"pattern-2\"")).expect("writable");
    let gc = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vedette"));
        command.args(["engine", "gc", "--all", "--config"]).arg(&two).envs(environment(""));
        command.output().expect("the program was built with its tests")
    };
    let kept = gc();
    assert!(stdout(&kept).contains("0 let go, 1 kept"), "{} {}", stdout(&kept), stderr(&kept));
    assert!(plan_of(&agent, "encoder.plan").exists());
    // While somebody builds, nothing is let go at all.
    let dir = agent.state().join("engines");
    let lock = std::fs::File::open(dir.join(".lock")).expect("the daemon has built");
    lock.lock().expect("nobody builds any more");
    let refused = gc();
    assert_eq!(refused.status.code(), Some(3));
    assert!(stderr(&refused).contains("another process is building here"), "{}", stderr(&refused));
    drop(lock);
    // When the daemon is gone, so may its engine be.
    let mut agent = agent;
    assert!(agent.terminate().success());
    let gone = gc();
    assert!(stdout(&gone).contains("1 let go, 0 kept"), "{} {}", stdout(&gone), stderr(&gone));
}

#[test]
#[allow(clippy::print_stderr, reason = "a test that tests nothing must be seen")]
fn the_superuser_does_not_build_into_somebody_else_s_directory() {
    let agent = device("", "");
    if std::os::unix::fs::chown(agent.state(), Some(12_345), None).is_err() {
        return eprintln!("SKIPPED: only the superuser can be told off for being it");
    }
    let built = engine(&agent, "build", "", &[]);
    assert_eq!(built.status.code(), Some(3));
    assert!(
        stderr(&built).contains("belongs to user 12345") && stderr(&built).contains("sudo -u vedette"),
        "{}",
        stderr(&built)
    );
}
