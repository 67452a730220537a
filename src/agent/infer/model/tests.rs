//! Bad model directories: what is said of each.

use super::*;
use crate::agent::infer::test_model::Tiny;
use crate::base::error::Chain;

fn error_of(tiny: &Tiny) -> String {
    let (dir, _) = tiny.write();
    Chain(&Model::open(dir.path()).expect_err("a bad model")).to_string()
}

#[test]
fn a_good_one_opens_and_its_digest_is_the_manifests() {
    let (dir, model) = Tiny::new().open();
    let r = model.reference();
    assert_eq!((r.name.as_str(), r.version.as_str()), ("tiny", "1.2.3"));
    let text = fs::read(dir.path().join(MANIFEST)).expect("written");
    assert_eq!(r.digest, digest::of_bytes(&text));
    assert_eq!((model.manifest().normal(), model.manifest().title().as_str()), (1, "tiny 1.2.3"));
    assert_eq!(model.read("head.fp32.onnx").expect("listed").len(), 778);
    assert!(model.path_of("head.fp32.onnx").expect("listed").is_file());
}

#[test]
fn a_missing_directory_or_file_is_named() {
    let e = Model::open(Path::new("/nowhere/model")).expect_err("nowhere").to_string();
    assert_eq!(e, "cannot read /nowhere/model/manifest.toml");
    let (dir, _) = Tiny::new().write();
    fs::remove_file(dir.path().join("head.fp32.onnx")).expect("it was there");
    let e = Model::open(dir.path()).expect_err("a file is missing");
    assert!(matches!(&e, ModelError::Missing { path } if path.ends_with("head.fp32.onnx")), "{e}");
    assert!(e.to_string().contains("copy the whole model directory again"), "{e}");
}

#[test]
fn a_changed_or_truncated_file_is_named_with_what_was_found_and_expected() {
    let (dir, _) = Tiny::new().write();
    let path = dir.path().join("encoder.fp32.onnx");
    let mut bytes = fs::read(&path).expect("written");
    bytes[100] ^= 1;
    fs::write(&path, &bytes).expect("writable");
    let e = Model::open(dir.path()).expect_err("one bit is another").to_string();
    let expected = digest::of_bytes(&{
        bytes[100] ^= 1;
        bytes.clone()
    });
    assert!(e.contains("encoder.fp32.onnx") && e.contains(&expected) && e.contains("has SHA-256"), "{e}");
    fs::write(&path, &bytes[..50]).expect("writable");
    let e = Model::open(dir.path()).expect_err("truncated").to_string();
    assert!(e.contains("it has 50 bytes, and manifest.toml says 1915 bytes"), "{e}");
}

#[test]
fn a_manifest_that_is_not_understood_says_where_and_why() {
    let e = error_of(&Tiny::new().edited("stride = 4", "stride = 4\nstrides = 5"));
    assert!(e.contains("manifest.toml is not a manifest") && e.contains("unknown field `strides`"), "{e}");
    let e = error_of(&Tiny::new().edited("noise_floor = 6", "noise_floor = \"six\""));
    assert!(e.contains("noise_floor") && e.contains("invalid type"), "{e}");
    let e = error_of(&Tiny::new().edited("frames = \"pair\"", "frames = \"triple\""));
    assert!(e.contains("unknown variant `triple`"), "{e}");
    let e = error_of(&Tiny::new().edited("stride = 4", ""));
    assert!(e.contains("missing field `stride`"), "{e}");
    let e = error_of(&Tiny::new().edited("version = \"1.2.3\"", "version = \"1.2\""));
    assert!(e.contains("version = \"1.2\""), "{e}");
}

#[test]
fn a_model_for_a_later_agent_says_so_before_anything_else() {
    let e = error_of(&Tiny::new().edited("minimum_agent = \"0.1.0\"", "minimum_agent = \"7.0.0\"\nfuture = true"));
    assert!(e.contains("needs vedette 7.0.0 or later, and this is"), "{e}");
}

#[test]
fn values_out_of_bounds_name_their_key_and_what_is_allowed() {
    let cases = [
        ("kind = \"cnn-lstm\"", "kind = \"detector\"", "kind is \"detector\"; it has to be \"cnn-lstm\""),
        ("[\"Fighting\", \"Normal\"]", "[\"Fighting\", \"Walking\"]", "one of them \"Normal\""),
        ("[\"Fighting\", \"Normal\"]", "[\"Normal\", \"Normal\"]", "different labels"),
        ("[\"Fighting\", \"Normal\"]", "[\"Arson\", \"Normal\"]", "thresholds is [\"Fighting\"]"),
        ("Fighting = 0.75", "Fighting = 0.75\nNormal = 0.5", "every class but \"Normal\""),
        ("Fighting = 0.75", "Fighting = 1.5", "thresholds.Fighting is 1.5; it has to be above 0, at most 1"),
        ("sample_fps = 8.0", "sample_fps = 0", "sample_fps is 0.0"),
        ("window = 16", "window = 1", "window is 1"),
        ("stride = 4", "stride = 17", "stride is 17; it has to be 1 to `window` frames"),
        ("frame_width = 480", "frame_width = 4", "pixels.frame_width is 4; it has to be 480"),
        ("box = \"motion\"", "box = \"full\"", "view.motion is \"present\"; it has to be absent"),
        ("size_percent = 50", "size_percent = 101", "view.motion.size_percent is 101"),
        ("keep_percent = 70", "keep_percent = 100", "view.motion.keep_percent is 100"),
        ("grid = [64, 36]", "grid = [64, 1]", "view.motion.grid is [64, 1]"),
        ("width = 8\nheight", "width = 4\nheight", "view is (4, 8)"),
        ("map = [2, 2]", "map = [0, 2]", "sizes of at least 1"),
        ("probabilities = 1e-4", "probabilities = 0", "tolerances.fp32"),
        ("name = \"tiny\"", "name = \"Tiny Model\"", "name is \"Tiny Model\""),
    ];
    for (from, to, expected) in cases {
        let e = error_of(&Tiny::new().edited(from, to));
        assert!(e.contains(expected), "{to}: {e}");
    }
}

#[test]
fn paths_stay_in_the_directory_and_are_listed_once() {
    for (path, expected) in [("../secret", "a relative path below"), ("/etc/passwd", "a relative path below")] {
        let mut tiny = Tiny::new();
        tiny.manifest += &format!("[[file]]\npath = \"{path}\"\nsha256 = \"{}\"\nsize_bytes = 0\n", "0".repeat(64));
        let e = error_of(&tiny);
        assert!(e.contains(expected) && e.contains(path), "{e}");
    }
    let mut tiny = Tiny::new();
    tiny.manifest += &format!("[[file]]\npath = \"head.fp32.onnx\"\nsha256 = \"{}\"\nsize_bytes = 0\n", "0".repeat(64));
    assert!(error_of(&tiny).contains("listed once"));
}

#[test]
fn a_file_that_is_not_listed_is_not_part_of_the_model() {
    let (dir, model) = Tiny::new().open();
    fs::write(dir.path().join("encoder.fp16.onnx"), "x").expect("writable");
    let e = model.read("encoder.fp16.onnx").expect_err("not listed").to_string();
    assert!(e.contains("lists no file encoder.fp16.onnx"), "{e}");
}
