//! The JSON Schema of YAML policies says what the loader does, as far as a schema can.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path};

use jobgate_controllers::{LoadOptions, PolicySet, schema};
use serde_json::{Value, json};

/// Enough of JSON Schema for ours: every keyword that it uses, and a panic for any other.
fn valid(schema: &Value, value: &Value, root: &Value) -> bool {
    schema.as_object().unwrap().iter().all(|(keyword, wanted)| holds(keyword, wanted, schema, value, root))
}

fn holds(keyword: &str, wanted: &Value, schema: &Value, value: &Value, root: &Value) -> bool {
    let size = || wanted.as_u64().unwrap() as usize;
    let keys = |list: &Value| list.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some());
    match keyword {
        "$schema" | "$defs" | "title" | "description" => true,
        "$ref" => valid(root.pointer(&wanted.as_str().unwrap()[1..]).unwrap(), value, root),
        "type" => match wanted {
            Value::Array(kinds) => kinds.iter().any(|kind| is(kind, value)),
            kind => is(kind, value),
        },
        "const" => wanted == value,
        "enum" => wanted.as_array().unwrap().contains(value),
        "pattern" => {
            value.as_str().is_none_or(|text| regex::Regex::new(wanted.as_str().unwrap()).unwrap().is_match(text))
        }
        "minLength" => value.as_str().is_none_or(|text| text.len() >= size()),
        "minItems" => value.as_array().is_none_or(|list| list.len() >= size()),
        "minProperties" => value.as_object().is_none_or(|map| map.len() >= size()),
        "maxProperties" => value.as_object().is_none_or(|map| map.len() <= size()),
        "items" => value.as_array().is_none_or(|list| list.iter().all(|item| valid(wanted, item, root))),
        "required" => !value.is_object() || keys(wanted),
        "dependentRequired" => {
            wanted.as_object().unwrap().iter().all(|(key, others)| value.get(key).is_none() || keys(others))
        }
        "anyOf" => wanted.as_array().unwrap().iter().any(|schema| valid(schema, value, root)),
        "oneOf" => wanted.as_array().unwrap().iter().filter(|schema| valid(schema, value, root)).count() == 1,
        "properties" => value.as_object().is_none_or(|map| {
            map.iter().all(|(key, value)| wanted.get(key).is_none_or(|schema| valid(schema, value, root)))
        }),
        "additionalProperties" => value.as_object().is_none_or(|map| {
            let others =
                map.iter().filter(|(key, _)| schema.get("properties").is_none_or(|known| known.get(key).is_none()));
            others.into_iter().all(|(_, value)| *wanted != json!(false) && valid(wanted, value, root))
        }),
        other => panic!("the schema uses `{other}`, which this test does not know"),
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        other => panic!("the schema uses type `{other}`, which this test does not know"),
    }
}

/// Whether schema and loader take a policy.
fn taken(text: &str) -> (bool, bool) {
    let source = jobgate_yaml::Source::new("p.yaml", text);
    let document = jobgate_yaml::Document::parse(&source, jobgate_yaml::Limits::default()).unwrap();
    let options = LoadOptions { expose: vec!["script".into(), "COLOUR".into()], ..LoadOptions::default() };
    let schema = schema();
    (valid(&schema, &document.root().to_json(), &schema), PolicySet::from_texts([("p.yaml", text)], &options).is_ok())
}

fn policies(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        match path.is_dir() {
            true => policies(&path, found),
            false if name.ends_with(".test.yaml") || name == "data.yaml" || !name.ends_with(".yaml") => {}
            false => found.push(path),
        }
    }
}

#[test]
fn every_example_is_valid() {
    let mut found = Vec::new();
    policies(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/policies"), &mut found);
    assert!(found.len() >= 3);
    for path in found {
        assert_eq!(taken(&fs::read_to_string(&path).unwrap()), (true, true), "{}", path.display());
    }
}

#[test]
fn schema_and_loader_agree() {
    let rule =
        |rule: &str| format!("{{ apiVersion: jobgate/v1, kind: Policy, name: p, rules: [{{ name: r, {rule} }}] }}");
    for good in [
        "require: { image: alpine }",
        "require: { image: [alpine, ''] }, mode: warn, message: 'no {job.ref}'",
        "match: { protected: true, users: [ada, 42] }, forbid: { ref_types: [tag, ''] }",
        "forbid: { variables: ['A_*'] }",
        "forbid: { variables: { COLOUR: red } }",
        "forbid: { script: ['curl.*sh'] }",
        "require: { within: { days: mon-fri, timezone: UTC } }",
        "require: { within: [{ days: [sat, sun], from: '08:00', to: '24:00', timezone: UTC }] }",
    ] {
        assert_eq!(taken(&rule(good)), (true, true), "{good}");
    }
    for bad in [
        "require: {}",
        "require: { image: [] }",
        "require: { image: 1 }",
        "require: { colour: red }",
        "require: { jobs: a, refs: b }",
        "require: { jobs: a }, forbid: { refs: b }",
        "message: x",
        "match: {}, require: { jobs: a }",
        "require: { jobs: a }, mode: loud",
        "require: { jobs: a }, message: ''",
        "require: { ref_types: branches }",
        "require: { protected: 'yes' }",
        "require: { within: { timezone: UTC } }",
        "require: { within: { days: mon } }",
        "require: { within: { from: '8:00', to: '09:00', timezone: UTC } }",
        "require: { within: { from: '08:00', timezone: UTC } }",
        "require: { jobs: a }, extra: b",
    ] {
        assert_eq!(taken(&rule(bad)), (false, false), "{bad}");
    }
    for bad in [
        "{}",
        "{ apiVersion: jobgate/v2, kind: Policy, name: p, rules: [{ name: r, require: { jobs: a } }] }",
        "{ apiVersion: jobgate/v1, kind: Policy, name: a/b, rules: [{ name: r, require: { jobs: a } }] }",
        "{ apiVersion: jobgate/v1, kind: Policy, name: p, rules: [] }",
        "{ apiVersion: jobgate/v1, kind: Policy, name: p, rules: [{ name: r, require: { jobs: a } }], exemptions: [{ rules: r, until: 2026-12-31, reason: x }] }",
    ] {
        assert_eq!(taken(bad), (false, false), "{bad}");
    }
}

/// The keys that a mapping has, by the help that an unknown one gets.
fn keys_of_the_loader(text: &str, what: &str) -> Vec<String> {
    let faults = PolicySet::from_texts([("p.yaml", text)], &LoadOptions::default()).unwrap_err().to_string();
    let start = format!("help: {what} has ");
    let line = faults.lines().find_map(|line| line.trim().strip_prefix(&start)).unwrap_or_else(|| panic!("{faults}"));
    let mut keys: Vec<_> = line.split(", ").map(|key| key.trim_matches('`').to_owned()).collect();
    keys.sort();
    keys
}

#[test]
fn keys_are_those_of_the_loader() {
    let schema = schema();
    let of_schema = |pointer: &str| {
        let properties = schema.pointer(pointer).and_then(|schema| schema.get("properties")).unwrap();
        let mut keys: Vec<_> = properties.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    for (text, what, pointer) in [
        ("{ zzzzzzzzzz: 1 }", "a policy", ""),
        ("{ rules: [{ zzzzzzzzzz: 1 }] }", "a rule", "/$defs/rule"),
        ("{ match: { zzzzzzzzzz: 1 } }", "a match", "/properties/match"),
        ("{ rules: [{ require: { zzzzzzzzzz: 1 } }] }", "a require", "/$defs/rule/properties/require"),
        ("{ rules: [{ forbid: { zzzzzzzzzz: 1 } }] }", "a forbid", "/$defs/rule/properties/forbid"),
        ("{ exemptions: [{ zzzzzzzzzz: 1 }] }", "an exemption", "/$defs/exemption"),
        ("{ match: { within: { zzzzzzzzzz: 1 } } }", "a window", "/$defs/window"),
    ] {
        assert_eq!(keys_of_the_loader(text, what), of_schema(pointer), "{what}");
    }
}
