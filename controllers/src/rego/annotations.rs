//! METADATA annotations: a comment block above a rule or the package that names it and says what it needs.

use jobgate_yaml::{Document, Fault, Limits, Node, Place, Source, Value};

/// One annotation and where it stands.
#[derive(Debug)]
pub(crate) struct Annotation {
    /// The first line after it that is not a comment, counted from 1.
    pub(crate) before: u32,
    pub(crate) name: Option<String>,
    pub(crate) details_url: Option<String>,
    /// Dotted fields of the question, each with its place.
    pub(crate) needs: Vec<(String, Place)>,
}

/// The annotations of one file, in order.
pub(crate) fn read(source: &Source, faults: &mut Vec<Fault>) -> Vec<Annotation> {
    let lines: Vec<&str> = source.text().lines().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let is_comment = |line: &str| line.trim_start().starts_with('#');
        if lines[at].trim_start().strip_prefix('#').map(str::trim) != Some("METADATA") {
            at += 1;
            continue;
        }
        // The block keeps its lines and columns, so that faults in it are placed in the file.
        let mut text = "\n".repeat(at + 1);
        at += 1;
        while at < lines.len() && is_comment(lines[at]) {
            text.push_str(&lines[at].replacen('#', " ", 1));
            text.push('\n');
            at += 1;
        }
        while at < lines.len() && (lines[at].trim().is_empty() || is_comment(lines[at])) {
            at += 1;
        }
        match Document::parse(&Source::new(source.name(), text), Limits::default()) {
            Ok(document) => found.push(annotation(source, document.root(), at as u32 + 1, faults)),
            Err(broken) => faults.extend(broken),
        }
    }
    found
}

fn annotation(source: &Source, root: &Node, before: u32, faults: &mut Vec<Fault>) -> Annotation {
    let custom = get(root, "custom");
    let name = custom.and_then(|custom| get(custom, "rule")).or_else(|| get(root, "title"));
    let related = get(root, "related_resources").and_then(|list| match &list.value {
        Value::List(list) => list.first(),
        _ => None,
    });
    let url = custom.and_then(|custom| get(custom, "details_url"));
    let url = url.or_else(|| related.and_then(|first| get(first, "ref"))).or(related);
    let mut needs = Vec::new();
    if let Some(node) = custom.and_then(|custom| get(custom, "needs")) {
        match &node.value {
            Value::List(list) if list.iter().all(|node| text(node).is_some()) => {
                needs = list.iter().filter_map(|node| Some((text(node)?, node.place))).collect();
            }
            _ => {
                faults.push(source.fault(node.place, "`needs` must be a list of fields").help("as `needs: [job.ref]`"));
            }
        }
    }
    Annotation { before, name: name.and_then(text), details_url: url.and_then(text), needs }
}

fn get<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    match &node.value {
        Value::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node),
        _ => None,
    }
}

fn text(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) if !text.trim().is_empty() => Some(text.to_string()),
        _ => None,
    }
}
