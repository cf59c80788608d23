//! The shape `{ "job": {…}, "project": {…}, "user": {…}, "payload": {…} }`: the submitter states the facts.

use jobgate_sdk::{Runner, RunnerType, ScriptLine, Strings};

use super::{
    content::{self, Content, ImageSpec, Origin, ServiceSpec, VariableSpec},
    cursor::Cursor,
};

/// What a `job` may have. `id`, `priority` and `claims` are ours to set: let in, so that a job we printed can be submitted, and
/// ignored.
const JOB: &[&str] = &[
    "name",
    "stage",
    "source_id",
    "pipeline_id",
    "source",
    "ref",
    "ref_type",
    "protected",
    "sha",
    "environment",
    "tags",
    "image",
    "services",
    "variables",
    "timeout_seconds",
    "artifact_paths",
    "cache_keys",
    "secret_providers",
    "script",
    "retry_on_lost",
    "id",
    "priority",
    "claims",
];

/// What an image may have. Those from `resolved` on are derived from `name`, let in and ignored.
const IMAGE: &[&str] = &[
    "name",
    "pull_policy",
    "entrypoint",
    "command",
    "user",
    "platform",
    "resolved",
    "unresolved",
    "registry",
    "repository",
    "tag",
    "digest",
];

/// What a service may have: an image's, and its alias.
const SERVICE: &[&str] = &[
    "name",
    "alias",
    "pull_policy",
    "entrypoint",
    "command",
    "user",
    "platform",
    "resolved",
    "unresolved",
    "registry",
    "repository",
    "tag",
    "digest",
];

pub(super) fn read(document: &Cursor<'_>) -> Option<Content> {
    document.only("the document", &["job", "project", "user", "payload"]);
    let (user_id, user_login) = user(document);
    let owner = document.get("project").and_then(Cursor::mapping_of);
    if owner.is_none() && !document.has("project") {
        document.note("`project` is missing: whose job is this?");
    }
    let project = owner.as_ref().and_then(|owner| {
        owner.only("a project", &["path", "id", "groups"]);
        content::project(owner, "path")
    });
    let project_id = owner.as_ref().and_then(|owner| owner.get("id")?.integer());
    let payload = document.get("payload").and_then(Cursor::mapping_of);
    let job = match document.get("job") {
        Some(job) => job.mapping_of()?,
        None => {
            document.note("`job` is missing");
            return None;
        }
    };
    job.only("a job", JOB);
    let number = |key| job.get(key).and_then(|value| value.integer());
    Some(Content {
        origin: Origin::Native,
        project_id,
        repo_path: None,
        user_id,
        stated_user_id: None,
        user_login,
        source_id: job.string("source_id"),
        name: job.string("name"),
        stage: job.string("stage"),
        pipeline_id: number("pipeline_id"),
        source: job.string("source"),
        ref_name: job.string("ref"),
        ref_type: ref_type(&job),
        protected: job.get("protected").and_then(|value| value.boolean()),
        sha: job.string("sha"),
        environment: job.string("environment"),
        tags: content::tags(&job),
        image: job.get("image").and_then(|image| self::image(&image, "an image", IMAGE)),
        services: services(&job),
        variables: variables(&job, payload.as_ref()),
        timeout_seconds: number("timeout_seconds"),
        artifact_paths: job.strings("artifact_paths"),
        cache_keys: job.strings("cache_keys"),
        secret_providers: job.strings("secret_providers"),
        secret_keys: Vec::new(),
        script: script(&job, payload.as_ref()),
        retry_on_lost: job.flag("retry_on_lost"),
        credentials: Vec::new(),
        project: project?,
    })
}

/// The user that stands in the document itself: id and login.
pub(super) fn user(document: &Cursor<'_>) -> (Option<i64>, Option<String>) {
    let Some(user) = document.get("user").and_then(Cursor::mapping_of) else { return (None, None) };
    user.only("a user", &["id", "login"]);
    let id = user.get("id").and_then(|id| id.integer());
    (id, user.filled("login"))
}

/// A runner as the question has it.
pub(super) fn runner(root: &Cursor<'_>) -> Option<Runner> {
    const RUNNER: &[&str] =
        &["name", "id", "type", "tags", "run_untagged", "protected", "version", "platform", "executor"];
    let root = root.mapping_of()?;
    root.only("a runner", RUNNER);
    let name = root.filled("name");
    if name.is_none() {
        root.note("a runner needs a `name`");
    }
    let kind = root.get("type").and_then(|kind| match kind.text()? {
        "instance" => Some(RunnerType::Instance),
        "group" => Some(RunnerType::Group),
        "project" => Some(RunnerType::Project),
        _ => kind.expected("`instance`, `group` or `project`"),
    });
    Some(Runner {
        name: name?,
        id: root.get("id").and_then(|id| id.integer()),
        r#type: kind.map(Into::into),
        tags: root.get("tags").map(|tags| Strings { values: tags.texts() }),
        run_untagged: root.get("run_untagged").and_then(|value| value.boolean()),
        protected: root.get("protected").and_then(|value| value.boolean()),
        version: root.string("version"),
        platform: root.string("platform"),
        executor: root.string("executor"),
    })
}

fn ref_type(job: &Cursor<'_>) -> Option<jobgate_sdk::RefType> {
    let kind = content::ref_type(job);
    if kind.is_none() {
        let stated = job.get("ref_type")?;
        if stated.as_text().is_some() {
            stated.note("expected `branch` or `tag`");
        }
    }
    kind
}

/// An image, or its name alone.
fn image(item: &Cursor<'_>, what: &str, known: &[&'static str]) -> Option<ImageSpec> {
    if let Some(name) = item.as_text() {
        return Some(ImageSpec { name: name.to_owned(), ..ImageSpec::default() });
    }
    let item = item.mapping_of()?;
    item.only(what, known);
    let name = item.filled("name");
    if name.is_none() {
        item.note(format_args!("{what} needs a `name`"));
    }
    Some(ImageSpec {
        name: name?,
        pull_policy: item.strings("pull_policy"),
        entrypoint: item.strings("entrypoint"),
        command: item.strings("command"),
        users: content::user(&item).into_iter().collect(),
        platform: item.filled("platform"),
    })
}

fn services(job: &Cursor<'_>) -> Vec<ServiceSpec> {
    let Some(list) = job.get("services") else { return Vec::new() };
    let service = |item: Cursor<'_>| {
        let alias = match item.as_text() {
            Some(_) => Vec::new(),
            None => item.strings("alias"),
        };
        Some(ServiceSpec { image: image(&item, "a service", SERVICE)?, alias })
    };
    list.elements().filter_map(service).collect()
}

/// The job's variables, or else those of the payload. A variable is a secret unless it says `public: true`.
fn variables(job: &Cursor<'_>, payload: Option<&Cursor<'_>>) -> Option<Vec<VariableSpec>> {
    if let Some(list) = job.get("variables") {
        return Some(list.elements().filter_map(|item| listed(item)).collect());
    }
    let map = payload?.get("variables")?.mapping_of()?;
    Some(map.keys().filter_map(|(key, value)| mapped(key, &value)).collect())
}

/// A variable of a list: `{key, value, …}`.
fn listed(item: Cursor<'_>) -> Option<VariableSpec> {
    let item = item.mapping_of()?;
    item.only("a variable", &["key", "value", "public", "masked", "file", "raw"]);
    let key = item.filled("key");
    if key.is_none() {
        item.note("a variable needs a `key`");
    }
    Some(variable(key?, &item))
}

/// A variable of the payload's mapping: `KEY: value`, or `KEY: {value, …}`.
fn mapped(key: &str, value: &Cursor<'_>) -> Option<VariableSpec> {
    if value.is_mapping() {
        value.only("a variable", &["value", "public", "masked", "file", "raw"]);
        return Some(variable(key.to_owned(), value));
    }
    let text = if value.is_null() { "" } else { value.text()? };
    let plain = VariableSpec { key: key.to_owned(), value: Some(text.to_owned()), ..VariableSpec::default() };
    Some(plain)
}

fn variable(key: String, item: &Cursor<'_>) -> VariableSpec {
    VariableSpec {
        key,
        value: item.string("value"),
        public: item.flag("public"),
        masked: item.flag("masked"),
        file: item.flag("file"),
        raw: item.flag("raw"),
    }
}

/// The job's script, or else that of the payload.
fn script(job: &Cursor<'_>, payload: Option<&Cursor<'_>>) -> Vec<ScriptLine> {
    if let Some(list) = job.get("script") {
        let line = |(index, item): (usize, Cursor<'_>)| match item.as_text() {
            Some(text) => Some(ScriptLine { place: format!("script[{index}]"), text: text.to_owned() }),
            None => {
                let item = item.mapping_of()?;
                item.only("a line of a script", &["place", "text"]);
                Some(ScriptLine { place: item.string("place").unwrap_or_default(), text: item.string("text")? })
            }
        };
        return list.elements().enumerate().filter_map(line).collect();
    }
    let Some(script) = payload.and_then(|payload| payload.get("script")) else { return Vec::new() };
    let place = |index| format!("payload.script[{index}]");
    match script.as_text() {
        Some(text) => vec![ScriptLine { place: "payload.script".into(), text: text.to_owned() }],
        None => script
            .texts()
            .into_iter()
            .enumerate()
            .map(|(index, text)| ScriptLine { place: place(index), text })
            .collect(),
    }
}
