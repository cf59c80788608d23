use std::borrow::Cow;

use jobgate_sdk::{AdmissionRequest, Image, RefType, RunnerType, Strings};
use jobgate_yaml::nearest;

use super::matcher::Found;
use crate::{Exposed, Reads};

/// A message with fields of the question in it: `{job.ref} is not protected`. `{{` and `}}` stand for braces.
#[derive(Clone, Debug)]
pub(super) struct Template(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Text(Box<str>),
    Field(Print),
    Variable(Box<str>),
    /// The value that decided.
    Value,
}

/// What is wrong with a template.
pub(super) struct BadTemplate {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

type Print = for<'a> fn(&'a AdmissionRequest) -> Option<Cow<'a, str>>;

impl Template {
    /// Reads a template; notes in `reads` what it looks at.
    pub(super) fn new(text: &str, exposed: &Exposed, reads: &mut Reads) -> Result<Self, BadTemplate> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            rest = &rest[at..];
            if rest.starts_with("{{") || rest.starts_with("}}") {
                plain.push_str(&rest[..1]);
                rest = &rest[2..];
                continue;
            }
            let Some(end) = rest.find('}').filter(|end| *end > 0) else {
                let message = format!("a `{}` without its partner", &rest[..1]);
                return Err(BadTemplate::new(message).help("write `{{` or `}}` for the brace itself"));
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain).into()));
            }
            pieces.push(field(rest[1..end].trim(), exposed, reads)?);
            rest = &rest[end + 1..];
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain.into()));
        }
        Ok(Self(pieces))
    }

    /// The message about this question, decided by this value.
    pub(super) fn render(&self, request: &AdmissionRequest, found: Found<'_>) -> String {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Value => text.push_str(&found.to_string()),
                Piece::Field(print) => text.push_str(&shown(print(request))),
                Piece::Variable(key) => text.push_str(&shown(variable(request, key))),
            }
            // A reason is cut there anyway; a question may be a thousand times as long.
            if text.len() > ENOUGH {
                break;
            }
        }
        text
    }
}

const ENOUGH: usize = 2048;

fn shown(value: Option<Cow<'_, str>>) -> Cow<'_, str> {
    match value {
        None => "unknown".into(),
        Some(value) if value.is_empty() => "none".into(),
        Some(value) => value,
    }
}

impl BadTemplate {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

fn field(path: &str, exposed: &Exposed, reads: &mut Reads) -> Result<Piece, BadTemplate> {
    if path == "value" {
        return Ok(Piece::Value);
    }
    if path == "job.script" || path.starts_with("job.script.") {
        let message = "a message cannot print the script: it may hold anything";
        return Err(BadTemplate::new(message).help("`{value}` names the place in the script"));
    }
    if let Some(key) = path.strip_prefix("job.variables.") {
        if !exposed.variable(key) {
            let message = format!("the value of variable `{key}` is not exposed to this controller");
            return Err(BadTemplate::new(message).help(format!("add `{key}` to the controller's `expose` list")));
        }
        reads.variables.insert(key.to_owned());
        return Ok(Piece::Variable(key.into()));
    }
    if let Some((name, print)) = FIELDS.iter().find(|(name, _)| *name == path) {
        reads.runner |= name.starts_with("runner.");
        return Ok(Piece::Field(*print));
    }
    let inner: Vec<_> = FIELDS
        .iter()
        .filter_map(|(name, _)| name.strip_prefix(path)?.strip_prefix('.'))
        .map(|name| name.split('.').next().unwrap_or(name))
        .collect();
    if !inner.is_empty() {
        let message = format!("`{path}` is not one value");
        return Err(BadTemplate::new(message).help(format!("write `{{{path}.{}}}`", inner[0])));
    }
    let names = FIELDS.iter().map(|(name, _)| *name);
    Err(match nearest(path, names) {
        Some(near) => BadTemplate::new(format!("unknown field `{path}`; did you mean `{near}`?")),
        None => BadTemplate::new(format!("unknown field `{path}`"))
            .help("fields are those of the question, as `{job.ref}`, `{project.path}`, `{user.login}`, and `{value}`"),
    })
}

fn variable<'a>(request: &'a AdmissionRequest, key: &str) -> Option<Cow<'a, str>> {
    let same = request.job().variables.iter().rfind(|variable| variable.key == key)?;
    same.value.as_deref().map(Into::into)
}

macro_rules! text {
    ($request:ident => $value:expr) => {
        |$request| Some($value.as_str().into())
    };
}

macro_rules! known {
    ($request:ident => $value:expr) => {
        |$request| $value.as_deref().map(Into::into)
    };
}

macro_rules! number {
    ($request:ident => $value:expr) => {
        |$request| $value.map(|value| value.to_string().into())
    };
}

macro_rules! list {
    ($request:ident => $value:expr) => {
        |$request| Some(joined(&$value))
    };
}

macro_rules! image {
    ($image:ident => $value:expr) => {
        |request| match &request.job().image {
            Some($image) => $value,
            None => Some("".into()),
        }
    };
}

macro_rules! runner {
    ($runner:ident => $value:expr) => {
        |request| {
            let $runner = request.runner()?;
            $value
        }
    };
}

const FIELDS: &[(&str, Print)] = &[
    ("job.id", text!(r => r.job().id)),
    ("job.source_id", known!(r => r.job().source_id)),
    ("job.name", known!(r => r.job().name)),
    ("job.stage", known!(r => r.job().stage)),
    ("job.pipeline_id", number!(r => r.job().pipeline_id)),
    ("job.source", known!(r => r.job().source)),
    ("job.ref", known!(r => r.job().r#ref)),
    ("job.ref_type", |r| {
        kind(r.job().ref_type, |n| RefType::try_from(n).ok()?.as_str_name().strip_prefix("REF_TYPE_"))
    }),
    ("job.protected", number!(r => r.job().protected)),
    ("job.sha", known!(r => r.job().sha)),
    ("job.environment", known!(r => r.job().environment)),
    ("job.tags", |r| strings(r.job().tags.as_ref())),
    ("job.image.name", image!(i => Some(i.name.as_str().into()))),
    ("job.image.resolved", image!(i => Some(i.resolved.as_str().into()))),
    ("job.image.unresolved", image!(i => Some(i.unresolved.to_string().into()))),
    ("job.image.registry", image!(i => i.registry.as_deref().map(Into::into))),
    ("job.image.repository", image!(i => i.repository.as_deref().map(Into::into))),
    ("job.image.tag", image!(i => i.tag.as_deref().map(Into::into))),
    ("job.image.digest", image!(i => i.digest.as_deref().map(Into::into))),
    ("job.image.pull_policy", image!(i => Some(joined(&i.pull_policy)))),
    ("job.image.entrypoint", image!(i => Some(joined(&i.entrypoint)))),
    ("job.image.command", image!(i => Some(joined(&i.command)))),
    ("job.image.user", image!(i => i.user.as_deref().map(Into::into))),
    ("job.image.platform", image!(i => i.platform.as_deref().map(Into::into))),
    ("job.services", |r| Some(services(r).into())),
    ("job.variables", |r| Some(variables(r).into())),
    ("job.timeout_seconds", number!(r => r.job().timeout_seconds)),
    ("job.artifact_paths", list!(r => r.job().artifact_paths)),
    ("job.cache_keys", list!(r => r.job().cache_keys)),
    ("job.secret_providers", list!(r => r.job().secret_providers)),
    ("job.priority", |r| Some(r.job().priority.to_string().into())),
    ("job.claims", list!(r => r.job().claims)),
    ("project.id", number!(r => r.project().id)),
    ("project.path", text!(r => r.project().path)),
    ("project.groups", list!(r => r.project().groups)),
    ("user.id", number!(r => r.user()?.id)),
    ("user.login", known!(r => r.user()?.login)),
    ("runner.name", runner!(r => Some(r.name.as_str().into()))),
    ("runner.id", runner!(r => r.id.map(|id| id.to_string().into()))),
    (
        "runner.type",
        runner!(r => kind(r.r#type, |n| RunnerType::try_from(n).ok()?.as_str_name().strip_prefix("RUNNER_TYPE_"))),
    ),
    ("runner.tags", runner!(r => strings(r.tags.as_ref()))),
    ("runner.run_untagged", runner!(r => r.run_untagged.map(|is| is.to_string().into()))),
    ("runner.protected", runner!(r => r.protected.map(|is| is.to_string().into()))),
    ("runner.version", runner!(r => r.version.as_deref().map(Into::into))),
    ("runner.platform", runner!(r => r.platform.as_deref().map(Into::into))),
    ("runner.executor", runner!(r => r.executor.as_deref().map(Into::into))),
    ("id", |r| Some(r.id().into())),
    ("admission_id", |r| Some(r.admission_id().into())),
    ("controller", |r| Some(r.controller().into())),
    ("scope", |r| Some(r.scope().into())),
    ("time", |r| Some(Found::Time(r.time()).to_string().into())),
];

fn kind(number: Option<i32>, name: impl Fn(i32) -> Option<&'static str>) -> Option<Cow<'static, str>> {
    name(number?).filter(|name| *name != "UNSPECIFIED").map(|name| name.to_ascii_lowercase().into())
}

fn strings(values: Option<&Strings>) -> Option<Cow<'_, str>> {
    values.map(|values| joined(&values.values))
}

const MOST_LISTED: usize = 20;

fn joined(values: &[String]) -> Cow<'_, str> {
    match values {
        [] => "".into(),
        [one] => one.as_str().into(),
        many => list(many.iter().map(String::as_str)).into(),
    }
}

fn list<'a>(mut values: impl Iterator<Item = &'a str>) -> String {
    let mut text = values.by_ref().take(MOST_LISTED).collect::<Vec<_>>().join(", ");
    if values.next().is_some() {
        text.push_str(", …");
    }
    text
}

fn services(request: &AdmissionRequest) -> String {
    let images = request.job().services.iter().filter_map(|service| service.image.as_ref());
    list(images.map(|image: &Image| image.name.as_str()))
}

fn variables(request: &AdmissionRequest) -> String {
    list(request.job().variables.iter().map(|variable| variable.key.as_str()))
}
