use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{
    Spanned,
    options::{DuplicateKeyPolicy, MergeKeyPolicy},
};

use crate::{Fault, Faults, Place, Source};

/// A YAML (or JSON) document as a tree with places.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    root: Node,
}

/// A value and where it stands.
#[derive(Clone, PartialEq)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it stands.
    pub place: Place,
}

/// What a node holds.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number; also whole ones beyond 64 bits.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in its order, without duplicate keys.
    Map(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    /// Its value.
    pub node: Node,
}

/// What a document may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of text.
    pub bytes: usize,
    /// Lists and mappings within each other.
    pub depth: usize,
    /// Scalars, lists and mappings in all, those repeated by aliases included.
    pub nodes: usize,
}

impl Default for Limits {
    /// For files people write: 1 MiB, 32 levels, 100,000 nodes.
    fn default() -> Self {
        Self { bytes: 1 << 20, depth: 32, nodes: 100_000 }
    }
}

impl Document {
    /// Parses exactly one document.
    ///
    /// # Errors
    ///
    /// The first thing that is not YAML, or that exceeds a limit.
    pub fn parse(source: &Source, limits: Limits) -> Result<Self, Faults> {
        let size = source.text().len();
        if size > limits.bytes {
            let message = format!("{size} bytes are more than the {} allowed here", limits.bytes);
            return Err(Fault::new(source.name(), message).into());
        }
        match serde_saphyr::from_str_with_options::<Spanned<Raw>>(source.text(), options(limits)) {
            Ok(root) => Ok(Self { root: root.into() }),
            Err(error) => Err(fault(source, &error).into()),
        }
    }

    /// Its outermost value.
    #[must_use]
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// Its outermost value, by value.
    #[must_use]
    pub fn into_root(self) -> Node {
        self.root
    }
}

fn options(limits: Limits) -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: limits.depth,
            max_nodes: limits.nodes,
            max_events: limits.nodes.saturating_mul(4),
            max_documents: 1,
            max_aliases: 1_000,
            max_anchors: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: limits.nodes },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
    }
}

fn fault(source: &Source, error: &serde_saphyr::Error) -> Fault {
    // An error may quote the input, and an input that holds secrets must not be quoted.
    let text = match source.is_quotable() {
        true => error.without_snippet().to_string(),
        false => "this is not the YAML it should be".to_owned(),
    };
    // The place is given by the fault itself.
    let text = text.lines().next().unwrap_or_default();
    let message = text.split(" at line ").next().unwrap_or(text).trim_end_matches([',', ' ']);
    match error.location() {
        Some(location) if location.line() > 0 => {
            let place = Place { line: location.line() as u32, column: location.column() as u32 };
            source.fault(place, message)
        }
        _ => Fault::new(source.name(), message),
    }
}

impl Node {
    /// What kind of value it is, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The same value as JSON. A number that JSON cannot write (infinity, not a number) becomes `null`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Integer(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::Text(value) => value.as_str().into(),
            Value::List(nodes) => nodes.iter().map(Self::to_json).collect(),
            Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect(),
        }
    }
}

impl fmt::Debug for Node {
    /// Its kind and place: what it holds may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}:{}", self.kind(), self.place.line, self.place.column)
    }
}

/// A value as the parser hands it out, its parts with their places.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl From<Spanned<Raw>> for Node {
    fn from(raw: Spanned<Raw>) -> Self {
        let value = match raw.value {
            Raw::Scalar(value) => value,
            Raw::List(items) => Value::List(items.into_iter().map(Self::from).collect()),
            Raw::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, node)| Entry { place: place(key.referenced), key: key.value, node: node.into() })
                    .collect(),
            ),
        };
        Self { value, place: place(raw.referenced) }
    }
}

fn place(location: serde_saphyr::Location) -> Place {
    Place { line: location.line() as u32, column: location.column() as u32 }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Integer(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(i64::try_from(value).map_or(Value::Float(value as f64), Value::Integer)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(value)))
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Raw, D::Error> {
        Raw::deserialize(from)
    }

    fn visit_bytes<E: serde::de::Error>(self, _: &[u8]) -> Result<Raw, E> {
        Err(E::custom("binary values are not read here"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map: Vec<(Spanned<String>, Spanned<Raw>)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some((key, node)) = entries.next_entry::<Spanned<String>, Spanned<Raw>>()? {
            if !seen.insert(key.value.clone()) {
                return Err(A::Error::custom(format_args!("the key `{}` stands here twice", key.value)));
            }
            map.push((key, node));
        }
        Ok(Raw::Map(map))
    }
}
