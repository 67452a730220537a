//! Lines for what turns out to be wrong only after the file was read, when it is held against what is elsewhere.

use toml::de::{DeTable, DeValue};

use super::Problem;
use super::section::line_of;

/// Gives each problem that has none the line in `text` of the key that it is about, if that is there.
pub fn locate(text: &str, problems: &mut [Problem]) {
    let (document, _) = DeTable::parse_recoverable(text);
    for problem in problems.iter_mut().filter(|p| p.line.is_none()) {
        problem.line = position(document.get_ref(), &problem.key).map(|at| line_of(text, at));
    }
}

/// Where a key stands that is given as in [`Problem::key`]. The name of a class may have dots in it.
fn position(table: &DeTable<'_>, path: &str) -> Option<usize> {
    if let Some((key, _)) = table.iter().find(|(key, _)| key.get_ref() == path) {
        return Some(key.span().start);
    }
    path.match_indices('.').find_map(|(dot, _)| position(below(table, &path[..dot])?, &path[dot + 1..]))
}

/// The table of this name: `clip`, or `camera[gate]` for one of several.
fn below<'t, 'd>(table: &'t DeTable<'d>, name: &str) -> Option<&'t DeTable<'d>> {
    let value = |name: &str| table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value.get_ref());
    let Some((name, id)) = name.strip_suffix(']').and_then(|name| name.split_once('[')) else {
        return value(name)?.as_table();
    };
    let mut all = value(name)?.as_array()?.iter().filter_map(|one| one.get_ref().as_table());
    let has_id = |of: &DeTable<'_>| {
        of.iter().any(|(key, value)| key.get_ref() == "id" && matches!(value.get_ref(), DeValue::String(s) if s == id))
    };
    all.find(|one| has_id(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_path() {
        let text = "[mqtt]\ncert_file = \"a\"\n[[camera]]\nid = \"gate\"\n[[camera]]\nid = \"yard\"\n\
             [camera.thresholds]\nFight = 0.5\n\"a.b\" = 0.5\n[severity]\nFight = \"minor\"\n";
        for (key, line) in [
            ("mqtt.cert_file", Some(2)),
            ("mqtt", Some(1)),
            ("camera[yard].thresholds.Fight", Some(8)),
            ("camera[yard].thresholds.a.b", Some(9)),
            ("camera[gate].thresholds.Fight", None),
            ("severity.Fight", Some(11)),
            ("mqtt.key_file", None),
            ("", None),
        ] {
            let problem = Problem { key: key.into(), line: None, message: String::new(), remedy: String::new() };
            let mut problems = [problem];
            locate(text, &mut problems);
            assert_eq!(problems[0].line, line, "{key}");
        }
    }
}
