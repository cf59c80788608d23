use serde_json::{Map, Value, json};

use super::{
    load::{API_VERSION, KIND, LONGEST_NAME, MODES},
    matcher::{KEYS, KindField},
    within::DAY_NAMES,
};

/// The JSON Schema (2020-12) of a YAML policy, for editors: completion, and faults while typing.
///
/// The loader knows more than a schema can say (names given once, patterns that compile, what is exposed); `policy check`
/// tells.
#[must_use]
pub fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "jobgate policy",
        "description": "Says which CI jobs may run. Every rule that fires rejects the job, or warns of it.",
        "type": "object",
        "additionalProperties": false,
        "required": ["apiVersion", "kind", "name", "rules"],
        "properties": {
            "apiVersion": { "const": API_VERSION },
            "kind": { "const": KIND },
            "name": name("Name of the policy; verdicts say `policy/rule`."),
            "match": matchers("Which jobs the policy is about; all must hold. Left out: every job.", None),
            "rules": {
                "description": "What is required or forbidden.",
                "type": "array",
                "minItems": 1,
                "items": { "$ref": "#/$defs/rule" },
            },
            "exemptions": {
                "description": "Who is exempt from which rules, until when, and why.",
                "type": "array",
                "items": { "$ref": "#/$defs/exemption" },
            },
        },
        "$defs": { "rule": rule(), "exemption": exemption(), "window": window() },
    })
}

fn rule() -> Value {
    let modes: Vec<_> = MODES.iter().map(|(word, _)| *word).collect();
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["name"],
        "oneOf": [{ "required": ["require"] }, { "required": ["forbid"] }],
        "properties": {
            "name": name("Name of the rule, once in the policy."),
            "match": matchers("Which of the policy's jobs the rule is about; all must hold.", None),
            "require": matchers("What must be: exactly one matcher. Every value must match; an unknown one does not.", Some(1)),
            "forbid": matchers("What must not be: exactly one matcher. Any value that matches fires.", Some(1)),
            "message": {
                "description": "What the job's owner is told; `{job.ref}` and other fields are filled in, `{value}` is what decided.",
                "type": "string",
                "minLength": 1,
            },
            "mode": { "description": "Reject the job (enforce, the default), or only warn.", "enum": modes },
        },
    })
}

fn exemption() -> Value {
    let mut properties = matcher_properties();
    properties.insert("rules".into(), texts("The rules this is an exemption from."));
    properties.insert(
        "until".into(),
        json!({ "description": "The last day it holds, in UTC.", "type": "string", "pattern": "^\\d{4}-\\d{2}-\\d{2}$" }),
    );
    properties
        .insert("reason".into(), json!({ "description": "Why; verdicts say it.", "type": "string", "minLength": 1 }));
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["rules", "until", "reason"],
        "minProperties": 4,
        "properties": properties,
    })
}

fn window() -> Value {
    let time = json!({ "type": "string", "pattern": "^([01]\\d|2[0-3]):[0-5]\\d$|^24:00$" });
    let day = DAY_NAMES.join("|");
    let day = json!({ "type": "string", "pattern": format!("^({day})(-({day}))?$") });
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["timezone"],
        "minProperties": 2,
        "properties": {
            "days": { "anyOf": [day, { "type": "array", "items": day, "minItems": 1 }] },
            "from": time,
            "to": time,
            "timezone": { "description": "As `Europe/Berlin`.", "type": "string", "minLength": 1 },
        },
        "dependentRequired": { "from": ["to"], "to": ["from"] },
    })
}

fn name(description: &str) -> Value {
    let pattern = format!("^[A-Za-z0-9][A-Za-z0-9._-]{{0,{}}}$", LONGEST_NAME - 1);
    json!({ "description": description, "type": "string", "pattern": pattern })
}

fn matchers(description: &str, most: Option<usize>) -> Value {
    let mut schema = json!({
        "description": description,
        "type": "object",
        "additionalProperties": false,
        "minProperties": 1,
        "properties": matcher_properties(),
    });
    if let Some(most) = most {
        schema["maxProperties"] = most.into();
    }
    schema
}

fn matcher_properties() -> Map<String, Value> {
    KEYS.iter().map(|key| ((*key).to_owned(), matcher(key))).collect()
}

fn matcher(key: &str) -> Value {
    match key {
        "protected" => {
            let flag = json!({ "enum": [true, false, ""] });
            one_or_many(&flag, "Whether the ref is protected.")
        }
        "ref_types" => kinds(KindField::RefType, "Kind of the ref."),
        "runner_types" => kinds(KindField::RunnerType, "Whose jobs the runner takes."),
        "users" => one_or_many(&json!({ "type": ["string", "integer"] }), "Logins as globs, and user ids as numbers."),
        "variables" => json!({ "anyOf": [
            texts("Names of variables, as globs."),
            {
                "description": "Values of variables, as globs, by exact name.",
                "type": "object",
                "minProperties": 1,
                "additionalProperties": texts("Values."),
            },
        ] }),
        "within" => one_or_many(&json!({ "$ref": "#/$defs/window" }), "Windows of the week."),
        "projects" => texts("Paths of projects, as globs."),
        "groups" => texts("Paths of groups, as globs; a project is in its group and in all above it."),
        "refs" => texts("Names of branches and tags, as globs."),
        "sources" => texts("What started the pipeline, as globs. A claim of the job."),
        "environments" => texts("Deployment environments, as globs. A claim of the job."),
        "stages" => texts("Stages, as globs."),
        "jobs" => texts("Names of jobs, as globs."),
        "tags" => texts("What the job asks of a runner, as globs."),
        "image" => texts("Images of job and services: `registry.acme.example/**`, `alpine:3.*`."),
        "image_registry" => texts("Registries of all images, as globs."),
        "image_repository" => texts("Repositories of all images, as globs: `library/alpine`."),
        "image_tag" => texts("Tags of all images, as globs."),
        "image_digest" => texts("Digests of all images, as globs: `sha256:*`."),
        "services" => texts("Images of services only."),
        "runner_tags" => texts("What the chosen runner offers, as globs."),
        _ => texts("Regular expressions, each tried on every line of the script."),
    }
}

fn kinds(field: KindField, description: &str) -> Value {
    let words: Vec<_> = field.words().iter().map(|(word, _)| *word).collect();
    one_or_many(&json!({ "enum": words }), description)
}

fn texts(description: &str) -> Value {
    one_or_many(&json!({ "type": "string" }), description)
}

fn one_or_many(one: &Value, description: &str) -> Value {
    json!({ "description": description, "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
}
