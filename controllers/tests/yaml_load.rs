//! What is refused when a YAML policy is loaded, where, and with which help.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use jobgate_controllers::{Faults, LoadOptions, Loaded, PolicySet};

fn load_with(text: &str, expose: &[&str]) -> Result<Loaded, Faults> {
    let expose = expose.iter().map(ToString::to_string).collect();
    PolicySet::from_texts([("p.yaml", text)], &LoadOptions { expose, ..LoadOptions::default() })
}

fn faults(text: &str) -> String {
    load_with(text, &[]).map(|_| ()).unwrap_err().to_string()
}

const HEAD: &str = "apiVersion: jobgate/v1\nkind: Policy\nname: p\n";

fn rules(text: &str) -> String {
    format!("{HEAD}rules:\n  - {}\n", text.replace('\n', "\n    "))
}

/// That each text is refused with a message that says this.
#[track_caller]
fn refused(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let text = rules(text);
        let faults = faults(&text);
        assert!(faults.contains(expected), "expected `{expected}` of\n{text}\nbut got\n{faults}");
    }
}

#[test]
fn every_fault_is_said_at_once_with_its_place_and_the_nearest_key() {
    let text = "\
apiVersion: jobgate/v2
kind: Policy
name: my policy
match:
  project: [\"acme/**\"]
rules:
  - name: own
    require: { imag: [x] }
  - name: own
    forbid: { image_tag: latest, image_digest: \"\" }
    mood: warn
exemptions:
  - { projects: [x], rules: [onw], until: 2026-02-30, reason: \"\" }
";
    let faults = faults(text);
    for expected in [
        "p.yaml:1:13: `apiVersion` is `jobgate/v1` here, not `jobgate/v2`",
        "p.yaml:3:7: `my policy` is not a name",
        "p.yaml:5:3: unknown key `project`; did you mean `projects`?",
        "  5 |   project: [\"acme/**\"]\n    |   ^",
        "p.yaml:8:16: unknown key `imag`; did you mean `image`?",
        "a forbid has exactly one matcher",
        "unknown key `mood`; did you mean `mode`?",
        "p.yaml:13:43: `2026-02-30` is not a date",
        "this must not be empty",
    ] {
        assert!(faults.contains(expected), "`{expected}` is not in\n{faults}");
    }
}

#[test]
fn what_a_policy_lacks_is_named() {
    let all = faults("{}");
    for key in ["apiVersion", "kind", "name", "rules"] {
        assert!(all.contains(&format!("a policy needs `{key}`")), "{all}");
    }
    assert!(faults(&format!("{HEAD}rules: []")).contains("a policy without rules decides nothing"));
    assert!(faults(&format!("{HEAD}rules:")).contains("expected a list, found nothing"));
    assert!(faults("").contains("expected a policy (a mapping), found nothing"));
    assert!(faults("[]").contains("expected a policy (a mapping), found a list"));
    refused(&[
        ("{ name: r }", "a rule needs one `require` or one `forbid`"),
        ("{ require: { jobs: x } }", "a rule needs `name`"),
        ("{ name: r, require: { jobs: x }, forbid: { jobs: y } }", "not both"),
        ("{ name: r, require: {} }", "exactly one matcher, this has none"),
        ("{ name: r, require: }", "expected a require (a mapping), found nothing"),
        ("{ name: r, require: { jobs: x, refs: y } }", "narrow the rule by its own `match`"),
        ("{ name: r, match: {}, require: { jobs: x } }", "this `match` has no matcher"),
        ("{ name: r, match: , require: { jobs: x } }", "expected a match (a mapping), found nothing"),
        ("{ name: r, require: { jobs: x }, mode: wran }", "did you mean `warn`?"),
        ("{ name: r, require: { jobs: x }, message: '' }", "must not be empty"),
        ("{ name: a/b, require: { jobs: x } }", "`a/b` is not a name"),
    ]);
}

#[test]
fn values_are_checked() {
    refused(&[
        ("{ name: r, require: { image: [] } }", "an empty list matches nothing"),
        ("{ name: r, require: { protected: [] } }", "an empty list matches nothing"),
        ("{ name: r, require: { users: [] } }", "an empty list matches nothing"),
        ("{ name: r, require: { image: } }", "expected text, found nothing"),
        ("{ name: r, require: { image: [null] } }", "expected text, found nothing"),
        ("{ name: r, require: { image: { a: b } } }", "expected text, found a mapping"),
        ("{ name: r, require: { image_tag: [3.20] } }", "put it in quotes"),
        ("{ name: r, require: { protected: yes } }", "expected true or false, found text"),
        ("{ name: r, require: { ref_types: [branches] } }", "did you mean `branch`?"),
        ("{ name: r, require: { runner_types: [shared] } }", "known here: `instance`"),
        ("{ name: r, require: { image: ['*'] } }", "write `**` for all images"),
        ("{ name: r, require: { image: ['*:latest'] } }", "write `**` for all images"),
        ("{ name: r, require: { image: ['registry.acme.example'] } }", "write `registry.acme.example/**`"),
        ("{ name: r, require: { jobs: ['a[bc]'] } }", "`[` is not part of patterns here"),
        ("{ name: r, require: { refs: ['!main'] } }", "a pattern cannot be negated"),
        ("{ name: r, require: { variables: {} } }", "name a variable"),
        ("{ name: r, require: { variables: { 'A*': [x] } } }", "is not the name of a variable"),
        ("{ name: r, forbid: { variables: { CI: [x], GITLAB_CI: [x] } } }", "exactly one matcher"),
    ]);
    let long = format!("{{ name: r, require: {{ jobs: ['{}'] }} }}", "*?".repeat(300));
    refused(&[(&long, "at most 512 characters")]);
}

#[test]
fn windows_are_checked() {
    refused(&[
        ("{ name: r, require: { within: { days: [mon] } } }", "a window needs `timezone`"),
        ("{ name: r, require: { within: { timezone: UTC } } }", "a window needs `days`, or `from` and `to`"),
        ("{ name: r, require: { within: { from: '08:00', timezone: UTC } } }", "`from` and `to`, or neither"),
        ("{ name: r, require: { within: { from: '8', to: '09:00', timezone: UTC } } }", "`8` is not a time of day"),
        ("{ name: r, require: { within: { from: 8, to: '09:00', timezone: UTC } } }", "put it in quotes"),
        ("{ name: r, require: { within: { from: '09:00', to: '09:00', timezone: UTC } } }", "the same"),
        ("{ name: r, require: { within: { from: '24:00', to: '09:00', timezone: UTC } } }", "cannot begin at 24:00"),
        ("{ name: r, require: { within: { days: [monday], timezone: UTC } } }", "`monday` is not a day"),
        ("{ name: r, require: { within: { days: [], timezone: UTC } } }", "an empty list matches nothing"),
        ("{ name: r, require: { within: { days: [mon], timezone: Europe/Berln } } }", "did you mean `Europe/Berlin`?"),
        ("{ name: r, require: { within: { day: [mon], timezone: UTC } } }", "did you mean `days`?"),
        ("{ name: r, require: { within: [] } }", "an empty list matches nothing"),
    ]);
}

#[test]
fn what_is_not_exposed_cannot_be_read() {
    let script = rules("{ name: r, forbid: { script: ['curl.*sh'] } }");
    let value = rules("{ name: r, forbid: { variables: { SECRET: [x] } } }");
    let template = rules("{ name: r, forbid: { jobs: x }, message: '{job.variables.SECRET}' }");
    assert!(faults(&script).contains("the script is not exposed"));
    assert!(faults(&value).contains("the value of variable `SECRET` is not exposed"));
    assert!(faults(&template).contains("add `SECRET` to the controller's `expose` list"));
    let reads = |text: &str, expose: &[&str]| load_with(text, expose).unwrap().set.reads().clone();
    assert!(reads(&script, &["script"]).script);
    assert!(reads(&value, &["SECRET"]).variables.contains("SECRET"));
    assert!(reads(&template, &["SECRET"]).variables.contains("SECRET"));
    assert!(reads(&rules("{ name: r, forbid: { jobs: x }, message: '{runner.name}' }"), &[]).runner);
    assert!(reads(&rules("{ name: r, forbid: { runner_tags: x } }"), &[]).runner);
    // Names of variables, and values that everybody is sent, need no exposure.
    assert_eq!(reads(&rules("{ name: r, forbid: { variables: ['DOCKER_*'] } }"), &[]), Default::default());
    assert!(reads(&rules("{ name: r, forbid: { variables: { CI_PIPELINE_SOURCE: [x] } } }"), &[]).variables.len() == 1);
}

#[test]
fn expressions_are_checked() {
    for (text, expected) in [
        ("(", "not a regular expression: unclosed group"),
        ("a{1000}{1000}", "too large to compile"),
        ("x*", "matches every line"),
        (r"(?=x)", "look-around"),
        (r"(x)\\1", "backreferences"),
    ] {
        let text = rules(&format!("{{ name: r, forbid: {{ script: [\"{text}\"] }} }}"));
        let faults = load_with(&text, &["script"]).unwrap_err().to_string();
        assert!(faults.contains(expected), "expected `{expected}`, got\n{faults}");
    }
}

#[test]
fn templates_are_checked() {
    for (message, expected) in [
        ("{job.imag.name}", "did you mean `job.image.name`?"),
        ("{colour}", "unknown field `colour`"),
        ("{job}", "`job` is not one value"),
        ("{job.image}", "write `{job.image.name}`"),
        ("{job.script}", "a message cannot print the script"),
        ("{job.ref", "without its partner"),
        ("job.ref}", "without its partner"),
        ("{}", "unknown field ``"),
    ] {
        refused(&[(&format!("{{ name: r, forbid: {{ jobs: x }}, message: '{message}' }}"), expected)]);
    }
}

#[test]
fn exemptions_say_everything() {
    let with =
        |exemption: &str| format!("{}exemptions: [{exemption}]\n", rules("{ name: pinned, forbid: { jobs: x } }"));
    for (exemption, expected) in [
        ("{ projects: [a/b], rules: [pinned], reason: x }", "an exemption needs `until`"),
        ("{ projects: [a/b], rules: [pinned], until: 2026-12-31 }", "an exemption needs `reason`"),
        ("{ projects: [a/b], until: 2026-12-31, reason: x }", "an exemption needs `rules`"),
        ("{ rules: [pinned], until: 2026-12-31, reason: x }", "an exemption needs at least one matcher"),
        ("{ projects: [a/b], rules: [], until: 2026-12-31, reason: x }", "names the rules it is from"),
        ("{ projects: [], rules: [pinned], until: 2026-12-31, reason: x }", "an empty list matches nothing"),
        ("{ projects: [a/b], rules: [pined], until: 2026-12-31, reason: x }", "did you mean `pinned`?"),
        ("{ projects: [a/b], rules: [pinned], until: 31.12.2026, reason: x }", "is not a date"),
        ("{ projects: [a/b], rules: [pinned], until: 2026-12-31T10:00, reason: x }", "is not a date"),
        ("{ projects: [a/b], rules: [pinned], until: 20261231, reason: x }", "put it in quotes"),
        ("{ project: [a/b], rules: [pinned], until: 2026-12-31, reason: x }", "did you mean `projects`?"),
    ] {
        let faults = faults(&with(exemption));
        assert!(faults.contains(expected), "expected `{expected}` of {exemption}, got\n{faults}");
    }
    assert!(load_with(&with("{ projects: [a/b], rules: [pinned], until: 2026-12-31, reason: x }"), &[]).is_ok());
}

#[test]
fn names_are_given_once() {
    let twice =
        format!("{HEAD}rules:\n  - {{ name: r, forbid: {{ jobs: x }} }}\n  - {{ name: r, forbid: {{ jobs: y }} }}\n");
    assert!(faults(&twice).contains("p.yaml:6:5: a second rule `r`; the first is on line 5"), "{}", faults(&twice));
    let policy = rules("{ name: r, forbid: { jobs: x } }");
    let faults =
        PolicySet::from_texts([("a.yaml", &*policy), ("b.yaml", &*policy)], &LoadOptions::default()).unwrap_err();
    assert!(faults.to_string().contains("b.yaml: a second policy `p`; the first is in a.yaml"), "{faults}");
}

#[test]
fn hostile_yaml_is_refused() {
    let duplicate = format!("{HEAD}name: q\nrules: []\n");
    assert!(faults(&duplicate).contains("duplicate"), "{}", faults(&duplicate));
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", before.trim_end_matches(", ")));
    }
    assert!(load_with(&bomb, &[]).is_err());
    let large = format!("{HEAD}# {}\n", "x".repeat(10 << 20));
    assert!(faults(&large).contains("bytes are more than"));
    let deep = "[".repeat(100_000);
    assert!(load_with(&deep, &[]).is_err());
    let cyclic = "a: &a [*a]";
    assert!(load_with(cyclic, &[]).is_err());
    let many = format!("{HEAD}rules: [{}]", "x,".repeat(400_000));
    assert!(load_with(&many, &[]).is_err());
    assert!(load_with(&format!("{HEAD}---\n{HEAD}"), &[]).is_err());
    assert!(load_with("\u{0}\u{7}", &[]).is_err());
}

#[test]
fn what_is_hardly_meant_is_a_warning() {
    let warnings = |text: &str| {
        let loaded = load_with(&rules(text), &[]).unwrap();
        loaded.warnings.iter().map(|warning| format!("{warning}\n")).collect::<String>()
    };
    assert!(warnings("{ name: r, forbid: { image_tag: [latest, ''] } }").contains("pinned by digest alone"));
    assert!(warnings("{ name: r, forbid: { image_repository: docker } }").contains("`library/…`"));
    assert!(warnings("{ name: r, require: { sources: push } }").contains("a job's author may forge"));
    let narrowed = "{ name: r, match: { image: 'alpine' }, forbid: { stages: deploy } }";
    assert!(warnings(narrowed).contains("does not see images whose name is not resolved"));
    assert_eq!(warnings("{ name: r, forbid: { image_tag: [latest] } }"), "");
}
