//! The program from outside: real processes, what they print, and how they end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

#[path = "support/program.rs"]
mod program;

use std::{fs, net::TcpListener};

use program::{Folder, PIPED, examples, jobgate};
use serde_json::Value;

#[test]
fn a_bad_configuration_ends_it_with_every_fault_at_its_place() {
    let folder = Folder::new();
    folder.write("bad.yaml", "listen: nowhere\nprot: 1\ncontrollers:\n  - {name: a, scope: everywhere, policy: p}\n");
    for command in [["serve", "--config", "bad.yaml"].as_slice(), &["config", "check", "bad.yaml"]] {
        let ended = jobgate(folder.path(), command);
        assert_eq!((ended.code, ended.out.as_str()), (2, ""));
        for place in ["error: 3 faults", "bad.yaml:1:9:", "bad.yaml:2:1: unknown key `prot`", "bad.yaml:4:22:"] {
            assert!(ended.err.contains(place), "{command:?}: {place}:\n{}", ended.err);
        }
    }
    let missing = jobgate(folder.path(), &["serve", "--config", "none.yaml"]);
    assert!(missing.code == 2 && missing.err.contains("none.yaml"), "{}", missing.err);
}

#[test]
fn a_configuration_with_a_faulty_policy_is_not_good() {
    let folder = Folder::new();
    folder.write("p.rego", "package jobgate\n\nallow := true\n");
    folder.write("jobgate.yaml", "listen: 127.0.0.1:0\ncontrollers:\n  - {name: a, scope: instance, policy: p.rego}\n");
    for command in [["serve", "--config", "jobgate.yaml"].as_slice(), &["config", "check", "jobgate.yaml"]] {
        let ended = jobgate(folder.path(), command);
        assert!(ended.code == 2 && ended.err.contains("p.rego") && ended.err.contains("deny"), "{}", ended.err);
    }
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = Folder::new();
    folder.write("jobgate.yaml", &format!("listen: {address}\n"));
    let ended = jobgate(folder.path(), &["serve", "--config", "jobgate.yaml"]);
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains(&format!("error: {address} is in use by another program")), "{}", ended.err);
}

#[test]
fn a_router_that_is_not_there_is_named_with_what_to_do() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    let folder = Folder::new();
    folder.write("job.yaml", "job: {}");
    for command in
        [&["jobs"][..], &["queue"], &["submit", "job.yaml", "--wait"], &["jobs", "--watch"], &["cancel", "x"]]
    {
        let ended = jobgate(folder.path(), &[command, &["--router", &url]].concat());
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{command:?}");
        assert!(ended.err.contains(&format!("cannot reach the router at {url}")), "{}", ended.err);
        assert!(ended.err.contains("help: start one by `jobgate serve"), "{}", ended.err);
    }
}

#[test]
fn what_is_not_a_router_is_told_from_one() {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let other = std::thread::spawn(move || {
        let (mut caller, _) = listener.accept().unwrap();
        let _ = caller.read(&mut [0; 4096]);
        caller.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello").unwrap();
    });
    let ended = jobgate(examples(), &["jobs", "--router", &url]);
    other.join().unwrap();
    assert!(
        ended.code == 2 && ended.err.contains("answered 404 Not Found, and not as a jobgate router does"),
        "{}",
        ended.err
    );
}

#[test]
fn evaluation_ends_with_the_worst_of_its_jobs() {
    let folder = Folder::new();
    folder.write("p.rego", "package jobgate\n\ndeny contains \"no\" if input.job.name == \"bad\"\n\ndeny contains \"x\" if 1 / (count(input.job.variables) - 1) > 5\n");
    let job = |name: &str| format!("{{\"job\": {{\"name\": \"{name}\"}}, \"project\": {{\"path\": \"acme/x\"}}}}");
    let broken =
        r#"{"job": {"name": "div", "variables": [{"key": "A", "value": "1"}]}, "project": {"path": "acme/x"}}"#;
    for (documents, code, words) in [
        (job("good"), 0, "admitted acme/x good\n".to_owned()),
        (format!("[{}, {}]", job("good"), job("bad")), 1, "admitted acme/x good\nrejected acme/x bad".to_owned()),
        (format!("[{}, {broken}, {}]", job("bad"), job("good")), 2, "rejected acme/x bad".to_owned()),
    ] {
        folder.write("job.json", &documents);
        let ended = jobgate(folder.path(), &["policy", "eval", "--policy", "p.rego", "--job", "job.json"]);
        assert_eq!(ended.code, code, "{}{}", ended.out, ended.err);
        assert!(ended.out.starts_with(&words), "{}", ended.out);
        let lines = jobgate(folder.path(), &["policy", "eval", "--policy", "p.rego", "--job", "job.json", "--json"]);
        assert_eq!(lines.code, code);
        assert!(lines.out.lines().all(|line| serde_json::from_str::<Value>(line).unwrap()["outcome"].is_string()));
    }
}

#[test]
fn broken_input_of_an_evaluation_is_2_and_never_admitted() {
    let folder = Folder::new();
    folder
        .write("p.yaml", "apiVersion: jobgate/v1\nkind: Policy\nname: p\nrules:\n  - {name: r, forbid: {refs: [x]}}\n");
    folder.write("bad.yaml", "kind: Policy\n");
    folder.write("job.json", "{\"job\": ");
    folder.write("empty.json", "[]");
    folder.write("good.json", r#"{"job": {}, "project": {"path": "acme/x"}}"#);
    for (policy, job) in [
        ("p.yaml", "job.json"),
        ("p.yaml", "empty.json"),
        ("p.yaml", "none.json"),
        ("bad.yaml", "good.json"),
        ("none", "good.json"),
    ] {
        let ended = jobgate(folder.path(), &["policy", "eval", "--policy", policy, "--job", job]);
        assert!(
            ended.code == 2 && ended.out.is_empty() && ended.err.starts_with("error: "),
            "{policy} {job}: {}",
            ended.err
        );
    }
    assert_eq!(jobgate(folder.path(), &["policy", "eval", "--policy", "p.yaml"]).code, 2);
}

#[test]
fn documents_come_from_standard_input_too() {
    let folder = Folder::new();
    folder
        .write("p.yaml", "apiVersion: jobgate/v1\nkind: Policy\nname: p\nrules:\n  - {name: r, forbid: {refs: [x]}}\n");
    let eval = ["policy", "eval", "--policy", "p.yaml", "--job", "-", "--explain"];
    let ended = program::with_input(
        folder.path(),
        &eval,
        r#"{"job": {"name": "a", "ref": "x"}, "project": {"path": "acme/x"}}"#,
    );
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert!(ended.out.contains("p.yaml:5 p/r rejects"), "{}", ended.out);
    let ended = program::with_input(folder.path(), &eval, "{");
    assert!(ended.err.starts_with("error: standard input:"), "{}", ended.err);
}

#[test]
fn policy_tests_say_what_failed_and_none_is_not_good() {
    let folder = Folder::new();
    folder
        .write("p.yaml", "apiVersion: jobgate/v1\nkind: Policy\nname: p\nrules:\n  - {name: r, forbid: {refs: [x]}}\n");
    assert_eq!(jobgate(folder.path(), &["policy", "test", "p.yaml"]).code, 2);
    let case = |expect: &str| {
        format!("cases:\n  - {{name: one, document: {{job: {{ref: x}}, project: {{path: a/b}}}}, expect: {expect}}}\n")
    };
    folder.write("p.test.yaml", &case("reject"));
    let good = jobgate(folder.path(), &["policy", "test", "p.yaml"]);
    assert!(good.code == 0 && good.out.ends_with("1 passed, 0 failed\n"), "{}{}", good.out, good.err);
    folder.write("p.test.yaml", &case("admit"));
    let bad = jobgate(folder.path(), &["policy", "test", "p.yaml"]);
    assert!(bad.code == 1 && bad.out.starts_with("failed p.test.yaml:2 one"), "{}{}", bad.out, bad.err);
}

#[test]
fn checking_a_policy_names_every_fault() {
    let folder = Folder::new();
    folder.write("a.yaml", "kind: Policy\n");
    folder.write("b.rego", "package jobgate\n\nallow := true\n");
    let ended = jobgate(folder.path(), &["policy", "check", "."]);
    assert!(
        ended.code == 2 && ended.out.contains("a.yaml:1") && ended.out.contains("b.rego"),
        "{}{}",
        ended.out,
        ended.err
    );
    let json: Value = serde_json::from_str(&jobgate(folder.path(), &["policy", "check", ".", "--json"]).out).unwrap();
    assert!(json["good"] == false && json["faults"].as_array().unwrap().len() > 3, "{json}");
    assert_eq!(jobgate(examples(), &["policy", "check", "policies", "--expose", "script"]).code, 0);
}

#[test]
fn a_closed_pipe_is_no_panic() {
    for command in [
        &["policy", "eval", "--policy", "demo/payments.yaml", "--job", "documents/payments-api.json", "--explain"][..],
        &["completions", "bash"],
        &["schema", "policy"],
        &["demo"],
    ] {
        let ended = program::run(examples(), command, PIPED.closed());
        assert_eq!((ended.code, ended.err.as_str()), (2, ""), "{command:?}");
    }
}

#[test]
fn the_command_line_says_what_it_does_not_understand() {
    for command in
        [&["frobnicate"][..], &["jobs", "--limit", "0"], &["serve"], &["controller", "--policy", "x"], &["runner"]]
    {
        let ended = jobgate(examples(), command);
        assert!(ended.code == 2 && ended.err.contains("--help") && ended.out.is_empty(), "{command:?}: {}", ended.err);
    }
    let ended = jobgate(examples(), &["queue", "--router", "http://u:hunter2@127.0.0.1"]);
    assert!(ended.code == 2 && !ended.err.contains("hunter2"), "{}", ended.err);
    let ended = jobgate(examples(), &["queue", "--log", "x=y"]);
    assert!(ended.code == 2 && ended.err.contains("--log"), "{}", ended.err);
}

#[test]
fn colours_are_for_terminals_and_for_those_who_ask() {
    let eval = ["policy", "eval", "--policy", "demo/payments.yaml", "--job", "documents/payments-api.json"];
    assert!(!jobgate(examples(), &eval).out.contains('\u{1b}'));
    let asked = jobgate(examples(), &[&eval[..], &["--color", "always"]].concat());
    assert!(asked.out.starts_with("\u{1b}[32madmitted\u{1b}[0m "), "{}", asked.out);
}

#[test]
fn completions_and_schema_are_printed_for_each() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = jobgate(examples(), &["completions", shell]);
        assert!(ended.code == 0 && ended.out.contains("conformance"), "{shell}");
    }
    let schema: Value = serde_json::from_str(&jobgate(examples(), &["schema", "policy"]).out).unwrap();
    assert_eq!(schema["title"], "jobgate policy");
}

#[test]
fn the_demo_shows_every_kind_of_decision_and_leaves_nothing_behind() {
    let folder = Folder::new();
    let ended = program::run(examples(), &["demo"], PIPED.temp(folder.path()));
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{}", ended.out);
    for part in [
        "24 jobs: 13 admitted, of which 12 succeeded; 9 rejected; 2 failed closed",
        "rule no-docker-in-docker",
        "rule payments/own-images",
        "rejected by release-from-tags (project:acme/payments/api)",
        "rejected by shop-time-budget (group:acme/shop)",
        "not admitted because fraud-screen (project:acme/payments/ledger) gave no answer (unreachable)",
        "dry run: digests would have rejected it",
        "`CI_PIPELINE_SOURCE` is set twice",
        "Next:\n  jobgate policy eval",
    ] {
        assert!(ended.out.contains(part), "no `{part}` in:\n{}", ended.out);
    }
    // Job tokens and masked values of the documents.
    for secret in ["glcbt-", "kept-out-of-logs", "kube-admission-demo-token", "cdn-purge-demo-key"] {
        assert!(!ended.out.contains(secret), "{secret} in:\n{}", ended.out);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    let json = program::run(examples(), &["demo", "--json"], PIPED.temp(folder.path()));
    let lines: Vec<Value> = json.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, decisions) = lines.split_last().unwrap();
    assert_eq!((last["admitted"].as_u64(), last["failed_closed"].as_u64()), (Some(13), Some(2)));
    assert_eq!(decisions.len(), 24);
}

/// What `demo` and `policy eval` of its last lines need is there, and every command of them runs.
#[test]
fn the_commands_that_the_demo_names_run() {
    let root = examples().parent().unwrap();
    let ended = jobgate(root, &["demo"]);
    let next: Vec<_> = ended.out.lines().skip_while(|line| *line != "Next:").skip(1).collect();
    assert_eq!(next.len(), 3);
    for line in next {
        // A server would run on, at a port that may be taken.
        let line = line.replace("serve --config", "config check");
        let words: Vec<_> = line.split_whitespace().skip(1).collect();
        let ended = jobgate(root, &words);
        assert!(ended.code < 2, "{line}: {}", ended.err);
    }
}

/// The reference of the configuration knows every key that the program knows.
#[test]
fn operations_md_names_every_key_of_the_configuration() {
    let folder = Folder::new();
    let docs = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let keys = |configuration: &str, of: &str| {
        folder.write("jobgate.yaml", configuration);
        let err = jobgate(folder.path(), &["config", "check", "jobgate.yaml"]).err;
        let list = err.split(&format!("help: {of} has ")).nth(1).unwrap_or_else(|| panic!("{err}"));
        let list = list.lines().next().unwrap().split(", ").map(str::to_owned);
        list.filter(|key| key != "`gitlab`").collect::<Vec<_>>()
    };
    for key in keys("zzz: 1\n", "the configuration") {
        assert!(docs.contains(&format!("| {key} |")), "{key}");
    }
    for (list, of) in [
        ("controllers", "a controller"),
        ("runners", "a runner"),
        ("tokens", "a token"),
        ("runner_groups", "a runner group"),
        ("priorities", "a priority rule"),
        ("fairness", "an entry of `fairness`"),
    ] {
        for key in keys(&format!("{list}: [{{zzz: 1}}]\n"), of) {
            assert!(docs.contains(&key) || docs.contains(&format!("{}:", key.trim_end_matches('`'))), "{of}: {key}");
        }
    }
}

#[test]
fn a_state_directory_is_checked_and_every_fault_has_its_place() {
    let folder = Folder::new();
    let place = folder.path().join("state");
    let options = || jobgate_router::DiskOptions { segment_bytes: 1 << 16, ..Default::default() };
    let (mut store, _, _) = jobgate_router::DiskStore::open(&place, options()).unwrap();
    let job = jobgate_router::JobId::new("1");
    let row = jobgate_router::JobRow {
        id: job.to_string(),
        project: "acme/x".to_owned(),
        state: 1,
        sequence: 1,
        ..Default::default()
    };
    let mut batch = jobgate_router::Batch { rows: vec![row], ..Default::default() };
    batch.documents.push((job, bytes::Bytes::from_static(b"{\"token\": \"s3cret\"}")));
    let document = jobgate_router::Store::commit(&mut store, &batch).unwrap()[0];
    let used = jobgate(folder.path(), &["store", "check", "state"]);
    assert!(used.code == 2 && used.err.contains("in use by another process"), "{}", used.err);
    drop(store);

    let good = jobgate(folder.path(), &["store", "check", "state"]);
    assert_eq!((good.code, good.err.as_str()), (0, ""));
    assert!(good.out.contains("jobs routing") && good.out.ends_with("good\n"), "{}", good.out);
    let json: Value =
        serde_json::from_str(&jobgate(folder.path(), &["store", "check", "state", "--json"]).out).unwrap();
    assert_eq!((&json["frames"], &json["live"]["routing"], &json["faults"][0]), (&1.into(), &1.into(), &Value::Null));

    let file = place.join("log/0000000001.seg");
    let mut bytes = fs::read(&file).unwrap();
    bytes[document.offset as usize] ^= 1;
    fs::write(&file, bytes).unwrap();
    let bad = jobgate(folder.path(), &["store", "check", "state"]);
    assert_eq!(bad.code, 2);
    let at = format!("state/log/0000000001.seg, offset {}: the document of job 1", document.offset);
    assert!(bad.err.contains("fault(s)") && bad.err.contains(&at), "{}", bad.err);
    assert!(!bad.err.contains("s3cret") && !bad.out.contains("s3cret"));
    let json = jobgate(folder.path(), &["store", "check", "state", "--json"]);
    assert!(json.code == 2 && json.out.contains("\"faults\""), "{}", json.out);
    let none = jobgate(folder.path(), &["store", "check", "elsewhere"]);
    assert!(none.code == 2 && none.err.contains("elsewhere/format"), "{}", none.err);
}
