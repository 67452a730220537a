//! Sets keys in the text of a configuration that a person has written, and leaves the rest as it is, comments included.
//!
//! Invariant: what comes out says what went in and what was set, and nothing else: both texts are read as TOML and compared.
//! Where the text is written in a way that this does not know, it is refused and not damaged.

use toml::{Table, Value};

/// A section's keys and their new values.
pub type Sections<'a> = &'a [(&'a str, Vec<(&'a str, Value)>)];

/// Why the text is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It cannot be read.
    #[error("the configuration is not TOML, and is not touched: {0}")]
    NotToml(String),
    /// Nobody but its author can do it.
    #[error(
        "the configuration is written in a way that this program does not change; write these lines into it yourself:\n{0}"
    )]
    ByHand(String),
}

/// The text, with these keys set.
pub fn set(text: &str, sections: Sections<'_>) -> Result<String, EditError> {
    // Without the parser's picture of the line, which may show a secret.
    let read = |text: &str| text.parse::<Table>().map_err(|e| EditError::NotToml(e.message().to_owned()));
    let mut wanted = read(text)?;
    for (section, keys) in sections {
        let below = wanted.entry(*section).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(below) = below else { return Err(by_hand(sections)) };
        below.extend(keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    }
    let mut edited = text.to_owned();
    for (section, keys) in sections {
        edited = set_section(&edited, section, keys);
    }
    match read(&edited) {
        Ok(found) if found == wanted => Ok(edited),
        _ => Err(by_hand(sections)),
    }
}

fn set_section(text: &str, section: &str, keys: &[(&str, Value)]) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let header = |line: &str| line.split('#').next().unwrap_or_default().trim() == format!("[{section}]");
    let ours = |line: &str| keys.iter().any(|(key, _)| line.split_once('=').is_some_and(|(k, _)| k.trim() == *key));
    let set = keys.iter().map(|(key, value)| format!("{key} = {value}"));
    let mut out: Vec<String> = Vec::new();
    match lines.iter().position(|line| header(line)) {
        None => {
            out.extend(lines.iter().map(|l| (*l).to_owned()));
            if !lines.is_empty() {
                out.push(String::new());
            }
            out.push(format!("[{section}]"));
            out.extend(set);
        }
        Some(at) => {
            let end = lines[at + 1..]
                .iter()
                .position(|l| l.trim_start().starts_with('['))
                .map_or(lines.len(), |n| at + 1 + n);
            out.extend(lines[..=at].iter().map(|l| (*l).to_owned()));
            out.extend(set);
            out.extend(lines[at + 1..end].iter().filter(|l| !ours(l)).map(|l| (*l).to_owned()));
            out.extend(lines[end..].iter().map(|l| (*l).to_owned()));
        }
    }
    out.join("\n") + "\n"
}

fn by_hand(sections: Sections<'_>) -> EditError {
    let lines = sections.iter().map(|(section, keys)| {
        let keys: String = keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        format!("[{section}]\n{keys}")
    });
    EditError::ByHand(lines.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Value {
        Value::String(value.to_owned())
    }

    #[test]
    fn keys_are_set_and_all_else_stays() {
        let before = "# Mine.\n[device] # who\nsite = \"old\" # here\n# id = \"x\"\nplace = { name = \"gate\" }\n\n\
             [[camera]]\nid = \"gate\"\nsite = 1\n";
        let keys = [
            ("device", vec![("site", text("depot")), ("id", text("a\"b"))]),
            ("mqtt", vec![("url", Value::Array(vec![text("mqtts://a"), text("mqtts://b")]))]),
        ];
        let after = set(before, &keys).unwrap();
        assert_eq!(
            after,
            "# Mine.\n[device] # who\nsite = \"depot\"\nid = 'a\"b'\n# id = \"x\"\nplace = { name = \"gate\" }\n\n\
             [[camera]]\nid = \"gate\"\nsite = 1\n\n[mqtt]\nurl = [\"mqtts://a\", \"mqtts://b\"]\n"
        );
        assert_eq!(set(&after, &keys).unwrap(), after, "twice is once");
        assert_eq!(set("", &keys[1..]).unwrap(), "[mqtt]\nurl = [\"mqtts://a\", \"mqtts://b\"]\n");
    }

    #[test]
    fn what_is_written_otherwise_is_not_damaged() {
        let keys = [("mqtt", vec![("url", text("mqtts://a"))])];
        for odd in [
            "[mqtt]\nurl = [\n  \"mqtts://b\",\n]\n",
            "mqtt = { url = \"mqtts://b\" }\n",
            "mqtt.url = \"mqtts://b\"\n",
            "mqtt = 1\n",
            "x = \"\"\"\n[mqtt]\n\"\"\"\n",
        ] {
            let refused = set(odd, &keys).unwrap_err();
            assert!(matches!(refused, EditError::ByHand(_)), "{odd}: {refused}");
            assert!(refused.to_string().contains("url = \"mqtts://a\""), "{refused}");
        }
        let broken = set("password = \"horse\nx", &keys).unwrap_err();
        assert!(matches!(broken, EditError::NotToml(_)) && !broken.to_string().contains("horse"));
    }
}
