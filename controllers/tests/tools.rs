//! The tools: check, eval with its explanation, test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::PathBuf};

use jobgate_controllers::{
    CaseOutcome, DocumentReader, Fault, Faults, LoadOptions, PolicySet, RuleOutcome, TestDocument, check, eval, test,
};
use jobgate_sdk::{AdmissionRequest, testing};

const POLICY: &str = r#"apiVersion: jobgate/v1
kind: Policy
name: images
match: { projects: ["acme/**"] }
rules:
  - name: own-registry
    require: { image: ["registry.acme.example/**"] }
  - name: no-latest
    match: { protected: true }
    forbid: { image_tag: latest }
  - name: no-gpu
    forbid: { tags: [gpu] }
    mode: warn
exemptions:
  - { projects: ["acme/old"], rules: [own-registry], until: 2026-11-30, reason: SEC-1 }
"#;

/// Reads `{project, image, protected, tags}`; the router has its own reader.
fn reader(case: &TestDocument<'_>) -> Result<AdmissionRequest, Faults> {
    let text = |key: &str| case.document[key].as_str();
    let Some(project) = text("project") else { return Err(Fault::new(case.file, "no project").into()) };
    let mut request = testing::request().project(project).at(case.time);
    if let Some(image) = text("image") {
        request = request.image(image);
    }
    for tag in case.document["tags"].as_array().into_iter().flatten() {
        request = request.tag(tag.as_str().unwrap());
    }
    Ok(request.protected(case.document["protected"] == true).build())
}

fn directory(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let paths = vec![directory.path().to_owned()];
    (directory, paths)
}

#[tokio::test]
async fn cases_pass_fail_and_cover_rules() {
    let cases = r#"cases:
  - { name: ours, document: { project: acme/api, image: "registry.acme.example/x:1" }, expect: admit }
  - { name: theirs, document: { project: acme/api, image: alpine }, expect: reject, rule: own-registry }
  - { name: exempt, document: { project: acme/old, image: alpine }, expect: admit, rule: images/own-registry }
  - { name: ended, document: { project: acme/old, image: alpine }, time: 2026-12-01T00:00:00Z, expect: reject }
  - { name: wrong, document: { project: acme/api, image: alpine }, expect: admit }
  - { name: other rule, document: { project: acme/api, image: alpine }, expect: reject, rule: no-gpu }
  - { name: broken, document: {}, expect: fail }
  - { name: warned, document: { project: acme/old, tags: [gpu] }, expect: admit, rule: no-gpu }
"#;
    let (_directory, paths) = directory(&[("images.yaml", POLICY), ("images.test.yaml", cases)]);
    let report = test(&paths, &LoadOptions::default(), &reader as &DocumentReader<'_>).await.unwrap();
    let outcomes: Vec<_> = report.cases.iter().map(|case| case.outcome).collect();
    use CaseOutcome::{Broken, Failed, Passed};
    assert_eq!(outcomes, [Passed, Passed, Passed, Passed, Failed, Failed, Broken, Passed], "{report:#?}");
    assert!(!report.passed());
    let wrong = &report.cases[4];
    assert_eq!((wrong.name.as_str(), wrong.line), ("wrong", 6));
    assert!(wrong.detail.starts_with("expected admit, but it was rejected by rule images/own-registry"), "{wrong:?}");
    assert!(report.cases[5].detail.contains("but images/own-registry did"), "{:?}", report.cases[5]);
    assert!(report.cases[6].detail.contains("no project"));
    let covered: Vec<_> = report.coverage.iter().map(|rule| (rule.rule.as_str(), rule.line, rule.covered)).collect();
    assert_eq!(
        covered,
        [("images/own-registry", 6, true), ("images/no-latest", 8, false), ("images/no-gpu", 11, true)]
    );
}

#[tokio::test]
async fn test_files_are_checked() {
    let cases = "cases:\n  - { name: a, document: {}, expect: admitted, rule: own-registri }\n  - { nam: b }\n";
    let (_directory, paths) =
        directory(&[("images.yaml", POLICY), ("images.test.yaml", cases), ("x.test.yaml", "cases: []")]);
    let faults = test(&paths, &LoadOptions::default(), &reader as &DocumentReader<'_>).await.unwrap_err().to_string();
    for expected in [
        "did you mean `admit`?",
        "did you mean `own-registry`?",
        "did you mean `name`?",
        "a case needs `document`",
        "x.test.yaml: there is no policy beside this test",
    ] {
        assert!(faults.contains(expected), "`{expected}` is not in\n{faults}");
    }
    let report = check(&paths, &LoadOptions::default(), "2026-11-01".parse().unwrap());
    assert_eq!(report.faults.unwrap().to_string(), faults);
}

#[tokio::test]
async fn rego_policies_may_have_cases_too() {
    let rego = "package jobgate\ndeny contains {\"message\": \"no\", \"rule\": \"r\"} if not input.job.protected\n";
    let cases = "cases:
  - { name: a, document: { project: a/b }, expect: reject, rule: r }
  - { name: b, document: { project: a/b, protected: true }, expect: admit }
";
    let (_directory, paths) = directory(&[("p.rego", rego), ("p.test.yaml", cases)]);
    let report = test(&paths, &LoadOptions::default(), &reader as &DocumentReader<'_>).await.unwrap();
    assert!(report.passed(), "{report:?}");
}

#[test]
fn check_warns_of_exemptions_before_they_end() {
    let (_directory, paths) = directory(&[("images.yaml", POLICY)]);
    let warnings = |today: &str| {
        let report = check(&paths, &LoadOptions::default(), today.parse().unwrap());
        assert!(report.faults.is_none());
        assert_eq!(report.policies, ["images"]);
        assert!(report.coverage.iter().all(|rule| !rule.covered));
        report.warnings.iter().map(Fault::one_line).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(warnings("2026-11-15"), "");
    assert!(
        warnings("2026-11-16")
            .contains("images.yaml:15:5: the exemption from own-registry ends on 2026-11-30, in 14 days")
    );
    assert!(warnings("2026-11-30").contains("ends today"));
    assert!(warnings("2026-12-01").contains("ended on 2026-11-30 and holds no more"));
}

#[tokio::test]
async fn an_explanation_names_rule_line_and_value() {
    let loaded = PolicySet::from_texts([("images.yaml", POLICY)], &LoadOptions::default()).unwrap();
    let requests = [
        testing::request().project("acme/api").tag("gpu").build(),
        testing::request().project("acme/old").build(),
        testing::request().project("other/x").build(),
    ];
    let evaluations = eval(&loaded.set, &requests, true).await;
    let policy = |index: usize| &evaluations[index].explanation.as_ref().unwrap()[0];
    let rules = |index: usize| policy(index).rules.iter().map(|rule| rule.outcome).collect::<Vec<_>>();
    use RuleOutcome::{Exempted, Holds, NotApplicable, Rejects, Warns};

    assert_eq!(rules(0), [Rejects, NotApplicable, Warns]);
    let first = &policy(0).rules[0];
    assert_eq!((first.rule.as_str(), first.file.as_str(), first.line), ("images/own-registry", "images.yaml", 6));
    assert_eq!(first.detail, "line 7: require image `registry.acme.example/**`; found `alpine:3.20`");
    assert_eq!(policy(0).rules[1].detail, "line 9: match protected `true`; found `false`");

    assert_eq!(rules(1), [Exempted, NotApplicable, Holds]);
    assert!(policy(1).rules[0].detail.ends_with("exempt until 2026-11-30 by line 15: SEC-1"));
    assert_eq!(policy(2).excluded.as_deref(), Some("line 4: match projects `acme/**`; found `other/x`"));

    let silent = eval(&loaded.set, &requests[..1], false).await;
    assert!(silent[0].explanation.is_none() && !silent[0].verdict.is_admitted());
}
