//! Any text as a configuration: a config or problems that name a place and a remedy; never a panic, never a secret.

use std::path::Path;

use vedette::agent::config;

/// Stands in the text where a secret would: it must never come back.
const SECRET: &str = "hunter2";

/// See [`super`].
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let with_secret = format!("{text}\npassword = \"{SECRET}\"\n");
    for text in [&*text, &*with_secret] {
        match config::parse(text, Path::new("/nowhere")) {
            Ok(config) => {
                let mut ids: Vec<_> = config.cameras.iter().map(|c| &c.id).collect();
                ids.sort();
                ids.dedup();
                assert_eq!(ids.len(), config.cameras.len(), "two cameras of one id");
                assert!(!config.cameras.is_empty(), "a device without cameras");
            }
            Err(problems) => {
                assert!(!problems.is_empty(), "refused without a reason");
                let lines = text.lines().count();
                for p in &problems {
                    assert!(!p.message.is_empty() && !p.remedy.is_empty(), "{p:?}");
                    assert!(p.line.is_none_or(|line| (1..=lines.max(1)).contains(&line)), "{p:?} of {lines} lines");
                    assert!(!p.to_string().contains(SECRET), "a secret is told: {p}");
                }
            }
        }
    }
}
