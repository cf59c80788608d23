//! Reading job documents, from outside: what is let in, what is not, and what is said about it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use jobgate_router::{JobDocument, MAX_DOCUMENT_BYTES, read_documents, read_runner};

fn read(text: &str) -> Result<Vec<JobDocument>, String> {
    let bytes = text.to_owned().into_bytes().into();
    read_documents(&bytes, "in", MAX_DOCUMENT_BYTES).map_err(|faults| faults.to_string())
}

/// The faults of a text that must have some.
fn faults(text: &str) -> String {
    match read(text) {
        Ok(_) => panic!("no fault in {text}"),
        Err(faults) => faults,
    }
}

fn assert_fault(text: &str, expected: &str) {
    let found = faults(text);
    assert!(found.lines().any(|line| line.contains(expected)), "no {expected:?} in\n{found}\nof {text}");
}

const SMALL: &str = r#"{"job": {"name": "a"}, "project": {"path": "acme/x"}}"#;

#[test]
fn one_or_many_json_or_yaml() {
    let names = |text: &str| -> Vec<String> {
        let documents = read(text).unwrap();
        documents.iter().map(|document| document.name().unwrap().to_owned()).collect()
    };
    assert_eq!(names(SMALL), ["a"]);
    assert_eq!(names(&format!(" [{SMALL} , {SMALL}] ")), ["a", "a"]);
    assert_eq!(names(&format!("{SMALL}\n{SMALL}\n")), ["a", "a"], "JSON lines");
    assert_eq!(names("job: {name: a}\nproject: {path: acme/x}\n"), ["a"]);
    assert_eq!(names("# ours\n- job: {name: a}\n  project: {path: acme/x}\n"), ["a"]);
    assert_eq!(names("{ job: {name: a}, project: {path: acme/x} }"), ["a"], "flow style");
    assert_eq!(names("[{ job: {name: a}, project: {path: acme/x} }]"), ["a"]);
}

#[test]
fn a_document_keeps_its_bytes() {
    let second = r#"{ "job" : {"name":"b"},"project":{"path":"acme/x"}, "payload": {"n": 1e3, "s": "é"}}"#;
    let list = format!("[{SMALL},\n  {second}]");
    let documents = read(&list).unwrap();
    assert_eq!((&documents[0].bytes()[..], &documents[1].bytes()[..]), (SMALL.as_bytes(), second.as_bytes()));
    let lines = format!("{SMALL}\n{second}\n");
    assert_eq!(&read(&lines).unwrap()[1].bytes()[..], second.as_bytes());
    let yaml = "job: {name: a}\nproject: {path: acme/x}\n";
    assert_eq!(&read(yaml).unwrap()[0].bytes()[..], yaml.as_bytes());
    // An element of a YAML list is no document by itself: written anew, and read the same again.
    let element = read(&format!("- {yaml}").replace("\nproject", "\n  project")).unwrap().remove(0);
    let again: serde_json::Value = serde_json::from_slice(element.bytes()).unwrap();
    assert_eq!(again, serde_json::json!({"job": {"name": "a"}, "project": {"path": "acme/x"}}));
}

#[test]
fn shapes_are_told_by_their_keys() {
    assert_fault("{}", "this is not a job document");
    assert_fault(r#"{"jobb": {}}"#, "this is not a job document");
    assert_fault(r#"{"gitlab": {}, "job": {}}"#, "keys of both shapes");
    assert_fault(r#"{"id": 1, "job_info": {}, "git_info": {}}"#, "GitLab's response itself");
    assert_fault("[]", "there is no job document in it");
    for text in ["", "  \n", "\u{feff}"] {
        faults(text);
    }
    assert_fault("[1]", "[0]: expected a mapping, found a number");
    assert_fault("hello", "expected a mapping, found text");
}

#[test]
fn there_is_no_job_without_a_project() {
    assert_fault(r#"{"job": {}}"#, "`project` is missing");
    assert_fault(r#"{"job": {}, "project": {}}"#, "`path` is missing");
    assert_fault(r#"{"project": {"path": "a/b"}}"#, "`job` is missing");
    assert_fault(r#"{"gitlab": {}}"#, "`job_info` is missing");
    assert_fault(r#"{"gitlab": {"job_info": {"name": "x"}}}"#, "`project_full_path` is missing");
    for path in ["", "acme/../evil", "acme//x", "acme/x.git", "%61cme/x", "\u{430}cme/x", "acme/x/"] {
        assert_fault(&format!(r#"{{"job": {{}}, "project": {{"path": "{path}"}}}}"#), "project.path: a path ");
        let gitlab = format!(r#"{{"gitlab": {{"job_info": {{"project_full_path": "{path}"}}}}}}"#);
        assert_fault(&gitlab, "gitlab.job_info.project_full_path: a path ");
    }
}

#[test]
fn wrong_types_are_named_by_place_and_path() {
    let found = faults("{\"gitlab\": {\n  \"id\": \"x\",\n  \"job_info\": {\"project_full_path\": \"a/b\"}}}");
    assert!(found.starts_with("in:2:9: gitlab.id: expected a whole number, found text"), "{found}");
    let yaml = faults("job:\n  name: [1]\nproject: {path: a/b}\n");
    assert!(yaml.starts_with("in:2:9: job.name: expected text, found a list"), "{yaml}");
}

#[test]
fn wrong_types_are_found_everywhere() {
    let base = r#"{"gitlab": {"job_info": {"project_full_path": "a/b"}, REST}}"#;
    for (rest, path) in [
        (r#""token": 1"#, "gitlab.token"),
        (r#""git_info": []"#, "gitlab.git_info"),
        (r#""git_info": {"protected": "yes"}"#, "gitlab.git_info.protected"),
        (r#""git_info": {"ref": 1}"#, "gitlab.git_info.ref"),
        (r#""git_info": {"repo_url": "here"}"#, "gitlab.git_info.repo_url"),
        (r#""runner_info": {"timeout": 1.5}"#, "gitlab.runner_info.timeout"),
        (r#""runner_info": {"timeout": 99999999999999999999}"#, "gitlab.runner_info.timeout"),
        (r#""variables": {}"#, "gitlab.variables"),
        (r#""variables": [1]"#, "gitlab.variables[0]"),
        (r#""variables": [{}, {"key": 1}]"#, "gitlab.variables[1].key"),
        (r#""variables": [{"value": 1}]"#, "gitlab.variables[0].value"),
        (r#""variables": [{"masked": "true"}]"#, "gitlab.variables[0].masked"),
        (r#""image": "alpine""#, "gitlab.image"),
        (r#""image": {"name": ["alpine"]}"#, "gitlab.image.name"),
        (r#""image": {"pull_policy": "always"}"#, "gitlab.image.pull_policy"),
        (r#""image": {"executor_opts": {"docker": {"user": true}}}"#, "gitlab.image.executor_opts.docker.user"),
        (r#""services": [{"entrypoint": [1]}]"#, "gitlab.services[0].entrypoint[0]"),
        (r#""artifacts": [{"paths": 1}]"#, "gitlab.artifacts[0].paths"),
        (r#""cache": [{"key": {}}]"#, "gitlab.cache[0].key"),
        (r#""secrets": []"#, "gitlab.secrets"),
        (r#""steps": [{"script": "make"}]"#, "gitlab.steps[0].script"),
        (r#""hooks": [[]]"#, "gitlab.hooks[0]"),
        // Runners lose a job whose `run` is not text.
        (r#""run": []"#, "gitlab.run"),
        (r#""run": null"#, "gitlab.run"),
        (r#""credentials": [{"password": 1}]"#, "gitlab.credentials[0].password"),
        (r#""dependencies": [{"token": 1}]"#, "gitlab.dependencies[0].token"),
    ] {
        assert_fault(&base.replace("REST", rest), &format!(" {path}: expected "));
    }
    assert_fault(r#"{"gitlab": 1}"#, "gitlab: expected a mapping");
    assert_fault(r#"{"gitlab": null}"#, "gitlab: expected a mapping");
    assert_fault(r#"{"job": [], "project": {"path": "a/b"}}"#, "job: expected a mapping");
    assert_fault(r#"{"job": {"ref_type": "head"}, "project": {"path": "a/b"}}"#, "expected `branch` or `tag`");
}

#[test]
fn all_faults_of_a_document_at_once() {
    let found = faults(
        r#"[{"job": {"name": 1, "stag": "x", "protected": "no"}, "project": {"path": "a//b", "ide": 1}, "extra": 1},
            {"gitlab": {"id": "x"}, "tag": []}]"#,
    );
    for expected in [
        "[0].job.name: expected text",
        "[0].job.stag: unknown key `stag` of a job; did you mean `stage`?",
        "[0].job.protected: expected true or false",
        "[0].project.path: a path has no empty segments",
        "[0].project.ide: unknown key `ide` of a project; did you mean `id`?",
        "[0].extra: unknown key `extra` of the document",
        "[1].gitlab.id: expected a whole number",
        "[1].gitlab: `job_info` is missing",
        "[1].tag: unknown key `tag` of the document; did you mean `tags`?",
    ] {
        assert!(found.contains(expected), "no {expected:?} in\n{found}");
    }
}

#[test]
fn new_keys_of_gitlab_are_let_in() {
    let text = r#"{"gitlab": {"brand_new": {"x": [1]}, "job_info": {"project_full_path": "a/b", "newer": 1}, "variables": [{"key": "A", "x": 1}]}}"#;
    assert_eq!(read(text).unwrap().len(), 1);
}

#[test]
fn keys_that_readers_take_differently_are_refused() {
    assert_fault(
        r#"{"job": {"name": "a", "name": "b"}, "project": {"path": "a/b"}}"#,
        "the key `name` stands here twice",
    );
    assert_fault(
        r#"{"job": {"n\u0061me": "a", "name": "b"}, "project": {"path": "a/b"}}"#,
        "the key `name` stands here twice",
    );
    assert_fault(
        r#"{"job": {}, "project": {"path": "a/b"}, "payload": {"x": [{"y": 1, "y": 1}]}}"#,
        "the key `y` stands here twice",
    );
    assert_fault("job: {name: a, name: b}\nproject: {path: a/b}\n", "in:1:");
    let many: String = (0..100).map(|index| format!(r#""k{index}": 1, "#)).collect();
    let twice = format!(r#"{{"job": {{}}, "project": {{"path": "a/b"}}, "payload": {{{many} "k7": 2}}}}"#);
    assert_fault(&twice, "the key `k7` stands here twice");
    // Go, which runners are written in, reads keys without case.
    for (key, known) in
        [("Image", "image"), ("VARIABLES", "variables"), ("\u{17f}teps", "steps"), ("to\u{212a}en", "token")]
    {
        let text = format!(r#"{{"gitlab": {{"job_info": {{"project_full_path": "a/b"}}, "{key}": null}}}}"#);
        assert_fault(&text, &format!("runners read this key as `{known}`"));
    }
}

#[test]
fn faults_never_quote_a_value() {
    const SECRET: &str = "glcbt-s3cr3t-t0ken";
    for text in [
        format!(r#"{{"gitlab": "{SECRET}"}}"#),
        format!(
            r#"{{"gitlab": {{"token": ["{SECRET}"], "id": "{SECRET}", "job_info": {{"project_full_path": "{SECRET}//x"}}}}}}"#
        ),
        format!(r#"{{"gitlab": {{"token": "{SECRET}" "id": 1}}}}"#),
        format!(r#"{{"gitlab": {{"token": "{SECRET}\x"}}}}"#),
        format!(r#"{{"gitlab": {{"token": "{SECRET}"#),
        format!(r#"{{"gitlab": {{"git_info": {{"repo_url": "{SECRET}"}}}}}}"#),
        format!("gitlab:\n  token: [{SECRET}\n  id: *{SECRET}\n"),
        format!("gitlab:\n  token: {SECRET}\n  id: {SECRET}\n  job_info: {SECRET}\n"),
        format!("gitlab: !!int {SECRET}\n"),
        format!("{SECRET}: {SECRET}: {SECRET}"),
        format!("job: {{ref_type: {SECRET}}}\nproject: {{path: '{SECRET} x'}}\n"),
    ] {
        let found = faults(&text);
        assert!(!found.contains("s3cr3t"), "{found}\nof {text}");
    }
}

#[test]
fn size_depth_and_number_are_limited() {
    let large = format!(r#"{{"job": {{"name": "{}"}}, "project": {{"path": "a/b"}}}}"#, "x".repeat(10 << 20));
    assert_fault(&large, "bytes are more than the 4194304 allowed here");
    for open in ["[", "{\"a\":"] {
        let deep =
            format!(r#"{{"job": {{}}, "project": {{"path": "a/b"}}, "payload": {{"x": {}"#, open.repeat(100_000));
        assert_fault(&deep, "recursion limit exceeded");
    }
    let deep = format!("job: {{}}\nproject: {{path: a/b}}\npayload: {}", "[".repeat(100_000));
    faults(&deep);
    let many =
        format!(r#"{{"job": {{}}, "project": {{"path": "a/b"}}, "payload": {{"x": [{}0]}}}}"#, "0,".repeat(600_000));
    assert_fault(&many, "more than 500000 values");
    assert_fault(&format!("[{}]", vec!["1"; 1000].join(",")), "and 968 more faults");
    let bytes = vec![b'"', 0xff].into();
    assert!(read_documents(&bytes, "in", 100).unwrap_err().to_string().contains("not UTF-8"));
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
    faults(bomb);
}

#[test]
fn a_job_has_fewer_than_fifty_tags() {
    let tagged = |count: usize| {
        let tags = serde_json::json!(vec!["t"; count]);
        format!(r#"{{"job": {{"tags": {tags}}}, "project": {{"path": "a/b"}}}}"#)
    };
    assert!(read(&tagged(49)).is_ok());
    assert_fault(&tagged(50), "job.tags: 50 tags; a job has at most 49");
}

#[test]
fn runners_are_read_strictly() {
    let read = |text: &str| {
        read_runner(&text.to_owned().into_bytes().into(), "runner.yaml").map_err(|faults| faults.to_string())
    };
    let runner = read("name: gpu-1\ntype: group\ntags: [gpu]\nprotected: false\n").unwrap();
    let json = serde_json::to_value(&runner).unwrap();
    assert_eq!(json, serde_json::json!({"name": "gpu-1", "type": "group", "tags": ["gpu"], "protected": false}));
    assert_eq!(read(&json.to_string()).unwrap(), runner);
    for (text, expected) in [
        ("nam: x", "did you mean `name`?"),
        ("tags: []", "a runner needs a `name`"),
        ("name: x\ntype: shared", "expected `instance`, `group` or `project`"),
        ("name: x\nid: one", "runner.yaml:2:5: id: expected a whole number, found text"),
        ("[{\"name\": \"a\"}, {\"name\": \"b\"}]", "expected one runner"),
        ("", "it is empty"),
    ] {
        let found = read(text).unwrap_err();
        assert!(found.contains(expected), "no {expected:?} in\n{found}");
    }
}
