//! Real job documents, where there are some: `JOBGATE_REAL_JOBS=/path/to/jobs.jsonl cargo test -p jobgate-router --test
//! view_real_jobs -- --nocapture`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{collections::BTreeMap, env, fs, time::SystemTime};

use jobgate_router::{Expose, question_from_document, read_documents};

#[test]
fn real_jobs_are_read_and_viewed_and_leak_no_token() {
    let Ok(file) = env::var("JOBGATE_REAL_JOBS") else {
        println!("skipped: JOBGATE_REAL_JOBS names no file of job documents");
        return;
    };
    let bytes = fs::read(&file).expect("the file of JOBGATE_REAL_JOBS can be read").into();
    let documents = read_documents(&bytes, "real jobs", usize::MAX).unwrap();
    let all = Expose::parse(["script", "*"]).unwrap();
    let mut images: BTreeMap<String, [usize; 3]> = BTreeMap::new();
    for document in &documents {
        let original: serde_json::Value = serde_json::from_slice(document.bytes()).unwrap();
        let token = original["gitlab"]["token"].as_str().unwrap();
        let plain = question_from_document(document, None, SystemTime::UNIX_EPOCH, &Expose::default()).unwrap();
        let exposed = question_from_document(document, None, SystemTime::UNIX_EPOCH, &all).unwrap();
        for question in [&plain, &exposed] {
            let text = serde_json::to_string(question).unwrap();
            assert!(!text.contains(token) && !text.contains("glcbt"), "{:?} leaks a token", document.name());
            assert!(!format!("{document:?} {question:?}").contains(token));
        }
        let job = plain.job();
        assert_eq!(job.source_id.as_deref(), document.source_id());
        let row = images.entry(document.project().to_string()).or_default();
        if job.image.is_none() {
            row[2] += 1;
        }
        for image in job.image.iter().chain(job.services.iter().filter_map(|service| service.image.as_ref())) {
            row[usize::from(image.unresolved)] += 1;
            assert_eq!(image.unresolved, image.registry.is_none());
        }
    }
    println!(
        "{} documents\n{:<28} {:>8} {:>10} {:>8}",
        documents.len(),
        "project",
        "resolved",
        "unresolved",
        "no image"
    );
    for (project, [resolved, unresolved, none]) in images {
        println!("{project:<28} {resolved:>8} {unresolved:>10} {none:>8}");
    }
}
