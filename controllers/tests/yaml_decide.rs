//! What YAML policies say about jobs: order, modes, messages, exemptions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::SystemTime;

use jobgate_controllers::{LoadOptions, PolicySet};
use jobgate_sdk::{Controller, Verdict, testing};

fn set(text: &str) -> PolicySet {
    let options = LoadOptions { expose: vec!["COLOUR".into(), "script".into()], ..LoadOptions::default() };
    PolicySet::from_texts([("p.yaml", text)], &options).unwrap_or_else(|faults| panic!("{faults}")).set
}

fn policy(rest: &str) -> PolicySet {
    set(&format!("apiVersion: jobgate/v1\nkind: Policy\nname: p\n{rest}"))
}

fn at(time: &str) -> SystemTime {
    time.parse::<jiff::Timestamp>().unwrap().into()
}

fn reason(verdict: &Verdict) -> &str {
    verdict.rejection().map(|rejection| rejection.reason().as_str()).unwrap_or_default()
}

/// The example of the design, word for word.
const DESIGN: &str = r#"
apiVersion: jobgate/v1
kind: Policy
name: production-images
match:                                  # all must hold; lists are any-of; globs; omitted means every job
  projects: ["acme/**"]
  environments: [production]
rules:
  - name: own-registry
    require: { image: ["registry.acme.example/**"] }
    message: "{job.image.name} is not from our registry"
  - name: pinned
    forbid: { image_tag: [latest, ""] }
  - name: office-hours
    match: { sources: [push] }
    require: { within: { days: [mon-fri], from: "08:00", to: "18:00", timezone: Europe/Berlin } }
    message: "production deploys end at 18:00"
    mode: warn                          # enforce (default) or warn
exemptions:
  - { projects: ["acme/legacy"], rules: [pinned], until: 2026-12-31, reason: "SEC-1423" }
"#;

#[tokio::test]
async fn the_example_of_the_design() {
    let set = set(DESIGN);
    let job = || testing::request().environment("production").source("push");
    let good = job().project("acme/api").image("registry.acme.example/build:1").at(at("2026-11-20T09:00:00Z")).build();
    let verdict = set.admit(&good).await;
    assert!(verdict.is_admitted() && verdict.warnings().is_empty(), "{verdict:?}");
    assert_eq!(verdict.version(), Some(set.version()));

    let verdict = set.admit(&job().project("acme/api").image("alpine").build()).await;
    assert_eq!(reason(&verdict), "alpine is not from our registry");
    assert_eq!(verdict.rejection().unwrap().rule(), Some("production-images/own-registry"));
    let late = "rule production-images/office-hours: production deploys end at 18:00";
    assert_eq!(
        verdict.warnings(),
        [
            "also rejected by rule production-images/pinned: image_tag must not be `latest` or nothing, but is `latest` in `alpine`",
            late
        ]
    );

    let legacy = job().project("acme/legacy").image("registry.acme.example/build");
    let verdict = set.admit(&legacy.build()).await;
    assert!(verdict.is_admitted());
    assert_eq!(verdict.exempted(), ["production-images/pinned: SEC-1423 (until 2026-12-31)"]);
    assert_eq!(verdict.warnings(), [late]);

    for other in [job().project("other/api"), testing::request().project("acme/api").environment("staging")] {
        assert_eq!(set.admit(&other.image("alpine").build()).await.outcome(), Verdict::admit().outcome());
    }
}

#[tokio::test]
async fn an_exemption_holds_to_the_end_of_its_last_day_in_utc() {
    let set = policy(
        "rules: [{ name: r, forbid: { image: ['**'] } }]
exemptions: [{ projects: [acme/app], rules: [r], until: 2026-12-31, reason: x }]",
    );
    for (time, admitted) in [("2026-12-31T23:59:59.999Z", true), ("2027-01-01T00:00:00Z", false)] {
        let verdict = set.admit(&testing::request().at(at(time)).build()).await;
        assert_eq!((verdict.is_admitted(), verdict.exempted().len()), (admitted, usize::from(admitted)), "{time}");
    }
    // One that is not needed is not listed.
    let verdict = set.admit(&testing::request().no_image().build()).await;
    assert!(verdict.is_admitted() && verdict.exempted().is_empty());
}

#[tokio::test]
async fn an_exemption_is_no_wider_than_it_says() {
    let set = policy(
        "rules: [{ name: a, forbid: { image: ['**'] } }, { name: b, forbid: { image: ['**'] } }]
exemptions: [{ projects: [acme/app], refs: [main], rules: [a], until: 2026-12-31, reason: x }]",
    );
    let verdict = set.admit(&testing::request().build()).await;
    assert_eq!(verdict.rejection().unwrap().rule(), Some("p/b"));
    assert_eq!(verdict.exempted(), ["p/a: x (until 2026-12-31)"]);
    for other in [testing::request().branch("dev"), testing::request().project("acme/app2")] {
        let verdict = set.admit(&other.build()).await;
        assert_eq!(verdict.rejection().unwrap().rule(), Some("p/a"));
    }
}

#[tokio::test]
async fn messages_show_fields_and_say_when_one_is_unknown() {
    let render = async |message: &str, request: &jobgate_sdk::AdmissionRequest| {
        let set = policy(&format!("rules: [{{ name: r, forbid: {{ jobs: ['**', ''] }}, message: '{message}' }}]"));
        reason(&set.admit(request).await).to_owned()
    };
    let request = testing::request()
        .tag("gpu")
        .tag("linux")
        .user("ada")
        .service("postgres:16")
        .variable("COLOUR", "red")
        .job(|job| (job.environment, job.source) = (Some(String::new()), None))
        .build();
    for (message, expected) in [
        ("{job.ref} of {project.path} by {user.login}", "main of acme/app by ada"),
        ("{ job.tags }, {job.services}", "gpu, linux, postgres:16"),
        ("{job.environment}/{job.source}/{runner.name}", "none/unknown/unknown"),
        ("{job.ref_type} {job.protected} {time}", "branch false 2026-11-21T12:00:00Z"),
        ("{{job.ref}} 100%", "{job.ref} 100%"),
        ("{job.variables.COLOUR}", "red"),
        ("{job.variables.CI_PIPELINE_SOURCE}", "unknown"),
        ("{job.image.tag} {job.image.digest}", "3.20 unknown"),
    ] {
        assert_eq!(render(message, &request).await, expected, "{message}");
    }
    let none = testing::request().no_image().build();
    assert_eq!(render("{job.image.name}", &none).await, "none");
    let long = testing::request().job(|job| job.artifact_paths = vec!["x".repeat(100_000)]).build();
    assert_eq!(render("{job.artifact_paths}", &long).await.len(), 1024);
}

#[tokio::test]
async fn without_a_message_the_value_that_decided_is_named() {
    let said = async |rule: &str, request: testing::RequestBuilder| {
        let set = policy(&format!("rules: [{{ name: r, {rule} }}]"));
        reason(&set.admit(&request.build()).await).to_owned()
    };
    let request = testing::request;
    assert_eq!(
        said("require: { image: ['registry.acme.example/**'] }", request().service("postgres:16")).await,
        "image must be `registry.acme.example/**`, but is `alpine:3.20`"
    );
    assert_eq!(
        said("require: { image: [alpine] }", request().service("$X:16")).await,
        "image must be `alpine`, but is `$X:16`, which is not resolved"
    );
    assert_eq!(
        said("require: { protected: true }", request().protected(false)).await,
        "protected must be `true`, but is `false`"
    );
    assert_eq!(said("forbid: { tags: [gpu] }", request().tag("gpu")).await, "tags must not be `gpu`, but is `gpu`");
    assert_eq!(
        said("require: { within: { days: [mon-fri], timezone: UTC } }", request()).await,
        "within must be `mon-fri 00:00-24:00 UTC`, but is 2026-11-21T12:00:00Z"
    );
    // A line of a script may hold anything; its place does not.
    assert_eq!(
        said("forbid: { script: [curl] }", request().script(["make", "curl -H 'token: glpat-x'"])).await,
        "script must not be `curl`, but is in steps.script[1]"
    );
}

#[tokio::test]
async fn too_large_a_question_fails() {
    let set = policy("rules: [{ name: r, forbid: { script: [curl] } }]");
    let line = "x".repeat(1 << 20);
    let verdict = set.admit(&testing::request().script([&*line, "y"]).build()).await;
    assert!(verdict.failure().is_some(), "{verdict:?}");
}
