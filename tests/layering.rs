//! The layer rule of `src/lib.rs`, read off the sources: a module imports what stands before it, nothing after.

use std::fs;
use std::path::{Path, PathBuf};

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("the source tree is there") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// The modules in the order in which `mod.rs` declares them.
fn declared(mod_rs: &Path) -> Vec<String> {
    let text = fs::read_to_string(mod_rs).expect("the source tree is there");
    text.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).map(String::from).collect()
}

/// Every `crate::a::b` path in the code, as (a, b); comments and doc links do not count.
fn imports(text: &str) -> Vec<(String, String)> {
    let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let flat = code.replace([' ', '\n'], "");
    let mut found = Vec::new();
    for (at, _) in flat.match_indices("crate::") {
        let path = &flat[at + "crate::".len()..];
        let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        let first = word(path);
        let rest = path[first.len()..].strip_prefix("::").unwrap_or("");
        if let Some(group) = rest.strip_prefix('{') {
            // `use crate::agent::{capture::Frame, config::Config};`
            let (mut depth, mut start) = (0, true);
            for (i, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        start = true;
                        continue;
                    }
                    _ if start && depth == 0 => found.push((first.clone(), word(&group[i..]))),
                    _ => {}
                }
                start = false;
            }
        } else {
            found.push((first, word(rest)));
        }
    }
    found
}

/// What a file reaches beside its own stage by `super`: the same rule holds for it.
fn siblings(parts: &[&str], text: &str, order: &[String]) -> Vec<(String, String)> {
    // From agent/x/mod.rs one `super` is `agent`; each level below takes one more.
    let Some(depth) = parts.len().checked_sub(if parts.last() == Some(&"mod.rs") { 2 } else { 1 }) else {
        return Vec::new();
    };
    if parts[0] != "agent" || depth == 0 {
        return Vec::new();
    }
    let way = "super::".repeat(depth);
    let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
    let reached = |module: &&String| {
        code.contains(&format!("{way}{module}::")) && !code.contains(&format!("super::{way}{module}"))
    };
    order.iter().filter(reached).map(|m| ("agent".to_owned(), m.clone())).collect()
}

#[test]
fn a_module_imports_only_what_stands_before_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let order = declared(&src.join("agent/mod.rs"));
    assert!(order.len() > 8, "agent/mod.rs declares the stages: {order:?}");
    let rank = |m: &str| order.iter().position(|o| o == m);
    let mut broken = Vec::new();
    let (mut files, mut seen) = (0, 0);
    for file in rust_files(&src) {
        let inside = file.strip_prefix(&src).expect("below src").to_string_lossy().replace('\\', "/");
        let parts: Vec<&str> = inside.split('/').collect();
        let text = fs::read_to_string(&file).expect("readable");
        files += 1;
        for (wing, module) in imports(&text).into_iter().chain(siblings(&parts, &text, &order)) {
            seen += 1;
            let allowed = match parts[0] {
                "base" => wing == "base",
                "contract" => wing == "base" || wing == "contract",
                "agent" if parts.len() > 2 => {
                    let own = rank(parts[1]).unwrap_or_else(|| panic!("{inside}: {} is not declared", parts[1]));
                    match wing.as_str() {
                        "base" | "contract" => true,
                        "agent" => rank(&module).is_some_and(|m| m <= own),
                        _ => false,
                    }
                }
                _ => true,
            };
            if !allowed {
                broken.push(format!("{inside} imports crate::{wing}::{module}"));
            }
        }
    }
    assert!(files > 20 && seen > 50, "the check must see the code: {files} files, {seen} imports");
    assert!(broken.is_empty(), "the layer rule (src/lib.rs) is broken:\n{}", broken.join("\n"));
}

#[test]
fn the_check_sees_all_forms_of_import() {
    let code = "use crate::agent::{capture::{Frame, Codec}, config::CameraId};\nlet x = crate::base::clock::Mono::ZERO;\n// crate::agent::cli";
    let pairs = imports(code);
    let expected = [("agent", "capture"), ("agent", "config"), ("base", "clock")];
    assert_eq!(pairs, expected.map(|(a, b)| (a.to_string(), b.to_string())));
}

#[test]
fn binaries_are_thin() {
    let bin = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin");
    for file in rust_files(&bin) {
        let lines = fs::read_to_string(&file).expect("readable").lines().count();
        assert!(lines <= 60, "{} has {lines} lines; a binary parses, loads and calls", file.display());
    }
}
