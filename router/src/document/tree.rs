//! JSON and YAML as one tree that borrows from its input and knows where things stand.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::HashSet,
    fmt,
    ops::Range,
};

use jobgate_yaml::{Place, Source};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::cursor::{FAULTS_MAX, Input};

/// Values in one input, so that a small text cannot grow into much memory.
const VALUES_MAX: usize = 500_000;
/// The same in YAML, where aliases repeat much by little and reading takes longer.
const YAML_VALUES_MAX: usize = 200_000;
/// Lists and mappings within each other, in YAML. In JSON it is serde_json's own limit, 128.
const DEPTH_MAX: usize = 64;
/// Mappings larger than this are checked for duplicate keys by a set.
const SMALL: usize = 24;

pub(crate) struct Node<'a> {
    pub(crate) mark: Mark,
    pub(crate) value: Value<'a>,
}

/// Where a node stands; what is unknown stands where its parent does.
#[derive(Clone, Copy)]
pub(crate) enum Mark {
    Unknown,
    /// Bytes from the beginning of the input.
    Offset(u32),
    Place(Place),
}

pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    /// Not whole, or beyond 64 bits.
    OtherNumber,
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    Map(Vec<(Cow<'a, str>, Node<'a>)>),
}

/// One document of an input: its text, where it is in the input, and its tree.
pub(crate) struct Part<'a> {
    pub(crate) root: Node<'a>,
    pub(crate) original: Original,
}

/// How to get at the bytes of one document as they came.
pub(crate) enum Original {
    /// This much of the input.
    Slice(Range<usize>),
    /// An element of a YAML list has no text of its own that would be a document: its JSON form.
    Json(String),
}

/// Splits an input into its documents. What is wrong is noted in the input.
pub(crate) fn parse<'a>(input: &Input<'a>) -> Vec<Part<'a>> {
    if input.text.trim_start().is_empty() {
        input.note(Mark::Unknown, "it is empty; expected a job document");
        return Vec::new();
    }
    match is_json(input.text) {
        true => parse_json(input),
        false => parse_yaml(input),
    }
}

/// Flow style YAML (`{ job: … }`) also begins with a brace, but not with quoted keys.
fn is_json(text: &str) -> bool {
    let opened = text.trim_start();
    let inside = opened.trim_start_matches(|c: char| c.is_ascii_whitespace() || matches!(c, '{' | '['));
    inside.len() < opened.len() && (inside.is_empty() || inside.starts_with(['"', '}', ']']))
}

fn parse_json<'a>(input: &Input<'a>) -> Vec<Part<'a>> {
    let text = input.text;
    let json = Json::new(text);
    let mut parts = Vec::new();
    let mut element = |json: &Json, text: &'a str| {
        let start = json.offset(text);
        match json.parse(text) {
            Ok(root) => parts.push(Part { root, original: Original::Slice(start..start + text.len()) }),
            Err(error) => note_json(input, text, start, &error),
        }
    };
    if text.trim_start().starts_with('[') {
        match serde_json::from_str::<Vec<&RawValue>>(text) {
            Ok(elements) => elements.iter().for_each(|raw| element(&json, raw.get())),
            Err(error) => note_json(input, text, 0, &error),
        }
    } else {
        let mut reader = serde_json::Deserializer::from_str(text);
        match json.seed().deserialize(&mut reader) {
            Ok(root) if reader.end().is_ok() => parts.push(Part { root, original: Original::Slice(0..text.len()) }),
            // More follows the first value: JSON lines.
            Ok(_) => {
                json.reset();
                for raw in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
                    match raw {
                        Ok(raw) => element(&json, raw.get()),
                        Err(error) => note_json(input, text, 0, &error),
                    }
                }
            }
            Err(error) => note_json(input, text, 0, &error),
        }
    }
    for (mark, message) in json.faults.into_inner() {
        input.note(mark, message);
    }
    parts
}

/// Notes an error of serde_json. Its syntax errors are fixed texts; those of other kinds are ours; none quotes a value.
fn note_json(input: &Input<'_>, text: &str, start: usize, error: &serde_json::Error) {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    let line_start = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum::<usize>();
    let offset = start + (line_start + error.column().saturating_sub(1)).min(text.len());
    input.note(Mark::Offset(offset as u32), format!("this is not the JSON it should be: {message}"));
}

fn parse_yaml<'a>(input: &Input<'a>) -> Vec<Part<'a>> {
    let source = Source::secret(input.name, input.text);
    let limits = jobgate_yaml::Limits { bytes: usize::MAX, depth: DEPTH_MAX, nodes: YAML_VALUES_MAX };
    let root = match jobgate_yaml::Document::parse(&source, limits) {
        Ok(document) => document.into_root(),
        Err(faults) => {
            input.take(faults);
            return Vec::new();
        }
    };
    match root.value {
        jobgate_yaml::Value::List(elements) => elements
            .into_iter()
            .map(|element| {
                let original = Original::Json(element.to_json().to_string());
                Part { root: element.into(), original }
            })
            .collect(),
        _ => vec![Part { root: root.into(), original: Original::Slice(0..input.text.len()) }],
    }
}

impl From<jobgate_yaml::Node> for Node<'_> {
    fn from(node: jobgate_yaml::Node) -> Self {
        use jobgate_yaml::Value as Yaml;
        let value = match node.value {
            Yaml::Null => Value::Null,
            Yaml::Bool(value) => Value::Bool(value),
            Yaml::Integer(value) => Value::Integer(value),
            Yaml::Float(_) => Value::OtherNumber,
            Yaml::Text(text) => Value::Text(text.into()),
            Yaml::List(nodes) => Value::List(nodes.into_iter().map(Self::from).collect()),
            Yaml::Map(entries) => {
                Value::Map(entries.into_iter().map(|entry| (entry.key.into(), entry.node.into())).collect())
            }
        };
        Self { mark: Mark::Place(node.place), value }
    }
}

impl Node<'_> {
    /// What kind of value it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Integer(_) => "a number",
            Value::OtherNumber => "a number that is not whole or too large",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// What one JSON input has used up, and what was found wrong with it on the way.
struct Json {
    /// Address of the input's first byte: borrowed texts tell by theirs where they stand.
    base: usize,
    values: Cell<usize>,
    faults: RefCell<Vec<(Mark, String)>>,
}

impl Json {
    fn new(text: &str) -> Self {
        Self { base: text.as_ptr() as usize, values: Cell::new(0), faults: RefCell::default() }
    }

    fn reset(&self) {
        self.values.set(0);
        self.faults.borrow_mut().clear();
    }

    fn offset(&self, text: &str) -> usize {
        (text.as_ptr() as usize).saturating_sub(self.base)
    }

    fn seed(&self) -> Seed<'_> {
        Seed { json: self, mark: Mark::Unknown }
    }

    fn parse<'a>(&self, text: &'a str) -> serde_json::Result<Node<'a>> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let root = self.seed().deserialize(&mut reader)?;
        reader.end().map(|()| root)
    }
}

/// Builds a node; `mark` is that of its key, if it has one.
#[derive(Clone, Copy)]
struct Seed<'j> {
    json: &'j Json,
    mark: Mark,
}

impl<'a> DeserializeSeed<'a> for Seed<'_> {
    type Value = Node<'a>;

    fn deserialize<D: Deserializer<'a>>(self, from: D) -> Result<Node<'a>, D::Error> {
        let values = self.json.values.get() + 1;
        self.json.values.set(values);
        if values > VALUES_MAX {
            return Err(D::Error::custom(format_args!("there are more than {VALUES_MAX} values in it")));
        }
        from.deserialize_any(self)
    }
}

impl<'j> Seed<'j> {
    fn node<'a, E>(self, value: Value<'a>) -> Result<Node<'a>, E> {
        Ok(Node { mark: self.mark, value })
    }

    /// Notes every key that is there twice: readers differ in which one they take.
    fn check_keys(self, entries: &[(Cow<'_, str>, Node<'_>)]) {
        let note = |(key, node): &(Cow<'_, str>, Node<'_>)| {
            let message = format!("the key `{}` stands here twice", super::cursor::shown(key));
            let mut faults = self.json.faults.borrow_mut();
            if faults.len() < FAULTS_MAX {
                faults.push((node.mark, message));
            }
        };
        if entries.len() > SMALL {
            let mut seen = HashSet::with_capacity(entries.len());
            entries.iter().filter(|(key, _)| !seen.insert(key)).for_each(note);
        } else {
            let twice =
                |&(index, (key, _)): &(usize, &(Cow<'_, str>, _))| entries[..index].iter().any(|(k, _)| k == key);
            entries.iter().enumerate().filter(twice).for_each(|(_, entry)| note(entry));
        }
    }
}

impl<'a> Visitor<'a> for Seed<'_> {
    type Value = Node<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node<'a>, E> {
        self.node(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node<'a>, E> {
        self.node(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node<'a>, E> {
        self.node(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node<'a>, E> {
        self.node(i64::try_from(value).map_or(Value::OtherNumber, Value::Integer))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node<'a>, E> {
        self.node(Value::OtherNumber)
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Node<'a>, E> {
        let mark = Mark::Offset(self.json.offset(text).saturating_sub(1) as u32);
        Ok(Node { mark, value: Value::Text(text.into()) })
    }

    fn visit_str<E>(self, text: &str) -> Result<Node<'a>, E> {
        self.node(Value::Text(text.to_owned().into()))
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut items: A) -> Result<Node<'a>, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = items.next_element_seed(Seed { mark: Mark::Unknown, ..self })? {
            list.push(node);
        }
        self.node(Value::List(list))
    }

    fn visit_map<A: MapAccess<'a>>(self, mut entries: A) -> Result<Node<'a>, A::Error> {
        let mut map = Vec::with_capacity(8);
        while let Some(key) = entries.next_key_seed(Key)? {
            let mark = match &key {
                Cow::Borrowed(key) => Mark::Offset(self.json.offset(key).saturating_sub(1) as u32),
                Cow::Owned(_) => Mark::Unknown,
            };
            map.push((key, entries.next_value_seed(Seed { mark, ..self })?));
        }
        self.check_keys(&map);
        self.node(Value::Map(map))
    }
}

struct Key;

impl<'a> DeserializeSeed<'a> for Key {
    type Value = Cow<'a, str>;

    fn deserialize<D: Deserializer<'a>>(self, from: D) -> Result<Cow<'a, str>, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for Key {
    type Value = Cow<'a, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'a str) -> Result<Cow<'a, str>, E> {
        Ok(key.into())
    }

    fn visit_str<E>(self, key: &str) -> Result<Cow<'a, str>, E> {
        Ok(key.to_owned().into())
    }
}
