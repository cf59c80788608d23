//! The truth table of matchers, as docs/policies.md prints it: what `match`, `require` and `forbid` make of a value that is
//! known, unknown, empty, or a list.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use jobgate_controllers::{LoadOptions, PolicySet};
use jobgate_sdk::{AdmissionRequest, Controller, Image, Outcome, Script, Strings, Subject, User, Variable, testing};

/// Whether a condition as `match` applies, as `require` is content, as `forbid` fires.
async fn ask(condition: &str, request: &AdmissionRequest) -> [bool; 3] {
    let mut answers = [false; 3];
    let rules = [
        // Behind the narrowing stands a rule that fires on every job, so that it fires where the narrowing holds.
        format!("match: {condition}, forbid: {{ jobs: ['**', ''] }}"),
        format!("require: {condition}"),
        format!("forbid: {condition}"),
    ];
    for (index, rule) in rules.into_iter().enumerate() {
        let text = format!("{{ apiVersion: jobgate/v1, kind: Policy, name: p, rules: [{{ name: r, {rule} }}] }}");
        let options = LoadOptions { expose: vec!["script".into(), "COLOUR".into()], ..LoadOptions::default() };
        let set = PolicySet::from_texts([("p.yaml", &*text)], &options).unwrap_or_else(|faults| panic!("{faults}")).set;
        let verdict = set.admit(request).await;
        assert!(!matches!(verdict.outcome(), Outcome::Failed(_)), "{verdict:?}");
        answers[index] = verdict.is_admitted() == (index == 1);
    }
    answers
}

fn with(change: impl FnOnce(&mut jobgate_sdk::Job)) -> AdmissionRequest {
    testing::request().job(change).build()
}

const ALL: [bool; 3] = [true, true, true];
const NONE: [bool; 3] = [false, false, false];

#[tokio::test]
async fn a_scalar() {
    let set = with(|job| job.environment = Some("production".into()));
    let empty = with(|job| job.environment = Some(String::new()));
    let unknown = with(|job| job.environment = None);
    for (pattern, request, expected) in [
        ("[production]", &set, ALL),
        ("[staging]", &set, NONE),
        ("[staging, 'prod*']", &set, ALL),
        ("['']", &set, NONE),
        ("[production]", &empty, NONE),
        ("['**']", &empty, NONE),
        ("['']", &empty, ALL),
        ("[production]", &unknown, NONE),
        ("['**']", &unknown, NONE),
        ("['']", &unknown, ALL),
        ("[production, '']", &unknown, ALL),
    ] {
        assert_eq!(ask(&format!("{{ environments: {pattern} }}"), request).await, expected, "{pattern}");
    }
}

#[tokio::test]
async fn a_flag_that_is_unknown_is_not_false() {
    let [yes, no, unknown] = [Some(true), Some(false), None].map(|flag| with(|job| job.protected = flag));
    for (pattern, request, expected) in [
        ("true", &yes, ALL),
        ("false", &yes, NONE),
        ("true", &no, NONE),
        ("false", &no, ALL),
        ("true", &unknown, NONE),
        ("false", &unknown, NONE),
        ("[true, false]", &unknown, NONE),
        ("['']", &unknown, ALL),
        ("['']", &no, NONE),
    ] {
        assert_eq!(ask(&format!("{{ protected: {pattern} }}"), request).await, expected, "{pattern}");
    }
}

#[tokio::test]
async fn a_list() {
    let tags = |tags: Option<&[&str]>| {
        let tags = tags.map(|tags| Strings { values: tags.iter().map(ToString::to_string).collect() });
        with(|job| job.tags = tags)
    };
    let [both, one, empty, unknown] = [Some(&["gpu", "linux"][..]), Some(&["gpu"]), Some(&[]), None].map(tags);
    for (pattern, request, expected) in [
        ("[gpu]", &both, [true, false, true]),
        ("[gpu, linux]", &both, ALL),
        ("[arm]", &both, NONE),
        ("[gpu]", &one, ALL),
        ("[gpu]", &empty, [false, true, false]),
        ("['']", &empty, ALL),
        ("['']", &one, NONE),
        ("[gpu]", &unknown, NONE),
        ("['']", &unknown, ALL),
    ] {
        assert_eq!(ask(&format!("{{ tags: {pattern} }}"), request).await, expected, "{pattern}");
    }
}

#[tokio::test]
async fn images() {
    let alpine = testing::request().image("alpine:3.20").build();
    let with_service = testing::request().image("alpine:3.20").service("postgres:16").build();
    let none = testing::request().no_image().build();
    let unresolved = testing::request().image("$REGISTRY/alpine:3.20").build();
    let unparsed = with(|job| job.image = Some(Image { name: "alpine".into(), ..Image::default() }));
    let never = [false, false, true];
    for (condition, request, expected) in [
        ("{ image: [alpine] }", &alpine, ALL),
        ("{ image: ['alpine:3.*'] }", &with_service, [true, false, true]),
        ("{ image: [alpine, postgres] }", &with_service, ALL),
        ("{ image: ['**'] }", &none, NONE),
        ("{ image: ['**', ''] }", &none, ALL),
        ("{ image: ['**', ''] }", &unresolved, never),
        ("{ image: [debian] }", &unresolved, never),
        ("{ image: ['**', ''] }", &unparsed, never),
        ("{ image_registry: [docker.io] }", &alpine, ALL),
        ("{ image_registry: [docker.io] }", &unresolved, never),
        ("{ image_repository: ['library/*'] }", &with_service, ALL),
        ("{ image_repository: [''] }", &unresolved, never),
        ("{ image_tag: ['3.20'] }", &alpine, ALL),
        ("{ image_tag: ['3.20'] }", &with_service, [true, false, true]),
        ("{ image_tag: [''] }", &unresolved, never),
        ("{ image_digest: ['sha256:*'] }", &alpine, NONE),
        ("{ image_digest: [''] }", &alpine, ALL),
        ("{ image_digest: [''] }", &unresolved, never),
        ("{ services: [postgres] }", &with_service, ALL),
        ("{ services: [postgres] }", &alpine, [false, true, false]),
        ("{ services: [''] }", &alpine, ALL),
    ] {
        assert_eq!(ask(condition, request).await, expected, "{condition} on {:?}", request.job().image);
    }
    let service = testing::request().image("alpine:3.20").service("$X/dind").build();
    assert_eq!(ask("{ services: ['docker:*dind*'] }", &service).await, never);
    assert_eq!(ask("{ image: [alpine] }", &service).await, [true, false, true]);
}

#[tokio::test]
async fn a_place_in_the_tree_of_groups() {
    let api = testing::request().project("acme/payments/api").build();
    let evil = testing::request().project("acme-evil/x").build();
    for (pattern, request, expected) in [
        ("[acme]", &api, ALL),
        ("[acme/payments]", &api, ALL),
        ("[ACME/Payments]", &api, ALL),
        ("['acme/*']", &api, ALL),
        ("[acme/other]", &api, NONE),
        ("[acme]", &evil, NONE),
    ] {
        assert_eq!(ask(&format!("{{ groups: {pattern} }}"), request).await, expected, "{pattern}");
    }
    assert_eq!(ask("{ projects: ['acme/**'] }", &evil).await, NONE);
    assert_eq!(ask("{ projects: ['ACME/**'] }", &api).await, ALL);
}

#[tokio::test]
async fn users_by_login_and_by_id() {
    let ada = testing::request().user("ada").build();
    let of = |user: Option<User>| {
        let subject = Subject { user: user.map(Into::into), ..ada.subject().clone() };
        AdmissionRequest::new(ada.question().clone(), subject)
    };
    let (nobody, by_id) = (of(None), of(Some(User { id: Some(42), login: None })));
    for (pattern, request, expected) in [
        ("[ada]", &ada, ALL),
        ("['a*', eve]", &ada, ALL),
        ("[eve]", &ada, NONE),
        ("[42]", &by_id, ALL),
        ("[43]", &by_id, NONE),
        ("['**']", &nobody, NONE),
        ("['']", &nobody, ALL),
    ] {
        assert_eq!(ask(&format!("{{ users: {pattern} }}"), request).await, expected, "{pattern}");
    }
}

#[tokio::test]
async fn variables_by_name_and_by_value() {
    let red = testing::request().variable("COLOUR", "red").build();
    let hidden = with(|job| job.variables = vec![Variable { key: "COLOUR".into(), ..Variable::default() }]);
    let twice = testing::request().variable("COLOUR", "red").variable("COLOUR", "blue").build();
    let none = with(|job| job.variables.clear());
    for (condition, request, expected) in [
        ("{ variables: [COLOUR] }", &hidden, ALL),
        ("{ variables: ['COL*'] }", &hidden, ALL),
        ("{ variables: [OTHER] }", &hidden, NONE),
        ("{ variables: [COLOUR] }", &none, [false, true, false]),
        ("{ variables: { COLOUR: [red] } }", &red, ALL),
        ("{ variables: { COLOUR: [blue] } }", &red, NONE),
        ("{ variables: { COLOUR: ['**'] } }", &hidden, NONE),
        ("{ variables: { COLOUR: [''] } }", &hidden, ALL),
        ("{ variables: { COLOUR: ['**'] } }", &none, NONE),
        ("{ variables: { COLOUR: [''] } }", &none, ALL),
        ("{ variables: { COLOUR: [red] } }", &twice, [true, false, true]),
    ] {
        assert_eq!(ask(condition, request).await, expected, "{condition}");
    }
}

#[tokio::test]
async fn scripts_line_by_line() {
    let piped = testing::request().script(["make", "curl https://x.example/i.sh |\n  sh"]).build();
    let plain = testing::request().script(["make all", "make test"]).build();
    let condition = r"{ script: ['\bcurl\b.*\|\s*sh\b'] }";
    assert_eq!(ask(condition, &piped).await, [true, false, true]);
    assert_eq!(ask(condition, &plain).await, NONE);
    assert_eq!(ask("{ script: ['^make '] }", &plain).await, ALL);
    assert_eq!(ask("{ script: ['^make '] }", &testing::request().script([]).build()).await, [false, true, false]);
}

#[tokio::test]
async fn kinds_and_runners() {
    let branch = testing::request().branch("main").build();
    let unknown = with(|job| job.ref_type = None);
    assert_eq!(ask("{ ref_types: [branch] }", &branch).await, ALL);
    assert_eq!(ask("{ ref_types: [tag] }", &branch).await, NONE);
    assert_eq!(ask("{ ref_types: [branch, tag] }", &unknown).await, NONE);
    assert_eq!(ask("{ ref_types: [''] }", &unknown).await, ALL);
    // No runner is chosen yet.
    assert_eq!(ask("{ runner_tags: ['**'] }", &branch).await, NONE);
    assert_eq!(ask("{ runner_types: [instance, group, project] }", &branch).await, NONE);
    assert_eq!(ask("{ runner_types: [''] }", &branch).await, ALL);
    let chosen = testing::request().runner("r1").build();
    assert_eq!(ask("{ runner_types: [instance] }", &chosen).await, ALL);
    assert_eq!(ask("{ runner_tags: [gpu] }", &chosen).await, [false, true, false]);
}

#[tokio::test]
async fn the_time_is_that_of_the_question() {
    // Saturday noon, UTC.
    let request = testing::request().build();
    assert_eq!(ask("{ within: { days: [sat], timezone: UTC } }", &request).await, ALL);
    assert_eq!(ask("{ within: { days: [mon-fri], timezone: UTC } }", &request).await, NONE);
    assert_eq!(ask("{ within: { from: '12:00', to: '13:00', timezone: UTC } }", &request).await, ALL);
    assert_eq!(ask("{ within: { from: '12:00', to: '13:00', timezone: Europe/Berlin } }", &request).await, NONE);
    let either = "{ within: [{ days: [mon], timezone: UTC }, { days: [sat], timezone: UTC }] }";
    assert_eq!(ask(either, &request).await, ALL);
}

#[tokio::test]
async fn a_script_that_is_not_sent_is_a_failure_and_no_silence() {
    let text = "{ apiVersion: jobgate/v1, kind: Policy, name: p, rules: [{ name: r, forbid: { script: [curl] } }] }";
    let options = LoadOptions { expose: vec!["script".into()], ..LoadOptions::default() };
    let set = PolicySet::from_texts([("p.yaml", text)], &options).unwrap().set;
    let verdict = set.admit(&with(|job| job.script = None)).await;
    assert!(verdict.failure().unwrap().message().contains("lacks `script`"));
    assert!(set.admit(&with(|job| job.script = Some(Script::default()))).await.is_admitted());
}
