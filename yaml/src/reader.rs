use std::{cell::RefCell, ops::RangeInclusive};

use crate::{Document, Entry, Fault, Faults, Node, Place, Source, Value, nearest};

/// Turns nodes into checked values, and collects every fault on the way.
///
/// Each method gives `None` after noting a fault, so that reading goes on and finds the next one; [`Reader::finish`] tells
/// whether there was any.
#[derive(Debug)]
pub struct Reader<'s> {
    source: &'s Source,
    faults: RefCell<Vec<Fault>>,
}

/// The keys of one mapping. Those not asked for are unknown.
#[derive(Debug)]
pub struct Fields<'r, 's, 'n> {
    reader: &'r Reader<'s>,
    what: &'static str,
    place: Place,
    entries: &'n [Entry],
    known: Vec<&'static str>,
}

impl<'s> Reader<'s> {
    /// Reads nodes that came from `source`.
    #[must_use]
    pub fn new(source: &'s Source) -> Self {
        Self { source, faults: RefCell::default() }
    }

    /// Where the nodes come from.
    #[must_use]
    pub fn source(&self) -> &'s Source {
        self.source
    }

    /// Notes a fault at a place.
    pub fn fault(&self, place: Place, message: impl Into<String>) {
        self.note(self.source.fault(place, message));
    }

    /// Notes a fault at a place, and what to do about it.
    pub fn fault_with_help(&self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.note(self.source.fault(place, message).help(help));
    }

    /// Notes a fault.
    pub fn note(&self, fault: Fault) {
        self.faults.borrow_mut().push(fault);
    }

    /// Notes faults, and gives the value if there are none.
    pub fn check<T>(&self, result: Result<T, Faults>) -> Option<T> {
        result.map_err(|faults| self.faults.borrow_mut().extend(faults)).ok()
    }

    /// Whether any fault was noted.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.faults.borrow().is_empty()
    }

    /// The value, if no fault was noted.
    ///
    /// # Errors
    ///
    /// All faults noted.
    pub fn finish<T>(self, value: T) -> Result<T, Faults> {
        Faults::collect(self.faults.into_inner()).map_or(Ok(value), Err)
    }

    /// The keys of a mapping; `what` it describes is for messages, as `a rule`.
    pub fn fields<'r, 'n>(&'r self, node: &'n Node, what: &'static str) -> Option<Fields<'r, 's, 'n>> {
        match &node.value {
            Value::Map(entries) => Some(Fields { reader: self, what, place: node.place, entries, known: Vec::new() }),
            _ => {
                self.fault(node.place, format!("expected {what} (a mapping), found {}", node.kind()));
                None
            }
        }
    }

    /// The nodes of a list.
    pub fn list<'n>(&self, node: &'n Node) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(nodes) => Some(nodes),
            _ => self.expected("a list", node),
        }
    }

    /// Text.
    pub fn string<'n>(&self, node: &'n Node) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => Some(text),
            Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {
                let message = format!("expected text, found {}", node.kind());
                self.fault_with_help(node.place, message, "put it in quotes");
                None
            }
            _ => self.expected("text", node),
        }
    }

    /// Text that is not empty.
    pub fn name<'n>(&self, node: &'n Node) -> Option<&'n str> {
        let text = self.string(node)?;
        if text.trim().is_empty() {
            self.fault(node.place, "this must not be empty");
            return None;
        }
        Some(text)
    }

    /// Texts: a list of them, or one alone.
    pub fn strings<'n>(&self, node: &'n Node) -> Option<Vec<(&'n str, Place)>> {
        let one = |node: &'n Node| self.string(node).map(|text| (text, node.place));
        match &node.value {
            Value::List(nodes) => {
                // Every element is read, so that every fault is found.
                let texts: Vec<_> = nodes.iter().map(one).collect();
                texts.into_iter().collect()
            }
            _ => one(node).map(|text| vec![text]),
        }
    }

    /// `true` or `false`.
    pub fn boolean(&self, node: &Node) -> Option<bool> {
        match node.value {
            Value::Bool(value) => Some(value),
            _ => self.expected("true or false", node),
        }
    }

    /// A whole number within a range.
    pub fn integer(&self, node: &Node, range: RangeInclusive<i64>) -> Option<i64> {
        match node.value {
            Value::Integer(value) if range.contains(&value) => Some(value),
            Value::Integer(value) => {
                self.fault(node.place, format!("{value} is not within {} to {}", range.start(), range.end()));
                None
            }
            _ => self.expected("a whole number", node),
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, node: &Node, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.string(node)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let known = words.iter().map(|(word, _)| *word);
        let message = match nearest(text, known.clone()) {
            Some(word) => format!("unknown word `{text}`; did you mean `{word}`?"),
            None => format!("unknown word `{text}`"),
        };
        let known: Vec<_> = known.map(|word| format!("`{word}`")).collect();
        self.fault_with_help(node.place, message, format!("known here: {}", known.join(", ")));
        None
    }

    fn expected<T>(&self, what: &str, node: &Node) -> Option<T> {
        self.fault(node.place, format!("expected {what}, found {}", node.kind()));
        None
    }
}

impl<'r, 's, 'n> Fields<'r, 's, 'n> {
    /// The value of a key, if it is there. The key is known from now on.
    pub fn take(&mut self, key: &'static str) -> Option<&'n Node> {
        self.known.push(key);
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// The value of a key that must be there.
    pub fn require(&mut self, key: &'static str) -> Option<&'n Node> {
        let node = self.take(key);
        if node.is_none() {
            self.reader.fault(self.place, format!("{} needs `{key}`", self.what));
        }
        node
    }

    /// Where the mapping begins.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// Where a key stands; the beginning of the mapping if it is not there.
    #[must_use]
    pub fn place_of(&self, key: &str) -> Place {
        self.entries.iter().find(|entry| entry.key == key).map_or(self.place, |entry| entry.place)
    }

    /// The entries not asked for so far.
    pub fn rest(&self) -> impl Iterator<Item = &'n Entry> {
        self.entries.iter().filter(|entry| !self.known.contains(&entry.key.as_str()))
    }

    /// Notes every key that was not asked for.
    pub fn finish(self) {
        for entry in self.rest() {
            let message = match nearest(&entry.key, self.known.iter().copied()) {
                Some(known) => format!("unknown key `{}`; did you mean `{known}`?", entry.key),
                None => format!("unknown key `{}` of {}", entry.key, self.what),
            };
            let mut known: Vec<_> = self.known.iter().map(|key| format!("`{key}`")).collect();
            known.dedup();
            let help = format!("{} has {}", self.what, known.join(", "));
            self.reader.fault_with_help(entry.place, message, help);
        }
    }
}

impl Document {
    /// Parses a document and reads it with `read`; gives what was read when nothing is wrong with it.
    ///
    /// # Errors
    ///
    /// All faults.
    pub fn read<T>(
        source: &Source,
        limits: crate::Limits,
        read: impl FnOnce(&Reader<'_>, &Node) -> Option<T>,
    ) -> Result<T, Faults> {
        let document = Self::parse(source, limits)?;
        let reader = Reader::new(source);
        let value = read(&reader, document.root());
        if value.is_none() && reader.is_clean() {
            reader.note(Fault::new(source.name(), "nothing could be read from it"));
        }
        match reader.finish(value)? {
            Some(value) => Ok(value),
            None => Err(Fault::new(source.name(), "nothing could be read from it").into()),
        }
    }
}
