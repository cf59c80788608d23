use std::time::SystemTime;

use jiff::Timestamp;
use jobgate_yaml::{Document, Faults, Limits, Node, Place, Reader, Source};
use serde_json::Value;

use super::policy::YamlPolicy;

/// One case of a `<policy>.test.yaml`: a job, and what is expected of the policy.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) document: Value,
    pub(crate) runner: Option<Value>,
    pub(crate) time: Option<SystemTime>,
    pub(crate) expect: Expect,
    /// A rule that must have fired, without its policy.
    pub(crate) rule: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    Admit,
    Reject,
    Fail,
}

impl Expect {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Reject => "reject",
            Self::Fail => "fail",
        }
    }
}

pub(super) const EXPECTATIONS: &[(&str, Expect)] =
    &[("admit", Expect::Admit), ("reject", Expect::Reject), ("fail", Expect::Fail)];

/// Test documents may be long; there may be many of them.
const LIMITS: Limits = Limits { bytes: 1 << 20, depth: 64, nodes: 100_000 };

/// Reads the cases of a test file. Rules they name must be of `policy`, when it is known.
pub(crate) fn cases(source: &Source, policy: Option<&YamlPolicy>) -> Result<Vec<Case>, Faults> {
    Document::read(source, LIMITS, |reader, root| {
        let mut fields = reader.fields(root, "a test file")?;
        let nodes = fields.require("cases").and_then(|node| reader.list(node));
        fields.finish();
        let nodes = nodes?;
        if nodes.is_empty() {
            reader.fault(root.place, "a test file without cases tests nothing");
        }
        let cases: Vec<_> = nodes.iter().map(|node| case(reader, node, policy)).collect();
        cases.into_iter().collect()
    })
}

fn case(reader: &Reader<'_>, node: &Node, policy: Option<&YamlPolicy>) -> Option<Case> {
    let mut fields = reader.fields(node, "a case")?;
    let name = fields.require("name").and_then(|node| reader.name(node));
    let document = fields.require("document");
    let runner = fields.take("runner").map(Node::to_json);
    let time = fields.take("time").map(|node| time(reader, node));
    let expect = fields.require("expect").and_then(|node| reader.choice(node, EXPECTATIONS));
    let rule = fields.take("rule").map(|node| rule(reader, node, policy));
    fields.finish();
    Some(Case {
        name: name?.to_owned(),
        place: node.place,
        document: document?.to_json(),
        runner,
        time: time.map_or(Some(None), |time| time.map(Some))?,
        expect: expect?,
        rule: rule.map_or(Some(None), |rule| rule.map(Some))?,
    })
}

fn time(reader: &Reader<'_>, node: &Node) -> Option<SystemTime> {
    let text = reader.string(node)?;
    match text.parse::<Timestamp>() {
        Ok(time) => Some(time.into()),
        Err(_) => {
            let message = format!("`{text}` is not a time");
            reader.fault_with_help(node.place, message, "write it as `2026-11-20T17:30:00+01:00`");
            None
        }
    }
}

fn rule(reader: &Reader<'_>, node: &Node, policy: Option<&YamlPolicy>) -> Option<String> {
    let text = reader.name(node)?;
    let Some(policy) = policy else { return Some(text.to_owned()) };
    let name = text.strip_prefix(policy.name()).and_then(|rest| rest.strip_prefix('/')).unwrap_or(text);
    if policy.rules.iter().any(|rule| *rule.name == *name) {
        return Some(name.to_owned());
    }
    let message = match jobgate_yaml::nearest(name, policy.rules.iter().map(|rule| &*rule.name)) {
        Some(near) => format!("no rule `{text}` in this policy; did you mean `{near}`?"),
        None => format!("no rule `{text}` in this policy"),
    };
    reader.fault(node.place, message);
    None
}
