//! Any bytes are job documents or faults; what is viewed never shows the job's own token.
#![no_main]

use std::time::SystemTime;

use bytes::Bytes;
use jobgate_router::{Expose, MAX_DOCUMENT_BYTES, question_from_document, read_documents, read_runner};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    let _ = read_runner(&bytes, "runner");
    let Ok(documents) = read_documents(&bytes, "job", MAX_DOCUMENT_BYTES) else { return };
    let all = Expose::parse(["script", "*"]).expect("these words are known");
    for document in documents {
        // What was read from a list is a document by itself.
        let again = read_documents(document.bytes(), "again", usize::MAX).expect("it was read before");
        assert_eq!(again[0].project(), document.project());
        let Ok(question) = question_from_document(&document, None, SystemTime::UNIX_EPOCH, &all) else { continue };
        let shown = serde_json::to_string(&question).expect("a question has a JSON form");
        if let Some(token) = token(document.bytes()) {
            assert!(!shown.contains(&token), "the token is in the question");
        }
    }
});

/// The token of a GitLab job, if it is long enough to be one and stands for nothing else.
fn token(bytes: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let token = document["gitlab"]["token"].as_str()?;
    let plain = token.len() >= 16 && token.bytes().all(|byte| byte.is_ascii_alphabetic());
    let path = document["gitlab"]["job_info"]["project_full_path"].as_str()?;
    (plain && !path.contains(token)).then(|| token.to_owned())
}
