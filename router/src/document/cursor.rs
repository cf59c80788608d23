//! Reading a tree: typed values, and every fault with its place and its path.

use std::{cell::RefCell, fmt};

use jobgate_yaml::{Fault, Faults, Place, Source, nearest};

use super::tree::{Mark, Node, Value};

/// Faults reported of one input; the rest is counted.
pub(super) const FAULTS_MAX: usize = 32;

/// A text being read, and what is wrong with it. Faults say where, and never quote a value: documents hold secrets.
pub(crate) struct Input<'t> {
    pub(crate) name: &'t str,
    pub(crate) text: &'t str,
    faults: RefCell<Found>,
}

#[derive(Default)]
struct Found {
    faults: Vec<Fault>,
    more: usize,
}

/// A node, and how it was reached.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'c> {
    node: &'c Node<'c>,
    parent: Option<&'c Cursor<'c>>,
    step: Step<'c>,
    input: &'c Input<'c>,
}

#[derive(Clone, Copy)]
enum Step<'c> {
    /// Which document of a list.
    Document(Option<usize>),
    Key(&'c str),
    Index(usize),
}

impl<'t> Input<'t> {
    pub(crate) fn new(name: &'t str, text: &'t str) -> Self {
        Self { name, text, faults: RefCell::default() }
    }

    pub(crate) fn note(&self, mark: Mark, message: impl Into<String>) {
        self.push(|| self.fault(mark, message));
    }

    pub(crate) fn take(&self, faults: Faults) {
        faults.into_iter().for_each(|fault| self.push(|| fault));
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.faults.borrow().faults.is_empty()
    }

    pub(crate) fn finish<T>(self, value: T) -> Result<T, Faults> {
        let Found { faults, more } = self.faults.into_inner();
        let rest = (more > 0).then(|| Fault::new(self.name, format!("and {more} more faults")));
        match Faults::collect(faults) {
            Some(faults) => Err(faults.and(rest)),
            None => Ok(value),
        }
    }

    fn push(&self, fault: impl FnOnce() -> Fault) {
        let mut found = self.faults.borrow_mut();
        match found.faults.len() < FAULTS_MAX {
            true => found.faults.push(fault()),
            false => found.more += 1,
        }
    }

    fn fault(&self, mark: Mark, message: impl Into<String>) -> Fault {
        match mark {
            Mark::Unknown => Fault::new(self.name, message),
            // The source is given no text, so there is nothing it could quote.
            Mark::Offset(offset) => Source::secret(self.name, "").fault(self.place(offset as usize), message),
            Mark::Place(place) => Source::secret(self.name, "").fault(place, message),
        }
    }

    fn place(&self, offset: usize) -> Place {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines = before.iter().filter(|byte| **byte == b'\n').count();
        // Continuation bytes are no characters of their own.
        let columns = before[line_start..].iter().filter(|byte| **byte & 0xc0 != 0x80).count();
        Place { line: lines as u32 + 1, column: columns as u32 + 1 }
    }
}

impl<'c> Cursor<'c> {
    /// The root of a document; `index` is its place in a list of documents.
    pub(crate) fn root(node: &'c Node<'c>, index: Option<usize>, input: &'c Input<'c>) -> Self {
        Self { node, parent: None, step: Step::Document(index), input }
    }

    /// The value of a key. `null` is as absent. Notes a key that some readers would take for this one.
    pub(crate) fn get(&'c self, key: &'static str) -> Option<Cursor<'c>> {
        self.find(key).filter(|child| !matches!(child.node.value, Value::Null))
    }

    /// The value of a key, `null` included.
    pub(crate) fn find(&'c self, key: &'static str) -> Option<Cursor<'c>> {
        let mut found = None;
        for (name, node) in self.entries().filter(|(name, _)| name.len() >= key.len()) {
            if name == key {
                found = Some(self.child(Step::Key(name), node));
            } else if folds_to(name, key) {
                let child = self.child(Step::Key(name), node);
                child.note(format!("runners read this key as `{key}`; write it so, or leave it out"));
            }
        }
        found
    }

    /// All keys with their values.
    pub(crate) fn keys(&'c self) -> impl Iterator<Item = (&'c str, Cursor<'c>)> {
        self.entries().map(|(key, node)| (key, self.child(Step::Key(key), node)))
    }

    /// Whether the key is there, `null` or not.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries().any(|(name, _)| name == key)
    }

    /// Notes every key that is not known.
    pub(crate) fn only(&'c self, what: &str, known: &[&'static str]) {
        for (key, child) in self.keys().filter(|(key, _)| !known.contains(key)) {
            self.input.push(|| {
                let key = shown(key);
                let mut message = format!("unknown key `{key}` of {what}");
                if let Some(near) = nearest(&key, known.iter().copied()) {
                    message.push_str(&format!("; did you mean `{near}`?"));
                }
                let known: Vec<_> = known.iter().map(|key| format!("`{key}`")).collect();
                child.fault(message).help(format!("{what} has {}", known.join(", ")))
            });
        }
    }

    /// Itself, if it is a mapping; anything else is a fault.
    pub(crate) fn mapping_of(self) -> Option<Self> {
        match self.node.value {
            Value::Map(_) => Some(self),
            _ => self.expected("a mapping"),
        }
    }

    /// The elements of a list.
    pub(crate) fn elements(&'c self) -> impl Iterator<Item = Cursor<'c>> {
        let nodes = match &self.node.value {
            Value::List(nodes) => nodes.as_slice(),
            _ => {
                self.expected::<()>("a list");
                &[]
            }
        };
        nodes.iter().enumerate().map(|(index, node)| self.child(Step::Index(index), node))
    }

    pub(crate) fn is_mapping(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.node.value, Value::Null)
    }

    /// Text, if it is text; notes nothing.
    pub(crate) fn as_text(&self) -> Option<&'c str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_integer(&self) -> Option<i64> {
        match self.node.value {
            Value::Integer(value) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&'c str> {
        self.as_text().or_else(|| self.expected("text"))
    }

    pub(crate) fn integer(&self) -> Option<i64> {
        self.as_integer().or_else(|| self.expected("a whole number"))
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        match self.node.value {
            Value::Bool(value) => Some(value),
            _ => self.expected("true or false"),
        }
    }

    /// A list of texts; a `null` among them is empty, as runners have it.
    pub(crate) fn texts(&'c self) -> Vec<String> {
        let text = |element: Cursor<'_>| match element.is_null() {
            true => String::new(),
            false => element.text().unwrap_or_default().to_owned(),
        };
        self.elements().map(text).collect()
    }

    /// Text under a key.
    pub(crate) fn string(&'c self, key: &'static str) -> Option<String> {
        self.get(key)?.text().map(str::to_owned)
    }

    /// Text under a key, where empty is as absent.
    pub(crate) fn filled(&'c self, key: &'static str) -> Option<String> {
        self.string(key).filter(|text| !text.is_empty())
    }

    /// A list of texts under a key; none if it is absent.
    pub(crate) fn strings(&'c self, key: &'static str) -> Vec<String> {
        self.get(key).map(|list| list.texts()).unwrap_or_default()
    }

    /// A truth under a key; absent is false, as runners have it.
    pub(crate) fn flag(&'c self, key: &'static str) -> bool {
        self.get(key).and_then(|value| value.boolean()).unwrap_or_default()
    }

    pub(crate) fn note(&self, message: impl fmt::Display) {
        self.input.push(|| self.fault(message));
    }

    pub(crate) fn note_with_help(&self, message: impl fmt::Display, help: &str) {
        self.input.push(|| self.fault(message).help(help));
    }

    pub(crate) fn expected<T>(&self, what: &str) -> Option<T> {
        self.note(format_args!("expected {what}, found {}", self.node.kind()));
        None
    }

    fn entries(&self) -> impl Iterator<Item = (&'c str, &'c Node<'c>)> {
        let entries = match &self.node.value {
            Value::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().map(|(key, node)| (key.as_ref(), node))
    }

    fn child(&'c self, step: Step<'c>, node: &'c Node<'c>) -> Cursor<'c> {
        Cursor { node, parent: Some(self), step, input: self.input }
    }

    fn fault(&self, message: impl fmt::Display) -> Fault {
        let path = self.to_string();
        let message = match path.is_empty() {
            true => message.to_string(),
            false => format!("{path}: {message}"),
        };
        self.input.fault(self.mark(), message)
    }

    fn mark(&self) -> Mark {
        match (self.node.mark, self.parent) {
            (Mark::Unknown, Some(parent)) => parent.mark(),
            (mark, _) => mark,
        }
    }
}

impl fmt::Display for Cursor<'_> {
    /// Its path, `gitlab.variables[3].key`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            fmt::Display::fmt(parent, f)?;
        }
        match self.step {
            Step::Document(None) => Ok(()),
            Step::Document(Some(index)) | Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => {
                let top = self.parent.is_none_or(|parent| matches!(parent.step, Step::Document(None)));
                write!(f, "{}{}", if top { "" } else { "." }, shown(key))
            }
        }
    }
}

/// A key as messages show it: short, and without control characters.
pub(crate) fn shown(key: &str) -> String {
    key.chars().take(64).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Whether Go's JSON reader, which runners use, takes `name` for `key` although they differ. It compares without case, by
/// Unicode's simple folding: the long s and the Kelvin sign are letters of ASCII words to it.
fn folds_to(name: &str, key: &str) -> bool {
    // The key is ASCII: what folds to it has as many letters, and more bytes where one of them is another.
    if name.len() <= key.len() {
        return name.len() == key.len() && name.eq_ignore_ascii_case(key) && name != key;
    }
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        _ => c.to_ascii_lowercase(),
    };
    !name.is_ascii() && name.chars().map(fold).eq(key.chars().map(|c| c.to_ascii_lowercase()))
}
