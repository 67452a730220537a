//! The commands over files, as a user types them: what they print, and what they say of bad input.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::agent::{json_lines, model_dir, stderr, stdout, vedette};
use crate::common::video;

fn is_probability(v: &Value) -> bool {
    v.as_f64().is_some_and(|p| (0.0..=1.0).contains(&p))
}

#[test]
fn replay_prints_every_window_of_every_video_it_can_read() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let long = video::h264(dir.path(), "long.mp4", "320x240", 25, 4);
    let short = video::h264(dir.path(), "short.mp4", "320x240", 25, 1);
    let text = dir.path().join("text.mp4");
    fs::write(&text, "this is not a video\n").expect("writable");
    let output =
        vedette([std::ffi::OsStr::new("replay"), "--json".as_ref(), long.as_ref(), text.as_ref(), short.as_ref()]);
    assert_eq!(output.status.code(), Some(1), "one could not be read: {}", stderr(&output));
    assert!(stderr(&output).contains("text.mp4"), "{}", stderr(&output));
    let windows: Vec<_> = json_lines(&output).into_iter().filter(|l| l["type"] == "window").collect();
    let of = |video: &std::path::Path| -> Vec<&Value> {
        windows.iter().filter(|w| w["video"] == video.to_str().expect("UTF-8")).collect()
    };
    // 4 s at 8 a second are 32 frames: a window at the 16th, and one every stride from there.
    let of_long = of(&long);
    assert!(of_long.len() >= 4, "{of_long:?}");
    for w in &of_long {
        assert_eq!(w["padded"], false);
        let span_ms = w["end_ms"].as_f64().expect("a time") - w["start_ms"].as_f64().expect("a time");
        assert!((1_800.0..2_000.0).contains(&span_ms), "15 steps of an eighth of a second: {span_ms}");
        let scores = w["scores"].as_object().expect("scores");
        assert!(scores.contains_key("Normal") && scores.values().all(is_probability), "{scores:?}");
        let sum: f64 = scores.values().filter_map(Value::as_f64).sum();
        assert!((sum - 1.0).abs() < 1e-3, "{sum}");
    }
    let of_short = of(&short);
    assert_eq!((of_short.len(), &of_short[0]["padded"]), (1, &Value::Bool(true)));
    assert!(of(&text).is_empty());
}

#[test]
fn replay_follows_rate_and_stride() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let video = video::h264(dir.path(), "v.mp4", "320x240", 30, 4);
    let count = |args: &[&str]| {
        let mut all = vec!["replay", "--json", video.to_str().expect("UTF-8")];
        all.extend(args);
        let output = vedette(all);
        assert!(output.status.success(), "{}", stderr(&output));
        json_lines(&output).iter().filter(|l| l["type"] == "window").count()
    };
    // 32 frames: windows end at the 16th to the 32nd.
    assert_eq!(count(&["--stride", "1"]), 17);
    assert_eq!(count(&["--stride", "16"]), 2);
    // Half the frames: one window only.
    assert_eq!(count(&["--stride", "1", "--sample-fps", "4"]), 1);
}

#[test]
fn replay_prints_the_incidents_that_the_daemon_would_open() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let video = video::h264(dir.path(), "v.mp4", "320x240", 25, 5);
    // The tree's model with a threshold that every window passes.
    let model = dir.path().join("model");
    let copied = std::process::Command::new("cp").arg("-r").arg(model_dir()).arg(&model).status().expect("cp");
    assert!(copied.success());
    let manifest = fs::read_to_string(model.join("manifest.toml")).expect("there");
    let at = manifest.find("Fighting = ").expect("a threshold");
    let end = at + manifest[at..].find('\n').expect("a line");
    fs::write(model.join("manifest.toml"), manifest.replace(&manifest[at..end], "Fighting = 0.000001"))
        .expect("writable");
    let args = ["replay", "--json", "--model", model.to_str().expect("UTF-8"), video.to_str().expect("UTF-8")];
    let output = vedette(args);
    assert!(output.status.success(), "{}", stderr(&output));
    let lines = json_lines(&output);
    let incidents: Vec<_> = lines.iter().filter(|l| l["type"] == "incident").collect();
    assert_eq!(incidents.len(), 1, "{lines:?}");
    let i = incidents[0];
    assert_eq!((&i["class"], &i["start_ms"]), (&"Fighting".into(), &0.into()));
    assert!(is_probability(&i["peak_score"]) && i["end_ms"].as_u64() > Some(1_800), "{i}");
}

#[test]
fn evaluate_prints_the_table_that_such_systems_are_judged_by() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for name in ["a.mp4", "b.mp4", "c.mp4"] {
        video::h264(dir.path(), name, "160x120", 25, 2);
    }
    let csv = dir.path().join("clips.csv");
    fs::write(&csv, "clip,label,source_video\na.mp4,Fighting,s1\nb.mp4,Normal,s2\nc.mp4,Vandalism,s2\n")
        .expect("writable");
    let data = csv.to_str().expect("UTF-8");

    let unknown = vedette(["evaluate", "--data", data]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("line 4") && stderr(&unknown).contains("Vandalism"), "{}", stderr(&unknown));

    let output = vedette(["evaluate", "--data", data, "--map", "Vandalism=Fighting", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let table = &json_lines(&output)[0];
    assert!(
        is_probability(&table["accuracy"])
            && is_probability(&table["roc_auc"])
            && is_probability(&table["specificity"])
    );
    for class in ["Fighting", "Normal"] {
        for figure in ["precision", "recall", "f1"] {
            assert!(is_probability(&table["per_class"][class][figure]), "{class} {figure}");
        }
    }
    assert_eq!(
        (&table["per_class"]["Fighting"]["support"], &table["per_class"]["Normal"]["support"]),
        (&2.into(), &1.into())
    );
    let all: u64 = ["Fighting", "Normal"]
        .iter()
        .flat_map(|t| ["Fighting", "Normal"].map(|p| table["confusion"][t][p].as_u64().expect("a count")))
        .sum();
    assert_eq!(all, 3);
    for key in ["macro", "weighted"] {
        assert!(is_probability(&table[key]["f1"]), "{key}");
    }
    assert_eq!(table["interval95"]["by"], "source_video");
    assert!(stdout(&vedette(["evaluate", "--data", data, "--map", "Vandalism=Fighting"])).contains("specificity"));
}

#[test]
fn frames_writes_what_the_encoder_gets() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let video = video::h264(dir.path(), "v.mp4", "640x360", 25, 2);
    for format in ["png", "npy"] {
        let out = dir.path().join(format);
        let args = ["frames", video.to_str().expect("UTF-8"), "--view", "--format", format, "--out"];
        let output = vedette(args.iter().map(std::ffi::OsStr::new).chain([out.as_os_str()]));
        assert!(output.status.success(), "{}", stderr(&output));
        let index = fs::read_to_string(out.join("frames.csv")).expect("an index");
        assert_eq!(index.lines().count(), 1 + 16, "2 s at 8 a second");
        assert!(index.lines().nth(1).expect("a frame").starts_with("0,0.000,true,"), "{index}");
    }
    let first = fs::File::open(dir.path().join("png/frame-000000.png")).expect("a picture");
    let decoder = png_size(first);
    assert_eq!(decoder, (480, 270));
    let npy = fs::read(dir.path().join("npy/frame.npy")).expect("an array");
    assert_eq!(npy.len(), 128 + 16 * 270 * 480 * 3);
    let again =
        vedette(["frames", video.to_str().expect("UTF-8"), "--out", dir.path().join("png").to_str().expect("UTF-8")]);
    assert_eq!(again.status.code(), Some(3));
    assert!(stderr(&again).contains("not empty"), "{}", stderr(&again));
}

#[test]
fn views_of_written_frames_are_those_that_the_encoder_got() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let video = video::h264(dir.path(), "v.mp4", "640x360", 25, 2);
    let recipe = dir.path().join("recipe.toml");
    let input = "name = \"mine\"\nsample_fps = 5.0\n[pixels]\nframe_width = 480\nscale = \"bilinear-antialiased\"\ngray = \"bt601\"\n\
        [view]\nwidth = 32\nheight = 24\nframes = \"pair\"\nbox = \"motion\"\n\
        [view.motion]\ngrid = [64, 36]\nkeep_percent = 70\nnoise_floor = 6\nsize_percent = 50\ncentre_pull_percent = 10\n\
        [training]\nepochs = 3\n";
    fs::write(&recipe, input).expect("writable");
    let out = dir.path().join("px");
    let path = |p: &Path| p.to_str().expect("UTF-8").to_string();
    let with = ["--recipe".to_string(), path(&recipe)];
    let frames =
        ["frames".to_string(), path(&video), "--view".into(), "--format=npy".into(), "--out".into(), path(&out)];
    let output = vedette(frames.iter().chain(&with));
    assert!(output.status.success(), "{}", stderr(&output));
    let read = |name: &str| fs::read(out.join(name)).expect("there");
    let (written, index) = (read("view.npy"), read("frames.csv"));
    assert_eq!(written.len(), 128 + 10 * 32 * 24 * 6, "2 s at 5 a second");
    fs::remove_file(out.join("view.npy")).expect("there");

    let views = ["views".to_string(), path(&out)];
    let output = vedette(views.iter().chain(&with));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(read("view.npy") == written, "the same bytes");
    assert_eq!(read("views.csv"), index);

    // A row less: said, with the file's name.
    let text = String::from_utf8(index).expect("text");
    fs::write(out.join("frames.csv"), text.lines().take(10).collect::<Vec<_>>().join("\n")).expect("writable");
    let output = vedette(views.iter().chain(&with));
    assert!(stderr(&output).contains("frames.csv: it has 9 rows, and frame.npy has 10 frames"), "{}", stderr(&output));
    fs::write(&recipe, input.replace("width = 32", "width = 3")).expect("writable");
    let output = vedette(views.iter().chain(&with));
    assert!(stderr(&output).contains("recipe.toml: view is (3, 24)"), "{}", stderr(&output));
}

/// Width and height from a PNG's IHDR.
fn png_size(mut file: fs::File) -> (u32, u32) {
    use std::io::Read;
    let mut head = [0; 24];
    file.read_exact(&mut head).expect("a header");
    let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
    (number(16), number(20))
}

#[test]
fn check_names_every_problem_at_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = dir.path().join("vedette.toml");
    fs::write(
        &config,
        "[device]\nsite = \"a b\"\nid = \"x\"\n[[camera]]\nid = \"c\"\nkind = \"rtsp\"\nurl = \"rtsp://u:secret@h/s\"\n\
         [clip]\npre_roll_ms = 5\npost_roll_s = \"10s\"\n",
    )
    .expect("writable");
    let path = config.to_str().expect("UTF-8");
    let output = vedette(["check", "--config", path, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report = &json_lines(&output)[0];
    assert_eq!(report["valid"], false);
    let said = report["problems"].to_string();
    for key in ["device.site", "camera[c].url", "clip.pre_roll_ms", "clip.post_roll_s"] {
        assert!(said.contains(key), "{key} in {said}");
    }
    assert!(said.contains("pre_roll_s"), "the nearest right spelling: {said}");
    assert!(!said.contains("secret"), "{said}");
    let missing = vedette(["check", "--config", "/nowhere/vedette.toml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stdout(&missing).contains("/nowhere/vedette.toml"));
}

#[test]
fn the_demo_raises_its_test_alert_and_ends_cleanly() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let kept = dir.path().join("device");
    let output = vedette(["demo", "--seconds", "14", "--dir", kept.to_str().expect("UTF-8")]);
    let said = stdout(&output);
    assert!(output.status.success(), "{said}{}", stderr(&output));
    for part in ["score", "accepted: test incident", "OPENED: Test", ".mp4", "everything was drained"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(kept.join("vedette.db").is_file());
}
