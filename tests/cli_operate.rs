//! What the commands that operate runners and explain jobs ask of a router, and what they make of its answers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

#[path = "support/program.rs"]
mod program;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
};

use program::{Ended, Folder, jobgate};
use serde_json::{Value, json};

/// What a command asked: method and path, and the body.
type Asked = (String, Value);

/// Runs a command against a router that answers once, with this.
fn command(args: &[&str], status: &str, answer: &Value) -> (Asked, Ended) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let body = answer.to_string();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let router = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        let (mut first, mut length) = (String::new(), 0);
        lines.read_line(&mut first).unwrap();
        loop {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        lines.read_exact(&mut body).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        let asked = first.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
        (asked, serde_json::from_slice(&body).unwrap_or_default())
    });
    let folder = Folder::new();
    let ended = jobgate(folder.path(), &[args, &["--router", &url]].concat());
    (router.join().unwrap(), ended)
}

fn runner() -> Value {
    json!({"runner": {
        "name": "d-1", "type": "group", "owner": "acme", "tags": ["deploy"], "run_untagged": false, "protected": true,
        "priority": 0, "group": "deployers", "fingerprint": "0123456789abcdef", "state": "online", "capacity": 4,
        "running": 1, "leader": true, "pinned": false, "systems": [],
        "taints": [{"kind": "jobs", "reason": "disk is full", "by": "ci", "since": "2026-11-25T10:00:00Z"}],
    }})
}

fn leader() -> Value {
    json!({"leader": {"group": "deployers", "runner": "d-1", "system": "d-1@host", "pinned": "d-2", "fence": 9}})
}

#[test]
fn runners_are_operated_as_the_command_line_says() {
    for (args, path, body) in [
        (
            ["taint", "d-1", "--kind", "jobs", "--reason", "disk is full"].as_slice(),
            "/v1/runners/d-1/taint",
            json!({"kind": "jobs", "reason": "disk is full"}),
        ),
        (
            &["taint", "a/b", "--kind", "leadership", "--reason", "x", "--system", "d-1@host"],
            "/v1/runners/a%2Fb/taint",
            json!({"kind": "leadership", "reason": "x", "system": "d-1@host"}),
        ),
        (&["untaint", "d-1"], "/v1/runners/d-1/untaint", json!({})),
        (
            &["untaint", "d-1", "--kind", "leadership", "--system", "s"],
            "/v1/runners/d-1/untaint",
            json!({"kind": "leadership", "system": "s"}),
        ),
        (&["drain", "d-1"], "/v1/runners/d-1/drain", json!({})),
        (&["drain", "d-1", "--system", "s"], "/v1/runners/d-1/drain", json!({"system": "s"})),
    ] {
        let ((asked, said), ended) = command(&[&["runners"], args].concat(), "200 OK", &runner());
        assert_eq!((asked, said), (format!("POST {path}"), body), "{args:?}");
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert!(ended.out.contains("d-1   online  group acme"), "{}", ended.out);
        assert!(ended.out.contains("tainted  d-1: jobs, by ci since"), "{}", ended.out);
    }
    for (args, path, body) in [
        (["pin", "deployers", "d-2"].as_slice(), "/v1/runner-groups/deployers/pin", json!({"runner": "d-2"})),
        (&["unpin", "deployers"], "/v1/runner-groups/deployers/unpin", json!({})),
    ] {
        let ((asked, said), ended) = command(&[&["runners"], args].concat(), "200 OK", &leader());
        assert_eq!((asked, said), (format!("POST {path}"), body), "{args:?}");
        assert!(ended.code == 0 && ended.out.contains("deployers     d-1     d-1@host  d-2     9"), "{}", ended.out);
    }
}

#[test]
fn json_is_what_the_router_says() {
    let job = json!({"job": {"id": "0192", "state": "admitted"}, "events": [], "waits": {"why": "all_full", "text": "x", "groups": []}});
    for (args, asked, answer) in [
        (["runners", "drain", "d-1", "--json"].as_slice(), "POST /v1/runners/d-1/drain", runner()),
        (&["runners", "unpin", "deployers", "--json"], "POST /v1/runner-groups/deployers/unpin", leader()),
        (&["runners", "--json"], "GET /v1/runners", json!({"runners": [runner()["runner"]]})),
        (&["queue", "--json"], "GET /v1/queue", json!({"jobs": {}, "groups": [], "leaders": []})),
        (&["jobs", "0192", "--json"], "GET /v1/jobs/0192/explain", job),
    ] {
        let ((path, _), ended) = command(args, "200 OK", &answer);
        assert_eq!(path, asked);
        assert_eq!(serde_json::from_str::<Value>(&ended.out).unwrap(), answer, "{args:?}");
    }
}

#[test]
fn one_command_says_why_a_job_is_stuck() {
    let answer = json!({
        "job": {"id": "0192", "project": "acme/x", "state": "admitted", "submitted_at": "2026-11-25T10:00:00Z"},
        "waits": {"why": "not_leader", "text": "runner group deployers has no leader", "groups": [
            {"fingerprint": "0123456789abcdef", "runners": ["d-1", "d-2"], "what": "not_leader", "text": "nobody leads"}]},
        "events": [{"time": "2026-11-25T10:00:00Z", "state": "routing", "text": "submitted"}],
    });
    let (_, ended) = command(&["jobs", "0192"], "200 OK", &answer);
    let lines: Vec<_> = ended.out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let expected = [
        "id 0192",
        "project acme/x",
        "state admitted",
        "waits not_leader: runner group deployers has no leader",
        "0123456789ab d-1, d-2: nobody leads",
        "submitted_at 2026-11-25T10:00:00Z",
        "",
        "TIME STATE EVENT",
        "2026-11-25T10:00:00.000Z routing submitted",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn refusals_are_told_and_what_makes_no_sense_is_not_asked() {
    let refusal = json!({"error": {"code": "not_found", "message": "there is no runner `d1`; did you mean `d-1`?"}});
    let (_, ended) = command(&["runners", "drain", "d1"], "404 Not Found", &refusal);
    assert!(ended.code == 2 && ended.err.contains("there is no runner `d1`; did you mean `d-1`?"), "{}", ended.err);
    let folder = Folder::new();
    for (args, part) in [
        (["runners", "taint", "d-1", "--kind", "job", "--reason", "x"].as_slice(), "'jobs'"),
        (&["runners", "taint", "d-1", "--kind", "jobs"], "--reason"),
        (&["runners", "pin", "deployers"], "NAME"),
        (&["runners", "tain"], "taint"),
        (&["runner", "--name", "a", "--taint", "disk is full"], "`leadership` or `jobs`"),
        (&["runner", "--name", "a", "--taint", "jobs: a\nb"], "one line"),
    ] {
        let ended = jobgate(folder.path(), args);
        assert!(ended.code == 2 && ended.err.contains(part), "{args:?}: {}", ended.err);
    }
}
