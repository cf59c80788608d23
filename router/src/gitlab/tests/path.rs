use proptest::prelude::*;

use super::models::{is_internal, is_job_request, readings};
use crate::gitlab::path::{JobCall, Target, Unreadable, classify, fuzz_gitlab_path, read, read_all};

const fn job(id: i64, call: JobCall) -> Target {
    Target::Job { id: Some(id), call }
}

fn plain(path: &str) -> Result<Option<Target>, Unreadable> {
    classify(path, "").map(|read| read.map(|(target, _)| target))
}

#[test]
fn what_a_path_is_about() {
    for (path, target) in [
        ("/api/v4/jobs/request", Target::JobRequest),
        ("/api/v4/runners/router/discovery", Target::Discovery),
        ("/api/v4/internal/ci/job_router/jobs/request", Target::Internal),
        ("/api/v4/internal", Target::Internal),
        ("/api/v4/jobs/7", job(7, JobCall::Update)),
        ("/api/v4/jobs/7/trace", job(7, JobCall::Trace)),
        ("/api/v4/jobs/7/artifacts", job(7, JobCall::Other)),
        ("/api/v4/jobs/7/artifacts/authorize", job(7, JobCall::Other)),
        ("/api/v4/jobs/9223372036854775807", job(i64::MAX, JobCall::Update)),
        ("/api/v4/jobs/9223372036854775808", Target::Job { id: None, call: JobCall::Update }),
        ("/api/v4/jobs/+7", Target::Job { id: None, call: JobCall::Update }),
        ("/api/v4/jobs/requests", Target::Job { id: None, call: JobCall::Update }),
        ("/api/v4/jobs", Target::Other),
        ("/api/v4/job", Target::Other),
        ("/api/v4", Target::Other),
        ("/api/v4/", Target::Other),
        ("/api/v4/runners/verify", Target::Other),
        ("/api/v4/internals/x", Target::Other),
        // Names with slashes, spaces, signs of percent and bytes that are no UTF-8.
        ("/api/v4/projects/group%2Fproject/jobs/request", Target::Other),
        ("/api/v4/projects/group%2Fsub%2fproject/repository/files/a%20b%2F100%25.md/raw", Target::Other),
        ("/api/v4/projects/1/jobs/artifacts/main/raw/caf%E9%ff.txt", Target::Other),
        ("/api/v4/projects/1/repository/files/.gitlab-ci.yml", Target::Other),
        ("/api/v4/projects/1/packages/generic/a%3Bb/1.0;x/c%3F%23.tar.gz", Target::Other),
        ("/api/v4/projects/jobs%2Frequest", Target::Other),
    ] {
        assert_eq!(plain(path), Ok(Some(target)), "{path}");
    }
    for path in ["", "/", "*", "/v1/jobs", "/v1/jobs/request", "/api/v5/jobs/request", "/api", "/x/api/v4/jobs/request"]
    {
        assert_eq!(plain(path), Ok(None), "{path}");
    }
}

#[test]
fn a_job_request_is_one_in_every_spelling() {
    for path in [
        "//api/v4/jobs/request",
        "/api//v4///jobs//request",
        "/api/v4/jobs/request/",
        "/api/v4/jobs/request//",
        "/API/V4/Jobs/REQUEST",
        "/api/v4/jobs/request.json",
        "/api/v4/jobs/request.JSON/",
        "/api/v4/jobs/request.anything",
        "/api/v4/jobs/request.",
        "/api/v4/jobs/request%2ejson",
        "/api/v4/./jobs/./request/.",
        "/api/v4/jobs/7/../request",
        "/api/v4/projects/1/../../jobs/request",
        "/api/v4/internal/../jobs/request",
        "/v1/../api/v4/jobs/request",
        "/api/v4/%6aobs/request",
        "/%61%70%69/%76%34/%6a%6f%62%73/%72%65%71%75%65%73%74",
        "/api%2fv4%2Fjobs%2frequest",
        "/api/v4/jobs%2Frequest",
        "/api/v4/jobs/%2e/request",
        "/api/v4/jobs/x/%2e%2E/request",
        "/api/v4/jobs/x%2f..%2frequest",
        "/api/v4/projects/x%2F..%2F..%2Fjobs%2Frequest",
        "/api/v4/jobs/%72%65quest%2f",
        "/api/v4/%256aobs/request",
        "/api/v4/jobs%252frequest",
        "/api/v4/jobs/%25252e/request",
        "/api/v4/jobs/x%252fy/%2e%2e/%2572equest",
        "/api\\v4\\jobs\\request",
        "/api/v4/jobs%5Crequest",
        "/api/v4/jobs\\..\\jobs\\request",
        "/api/v4/jobs;a=b/request;c=d",
        "/api/v4/jobs/request;",
        "/api/v4/jobs/request%3bx",
        "/api/v4/jobs/..;/jobs/request",
        "/api/v4/jobs/..;/../request",
        "/api/v4/jobs//../request",
        "/api/v4/jobs/a\\b/../request",
        "/api/v4/jobs/request%3fx",
        "/api/v4/jobs/request%23x/y",
        "/api/v4/jobs/request%20",
        "/api/v4/jobs%09/request%0a",
    ] {
        assert_eq!(plain(path), Ok(Some(Target::JobRequest)), "{path}");
    }
}

#[test]
fn what_gitlabs_parts_tell_each_other_is_known_in_every_spelling() {
    for path in [
        "//api/v4/internal/allowed",
        "/api/v4/INTERNAL/allowed",
        "/api/v4/%69nternal/allowed",
        "/api/v4/x/../internal/allowed",
        "/api/v4/x/%2e%2e/internal%2fallowed",
        "/api/v4/%2569nternal/x",
        "/api/v4/internal;x/y",
        "/api/v4\\internal\\x",
    ] {
        assert_eq!(plain(path), Ok(Some(Target::Internal)), "{path}");
    }
}

#[test]
fn what_means_nothing_or_several_things_is_refused() {
    for path in [
        "/api/v4/%",
        "/api/v4/%6",
        "/api/v4/x%zzy",
        "/v1/%u002f",
        "/api/v4/a%00b",
        "/api/v4/a%2500b",
        "/../api/v4/x",
        "/api/v4/../../../x",
        "/api/v4/%2e%2e/%2e%2e/%2e%2e/x",
        "/api/v4/..%252f..%252f..%252fx",
        "/api/v4/x%252525252fy",
        // To one server below GitLab's interface, to another not.
        "/api/v4/../../v1/jobs",
        "/v1/../api/v4/projects",
        "/v1/jobs/..%2f..%2fapi%2fv4%2fprojects",
        "/api/v4/%2e%2e/%2e%2e/users/sign_in",
        "/%61pi/v4/projects",
        "/api;x/v4/projects",
        "/api\\v4/projects",
    ] {
        assert_eq!(plain(path), Err(Unreadable), "{path}");
    }
    let many = format!("/api/v4{}", "/a;b\\c//./x?".repeat(500));
    assert_eq!(plain(&many), Err(Unreadable), "too many readings");
}

#[test]
fn our_own_prefix_may_be_there_or_not_and_is_not_passed_on() {
    let read = |path: &'static str| classify(path, "/gitlab");
    assert_eq!(read("/gitlab/api/v4/jobs/7"), Ok(Some((job(7, JobCall::Update), "/api/v4/jobs/7"))));
    assert_eq!(read("/api/v4/jobs/7"), Ok(Some((job(7, JobCall::Update), "/api/v4/jobs/7"))));
    assert_eq!(read("/gitlab//api/v4/x%2Fy"), Ok(Some((Target::Other, "//api/v4/x%2Fy"))));
    assert_eq!(read("/gitlab/v1/jobs"), Ok(None));
    assert_eq!(read("/gitlabs/api/v4/x"), Ok(None));
    for path in [
        "/GitLab/api/v4/jobs/request",
        "/%67itlab/api/v4/jobs/request",
        "//gitlab/api/v4/jobs/request",
        "/gitlab/gitlab/api/v4/jobs/request",
        "/gitlab/../api/v4/jobs/request",
        "/x/../gitlab/api/v4/jobs/request",
    ] {
        let read = read(path).map(|read| read.map(|(target, _)| target));
        assert!(matches!(read, Ok(Some(Target::JobRequest)) | Err(Unreadable)), "{path}: {read:?}");
    }
    for path in ["/GitLab/api/v4/x", "//gitlab/api/v4/x", "/%67itlab/api/v4/x"] {
        assert_eq!(read(path), Err(Unreadable), "{path}");
    }
    // A prefix that looks like the path itself.
    assert_eq!(classify("/api/v4/jobs/7", "/api"), Ok(Some((job(7, JobCall::Update), "/api/v4/jobs/7"))));
    assert_eq!(classify("/api/api/v4/jobs/7", "/api"), Ok(Some((job(7, JobCall::Update), "/api/v4/jobs/7"))));
}

/// Pieces of which odd paths are made.
fn piece() -> impl Strategy<Value = String> {
    let words: &[&str] = &[
        "/",
        "/",
        "/",
        "//",
        "/.",
        "/..",
        "\\",
        ";",
        ";a=/",
        "api",
        "v4",
        "jobs",
        "request",
        "internal",
        "x",
        "7",
        ".json",
        "%2f",
        "%2F",
        "%2e",
        "%2e%2e",
        "%252f",
        "%252e",
        "%5c",
        "%3b",
        "%25",
        "%6aobs",
        "%72equest",
        "%",
        "JOBS",
        "é",
        "/api/v4",
        "/jobs/",
        "/jobs/request",
        "/../",
    ];
    prop::sample::select(words).prop_map(str::to_owned)
}

/// One of the spellings that a byte has.
fn spell(byte: u8, how: u8) -> String {
    let plain = char::from(byte);
    match how {
        0 => format!("%{byte:02x}"),
        1 => format!("%{byte:02X}"),
        2 => format!("%25{byte:02x}"),
        3 => plain.to_ascii_uppercase().to_string(),
        _ => plain.to_string(),
    }
}

/// What may stand between two segments instead of `/`.
fn between() -> impl Strategy<Value = &'static str> {
    let ways: &[&str] = &[
        "/",
        "/",
        "/",
        "//",
        "/./",
        "/x/../",
        "/%2e/",
        "/x/%2e%2e/",
        "%2f",
        ";p/",
        "\\",
        "%5c",
        "%252F",
        "/;/",
        "/a;/../",
    ];
    prop::sample::select(ways)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_misspelled_job_request_is_never_something_else(
        hows in prop::collection::vec(0u8..12, 17),
        ways in prop::collection::vec(between(), 4),
        end in prop::sample::select(["", "/", ".json", ".txt", "//", "/.", ";x", "%2f", "/x/.."].as_slice()),
    ) {
        let mut hows = hows.into_iter();
        let mut path = String::new();
        for (segment, way) in ["api", "v4", "jobs", "request"].into_iter().zip(ways) {
            // The first character of a path is a slash.
            path.push_str(if path.is_empty() && !way.starts_with('/') { "/" } else { way });
            path.extend(segment.bytes().map(|byte| spell(byte, hows.next().unwrap_or(9))));
        }
        path.push_str(end);
        prop_assert!(matches!(plain(&path), Ok(Some(Target::JobRequest)) | Err(Unreadable)), "{}", path);
    }

    #[test]
    fn nothing_is_passed_on_that_a_server_could_read_as_a_job_request(
        pieces in prop::collection::vec(piece(), 1..12),
        below in any::<bool>(),
    ) {
        let path = format!("{}{}", if below { "/api/v4/" } else { "/" }, pieces.concat());
        fuzz_gitlab_path(&path);
        let Ok(Some((Target::Other | Target::Job { .. } | Target::Discovery, rest))) = classify(&path, "") else {
            return Ok(());
        };
        prop_assert_eq!(rest, &path);
        for reading in readings(&path) {
            prop_assert!(!is_job_request(&reading), "{} as {}", path, reading);
            prop_assert!(!is_internal(&reading), "{} as {}", path, reading);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(path in any::<String>(), prefix in any::<String>()) {
        fuzz_gitlab_path(&path);
        let _ = classify(&path, &prefix);
    }

    #[test]
    fn a_plain_path_has_one_reading(
        words in prop::collection::vec("[aA]pi|v4|jobs|request|internal|runners|router|discovery|trace|gitlab|[0-9]{1,3}|[a-zA-Z_-]{0,4}", 0..7),
    ) {
        let path = format!("/{}", words.join("/"));
        for (prefix, parts) in [("", &[][..]), ("/gitlab", &[&b"gitlab"[..]])] {
            prop_assert_eq!(read(&path, prefix), read_all(&path, parts));
        }
    }

    #[test]
    fn encoding_a_name_once_does_not_change_what_is_asked(name in "[a-zA-Z1-9 %?#;+&=é-]{1,20}(/[a-z1-9 %]{1,9})?") {
        let encoded: String = name.bytes().map(|byte| spell(byte, if byte.is_ascii_alphanumeric() { 9 } else { 0 })).collect();
        let path = format!("/api/v4/projects/{encoded}/issues");
        prop_assert_eq!(plain(&path), Ok(Some(Target::Other)), "{}", path);
    }
}
