use std::{fs, time::Duration};

use jobgate_yaml::Source;

use super::*;

struct Folder(tempfile::TempDir);

fn folder() -> Folder {
    let folder = Folder(tempfile::tempdir().unwrap());
    for (name, text) in [
        ("a.token", "aaaaaaaaaaaaaaaaaaaaaaaa\n"),
        ("b.token", "bbbbbbbbbbbbbbbbbbbbbbbb"),
        ("c.token", "cccccccccccccccccccccccc"),
        ("copy.token", "aaaaaaaaaaaaaaaaaaaaaaaa"),
        ("short.token", "hunter2"),
        ("ca.pem", "pem"),
    ] {
        fs::write(folder.0.path().join(name), text).unwrap();
    }
    folder
}

impl Folder {
    fn parse(&self, text: &str) -> Result<Config, String> {
        Config::parse(&Source::new("jobgate.yaml", text), self.0.path()).map_err(|faults| faults.to_string())
    }

    fn good(&self, text: &str) -> Config {
        self.parse(text).unwrap_or_else(|faults| panic!("{faults}"))
    }

    fn faults(&self, text: &str) -> String {
        self.parse(text).expect_err("it should have faults")
    }
}

#[test]
fn the_example_of_the_design_is_read() {
    let config = folder().good(
        r#"
listen: 127.0.0.1:7400
external_url: http://127.0.0.1:7400
state: ./jobgate-data
controllers:
  - { name: image-allowlist, scope: instance, policy: policies/instance }
  - { name: payments, scope: "group:acme/payments", policy: policies/payments.yaml, state: dry_run }
  - { name: release-window, scope: "project:acme/payments/api", grpc: "https://controllers.acme.example:7501", tls: { ca: ca.pem }, timeout: 500ms }
  - { name: gpu-quota, scope: "runner:gpu-1", attach: { token_file: a.token }, on_failure: admit, expose: [script] }
runners:
  - { name: gpu-1, token_file: b.token, type: group, owner: acme, tags: [gpu, linux], run_untagged: false, protected: false, priority: 10 }
tokens:
  - { name: ci, token_file: c.token, may: [submit, read], projects: ["acme/**"] }
"#,
    );
    assert_eq!(config.controllers.len(), 4);
    assert_eq!(config.controllers[1].state, ControllerState::DryRun);
    assert_eq!(config.controllers[2].timeout, Duration::from_millis(500));
    assert_eq!(config.controllers[0].timeout, Duration::from_secs(2));
    assert_eq!(config.controllers[3].on_failure, OnFailure::Admit);
    assert!(config.controllers[3].expose.script());
    assert_eq!(config.runners[0].owner, RunnerOwner::Group("acme".parse().unwrap()));
    assert!(config.tokens[0].submit && config.tokens[0].read && !config.tokens[0].operate);
    assert_eq!(config.admission_timeout, Duration::from_secs(10));
    assert_eq!(config.admission_ttl, Duration::from_secs(600));
    assert!(!config.is_trial());
}

#[test]
fn an_empty_configuration_is_trial_mode_on_loopback() {
    let config = folder().good("{}");
    assert!(config.is_trial() && config.listen.ip().is_loopback());
    assert_eq!(config.external_url.as_deref(), Some("http://127.0.0.1:7400"));
}

#[test]
fn every_fault_is_reported_at_once_with_its_place() {
    let faults = folder().faults(
        r#"lisen: 127.0.0.1:1
admission_timeout: 26s
controllers:
  - { name: a, scope: "grup:acme", policy: p }
  - { name: a, scope: instance, policy: p, on_failure: admit }
  - { name: b, scope: instance, policy: p, grpc: "https://x.example" }
  - { name: c, scope: instance, grpc: "http://controllers.example:1" }
  - { name: d, scope: instance, grpc: "https://user:hunter2@controllers.example" }
  - { name: e, scope: instance, attach: { token_file: missing.token } }
  - { name: f, scope: "runner:gpu", policy: p, timeout: soon, state: dryrun }
runners:
  - { name: r, token_file: short.token }
  - { name: g, token_file: a.token, type: group }
  - { name: i, token_file: b.token, owner: acme }
  - { name: n, token_file: c.token, run_untagged: false }
tokens:
  - { name: t, token_file: copy.token, may: [], projects: ["acme[x]"] }
"#,
    );
    for expected in [
        "jobgate.yaml:1:1: unknown key `lisen`; did you mean `listen`?",
        "jobgate.yaml:2:20: `26s` is out of range",
        "a scope is `instance`, `group:<path>`, `project:<path>` or `runner:<name>`",
        "`on_failure: admit` is for controllers over gRPC only",
        "a controller has exactly one of `policy`, `grpc`, `attach`",
        "`http://controllers.example:1` would carry job data over the network in clear",
        "a URL must not hold a name or password",
        "missing.token: No such file",
        "`soon` is not a length of time",
        "unknown word `dryrun`; did you mean `dry_run`?",
        "short.token does not hold a token",
        "a group or project runner needs `owner`",
        "an instance runner has no `owner`",
        "a runner without tags that takes no untagged jobs takes no job at all",
        "a token that may do nothing is of no use",
        "`acme[x]` is not a glob over project paths",
    ] {
        assert!(faults.contains(expected), "missing: {expected}\nin:\n{faults}");
    }
    assert!(!faults.contains("hunter2"), "{faults}");
}

#[test]
fn names_and_tokens_are_unique_and_runner_scopes_name_runners() {
    let faults = folder().faults(
        r#"
controllers:
  - { name: a, scope: instance, policy: p }
  - { name: a, scope: "runner:gpu-2", policy: p }
  - { name: c, scope: instance, attach: { token_file: a.token } }
runners:
  - { name: gpu-1, token_file: copy.token }
"#,
    );
    assert!(faults.contains("there are two controllers named `a` (the other is in line 3)"), "{faults}");
    assert!(faults.contains("there is no runner `gpu-2`; did you mean `gpu-1`?"), "{faults}");
    assert!(faults.contains("runner `gpu-1` has the token of controller `c`"), "{faults}");
    assert!(!faults.contains("aaaa"), "no token is shown: {faults}");
}

#[test]
fn beyond_loopback_it_wants_tls_and_tokens_or_to_be_told() {
    let folder = folder();
    let open = "listen: 0.0.0.0:7400\n";
    assert!(folder.faults(open).contains("without any token the router listens on loopback only"));
    assert!(folder.faults(&format!("{open}insecure: true\n")).contains("without any token"));
    let tokens = format!("{open}tokens:\n  - {{ name: t, token_file: a.token, may: [read] }}\n");
    assert!(folder.faults(&tokens).contains("tokens would cross the network in clear"));
    let config = folder.good(&format!("{tokens}insecure: true\n"));
    assert_eq!(config.external_url, None, "what runners are told cannot be guessed");
}

#[test]
fn a_controller_beyond_loopback_needs_tls_or_to_be_told() {
    let folder = folder();
    let with = |more: &str| format!("controllers:\n  - {{ name: a, scope: instance, {more} }}\n");
    folder.good(&with("grpc: \"http://127.0.0.1:1\""));
    folder.good(&with("grpc: \"http://localhost:1\""));
    folder.good(&with("grpc: \"http://[::1]:1\""));
    folder.good(&with("grpc: \"http://10.0.0.1:1\", insecure: true"));
    folder.good(&with("grpc: [\"https://a.example\", \"https://b.example\"]"));
    for tricky in ["http://127.0.0.1.evil.example:1", "http://localhost.evil.example:1", "ftp://127.0.0.1:1", "http://"]
    {
        folder.faults(&with(&format!("grpc: \"{tricky}\"")));
    }
    let clear = with("grpc: \"http://127.0.0.1:1\", tls: { ca: ca.pem }");
    assert!(folder.faults(&clear).contains("`tls` is of no use with `http://127.0.0.1:1`"));
    fs::write(folder.0.path().join("der.key"), [0x30, 0x82, 0xff]).unwrap();
    let der = with("grpc: \"https://a.example\", tls: { cert: ca.pem, key: der.key }");
    assert!(folder.faults(&der).contains("`key` is not a PEM file"));
    assert!(folder.faults(&with("policy: p, tls: {}")).contains("`tls` belongs to `grpc`"));
}

#[test]
fn scheduling_is_read() {
    let config = folder().good(
        r#"
retention: 720h
spillover_hold: 0s
runner_groups:
  - { name: deployers, single_leader: true }
  - { name: builders }
runners:
  - { name: d-1, token_file: a.token, group: deployers }
  - { name: free, token_file: b.token }
priorities:
  - { class: 10, environments: [production, "eu/*"], protected: true }
  - { class: -5, sources: schedule, refs: ["release (é)/**"] }
  - { projects: ["acme/**"] }
fairness:
  - { projects: ["acme/**", other/x], weight: 3 }
"#,
    );
    assert_eq!(config.retention, Duration::from_secs(30 * 86_400));
    assert_eq!(config.spillover_hold, Duration::ZERO, "at once");
    let groups: Vec<_> = config.runner_groups.iter().map(|group| (&*group.name, group.single_leader)).collect();
    assert_eq!(groups, [("deployers", true), ("builders", false)]);
    assert_eq!(config.runners[0].group.as_deref(), Some("deployers"));
    assert_eq!(config.runners[1].group, None);
    let classes: Vec<_> = config.priorities.iter().map(|rule| rule.class).collect();
    assert_eq!(classes, [10, -5, 0], "in the order of the file");
    assert_eq!(config.priorities[0].protected, Some(true));
    assert!(config.priorities[0].environments[1].matches("eu/west"));
    assert_eq!(config.priorities[1].sources, ["schedule"]);
    assert!(config.fairness[0].projects[1].matches("other/x"));
    assert_eq!(config.fairness[0].weight, 3);

    let config = folder().good("retention: 30d\nspillover_hold: 1h\n");
    assert_eq!((config.retention, config.spillover_hold), (Duration::from_secs(2_592_000), Duration::from_secs(3600)));
    let config = folder().good("{}");
    assert_eq!((config.retention, config.spillover_hold), (Duration::from_secs(2_592_000), Duration::from_secs(30)));
    assert!(config.priorities.is_empty() && config.fairness.is_empty() && config.runner_groups.is_empty());
}

#[test]
fn every_fault_of_scheduling_has_its_place() {
    let faults = folder().faults(
        r#"retention: 59m
spillover_hold: 61m
runner_groups:
  - { name: deployers, single_leader: true }
  - { name: deployers }
  - { name: builders, single_leaders: true }
runners:
  - { name: d-1, token_file: a.token, group: deployer }
priorities:
  - { class: 101, projects: ["acme/**"] }
  - { class: 10 }
  - { class: 1, environment: [production] }
  - { class: 1, environments: [] }
  - { class: 1, refs: [""], sources: ["merge request"] }
  - { class: 1, projects: ["acme[x]"], protected: perhaps }
fairness:
  - { weight: 0 }
  - { projects: ["acme[y]"], weight: 1001 }
  - { projects: ["acme/**"] }
"#,
    );
    for expected in [
        "jobgate.yaml:1:12: `59m` is out of range",
        "from `1h` to `3650d`",
        "jobgate.yaml:2:17: `61m` is out of range",
        "from `0s` to `1h`",
        "jobgate.yaml:6:23: unknown key `single_leaders`; did you mean `single_leader`?",
        "jobgate.yaml:10:14: 101 is not within -100 to 100",
        "jobgate.yaml:11:5: a priority rule without a matcher would fit every job",
        "add one of `projects`, `environments`, `refs`, `sources`, `protected`",
        "jobgate.yaml:12:17: unknown key `environment`; did you mean `environments`?",
        "jobgate.yaml:13:31: `environments` is empty: no job would fit",
        "jobgate.yaml:14:24: `` is not a glob",
        "`merge request` is not a source of pipelines",
        "jobgate.yaml:15:28: `acme[x]` is not a glob over project paths",
        "expected true or false, found text",
        "jobgate.yaml:17:5: an entry of `fairness` needs `projects`",
        "0 is not within 1 to 1000",
        "`acme[y]` is not a glob over project paths",
        "1001 is not within 1 to 1000",
        "jobgate.yaml:19:5: an entry of `fairness` needs `weight`",
    ] {
        assert!(faults.contains(expected), "missing: {expected}\nin:\n{faults}");
    }
    // Once each group can be read, names are compared.
    let faults = folder().faults(
        "runner_groups:\n  - { name: deployers }\n  - { name: deployers }\nrunners:\n  \
         - { name: d-1, token_file: a.token, group: deployer }\n",
    );
    let expected = "jobgate.yaml:5:5: runner `d-1`: there is no runner group `deployer`; did you mean `deployers`?";
    assert!(faults.contains(expected), "{faults}");
    assert!(faults.contains("there are two runner groups named `deployers` (the other is in line 2)"), "{faults}");
    let faults = folder().faults("runners:\n  - { name: d-1, token_file: a.token, group: builders }\n");
    assert!(faults.contains("there is no runner group `builders`\n"), "{faults}");
}

#[test]
fn secrets_do_not_print() {
    let folder = folder();
    let config = folder.good(
        "controllers:\n  - { name: a, scope: instance, attach: { token_file: a.token } }\nrunners:\n  \
         - { name: r, token_file: b.token }\ntokens:\n  - { name: t, token_file: c.token, may: [read] }\n",
    );
    let text = format!("{config:?}");
    assert!(!text.contains("aaaa") && !text.contains("bbbb") && !text.contains("cccc"), "{text}");
    assert_eq!(text.matches("[redacted]").count(), 3);
    assert!(config.tokens[0].token.is("cccccccccccccccccccccccc") && !config.tokens[0].token.is("c"));
}

#[test]
fn a_gitlab_is_read_with_all_its_keys() {
    let config = folder().good(
        "gitlab:\n  url: https://gitlab.example.com/sub/\n  runners: [{ id: 17, name: gpu-1 }]\n  polls_per_token: 7\n  \
         failure_reasons: { policy: [runner_unsupported] }\ncontrollers:\n  - { name: c, scope: \"runner:gpu-1\", grpc: \
         \"http://127.0.0.1:1\" }\n",
    );
    let gitlab = config.gitlab.unwrap();
    assert_eq!(gitlab.url, "https://gitlab.example.com/sub");
    assert_eq!((gitlab.runners[0].id, &*gitlab.runners[0].name, gitlab.polls_per_token), (17, "gpu-1", 7));
    assert_eq!(gitlab.policy_reasons, ["runner_unsupported"]);
    assert_eq!(gitlab.failure_reasons, ["runner_system_failure"]);
}

#[test]
fn what_is_wrong_with_a_gitlab_is_said() {
    for (text, fault) in [
        ("gitlab: { url: http://gitlab.example.com }", "would cross the network in clear"),
        ("gitlab: { url: \"https://u:p@gitlab.example.com\" }", "must not hold a name or password"),
        ("gitlab: { url: \"https://gitlab.example.com?x=1\" }", "no query"),
        ("gitlab: { }", "url"),
        ("gitlab: { url: \"http://127.0.0.1:1\", ca: nowhere.pem }", "cannot read"),
        ("gitlab: { url: https://g.example, runners: [{ id: 1, name: a }, { id: 1, name: b }] }", "has two names"),
        (
            "gitlab: { url: https://g.example, runners: [{ id: 1, name: a }, { id: 2, name: a }] }",
            "two runners named `a`",
        ),
        ("gitlab: { url: https://g.example, failure_reasons: { policy: [] } }", "names no failure reason"),
        ("gitlab: { url: https://g.example, failure_reasons: { policy: [\"Not Good\"] } }", "is no failure reason"),
        ("gitlab: { url: https://g.example, polls_per_token: 0 }", "polls_per_token"),
        ("gitlab: { url: https://g.example, runers: [] }", "did you mean `runners`?"),
        (
            "gitlab: { url: https://g.example }\nlisten: 0.0.0.0:7400\ninsecure: true\ntokens: [{ name: t, token_file: c.token, may: \
             [read] }]",
            "must be told where this router is",
        ),
        (
            "gitlab: { url: https://g.example, runners: [{ id: 1, name: r }] }\nrunners: [{ name: r, token_file: b.token }]",
            "a runner of GitLab and one of `runners`",
        ),
        ("gitlab: { url: https://g.example, runners: [{ id: 5, name: gitlab-runner-8 }] }", "without a name is called"),
    ] {
        let faults = folder().faults(&format!("{text}\n"));
        assert!(faults.contains(fault), "{text}: {faults}");
    }
}

#[test]
fn a_file_that_is_not_there_or_not_yaml_is_a_fault_with_a_name() {
    let missing = Config::load(std::path::Path::new("/nonexistent/jobgate.yaml")).unwrap_err();
    assert!(missing.to_string().starts_with("/nonexistent/jobgate.yaml: "), "{missing}");
    let folder = folder();
    for broken in ["listen: [", "- a\n- b\n", "listen: x\nlisten: y\n", "just text"] {
        assert!(folder.faults(broken).starts_with("jobgate.yaml:"), "{broken}");
    }
}
