//! Artifacts, what is not modelled, documents.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    gitlab::{Answer, Content, Endpoint, JobBuilder, pattern_checksum},
    started, with,
};

#[tokio::test]
async fn artifacts() {
    const SIZE: u64 = 3 << 20;
    let (gitlab, runner) = started().await;
    gitlab.enqueue(JobBuilder::new(2).build());
    let job = runner.poll().await.job();
    let piece = Bytes::from(vec![7; 1000]);
    let pieces = move || std::iter::repeat_n(piece.clone(), 500);
    gitlab.script(Endpoint::Upload, [Answer::Status(413), Answer::Status(503)]);
    assert_eq!(runner.upload(&job, "a.zip", pieces()).await, Some(413));
    assert_eq!(runner.upload(&job, "a.zip", pieces()).await, Some(503));
    assert_eq!(runner.upload(&job, "a.zip", pieces()).await, Some(201));
    let uploads = gitlab.job(2).uploads;
    assert_eq!((uploads.len(), uploads[0].bytes, uploads[0].filename.as_deref()), (1, 500_000, Some("a.zip")));
    assert_eq!(uploads[0].checksum, format!("crc32:{:08x}", crc32fast::hash(&vec![7; 500_000])));
    assert_eq!(uploads[0].query, "artifact_format=zip&artifact_type=archive");
    assert!(uploads[0].headers.get("content-length").is_none());

    // More than a socket holds; the client may not come to see the answer.
    gitlab.script(Endpoint::Upload, [Answer::Early(413)]);
    let large = std::iter::repeat_n(Bytes::from(vec![7; 1 << 16]), 1 << 10);
    assert!(matches!(runner.upload(&job, "a.zip", large).await, Some(413) | None));
    assert_eq!(gitlab.job(2).uploads.len(), 1);

    gitlab.artifact(1, "glcbt-build", Content::Pattern(SIZE));
    let whole = Some((200, SIZE, pattern_checksum(SIZE).await));
    assert_eq!(runner.download(1, "glcbt-build", false).await, whole);
    gitlab.set(|settings| (settings.redirect, settings.sized_downloads) = (Some(302), true));
    assert_eq!(runner.download(1, "glcbt-build", true).await, whole);
    assert_eq!(gitlab.count(Endpoint::Storage), 1);
    assert_eq!(runner.download(1, "glcbt-other", false).await.unwrap().0, 403);
    assert_eq!(runner.download(9, "glcbt-build", false).await.unwrap().0, 404);
}

#[tokio::test]
async fn the_rest_is_echoed_and_internals_are_a_breach() {
    let (gitlab, _) = with(|settings| settings.prefix = "/git".to_owned()).await;
    let http = reqwest::Client::new();
    let url = format!("{}/api/v4/projects/1%2f2?a=%20b", gitlab.url());
    let echo = http.delete(&url).header("x-forwarded-for", "10.0.0.1").body("null").send().await.unwrap();
    let echo: Value = echo.json().await.unwrap();
    assert_eq!(echo["method"], "DELETE");
    assert_eq!(echo["path_and_query"], "/git/api/v4/projects/1%2f2?a=%20b");
    assert!(echo["headers"].as_array().unwrap().contains(&json!(["x-forwarded-for", "10.0.0.1"])));
    assert_eq!(echo["body"], json!({ "bytes": 4, "checksum": format!("crc32:{:08x}", crc32fast::hash(b"null")) }));
    assert_eq!(gitlab.breaches(), 0);
    http.get(format!("{}/api/v4/internal/ci/agents/runner/info", gitlab.url())).send().await.unwrap();
    assert_eq!(gitlab.breaches(), 1);
    assert_eq!(http.get(format!("http://{}/", gitlab.address())).send().await.unwrap().status().as_u16(), 404);
}

#[tokio::test]
async fn documents() {
    for size in [4_194_299, 4_194_300] {
        let document = JobBuilder::new(1).odd_encodings().size(size).build();
        assert_eq!(document.bytes.len(), size);
        let value: Value = serde_json::from_slice(&document.bytes).unwrap();
        assert_eq!(value["zz_a/b"], "\u{1f600} <\u{e9}\u{2028}");
    }
    let document = JobBuilder::new(1).all_secrets().unknown_keys().without_reasons(&["job_router_failure"]).build();
    let text = String::from_utf8(document.bytes.to_vec()).unwrap();
    assert!(document.secrets.len() > 9);
    for secret in &document.secrets {
        assert!(text.contains(secret.as_str()), "{secret}");
    }
    assert!(!text.contains("job_router_failure"));
    let twice = JobBuilder::new(1).first("\"id\":2,").last(",\"id\":3").build();
    assert!(twice.bytes.starts_with(b"{\"id\":2,\"allow_git_fetch\"") && twice.bytes.ends_with(b",\"id\":3}"));
}
