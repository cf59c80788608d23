//! Every field of the question, as `input` has them. A test holds this table against the wire's own descriptors.

use std::sync::LazyLock;

/// What a field holds.
#[derive(Clone, Copy)]
pub(crate) enum Holds {
    /// Text, a number, a boolean.
    Scalar,
    /// A list of these.
    Scalars,
    /// A message.
    One(Message),
    /// A list of messages.
    Many(Message),
}

/// A message: its fields, by name.
pub(crate) type Message = &'static [(&'static str, Holds)];

use Holds::{Many, One, Scalar, Scalars};

const QUESTION: Message = &[
    ("id", Scalar),
    ("admission_id", Scalar),
    ("job", One(JOB)),
    ("project", One(PROJECT)),
    ("user", One(USER)),
    ("runner", One(RUNNER)),
    ("controller", Scalar),
    ("scope", Scalar),
    ("dry_run", Scalar),
    ("time", Scalar),
    ("time_left", Scalar),
];

const JOB: Message = &[
    ("id", Scalar),
    ("source_id", Scalar),
    ("name", Scalar),
    ("stage", Scalar),
    ("pipeline_id", Scalar),
    ("source", Scalar),
    ("ref", Scalar),
    ("ref_type", Scalar),
    ("protected", Scalar),
    ("sha", Scalar),
    ("environment", Scalar),
    ("tags", Scalars),
    ("image", One(IMAGE)),
    ("services", Many(SERVICE)),
    ("variables", Many(VARIABLE)),
    ("timeout_seconds", Scalar),
    ("artifact_paths", Scalars),
    ("cache_keys", Scalars),
    ("secret_providers", Scalars),
    ("script", Many(SCRIPT_LINE)),
    ("priority", Scalar),
    ("claims", Scalars),
];

const IMAGE: Message = &[
    ("name", Scalar),
    ("resolved", Scalar),
    ("unresolved", Scalar),
    ("registry", Scalar),
    ("repository", Scalar),
    ("tag", Scalar),
    ("digest", Scalar),
    ("pull_policy", Scalars),
    ("entrypoint", Scalars),
    ("command", Scalars),
    ("user", Scalar),
    ("platform", Scalar),
];

const SERVICE: Message = &[
    ("name", Scalar),
    ("resolved", Scalar),
    ("unresolved", Scalar),
    ("registry", Scalar),
    ("repository", Scalar),
    ("tag", Scalar),
    ("digest", Scalar),
    ("pull_policy", Scalars),
    ("entrypoint", Scalars),
    ("command", Scalars),
    ("user", Scalar),
    ("platform", Scalar),
    ("alias", Scalars),
];

const VARIABLE: Message =
    &[("key", Scalar), ("value", Scalar), ("public", Scalar), ("masked", Scalar), ("file", Scalar)];

const SCRIPT_LINE: Message = &[("place", Scalar), ("text", Scalar)];

const PROJECT: Message = &[("id", Scalar), ("path", Scalar), ("groups", Scalars)];

const USER: Message = &[("id", Scalar), ("login", Scalar)];

const RUNNER: Message = &[
    ("name", Scalar),
    ("id", Scalar),
    ("type", Scalar),
    ("tags", Scalars),
    ("run_untagged", Scalar),
    ("protected", Scalar),
    ("version", Scalar),
    ("platform", Scalar),
    ("executor", Scalar),
];

/// A place in the question; the root is the question itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Node(usize);

/// The question.
pub(crate) const ROOT: Node = Node(0);

struct Entry {
    /// Dotted; an element of a list has the path of the list.
    path: String,
    fields: Vec<(&'static str, Node)>,
    element: Option<Node>,
}

static TREE: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let mut tree = Vec::new();
    plant(&mut tree, String::new(), One(QUESTION));
    tree
});

fn plant(tree: &mut Vec<Entry>, path: String, holds: Holds) -> Node {
    let node = Node(tree.len());
    tree.push(Entry { path: path.clone(), fields: Vec::new(), element: None });
    match holds {
        Scalar => {}
        Scalars => tree[node.0].element = Some(plant(tree, path, Scalar)),
        Many(message) => tree[node.0].element = Some(plant(tree, path, One(message))),
        One(message) => {
            for (name, holds) in message {
                let below = if path.is_empty() { (*name).to_owned() } else { format!("{path}.{name}") };
                let field = plant(tree, below, *holds);
                tree[node.0].fields.push((name, field));
            }
        }
    }
    node
}

impl Node {
    fn entry(self) -> &'static Entry {
        &TREE[self.0]
    }

    /// Dotted, from the question down, without `input`.
    pub(crate) fn path(self) -> &'static str {
        &self.entry().path
    }

    /// A field of a message.
    pub(crate) fn field(self, name: &str) -> Option<Self> {
        self.entry().fields.iter().find(|(known, _)| *known == name).map(|(_, node)| *node)
    }

    /// The names of a message's fields.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        self.entry().fields.iter().map(|(name, _)| *name)
    }

    /// What a list holds.
    pub(crate) fn element(self) -> Option<Self> {
        self.entry().element
    }

    pub(crate) fn is_message(self) -> bool {
        !self.entry().fields.is_empty()
    }

    /// The question, or the job: what holds everything, and so says nothing about what is read.
    pub(crate) fn is_everything(self) -> bool {
        matches!(self.path(), "" | "job")
    }

    /// Itself and everything below it.
    pub(crate) fn all(self) -> Vec<Self> {
        let mut all = vec![self];
        let mut next = 0;
        while let Some(node) = all.get(next).copied() {
            all.extend(node.entry().fields.iter().map(|(_, node)| *node));
            all.extend(node.element());
            next += 1;
        }
        all
    }

    /// The node of a dotted path, as an annotation writes it; an `input.` before it is allowed.
    pub(crate) fn at(path: &str) -> Result<Self, String> {
        let mut node = ROOT;
        let path = path.strip_prefix("input.").unwrap_or(path);
        if path == "input" {
            return Ok(ROOT);
        }
        for name in path.split('.') {
            let message = node.element().unwrap_or(node);
            node = message.field(name).ok_or_else(|| message.unknown(name))?;
        }
        Ok(node)
    }

    /// Says that a message has no such field, and which comes near.
    pub(crate) fn unknown(self, name: &str) -> String {
        let of = if self.path().is_empty() { "input".to_owned() } else { format!("input.{}", self.path()) };
        match jobgate_yaml::nearest(name, self.names()) {
            Some(near) => format!("`{of}` has no field `{name}`; did you mean `{near}`?"),
            None => format!("`{of}` has no field `{name}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};

    use super::*;

    /// The table of a message by the wire's descriptors; `path` as the table has it.
    fn described(messages: &[DescriptorProto], name: &str, path: &str, found: &mut BTreeSet<String>) {
        let message = messages.iter().find(|message| message.name() == name).unwrap();
        for field in &message.field {
            let full = format!("{path}{}", field.name());
            let kind = field.type_name().strip_prefix(".jobgate.admission.v1.");
            match (field.r#type(), kind) {
                // In JSON these are written as their only field.
                (Type::Message, Some("Strings")) => _ = found.insert(format!("{full}[]")),
                (Type::Message, Some("Script")) => {
                    found.insert(format!("{full}[]"));
                    described(messages, "ScriptLine", &format!("{full}."), found);
                }
                // And a service has the fields of its image.
                (Type::Message, Some("Image")) if name == "Service" => described(messages, "Image", path, found),
                (Type::Message, Some(kind)) => {
                    found.insert(format!("{full}{}", list(field)));
                    described(messages, kind, &format!("{full}."), found);
                }
                _ => _ = found.insert(format!("{full}{}", list(field))),
            }
        }
    }

    fn list(field: &prost_types::FieldDescriptorProto) -> &'static str {
        if field.label() == prost_types::field_descriptor_proto::Label::Repeated { "[]" } else { "" }
    }

    #[test]
    fn the_table_is_what_the_wire_says() {
        let set = FileDescriptorSet::decode(jobgate_proto::DESCRIPTORS).unwrap();
        let file = set.file.iter().find(|file| file.package() == "jobgate.admission.v1").unwrap();
        let mut wire = BTreeSet::new();
        described(&file.message_type, "AdmitRequest", "", &mut wire);
        let table: BTreeSet<_> = TREE
            .iter()
            .filter(|entry| !entry.path.is_empty())
            .map(|entry| format!("{}{}", entry.path, if entry.element.is_some() { "[]" } else { "" }))
            .collect();
        // An element has the path of its list: leave it out where the list is.
        let table: BTreeSet<_> = table.iter().filter(|path| !table.contains(&format!("{path}[]"))).cloned().collect();
        assert_eq!(table, wire);
    }

    #[test]
    fn a_wrong_name_is_answered_by_the_nearest() {
        assert_eq!(Node::at("job.variables.value").unwrap().path(), "job.variables.value");
        assert!(Node::at("job.protcted").unwrap_err().contains("did you mean `protected`"));
        assert!(Node::at("").is_err());
    }
}
