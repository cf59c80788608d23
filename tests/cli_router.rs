//! Router, runner, controller and clients as processes of their own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

#[path = "support/program.rs"]
mod program;

use program::{Folder, Server, examples, jobgate};
use serde_json::Value;

const RUNNER_TOKEN: &str = "runner-token-4f1c09";
const CLIENT_TOKEN: &str = "client-token-77ab20";
const CONTROLLER_TOKEN: &str = "controller-token-51e";

const POLICY: &str = "
apiVersion: jobgate/v1
kind: Policy
name: images
rules:
  - name: no-latest
    forbid: { image_tag: [latest] }
    message: \"{job.image.name} may be anything\"
";

struct Router {
    folder: Folder,
    server: Server,
    url: String,
}

impl Router {
    fn start(controllers: &str) -> Self {
        Self::start_with(&configuration(controllers))
    }

    fn start_with(configuration: &str) -> Self {
        let folder = Folder::new();
        folder.write("runner.token", RUNNER_TOKEN);
        folder.write("client.token", CLIENT_TOKEN);
        folder.write("controller.token", CONTROLLER_TOKEN);
        folder.write("images.yaml", POLICY);
        folder.write("jobgate.yaml", configuration);
        let mut server = Server::start(folder.path(), &["serve", "--config", "jobgate.yaml"]);
        let line = server.says("the router listens");
        let address = line.rsplit_once("address=").unwrap().1.trim().to_owned();
        Self { folder, server, url: format!("http://{address}") }
    }

    fn runner(&self) -> Server {
        let mut runner = Server::start(
            self.folder.path(),
            &["runner", "--name", "shell-1", "--token-file", "runner.token", "--capacity", "2", "--router", &self.url],
        );
        runner.says("attached");
        runner
    }

    fn client(&self, args: &[&str]) -> program::Ended {
        let ended =
            jobgate(self.folder.path(), &[args, &["--router", &self.url, "--token-file", "client.token"]].concat());
        for token in [RUNNER_TOKEN, CLIENT_TOKEN, CONTROLLER_TOKEN, "glcbt-"] {
            assert!(!ended.out.contains(token) && !ended.err.contains(token), "{args:?} shows {token}");
        }
        ended
    }

    fn json(&self, args: &[&str]) -> Value {
        let ended = self.client(&[args, &["--json"]].concat());
        assert_eq!(ended.code, 0, "{}", ended.err);
        serde_json::from_str(&ended.out).unwrap()
    }
}

fn configuration(controllers: &str) -> String {
    format!(
        "listen: 127.0.0.1:0
controllers:
  - {{ name: images, scope: instance, policy: images.yaml }}
{controllers}
runners:
  - {{ name: shell-1, token_file: runner.token, type: instance, run_untagged: true, tags: [linux] }}
tokens:
  - {{ name: ci, token_file: client.token, may: [submit, read, operate] }}
"
    )
}

const JOBS: &str = r#"[
  {"job": {"name": "fine", "image": "alpine:3.22"}, "project": {"path": "acme/x"},
   "payload": {"script": ["echo working with $KEY"], "variables": {"KEY": {"value": "glcbt-secret", "masked": true}}}},
  {"job": {"name": "floating", "image": "alpine"}, "project": {"path": "acme/x"}, "payload": {"script": ["true"]}},
  {"job": {"name": "failing", "image": "alpine:3.22"}, "project": {"path": "acme/x"}, "payload": {"script": ["exit 3"]}}
]"#;

#[test]
fn jobs_are_submitted_decided_run_and_followed_to_their_end() {
    let router = Router::start("");
    let runner = router.runner();
    router.folder.write("jobs.json", JOBS);
    let ended = router.client(&["submit", "jobs.json", "--wait"]);
    assert_eq!(ended.code, 1, "{}{}", ended.out, ended.err);
    for part in [
        "acme/x fine: success",
        "acme/x floating: rejected by images (instance), rule images/no-latest: alpine may be anything",
        "acme/x failing: failed exit code 3",
        "1 of 3 jobs succeeded",
    ] {
        assert!(ended.out.contains(part), "no `{part}` in:\n{}", ended.out);
    }

    router.folder.write("one.yaml", "job: {name: alone}\nproject: {path: acme/x}\npayload: {script: 'true'}\n");
    let ended = router.client(&["submit", "one.yaml", "--wait", "--json"]);
    assert_eq!(ended.code, 0, "{}{}", ended.out, ended.err);
    let states: Vec<Value> = ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(states.last().unwrap()["state"], "success");
    let id = states[0]["id"].as_str().unwrap();

    let listed = router.json(&["jobs", "--state", "rejected"]);
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 1);
    let shown = router.client(&["jobs", id, "--decisions"]);
    assert!(
        shown.out.contains("state         success") && shown.out.contains("admitted images (instance)"),
        "{}",
        shown.out
    );
    assert_eq!(router.json(&["decisions"])["decisions"].as_array().unwrap().len(), 4);
    assert!(router.client(&["controllers"]).out.contains("images"));
    assert!(router.client(&["runners"]).out.contains("shell-1  online"));
    assert_eq!(router.json(&["queue"])["jobs"]["success"], 2);
    assert_eq!(router.client(&["cancel", id]).code, 2);

    let (code, log) = runner.stopped();
    assert_eq!(code, Some(0), "{log}");
    let (code, served) = router.server.stopped();
    assert_eq!(code, Some(0), "{served}");
    for secret in [RUNNER_TOKEN, CLIENT_TOKEN, "glcbt-secret"] {
        assert!(!log.contains(secret) && !served.contains(secret), "{secret} in\n{log}\n{served}");
    }
}

#[test]
fn the_router_refuses_in_words_that_help() {
    let router = Router::start("");
    let none = jobgate(router.folder.path(), &["jobs", "--router", &router.url]);
    assert!(none.code == 2 && none.err.contains("--token-file"), "{}", none.err);
    let wrong = jobgate(router.folder.path(), &["jobs", "--router", &router.url, "--token-file", "runner.token"]);
    assert!(wrong.code == 2 && wrong.err.contains("the router refused"), "{}", wrong.err);

    router.folder.write("bad.json", r#"[{"job": 3}, {}]"#);
    let bad = router.client(&["submit", "bad.json"]);
    assert!(bad.code == 2 && bad.err.contains("[0].job") && bad.err.contains("[1]"), "{}", bad.err);
    assert_eq!(router.json(&["jobs"])["jobs"].as_array().unwrap().len(), 0);
    assert_eq!(router.client(&["jobs", "../../metrics"]).code, 2);

    let other = ["runner", "--name", "gpu-1", "--token-file", "runner.token", "--router", &router.url];
    let other = jobgate(router.folder.path(), &other);
    assert!(other.code == 2 && other.err.contains("belongs to runner `shell-1`"), "{}", other.err);
    let other = ["runner", "--name", "shell-1", "--token-file", "client.token", "--router", &router.url];
    assert_eq!(jobgate(router.folder.path(), &other).code, 2);
}

#[test]
fn a_repeated_submission_with_a_key_is_the_same_jobs() {
    let router = Router::start("");
    router.folder.write("one.yaml", "job: {name: alone}\nproject: {path: acme/x}\n");
    let submit = ["submit", "one.yaml", "--idempotency-key", "build-7"];
    assert_eq!(router.json(&submit)["jobs"][0]["id"], router.json(&submit)["jobs"][0]["id"]);
    router.folder.write("one.yaml", "job: {name: other}\nproject: {path: acme/x}\n");
    let other = router.client(&submit);
    assert!(other.code == 2 && other.err.contains("idempotency_key_reused"), "{}", other.err);
}

#[test]
fn an_attached_controller_decides_and_its_reload_is_told() {
    let attach = "  - { name: tags, scope: \"group:acme\", attach: { token_file: controller.token }, timeout: 1s }";
    let router = Router::start(attach);
    router.folder.write("job.yaml", "job: {name: a, tags: [gpu]}\nproject: {path: acme/x}\n");
    let absent = router.client(&["submit", "job.yaml", "--wait"]);
    assert!(absent.code == 1 && absent.out.contains("tags"), "{}", absent.out);

    let policy = |tag: &str| {
        format!(
            "apiVersion: jobgate/v1\nkind: Policy\nname: tags\nrules:\n  - {{name: reserved, forbid: {{tags: [{tag}]}}}}\n"
        )
    };
    router.folder.write("tags.yaml", &policy("gpu"));
    let mut controller = Server::start(
        router.folder.path(),
        &[
            "controller",
            "--policy",
            "tags.yaml",
            "--attach",
            &router.url,
            "--name",
            "tags",
            "--token-file",
            "controller.token",
        ],
    );
    controller.says("attached");
    let rejected = router.client(&["submit", "job.yaml", "--wait"]);
    assert!(rejected.out.contains("rule tags/reserved"), "{}{}", rejected.out, rejected.err);

    router.folder.write("tags.yaml", "apiVersion: jobgate/v1\n");
    controller.says("tags.yaml");
    assert!(router.client(&["submit", "job.yaml", "--wait"]).out.contains("rule tags/reserved"));
    router.folder.write("tags.yaml", &policy("windows"));
    controller.says("policies reloaded");
    let admitted = router.client(&["submit", "job.yaml"]);
    assert_eq!(admitted.code, 0);
    let (code, log) = controller.stopped();
    assert!(code == Some(0) && !log.contains(CONTROLLER_TOKEN), "{log}");
}

#[test]
fn a_changed_configuration_is_taken_and_a_faulty_one_is_not() {
    let mut router = Router::start("");
    let more = "  - { name: more, scope: \"group:acme\", policy: images.yaml, state: dry_run }";
    router.folder.write("jobgate.yaml", &configuration(more));
    router.server.says("configuration reloaded");
    assert_eq!(router.json(&["controllers"])["controllers"].as_array().unwrap().len(), 2);
    router.folder.write("jobgate.yaml", "nonsense: 1\n");
    router.server.says("the new configuration is faulty; the old one stays");
    assert_eq!(router.json(&["controllers"])["controllers"].as_array().unwrap().len(), 2);
    router.folder.write("jobgate.yaml", &configuration(""));
    router.server.signal("HUP");
    router.server.says("configuration reloaded");
    assert_eq!(router.json(&["controllers"])["controllers"].as_array().unwrap().len(), 1);
}

#[test]
fn a_controller_that_listens_conforms() {
    let folder = Folder::new();
    let policies = examples().join("policies/hardening");
    let mut controller = Server::start(
        folder.path(),
        &["controller", "--policy", policies.to_str().unwrap(), "--listen", "127.0.0.1:0"],
    );
    let line = controller.says("the controller listens");
    let address = line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
    let ended = jobgate(folder.path(), &["conformance", address]);
    assert_eq!(ended.code, 0, "{}", ended.out);
    let (code, log) = controller.stopped();
    assert_eq!(code, Some(0), "{log}");
    let ended = jobgate(folder.path(), &["conformance", address, "--json"]);
    let report: Value = serde_json::from_str(&ended.out).unwrap();
    assert!(ended.code == 1 && report["conforms"] == false, "{report}");
}

#[test]
fn a_runner_whose_terminal_goes_away_kills_its_jobs_and_reports_them() {
    let router = Router::start("");
    let mut runner = router.runner();
    router.folder.write("long.yaml", "job: {name: a}\nproject: {path: acme/x}\npayload: {script: [sleep 10000]}\n");
    assert_eq!(router.client(&["submit", "long.yaml"]).code, 0);
    runner.says("job accepted");
    runner.signal("HUP");
    let (code, log) = runner.ended();
    assert_eq!(code, Some(0), "{log}");
    let listed = router.json(&["jobs", "--state", "failed"]);
    assert_eq!(listed["jobs"][0]["reason"], "stopped: the runner was shut down");
}

#[test]
fn trial_mode_asks_for_no_token_and_says_so() {
    let folder = Folder::new();
    folder.write("jobgate.yaml", "listen: 127.0.0.1:0\n");
    let mut server = Server::start(folder.path(), &["serve", "--config", "jobgate.yaml"]);
    server.says("no controllers are configured");
    let address = server.says("the router listens").rsplit_once("address=").unwrap().1.to_owned();
    server.says("trial mode");
    let url = format!("http://{address}");
    let ended = jobgate(folder.path(), &["controllers", "--router", &url]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "no controllers: every job is admitted\n"));

    let mut runner =
        Server::start(folder.path(), &["runner", "--name", "any", "--tags", "gpu,linux", "--router", &url]);
    runner.says("attached");
    folder.write("job.yaml", "job: {name: a, tags: [gpu]}\nproject: {path: acme/x}\npayload: {script: [exit 0]}\n");
    let ended = jobgate(folder.path(), &["submit", "job.yaml", "--wait", "--router", &url]);
    assert!(ended.code == 0 && ended.out.ends_with("a: success\n"), "{}{}", ended.out, ended.err);
    server.signal("INT");
    assert_eq!(server.ended().0, Some(0));
}

/// A leader gets jobs with its number, a tainted runner none, and one command says why.
#[test]
fn runners_are_operated_and_jobs_explained() {
    let configuration = configuration("").replace("shell-1,", "shell-1, group: shells,");
    let groups = "runner_groups:\n  - { name: shells, single_leader: true }\n";
    let router = Router::start_with(&format!("{configuration}{groups}"));
    let _runner = router.runner();
    let document = |tag: &str| {
        format!(
            "job: {{name: a, tags: [{tag}]}}\nproject: {{path: acme/x}}\npayload: {{script: ['test -n \"$JOBGATE_FENCE\"']}}\n"
        )
    };
    router.folder.write("job.yaml", &document("linux"));
    router.folder.write("gpu.yaml", &document("gpu"));
    let led = router.client(&["submit", "job.yaml", "--wait"]);
    assert_eq!(led.code, 0, "{}{}", led.out, led.err);
    assert!(router.client(&["queue"]).out.contains("shells        shell-1"), "{}", router.client(&["queue"]).out);

    let stuck = router.json(&["submit", "gpu.yaml"])["jobs"][0]["id"].as_str().unwrap().to_owned();
    let why = router.client(&["jobs", &stuck]).out;
    assert!(why.contains("no_matching_runner: ") && why.contains("gpu") && why.contains("submitted"), "{why}");
    let unserved = &router.json(&["queue"])["groups"];
    assert!(unserved.as_array().unwrap().iter().any(|group| group["served"] == false), "{unserved}");

    let tainted = router.client(&["runners", "taint", "shell-1", "--kind", "jobs", "--reason", "disk is full"]);
    assert!(tainted.code == 0 && tainted.out.contains("jobs, by ci"), "{}{}", tainted.out, tainted.err);
    let kept = router.json(&["submit", "job.yaml"])["jobs"][0]["id"].as_str().unwrap().to_owned();
    let why = router.client(&["jobs", &kept]).out;
    assert!(why.contains("waits") && why.contains("shell-1"), "{why}");
    assert_eq!(router.client(&["runners", "untaint", "shell-1"]).code, 0);
    let pinned = router.client(&["runners", "pin", "shells", "shell-1"]);
    assert!(pinned.code == 0 && pinned.out.contains("shells"), "{}{}", pinned.out, pinned.err);
    assert_eq!(router.client(&["submit", "job.yaml", "--wait"]).code, 0);
    assert_eq!(router.client(&["runners", "unpin", "shells"]).code, 0);
    assert_eq!(router.client(&["runners", "drain", "shell-1"]).code, 0);
    assert!(router.client(&["runners"]).out.contains("shell-1  draining"));
    let nobody = router.client(&["runners", "drain", "shell1"]);
    assert!(nobody.code == 2 && nobody.err.contains("did you mean `shell-1`?"), "{}", nobody.err);
}

/// What `docs/operations.md` tells people to watch is there to be watched.
#[test]
fn the_metrics_of_the_page_for_operators_exist() {
    let configuration = configuration("").replace("shell-1,", "shell-1, group: shells,");
    let groups = "runner_groups:\n  - { name: shells, single_leader: true }\n";
    let router = Router::start_with(&format!("{configuration}{groups}"));
    router.folder.write("jobs.json", JOBS);
    assert_eq!(router.client(&["submit", "jobs.json"]).code, 0);
    // A family without a sample is not written.
    assert_eq!(jobgate(router.folder.path(), &["jobs", "--router", &router.url]).code, 2);
    let metrics = get(&router.url, "/metrics");
    let docs = include_str!("../docs/operations.md");
    let named: Vec<_> = docs.split('`').filter(|word| word.starts_with("jobgate_")).collect();
    assert!(named.len() > 10);
    for name in named {
        assert!(metrics.contains(name.trim_end_matches("_total")), "{name} in:\n{metrics}");
    }
    for token in [RUNNER_TOKEN, CLIENT_TOKEN, "glcbt-secret"] {
        assert!(!metrics.contains(token));
    }
    assert!(get(&router.url, "/readyz").starts_with("HTTP/1.1 200"));
}

/// What `docs/operations.md` lists as REST is there to be asked.
#[test]
fn the_requests_of_the_page_for_operators_exist() {
    let router = Router::start("");
    let docs = include_str!("../docs/operations.md");
    let table = docs.split("\n## REST\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let requests = table.split('`').filter(|word| word.starts_with("GET /") || word.starts_with("POST /"));
    let mut seen = 0;
    for request in requests {
        let (method, path) = request.split_once(' ').unwrap();
        let path = path.replace("{id}", "0123").replace("{name}", "x").replace("{group}", "x");
        let answer = ask(&router.url, method, &path);
        let good = !answer.contains("there is nothing at") && !answer.contains("method_not_allowed");
        assert!(good && !answer.starts_with("HTTP/1.1 401"), "{request}:\n{answer}");
        seen += 1;
    }
    assert!(seen >= 13, "{seen} requests");
}

fn get(url: &str, path: &str) -> String {
    ask(url, "GET", path)
}

fn ask(url: &str, method: &str, path: &str) -> String {
    use std::io::{Read, Write};
    let host = url.trim_start_matches("http://");
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {CLIENT_TOKEN}\r\n");
    write!(stream, "{head}connection: close\r\ncontent-length: 0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// With huge pages, memory of an idle connection becomes resident that nobody has touched; mimalloc asks for them unless it is
/// built not to.
#[cfg(target_os = "linux")]
#[test]
fn a_router_asks_for_no_huge_pages() {
    let flags = Router::start("").server.memory_flags();
    assert!(!flags.is_empty());
    let huge: Vec<_> = flags.iter().filter(|flags| flags.split_whitespace().any(|flag| flag == "hg")).collect();
    assert!(huge.is_empty(), "{huge:?}");
}
