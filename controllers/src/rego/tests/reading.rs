//! What a policy reads is known at load.

use super::{RegoOptions, RegoPolicy, file, load, options, refused};
use crate::{Exposed, Reads};

fn fields(rules: &str) -> Vec<&'static str> {
    let policy = load(rules).unwrap_or_else(|faults| panic!("{rules}\n{faults}"));
    policy.fields().iter().copied().collect()
}

#[test]
fn references_are_followed_through_variables_functions_and_rules() {
    let reference = ["job.image", "job.image.registry"];
    for rules in [
        "deny contains \"x\" if input.job.image.registry == \"y\"",
        "deny contains \"x\" if input[\"job\"][\"image\"].registry == \"y\"",
        "deny contains \"x\" if { job := input.job; job.image.registry == \"y\" }",
        "deny contains \"x\" if { image = input.job.image; image.registry == \"y\" }",
        "from(image) := image.registry\ndeny contains \"x\" if from(input.job.image) == \"y\"",
        "all(question) := question.job\ndeny contains \"x\" if all(input).image.registry == \"y\"",
        "image := input.job.image\ndeny contains \"x\" if image.registry == \"y\"",
        "import input.job as j\ndeny contains \"x\" if j.image.registry == \"y\"",
        "images contains input.job.image\ndeny contains \"x\" if { some image in images; image.registry == \"y\" }",
        "deny contains \"x\" if { some image in [input.job.image]; image.registry == \"y\" }",
        "deny contains \"x\" if { every image in [input.job.image] { image.registry == \"y\" } }",
        "deny contains \"x\" if object.get(input.job, [\"image\", \"registry\"], \"\") == \"y\"",
        "deny contains \"x\" if object.get(input, \"job\", {}).image.registry == \"y\"",
        "deny contains \"x\" if \"y\" in {image.registry | image := input.job.image}",
    ] {
        assert_eq!(fields(rules), reference, "{rules}");
    }
}

#[test]
fn lists_and_wholes() {
    assert_eq!(
        fields("deny contains \"x\" if { some v in input.job.variables; v.key == \"A\" }"),
        ["job.variables", "job.variables.key"]
    );
    assert_eq!(
        fields("deny contains \"x\" if input.job.services[_].alias[0] == \"a\""),
        ["job.services", "job.services.alias"]
    );
    assert_eq!(fields("deny contains \"x\" if \"a\" in input.job.tags"), ["job.tags"]);
    assert_eq!(fields("deny contains sprintf(\"%v\", [input.user])"), ["user", "user.id", "user.login"]);
    assert_eq!(
        fields("deny contains \"x\" if input.project[_] == 7"),
        ["project", "project.groups", "project.id", "project.path"]
    );
}

#[test]
fn what_matters_to_the_router_is_told() {
    let reads = |rules: &str| load(rules).unwrap().reads().clone();
    assert_eq!(reads("deny contains \"x\" if input.job.ref == \"a\""), Reads::default());
    assert!(reads("deny contains \"x\" if not input.runner").runner);
    assert!(reads("import input.runner as r\ndeny contains \"x\" if r.protected == false").runner);
    let values =
        reads("deny contains \"x\" if { some v in input.job.variables; v.key == \"DEBUG\"; v.value == \"1\" }");
    assert_eq!(values.variables.into_iter().collect::<Vec<_>>(), ["DEBUG"]);
}

#[test]
fn an_unknown_field_is_answered_by_the_nearest() {
    for (rules, says) in [
        (
            "deny contains \"x\" if input.job.protcted",
            "policy.rego:3:32: `input.job` has no field `protcted`; did you mean `protected`?",
        ),
        ("deny contains \"x\" if input.jobs.ref", "did you mean `job`"),
        ("deny contains \"x\" if { some v in input.job.variables; v.vlaue == \"1\" }", "did you mean `value`"),
        ("f(i) := i.regsitry\ndeny contains f(input.job.image)", "did you mean `registry`"),
        (
            "images contains input.job.image\nimages contains s if some s in input.job.services\ndeny contains \"x\" if images[_].tga",
            "did you mean `tag`",
        ),
        ("deny contains \"x\" if object.get(input.job, \"protcted\", false)", "did you mean `protected`"),
        ("deny contains \"x\" if input.job.tags.gpu", "`input.job.tags` is a list"),
        ("deny contains \"x\" if input.job.ref.name", "`input.job.ref` has no fields"),
        ("import input.jbo\ndeny contains \"x\"", "did you mean `job`"),
        (
            "# METADATA\n# custom:\n#   needs: [job.reff]\ndeny contains \"x\" if input[input.job.ref]",
            "policy.rego:5:13: `input.job` has no field `reff`; did you mean `ref`?",
        ),
    ] {
        let faults = refused(rules);
        assert!(faults.contains(says), "{rules}\n{faults}");
    }
}

#[test]
fn computed_access_needs_an_annotation() {
    for rules in [
        "deny contains \"x\" if input[input.job.ref]",
        "deny contains \"x\" if input.job[input.job.ref]",
        "deny contains \"x\" if some x in input.job",
        "deny contains \"x\" if { some k; input.job[k] == 5 }",
        "f(x, y) := x[y]\ndeny contains f(input, \"job\")",
        "deny contains \"x\" if walk(input)",
        "deny contains \"x\" if { walk(input.job, [_, v]); v == \"x\" }",
        "deny contains \"x\" if { x := input; x[\"job\"] == x }",
        "deny contains json.marshal(input)",
        "deny contains \"x\" if object.get(input.job, input.job.ref, 5)",
        "deny contains \"x\" if { {\"job\": j} = input; j == 5 }",
        "deny contains \"x\" if count({k | some k, _ in input.job}) == 5",
    ] {
        let faults = refused(rules);
        assert!(
            faults.contains("what the rule needs is not known") && faults.contains("needs: [job.ref"),
            "{rules}\n{faults}"
        );
        let (before, last) = rules.rsplit_once('\n').map_or(("", rules), |(before, last)| (before, last));
        let annotated = format!(
            "# METADATA\n# custom:\n#   needs: [job.stage, runner.name]\n{before}\n# METADATA\n# custom:\n#   needs: [job.stage, runner.name]\n{last}"
        );
        let policy = load(&annotated).unwrap_or_else(|faults| panic!("{annotated}\n{faults}"));
        assert!(policy.fields().contains("job.stage") && policy.reads().runner, "{annotated}");
    }
}

#[test]
fn the_script_must_be_exposed() {
    let rules = "deny contains \"x\" if { some line in input.job.script; contains(line.text, \"curl\") }";
    assert!(refused(rules).contains("`input.job.script` is not sent to this controller"));
    let exposed = RegoOptions { exposed: Exposed::new(["script"]), ..options() };
    let policy = RegoPolicy::load(&[file("a.rego", &format!("package jobgate\n{rules}"))], None, &exposed).unwrap();
    assert!(policy.reads().script);
    let all = "# METADATA\n# custom:\n#   needs: [job]\ndeny contains json.marshal(input.job)";
    assert!(refused(all).contains("is not sent to this controller"));
}

#[test]
fn what_is_hardly_meant_is_said() {
    let lints =
        |rules: &str| load(rules).unwrap().lints().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let name = lints("deny contains \"x\" if startswith(input.job.image.name, \"alpine\")");
    assert!(name.contains("policy.rego:3:") && name.contains("read `resolved`"), "{name}");
    assert!(lints("deny contains \"x\" if input.job.services[_].name == \"docker\"").contains("`resolved`"));
    assert_eq!(lints("deny contains \"x\" if input.job.image.resolved == \"alpine\""), "");
    let value =
        lints("deny contains \"x\" if { some v in input.job.variables; v.key == \"SECRET\"; v.value == \"1\" }");
    assert!(value.contains("the value of the variable `SECRET` is not sent"), "{value}");
    assert_eq!(
        lints("deny contains \"x\" if { some v in input.job.variables; v.key == \"CI_COMMIT_SHA\"; v.value == \"1\" }"),
        ""
    );
}

#[test]
fn the_policies_of_the_page_load() {
    let page = include_str!("../../../../docs/policies-rego.md");
    let blocks: Vec<_> = page.split("```rego\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 3);
    let policy =
        RegoPolicy::load(&[file("page.rego", blocks[0])], None, &options()).unwrap_or_else(|faults| panic!("{faults}"));
    let needs = load(&blocks[1].replace('…', "no")).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(needs.fields().contains("job.environment"));
    let run = policy.run_tests(&[file("page_test.rego", blocks[2])]).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(run.tests.iter().all(|test| test.passed) && run.tests.len() == 1, "{run:?}");
}

#[test]
fn the_policy_library_loads_and_its_tests_pass() {
    let library = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/policies");
    let mut loaded = 0;
    for directory in std::fs::read_dir(library).unwrap() {
        let (mut files, mut tests, mut data) = (Vec::new(), Vec::new(), None);
        for entry in std::fs::read_dir(directory.unwrap().path()).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            match name.as_str() {
                "data.json" => data = Some(serde_json::from_str(&text).unwrap()),
                "data.yaml" => {
                    let source = jobgate_yaml::Source::new(name.as_str(), text);
                    data = Some(
                        jobgate_yaml::Document::parse(&source, jobgate_yaml::Limits::default())
                            .unwrap()
                            .root()
                            .to_json(),
                    );
                }
                _ if name.ends_with("_test.rego") => tests.push(file(&name, &text)),
                _ if name.ends_with(".rego") => files.push(file(&name, &text)),
                _ => {}
            }
        }
        if files.is_empty() {
            continue;
        }
        let policy = RegoPolicy::load(&files, data, &options()).unwrap_or_else(|faults| panic!("{faults}"));
        let run = policy.run_tests(&tests).unwrap_or_else(|faults| panic!("{faults}"));
        assert!(run.tests.iter().all(|test| test.passed), "{:#?}", run.tests);
        loaded += 1;
    }
    assert!(loaded >= 2, "{loaded}");
}
