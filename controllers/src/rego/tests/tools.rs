//! Names from annotations, explanations, tests and their coverage.

use super::{RegoPolicy, decide, file, job, load, options, reason, request};
use crate::rego::explain::CameTo;

const NAMED: &str = "
# METADATA
# title: Pinned images
# description: tags move
# related_resources:
#   - ref: https://wiki.acme.example/pinning
# custom:
#   rule: pinned
deny contains \"pin it\" if input.job.image.tag == \"latest\"

# METADATA
# title: main-only
deny contains {\"message\": \"not on main\", \"details_url\": \"https://x.example\"} if {
\tinput.job.protected
\tinput.job.ref != \"main\"
}

deny contains {\"message\": \"z\", \"rule\": \"own\"} if input.job.ref == \"main\"
";

#[tokio::test]
async fn annotations_name_what_elements_do_not() {
    let verdict = decide(NAMED).await;
    let rejection = verdict.rejection().unwrap();
    assert_eq!(reason(&verdict), "pin it");
    assert_eq!(
        (rejection.rule(), rejection.details_url()),
        (Some("pinned"), Some("https://wiki.acme.example/pinning"))
    );
    assert_eq!(verdict.warnings(), ["also rejected, rule own: z"]);
}

#[test]
fn an_annotation_that_is_no_yaml_is_a_fault() {
    let faults = super::refused("# METADATA\n# title: [\ndeny contains \"x\"");
    assert!(faults.contains("policy.rego:"), "{faults}");
    let faults = super::refused("# METADATA\n# custom: { needs: job }\ndeny contains \"x\"");
    assert!(faults.contains("policy.rego:4:20: `needs` must be a list"), "{faults}");
}

#[test]
fn an_explanation_says_which_rule_which_line_which_value() {
    let policy = load(NAMED).unwrap();
    let explanation = policy.explain(&request(job())).unwrap();
    let [pinned, main_only, own] = &explanation.rules[..] else { panic!("{explanation:?}") };
    assert!(matches!(&pinned.came_to, CameTo::Fired(found) if found[0].rule.as_deref() == Some("pinned")));
    assert_eq!(pinned.detail(), "pin it (input.job.image.tag is \"latest\")");
    assert_eq!((pinned.rule.file.as_str(), pinned.rule.lines), ("policy.rego", (11, 11)));
    let CameTo::Silent { stopped_at: Some(stopped) } = &main_only.came_to else { panic!("{main_only:?}") };
    assert_eq!(*stopped, (17, "input.job.ref != \"main\"".into()));
    assert!(main_only.detail().contains("input.job.ref is \"main\""), "{}", main_only.detail());
    assert!(matches!(&own.came_to, CameTo::Fired(_)));
}

#[test]
fn an_explanation_shows_prints_failures_and_the_unknown() {
    let policy = load(
        "deny contains \"x\" if {\n\tprint(\"ref is\", input.job.ref, input.job.stage)\n\tinput.job.stage == \"deploy\"\n}\n\
         warn contains \"y\" if startswith(input.project.id, \"7\")",
    )
    .unwrap();
    let explanation = policy.explain(&request(job())).unwrap();
    assert_eq!(explanation.prints, ["policy.rego:4: ref is main <undefined>"]);
    assert!(explanation.rules[0].detail().contains("input.job.stage is unknown"), "{}", explanation.rules[0].detail());
    assert!(matches!(&explanation.rules[1].came_to, CameTo::Failed(why) if why.starts_with("policy.rego:7:")));
}

#[test]
fn tests_run_and_tell_what_they_reached() {
    let policy = RegoPolicy::load(
        &[file(
            "images.rego",
            "package jobgate\n\ndeny contains \"latest\" if {\n\tinput.job.image.tag == \"latest\"\n}\n\nwarn contains \"old\" if {\n\tinput.job.image.tag == \
             \"1\"\n}\n",
        )],
        None,
        &options(),
    )
    .unwrap();
    let tests = file(
        "images_test.rego",
        "package jobgate_test\n\nimport data.jobgate\n\ntest_latest_is_refused if {\n\t\"latest\" in jobgate.deny with input as {\"job\": \
         {\"image\": {\"tag\": \"latest\"}}}\n}\n\ntest_wrong if {\n\tprint(\"here\")\n\tcount(jobgate.deny) == 1 with input as {\"job\": \
         {\"image\": {\"tag\": \"2\"}}}\n}\n\ntest_broken if count(5) == 1\n\nhelper := 1\n",
    );
    let run = policy.run_tests(&[tests]).unwrap();
    let seen: Vec<_> = run.tests.iter().map(|test| (test.name.as_str(), test.line, test.passed)).collect();
    assert_eq!(seen, [("test_latest_is_refused", 5, true), ("test_wrong", 9, false), ("test_broken", 14, false)]);
    assert_eq!(run.tests[1].error, None);
    assert_eq!(run.tests[1].prints, ["images_test.rego:10: here"]);
    assert!(run.tests[2].error.as_ref().unwrap().starts_with("images_test.rego:14:"), "{:?}", run.tests[2]);
    let covered: Vec<_> = run.coverage.iter().map(|rule| (rule.rule.set, rule.covered)).collect();
    assert_eq!(covered, [("deny", true), ("warn", false)]);
    // It was asked, and never came to its head.
    assert_eq!(run.coverage[1].missed.iter().copied().collect::<Vec<_>>(), [7]);
}

#[test]
fn broken_tests_are_faults() {
    let policy = load("deny contains \"x\"").unwrap();
    let faults = policy.run_tests(&[file("a_test.rego", "package t\ntest_x if {")]).unwrap_err().to_string();
    assert!(faults.starts_with("a_test.rego:2:"), "{faults}");
    let endless = file("a_test.rego", "package t\nf(x) := f(x)\ntest_x if f(1)");
    assert!(policy.run_tests(&[endless]).unwrap_err().to_string().contains("depends on itself"));
}
