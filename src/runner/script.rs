//! A job document as something to execute.

use std::{fmt, str::FromStr, time::Duration};

use jobgate_yaml::{Document, Limits, Node, Source, Value};

use super::mask::MAX_SECRET_BYTES;

/// As the router takes them.
const LIMITS: Limits = Limits { bytes: 4 << 20, depth: 64, nodes: 1_000_000 };

/// What a job does. Holds secrets, so it has no `Debug` worth the name.
pub(super) struct Script {
    /// In order.
    pub(super) steps: Vec<Step>,
    /// In order; the last of a name counts.
    pub(super) variables: Vec<Variable>,
    /// What its output must not show.
    pub(super) secrets: Vec<String>,
    /// How long it may run, if its document says so.
    pub(super) timeout: Option<Duration>,
}

/// Lines for one shell.
pub(super) struct Step {
    pub(super) lines: Vec<String>,
    pub(super) when: When,
    /// Its failure is not the job's.
    pub(super) allow_failure: bool,
    pub(super) timeout: Option<Duration>,
}

/// After what a step is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    OnSuccess,
    OnFailure,
    Always,
}

/// A variable of the script's environment.
pub(super) struct Variable {
    pub(super) key: String,
    pub(super) value: String,
    /// The variable holds the path of a file with this value.
    pub(super) file: bool,
}

impl FromStr for Script {
    type Err = String;

    /// Says in one line what cannot be executed; never quotes the document.
    fn from_str(text: &str) -> Result<Self, String> {
        let source = Source::secret("the job document", text);
        let document = Document::parse(&source, LIMITS).map_err(|faults| {
            let faults: Vec<_> = faults.iter().map(jobgate_yaml::Fault::one_line).collect();
            faults.join("; ")
        })?;
        let root = document.root();
        let script = match get(root, "gitlab") {
            Some(gitlab) => from_gitlab(gitlab),
            None => from_native(root),
        }?;
        if script.steps.iter().all(|step| step.lines.is_empty()) {
            return Err("the job document has no script (`payload.script`, or `gitlab.steps[].script`)".to_owned());
        }
        if script.secrets.iter().map(String::len).sum::<usize>() > MAX_SECRET_BYTES {
            return Err(format!("the job document has more than {MAX_SECRET_BYTES} bytes of secrets to mask"));
        }
        Ok(script)
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script([redacted])")
    }
}

/// `{ job, project, user, payload: { script: [..], variables: {..} } }`; a variable is a text, or `{ value, masked, file }`.
fn from_native(root: &Node) -> Result<Script, String> {
    let payload = get(root, "payload");
    let mut reading = Reading::default();
    if let Some(variables) = get(root, "job").and_then(|job| get(job, "variables")) {
        reading.listed(variables, "job.variables")?;
    }
    if let Some(variables) = payload.and_then(|payload| get(payload, "variables")) {
        reading.mapped(variables, "payload.variables")?;
    }
    let lines = match payload.and_then(|payload| get(payload, "script")) {
        Some(script) => texts(script, "payload.script")?,
        None => Vec::new(),
    };
    let timeout = get(root, "job").and_then(|job| get(job, "timeout_seconds")).and_then(seconds);
    let step = Step { lines, when: When::OnSuccess, allow_failure: false, timeout: None };
    Ok(Script { steps: vec![step], variables: reading.variables, secrets: reading.secrets, timeout })
}

/// A job response as GitLab hands it to its runners. Images, services, caches and artifacts mean nothing to a shell.
fn from_gitlab(root: &Node) -> Result<Script, String> {
    let mut reading = Reading::default();
    reading.secrets.extend(get(root, "token").and_then(text));
    for credential in get(root, "credentials").into_iter().flat_map(list) {
        reading.secrets.extend(get(credential, "password").and_then(text));
    }
    if let Some(variables) = get(root, "variables") {
        reading.listed(variables, "gitlab.variables")?;
    }
    if get(root, "run").and_then(text).is_some_and(|run| !run.trim().is_empty()) {
        return Err("the job is a list of steps (`run`), which this runner does not execute".to_owned());
    }
    let mut steps = Vec::new();
    for step in get(root, "steps").into_iter().flat_map(list) {
        steps.push(gitlab_step(step)?);
    }
    let timeout = get(root, "runner_info").and_then(|info| get(info, "timeout")).and_then(seconds);
    Ok(Script { steps, variables: reading.variables, secrets: reading.secrets, timeout })
}

fn gitlab_step(step: &Node) -> Result<Step, String> {
    let lines = match get(step, "script") {
        Some(script) => texts(script, "gitlab.steps[].script")?,
        None => Vec::new(),
    };
    let when = match get(step, "when").and_then(text).as_deref() {
        Some("on_failure") => When::OnFailure,
        Some("always") => When::Always,
        Some("on_success" | "") | None => When::OnSuccess,
        Some(_) => return Err("a step's `when` is none of on_success, on_failure, always".to_owned()),
    };
    let allow_failure = get(step, "allow_failure").is_some_and(truth);
    Ok(Step { lines, when, allow_failure, timeout: get(step, "timeout").and_then(seconds) })
}

#[derive(Default)]
struct Reading {
    variables: Vec<Variable>,
    secrets: Vec<String>,
}

impl Reading {
    /// `[{ key, value, masked, file }]`
    fn listed(&mut self, node: &Node, place: &str) -> Result<(), String> {
        for (index, entry) in list(node).iter().enumerate() {
            let place = format!("{place}[{index}]");
            let key = get(entry, "key").and_then(text).ok_or_else(|| format!("{place} has no `key`"))?;
            self.add(&place, key, get(entry, "value"), Some(entry))?;
        }
        Ok(())
    }

    /// `{ KEY: value, KEY: { value, masked, file } }`
    fn mapped(&mut self, node: &Node, place: &str) -> Result<(), String> {
        let Value::Map(entries) = &node.value else { return Err(format!("{place} is not a mapping")) };
        for (index, entry) in entries.iter().enumerate() {
            let place = format!("{place}[{index}]");
            match &entry.node.value {
                Value::Map(_) => {
                    self.add(&place, entry.key.clone(), get(&entry.node, "value"), Some(&entry.node))?;
                }
                _ => self.add(&place, entry.key.clone(), Some(&entry.node), None)?,
            }
        }
        Ok(())
    }

    fn add(&mut self, place: &str, key: String, value: Option<&Node>, flags: Option<&Node>) -> Result<(), String> {
        let Some(value) = value.filter(|value| !matches!(value.value, Value::Null)) else { return Ok(()) };
        let value = scalar(value).ok_or_else(|| format!("{place} has a value that is not text"))?;
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            return Err(format!("{place} cannot stand in an environment (empty, `=` or a zero byte)"));
        }
        let flag = |name| flags.and_then(|flags| get(flags, name)).is_some_and(truth);
        if flag("masked") {
            self.mask(&value);
        }
        self.variables.push(Variable { key, value, file: flag("file") });
        Ok(())
    }

    /// Tools print a secret of several lines line by line.
    fn mask(&mut self, value: &str) {
        self.secrets.push(value.to_owned());
        let lines = value.lines().map(str::trim).filter(|line| line.len() >= MIN_MASKED_LINE && *line != value);
        self.secrets.extend(lines.map(str::to_owned));
    }
}

/// A shorter line of a longer secret is left alone: `{` or `-----` says nothing.
const MIN_MASKED_LINE: usize = 8;

fn get<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    let Value::Map(entries) = &node.value else { return None };
    entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
}

fn list(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(items) => items,
        _ => &[],
    }
}

fn text(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    }
}

fn truth(node: &Node) -> bool {
    matches!(node.value, Value::Bool(true))
}

fn scalar(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Integer(value) => Some(value.to_string()),
        Value::Float(value) => Some(value.to_string()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}

/// A list of texts, or one text.
fn texts(node: &Node, place: &str) -> Result<Vec<String>, String> {
    let not_text = || format!("{place} is not a list of texts");
    match &node.value {
        Value::Null => Ok(Vec::new()),
        Value::Text(text) => Ok(vec![text.clone()]),
        Value::List(items) => items.iter().map(|item| text(item).ok_or_else(not_text)).collect(),
        _ => Err(not_text()),
    }
}

const LONGEST: i64 = 30 * 24 * 3600;

/// Nothing and less means no limit is known; more than 30 days are 30 days.
fn seconds(node: &Node) -> Option<Duration> {
    match node.value {
        Value::Integer(seconds @ 1..) => Some(Duration::from_secs(seconds.min(LONGEST).unsigned_abs())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(document: &str) -> String {
        document.parse::<Script>().err().unwrap()
    }

    #[test]
    fn a_native_document_is_read() {
        let script: Script = "
            job: {name: a, timeout_seconds: 60, variables: [{key: CI, value: 'true'}, {key: HIDDEN, masked: true}]}
            payload:
              script: [echo a, 'echo b']
              variables: {A: x, N: 7, S: {value: hunter2, masked: true, file: true}}
        "
        .parse()
        .unwrap();
        assert_eq!(script.steps[0].lines, ["echo a", "echo b"]);
        assert_eq!(script.timeout, Some(Duration::from_secs(60)));
        assert_eq!(script.secrets, ["hunter2"]);
        let variables: Vec<_> = script.variables.iter().map(|v| (v.key.as_str(), v.value.as_str(), v.file)).collect();
        assert_eq!(variables, [("CI", "true", false), ("A", "x", false), ("N", "7", false), ("S", "hunter2", true)]);
    }

    #[test]
    fn a_gitlab_document_is_read() {
        let script: Script = r#"{"gitlab": {"id": 7, "token": "glcbt-1", "runner_info": {"timeout": 0},
            "credentials": [{"type": "registry", "password": "glcbt-2"}], "run": "",
            "variables": [{"key": "KEY", "value": "-----BEGIN\nabcdefgh\n-----END", "masked": true, "file": true}],
            "steps": [{"name": "script", "script": ["make"], "when": "on_success", "timeout": 5},
                      {"name": "after_script", "script": ["clean"], "when": "always", "allow_failure": true}]}}"#
            .parse()
            .unwrap();
        assert_eq!(script.steps.len(), 2);
        assert_eq!((script.steps[1].when, script.steps[1].allow_failure), (When::Always, true));
        assert_eq!(script.steps[0].timeout, Some(Duration::from_secs(5)));
        assert_eq!(script.timeout, None);
        let lines = ["-----BEGIN\nabcdefgh\n-----END", "-----BEGIN", "abcdefgh", "-----END"];
        assert_eq!(script.secrets, [&["glcbt-1", "glcbt-2"], lines.as_slice()].concat());
    }

    #[test]
    fn what_cannot_be_executed_is_refused_without_being_quoted() {
        for (document, part) in [
            ("", "no script"),
            ("job: {name: a}", "no script"),
            ("payload: {script: [hunter2, 1]}", "payload.script is not a list of texts"),
            ("payload: {script: {a: hunter2}}", "payload.script is not a list of texts"),
            ("payload: {script: [a], variables: [hunter2]}", "payload.variables is not a mapping"),
            ("payload: {script: [a], variables: {'hunter2=': b}}", "payload.variables[0] cannot stand"),
            ("payload: {script: [a], variables: {A: [hunter2]}}", "payload.variables[0] has a value"),
            ("payload: {script: [hunter2, hunter2", "the job document:"),
            ("payload: {script: [a]}\npayload: {script: [hunter2]}", "the job document:"),
            ("gitlab: {variables: [{value: hunter2}], steps: [{script: [a]}]}", "gitlab.variables[0] has no `key`"),
            ("gitlab: {run: '[{hunter2}]', steps: [{script: [a]}]}", "list of steps"),
            ("gitlab: {steps: [{script: [a], when: hunter2}]}", "`when`"),
        ] {
            let refusal = refusal(document);
            assert!(refusal.contains(part) && !refusal.contains("hunter2"), "{document}: {refusal}");
            assert!(!refusal.contains('\n'), "{refusal}");
        }
        let many =
            format!("payload: {{script: [a], variables: {{S: {{value: {}, masked: true}}}}}}", "x".repeat(300_000));
        assert!(refusal(&many).contains("bytes of secrets"));
    }
}
