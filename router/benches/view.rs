//! What reading and viewing a job document costs: `cargo bench -p jobgate-router --bench view`.
//!
//! The floor in the same run is serde_json parsing the same bytes into a `Value`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jobgate_router::{Expose, MAX_DOCUMENT_BYTES, read_documents, view};
use serde_json::{Value, json};

/// A job as GitLab hands it out, about 8 KB, with a resolved image and two services.
fn document() -> Bytes {
    let own = |index: usize| json!({"key": format!("OWN_{index}"), "value": "x".repeat(40), "public": true, "file": false, "masked": false, "raw": false});
    let mut variables: Vec<Value> = (0..45).map(own).collect();
    for (key, value) in
        [("CI_PIPELINE_SOURCE", "push"), ("CI_REGISTRY_IMAGE", "registry.example/acme/api"), ("V", "3.20")]
    {
        variables
            .push(json!({"key": key, "value": value, "public": true, "file": false, "masked": false, "raw": false}));
    }
    for index in 0..8 {
        variables.push(json!({"key": format!("SECRET_{index}"), "value": format!("secret-{index}"), "public": false, "masked": true}));
    }
    let gitlab = json!({
        "id": 1, "token": "glcbt-64_Zx81qGh2Kp0vVtYw3",
        "job_info": {"name": "build", "stage": "build", "project_id": 1, "project_full_path": "acme/payments/api"},
        "git_info": {
            "repo_url": "https://gitlab-ci-token:glcbt-64_Zx81qGh2Kp0vVtYw3@gitlab.example/acme/payments/api.git",
            "ref": "main", "sha": "d79f3e7b", "ref_type": "branch", "protected": true,
        },
        "runner_info": {"timeout": 3600}, "variables": variables,
        "steps": [{"name": "script", "script": vec!["make build && make test"; 20], "timeout": 3600, "when": "on_success"}],
        "image": {"name": "$CI_REGISTRY_IMAGE:$V"},
        "services": [{"name": "docker:29-dind", "alias": "docker"}, {"name": "postgres:16"}],
        "artifacts": [{"paths": ["out/"]}], "cache": [{"key": "deps", "paths": ["vendor/"]}],
        "credentials": [{"type": "registry", "url": "registry.example", "username": "u", "password": "glcbt-64_Zx81qGh2Kp0vVtYw3"}],
    });
    json!({"gitlab": gitlab, "tags": ["linux"]}).to_string().into()
}

fn benches(criterion: &mut Criterion) {
    let bytes = document();
    let mut group = criterion.benchmark_group("document");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("floor: parse to a Value", |bench| {
        bench.iter(|| serde_json::from_slice::<Value>(black_box(&bytes)).unwrap());
    });
    group.bench_function("read", |bench| {
        bench.iter(|| read_documents(black_box(&bytes), "job", MAX_DOCUMENT_BYTES).unwrap());
    });
    let read = read_documents(&bytes, "job", MAX_DOCUMENT_BYTES).unwrap().remove(0);
    group.bench_function("view", |bench| bench.iter(|| view(black_box(&read), "j1").unwrap()));
    group.bench_function("read and view", |bench| {
        bench.iter(|| view(&read_documents(black_box(&bytes), "job", MAX_DOCUMENT_BYTES).unwrap()[0], "j1").unwrap());
    });
    let script = Expose::parse(["script"]).unwrap();
    group.bench_function("view with the script exposed", |bench| {
        bench.iter(|| view(black_box(&read), "j1").unwrap().subject(&script));
    });
    group.finish();
}

criterion_group!(view_benches, benches);
criterion_main!(view_benches);
