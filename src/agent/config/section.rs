//! Reading a TOML document section by section, without stopping at the first problem.
//!
//! A [`Section`] hands out the values of its keys one at a time. Each call gives `Some` only if the value is
//! right (or absent and allowed to be), and otherwise notes the problem and gives `None`, so that the caller
//! reads on and at the end has all values or none. What nobody asked for by the end of a section is unknown.
//!
//! Because every known key is asked for by name, there is no second list of keys that could go stale: spelling
//! help for unknown keys is worked out in [`Document::finish`], from what was asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::kind::{Fault, Kind, found, is_name};
use super::problem::Problem;
use super::spelling::nearest;
use super::units::{Unit, base_of};

/// A key that was asked for.
#[derive(Clone, PartialEq)]
struct Known {
    section: &'static str,
    key: &'static str,
    unit: Option<Unit>,
}

/// A key that nobody asked for.
struct Unknown {
    section: &'static str,
    path: String,
    key: String,
    at: usize,
}

/// The text, and what was found in it so far.
pub(super) struct Document<'d> {
    text: &'d str,
    problems: RefCell<Vec<(Option<usize>, Problem)>>,
    known: RefCell<Vec<Known>>,
    unknown: RefCell<Vec<Unknown>>,
}

/// One table of the document; a table that isn't there reads as an empty one.
pub(super) struct Section<'d> {
    doc: &'d Document<'d>,
    /// Name of all sections of its sort, for example `camera`.
    sort: &'static str,
    /// Its own name in problems, for example `camera[gate]`; empty for the document itself.
    path: String,
    at: Option<usize>,
    table: Option<&'d DeTable<'d>>,
}

impl<'d> Document<'d> {
    pub(super) fn new(text: &'d str) -> Self {
        Document { text, problems: RefCell::default(), known: RefCell::default(), unknown: RefCell::default() }
    }

    /// Reads the whole document.
    pub(super) fn read<T>(&'d self, table: &'d DeTable<'d>, read: impl FnOnce(&mut Section<'d>) -> T) -> T {
        let root = Section { doc: self, sort: "", path: String::new(), at: None, table: Some(table) };
        root.read(read)
    }

    /// Every problem, in the order of the text; those that no line stands for come first.
    pub(super) fn finish(self) -> Vec<Problem> {
        let known = self.known.borrow();
        for unknown in self.unknown.borrow().iter() {
            let problem = Problem {
                key: unknown.path.clone(),
                line: None,
                message: "is not a known key".into(),
                remedy: remedy_for(unknown, &known),
            };
            self.problems.borrow_mut().push((Some(unknown.at), problem));
        }
        let mut problems = self.problems.take();
        problems.sort_by_key(|(at, _)| *at);
        problems
            .into_iter()
            .map(|(at, problem)| Problem { line: at.map(|at| line_of(self.text, at)), ..problem })
            .collect()
    }

    fn note(&self, at: Option<usize>, key: String, message: String, remedy: String) {
        self.problems.borrow_mut().push((at, Problem { key, line: None, message, remedy }));
    }
}

/// The line, from 1, of a byte of the text.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count()
}

fn remedy_for(unknown: &Unknown, known: &[Known]) -> String {
    let here: Vec<&Known> = known.iter().filter(|k| k.section == unknown.section).collect();
    if let Some(right) = here.iter().find(|k| base_of(k.key) == base_of(&unknown.key))
        && let Some(unit) = right.unit
    {
        return format!("use {}, in {}", right.key, unit.name());
    }
    let elsewhere = known.iter().find(|k| k.key == unknown.key && k.section != unknown.section);
    match nearest(&unknown.key, here.iter().map(|k| k.key)) {
        Some(right) => format!("did you mean {right}?"),
        None => match elsewhere {
            Some(right) if !right.section.is_empty() => format!("it belongs in section {}", right.section),
            _ => {
                let mut keys: Vec<&str> = here.iter().map(|k| k.key).collect();
                keys.sort_unstable();
                keys.dedup();
                format!("known here: {}", keys.join(", "))
            }
        },
    }
}

/// A key as it is shown: such as needs no quotes in TOML as it is, anything else escaped, and not endlessly.
fn shown(key: &str) -> String {
    if !key.is_empty() && key.len() <= 64 && key.bytes().all(|b| b.is_ascii_graphic() && b != b'"') {
        return key.to_string();
    }
    format!("{:?}", key.chars().take(64).collect::<String>())
}

impl<'d> Section<'d> {
    /// Runs `read` over this section and notes what it did not ask for.
    fn read<T>(mut self, read: impl FnOnce(&mut Section<'d>) -> T) -> T {
        let result = read(&mut self);
        let known = self.doc.known.borrow();
        for key in self.table.into_iter().flat_map(|t| t.keys()) {
            let name = key.get_ref().as_ref();
            if !known.iter().any(|k| k.section == self.sort && k.key == name) {
                self.doc.unknown.borrow_mut().push(Unknown {
                    section: self.sort,
                    path: self.path_of(name),
                    key: name.to_string(),
                    at: key.span().start,
                });
            }
        }
        drop(known);
        result
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { shown(key) } else { format!("{}.{}", self.path, shown(key)) }
    }

    fn entry(&self, key: &str) -> Option<(usize, &'d DeValue<'d>)> {
        let (key, value) = self.table?.get_key_value(key)?;
        Some((key.span().start, value.get_ref()))
    }

    fn ask(&self, key: &'static str, unit: Option<Unit>) -> Option<(usize, &'d DeValue<'d>)> {
        let asked = Known { section: self.sort, key, unit };
        let mut known = self.doc.known.borrow_mut();
        if !known.contains(&asked) {
            known.push(asked);
        }
        self.entry(key)
    }

    /// Calls this section something else in problems.
    pub(super) fn rename(&mut self, path: String) {
        self.path = path;
    }

    /// Whether the key is there, whatever it holds.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// The text of a key that is asked for elsewhere; none if it is absent or not text.
    pub(super) fn peek(&self, key: &str) -> Option<&'d str> {
        self.entry(key).and_then(|(_, value)| value.as_str())
    }

    /// Notes a problem at a key, or at the section if the key is absent.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>, remedy: impl Into<String>) {
        let at = self.entry(key).map(|(at, _)| at).or(self.at);
        self.doc.note(at, self.path_of(key), message.into(), remedy.into());
    }

    fn value<T>(&self, key: &str, kind: &Kind<'_, T>, value: &DeValue<'_>) -> Option<T> {
        self.checked(key, kind, kind.read(value))
    }

    fn checked<T, U>(&self, key: &str, kind: &Kind<'_, T>, result: Result<U, Fault>) -> Option<U> {
        let Fault { message, remedy } = match result {
            Ok(value) => return Some(value),
            Err(fault) => fault,
        };
        self.problem(key, message, remedy.unwrap_or_else(|| format!("allowed: {}", kind.allowed)));
        None
    }

    /// A key that must be there.
    pub(super) fn required<T>(&mut self, key: &'static str, kind: Kind<'_, T>) -> Option<T> {
        match self.ask(key, kind.unit) {
            Some((_, value)) => self.value(key, &kind, value),
            None => {
                self.problem(key, "is missing", format!("allowed: {}", kind.allowed));
                None
            }
        }
    }

    /// A key with a default.
    pub(super) fn or<T>(&mut self, key: &'static str, default: T, kind: Kind<'_, T>) -> Option<T> {
        match self.ask(key, kind.unit) {
            Some((_, value)) => self.value(key, &kind, value),
            None => Some(default),
        }
    }

    /// A key with a default text, which is read and checked as if it stood there.
    pub(super) fn or_text<T>(&mut self, key: &'static str, default: &str, kind: Kind<'_, T>) -> Option<T> {
        match self.ask(key, kind.unit) {
            Some((_, value)) => self.value(key, &kind, value),
            None => self.value(key, &kind, &DeValue::String(default.into())),
        }
    }

    /// A key that may be absent.
    pub(super) fn optional<T>(&mut self, key: &'static str, kind: Kind<'_, T>) -> Option<Option<T>> {
        match self.ask(key, kind.unit) {
            Some((_, value)) => self.value(key, &kind, value).map(Some),
            None => Some(None),
        }
    }

    /// A key that means something elsewhere, but here nothing: a problem if it is there.
    pub(super) fn out_of_place(&mut self, key: &'static str, message: &str, remedy: &str) {
        if self.ask(key, None).is_some() {
            self.problem(key, message, remedy);
        }
    }

    /// A key of which it cannot be said whether it belongs here.
    pub(super) fn pass_over(&mut self, key: &'static str) {
        self.ask(key, None);
    }

    /// A table of values of one kind under keys that the installer chooses; `check` sees each right one with its key.
    pub(super) fn map<T>(
        &mut self,
        key: &'static str,
        kind: Kind<'_, T>,
        check: impl Fn(&str, &T) -> Result<(), Fault>,
    ) -> Option<BTreeMap<String, T>> {
        let Some((at, value)) = self.ask(key, None) else {
            return Some(BTreeMap::new());
        };
        let inner = self.inside(key, at, value, false)?;
        let keys = inner.table.into_iter().flat_map(|t| t.keys()).map(|k| k.get_ref().as_ref());
        // Every one is read before the first bad one decides.
        let values: Vec<Option<(String, T)>> = keys
            .map(|key| {
                let (_, value) = inner.entry(key)?;
                let value = inner.value(key, &kind, value)?;
                inner.checked(key, &kind, check(key, &value))?;
                Some((key.to_string(), value))
            })
            .collect();
        values.into_iter().collect()
    }

    /// A section; if it isn't there, its defaults. None if something else bears its name.
    pub(super) fn section<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Section<'d>) -> Option<T>,
    ) -> Option<T> {
        let inner = match self.ask(name, None) {
            Some((at, value)) => self.inside(name, at, value, false)?,
            None => Section { doc: self.doc, sort: name, path: self.path_of(name), at: None, table: None },
        };
        inner.read(read)
    }

    /// A section that may be absent as a whole.
    pub(super) fn optional_section<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Section<'d>) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.ask(name, None) {
            Some((at, value)) => self.inside(name, at, value, false)?.read(read).map(Some),
            None => Some(None),
        }
    }

    /// All sections `[[name]]`. None if one is wrong; all are read nevertheless.
    pub(super) fn sections<T>(
        &mut self,
        name: &'static str,
        mut read: impl FnMut(&mut Section<'d>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Some((at, value)) = self.ask(name, None) else {
            return Some(Vec::new());
        };
        let DeValue::Array(items) = value else {
            let message = format!("is {}, not a list of sections", found(value));
            let header = self.header_of(name, true);
            self.problem(name, message, format!("write {header}, with double brackets, above each of them"));
            return None;
        };
        let read_all: Vec<Option<T>> = items
            .iter()
            .enumerate()
            .map(|(i, item): (usize, &'d Spanned<DeValue<'d>>)| {
                // The elements' own spans are finer than that of the key, which is the first header's.
                let at = if i == 0 { at } else { item.span().start };
                let mut inner = self.inside(name, at, item.get_ref(), true)?;
                inner.rename(format!("{}[#{}]", self.path_of(name), i + 1));
                inner.read(&mut read)
            })
            .collect();
        read_all.into_iter().collect()
    }

    /// All sections `[name.<what the installer calls it>]`. None if one is wrong; all are read nevertheless.
    pub(super) fn named_sections<T>(
        &mut self,
        name: &'static str,
        mut read: impl FnMut(&str, &mut Section<'d>) -> Option<T>,
    ) -> Option<BTreeMap<String, T>> {
        let Some((at, value)) = self.ask(name, None) else {
            return Some(BTreeMap::new());
        };
        let outer = self.inside(name, at, value, false)?;
        let keys = outer.table.into_iter().flat_map(|t| t.keys()).map(|k| k.get_ref().as_ref());
        let read_all: Vec<Option<(String, T)>> = keys
            .map(|key| {
                if !is_name(key) {
                    outer.problem(key, "is no name for a section", "use 1 to 64 of a-z A-Z 0-9 _ -");
                    return None;
                }
                let (at, value) = outer.entry(key)?;
                if !matches!(value, DeValue::Table(_)) {
                    let message = format!("is {}, not a section", found(value));
                    outer.problem(key, message, format!("write [{name}.<name>] and its keys below"));
                    return None;
                }
                let mut inner = outer.inside(name, at, value, false)?;
                inner.rename(outer.path_of(key));
                inner.read(|s| read(key, s)).map(|section| (key.to_string(), section))
            })
            .collect();
        read_all.into_iter().collect()
    }

    fn inside(&self, name: &'static str, at: usize, value: &'d DeValue<'d>, of_many: bool) -> Option<Section<'d>> {
        match value {
            DeValue::Table(table) => {
                Some(Section { doc: self.doc, sort: name, path: self.path_of(name), at: Some(at), table: Some(table) })
            }
            other => {
                let header = self.header_of(name, of_many);
                let message = format!("is {}, not a section", found(other));
                self.doc.note(Some(at), self.path_of(name), message, format!("write {header} and its keys below"));
                None
            }
        }
    }

    /// What stands above a section of this name in here.
    fn header_of(&self, name: &str, of_many: bool) -> String {
        let whole = if self.sort.is_empty() { name.to_owned() } else { format!("{}.{name}", self.sort) };
        if of_many { format!("[[{whole}]]") } else { format!("[{whole}]") }
    }
}
