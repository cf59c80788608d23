//! The router configurations of the examples: each works by the line at its top, and does what it says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use jobgate_router::config::Config;
use serde_json::{Value, json};
use support::{Running, Site, eventually_final};

/// A copy of the examples, where tokens may be written.
fn examples() -> Site {
    let site = Site::new();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for file in ["router", "policies"].iter().flat_map(|name| files(&from.join(name))) {
        let name = Path::new("examples").join(file.strip_prefix(&from).unwrap());
        if name.extension().is_none_or(|extension| extension != "token") {
            site.file(name.to_str().unwrap(), &fs::read_to_string(&file).unwrap());
        }
    }
    site
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Runs a line of shell where the examples are, with `jobgate` at hand.
fn run(site: &Site, line: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_jobgate")).parent().unwrap();
    let path = format!("{}:{}", program.display(), env::var("PATH").unwrap());
    let done = Command::new("sh").args(["-c", line]).current_dir(site.path()).env("PATH", path).output().unwrap();
    let [out, error] = [done.stdout, done.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(done.status.success(), "{line}\n{out}{error}");
    assert_eq!(error, "", "{line}");
    out
}

/// The configurations, with the line at the top of each.
fn configurations(site: &Site) -> Vec<(PathBuf, String)> {
    let mut found: Vec<_> = files(&site.path().join("examples/router"))
        .into_iter()
        .filter_map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let is_policy_or_jobs = !text.contains("\ncontrollers:\n");
            let line = text.lines().next()?.strip_prefix("# ")?.to_owned();
            (!is_policy_or_jobs).then_some((path, line))
        })
        .collect();
    found.sort();
    found
}

/// Starts the router of a configuration on a port of its own.
async fn start(site: &Site, config: &str) -> Running {
    let text = fs::read_to_string(site.path().join(config)).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("listen:"));
    let moved = Path::new(config).with_file_name("moved.yaml");
    site.file(moved.to_str().unwrap(), &format!("listen: 127.0.0.1:0\n{}\n", lines.collect::<Vec<_>>().join("\n")));
    site.start(moved.to_str().unwrap()).await
}

fn token(site: &Site, file: &str) -> String {
    fs::read_to_string(site.path().join("examples/router").join(file)).unwrap()
}

/// Submits one job, and follows it to its end.
async fn submit(router: &Running, token: &str, job: &Value) -> Value {
    let (status, answer) = router.post("/v1/jobs", token, job).await;
    assert_eq!(status, 201, "{answer}");
    eventually_final(router, token, answer["jobs"][0]["id"].as_str().unwrap()).await
}

/// Starts `jobgate runner` with these arguments; it ends when it is dropped.
fn runner(site: &Site, arguments: &str) -> tokio::process::Child {
    let mut runner = tokio::process::Command::new(env!("CARGO_BIN_EXE_jobgate"));
    runner.arg("runner").args(arguments.split(' ')).current_dir(site.path()).stderr(Stdio::null());
    runner.kill_on_drop(true).spawn().unwrap()
}

#[test]
fn every_configuration_is_good_by_the_line_at_its_top() {
    let site = examples();
    let configurations = configurations(&site);
    assert_eq!(configurations.len(), 4, "{configurations:?}");
    for (path, line) in configurations {
        let name = path.strip_prefix(site.path()).unwrap().display().to_string();
        assert!(line.contains(&name), "{name}: {line}");
        match line.strip_prefix("jobgate serve --config ") {
            Some(config) => run(&site, &format!("jobgate config check {config}")),
            None => run(&site, &line),
        };
        Config::load(&path).unwrap_or_else(|faults| panic!("{faults}"));
    }
    run(&site, "jobgate policy test examples/router/teams/gpus.yaml");
}

#[test]
fn tokens_are_written_once_and_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;

    let site = examples();
    let line = "bash examples/router/tokens.sh examples/router/rollout/jobgate.yaml";
    run(&site, line);
    let file = site.path().join("examples/router/rollout/ci.token");
    let first = fs::read_to_string(&file).unwrap();
    assert_eq!(first.len(), 64);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    run(&site, line);
    assert_eq!(fs::read_to_string(&file).unwrap(), first);
    assert_ne!(token(&site, "rollout/shared-1.token"), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn single_runs_what_its_policies_admit_on_a_runner_without_a_token() {
    let site = examples();
    let router = start(&site, "examples/router/single.yaml").await;
    let url = router.url("");
    let _runner = runner(&site, &format!("--router {url} --name trial"));
    let submit = format!("jobgate --json submit --router {url} examples/router/jobs.yaml");
    let submitted: Value = serde_json::from_str(&run(&site, &submit)).unwrap();
    let mut ends = Vec::new();
    for job in submitted["jobs"].as_array().unwrap() {
        let record = eventually_final(&router, "", job["id"].as_str().unwrap()).await;
        let reason = record["reason"].as_str().unwrap().split(':').next().unwrap().to_owned();
        ends.push((record["name"].clone(), record["state"].clone(), reason));
    }
    assert_eq!(
        ends,
        [
            (json!("test"), json!("success"), String::new()),
            (json!("scan"), json!("rejected"), "rejected by images (instance), rule allowed-registry".into()),
            (json!("package"), json!("rejected"), "rejected by images (instance), rule no-docker-in-docker".into()),
        ]
    );
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_in_roll_out_is_recorded_and_binds_only_where_it_is_enabled() {
    let site = examples();
    run(&site, "bash examples/router/tokens.sh examples/router/rollout/jobgate.yaml");
    let router = start(&site, "examples/router/rollout/jobgate.yaml").await;
    let ci = token(&site, "rollout/ci.token");
    let of = format!("--router {} --name shared-1 --token-file", router.url(""));
    let _runner = runner(&site, &format!("{of} examples/router/rollout/shared-1.token"));
    let job = |project: &str| {
        json!({
            "job": { "name": "scan", "ref": "main", "image": { "name": "quay.io/somebody/scanner:1" } },
            "project": { "path": project },
            "payload": { "script": ["true"] }
        })
    };

    let tried = submit(&router, &ci, &job("acme/web")).await;
    assert_eq!(tried["state"], "success", "{tried}");
    let (_, decisions) = router.get(&format!("/v1/decisions?job={}", tried["id"].as_str().unwrap()), &ci).await;
    let verdicts = decisions["decisions"][0]["verdicts"].as_array().unwrap();
    let images = verdicts.iter().find(|verdict| verdict["controller"] == "images").unwrap();
    assert_eq!((&images["outcome"], &images["enforced"]), (&json!("rejected"), &json!(false)), "{images}");
    assert!(verdicts.iter().all(|verdict| verdict["controller"] != "pinned"), "{verdicts:?}");

    let bound = submit(&router, &ci, &job("acme/platform/infra")).await;
    assert_eq!(bound["state"], "rejected", "{bound}");
    assert!(bound["reason"].as_str().unwrap().starts_with("rejected by images-platform (group:acme/platform)"));
    router.stop().await;
}
