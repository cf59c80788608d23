//! One decision of eight YAML rules through `Controller`, beside the same rules in Rego, both in turn in one run; the ratio of
//! the medians is printed. A job that is admitted, as most are; and one that is rejected, which has a message to write.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::{hint::black_box, time::Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use jobgate_controllers::{LoadOptions, PolicySet};
use jobgate_sdk::{AdmissionRequest, Controller, testing};

const YAML: &str = include_str!("eight-rules.yaml");
const REGO: &str = include_str!("rego.policy");

/// The question of `benches/rego.rs`.
fn question() -> testing::RequestBuilder {
    let image = |name: &str| format!("registry.acme.example/{name}:1@sha256:abc");
    let request = testing::request()
        .project("acme/payments/api")
        .image(&image("builder"))
        .service(&image("postgres"))
        .tag("docker")
        .tag("linux")
        .environment("")
        .branch("feature/faster-builds")
        .protected(true)
        .job(|job| job.timeout_seconds = Some(3600));
    (0..8).fold(request, |request, n| request.variable(&format!("CI_VARIABLE_{n}"), "some value"))
}

fn load(name: &str, text: &str) -> PolicySet {
    PolicySet::from_texts([(name, text)], &LoadOptions::default()).unwrap().set
}

/// Without Rego the answer is there at once.
fn decide(set: &PolicySet, request: &AdmissionRequest) -> bool {
    set.admit(request).now_or_never().unwrap().is_admitted()
}

fn decisions(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (yaml, rego) = (load("eight-rules.yaml", YAML), load("policy.rego", REGO));
    let (good, bad) = (question().build(), question().image("quay.io/evil/x:latest").build());
    for (request, admitted) in [(&good, true), (&bad, false)] {
        assert_eq!(decide(&yaml, request), admitted);
        assert_eq!(runtime.block_on(rego.admit(request)).is_admitted(), admitted);
    }
    criterion.bench_function("yaml/admitted", |bencher| bencher.iter(|| decide(&yaml, black_box(&good))));
    criterion.bench_function("yaml/rejected", |bencher| bencher.iter(|| decide(&yaml, black_box(&bad))));

    let smoke = std::env::args().any(|arg| arg == "--test");
    let (rounds, each) = if smoke { (3, 10) } else { (101, 200) };
    let mut times: [Vec<f64>; 2] = Default::default();
    for _ in 0..rounds {
        times[0].push(micros(each, || assert!(decide(&yaml, black_box(&good)))));
        times[1].push(micros(each, || assert!(runtime.block_on(rego.admit(&good)).is_admitted())));
    }
    let [yaml, rego] = times.map(median);
    println!("yaml, eight rules: {yaml:.2} us, the same in rego {rego:.1} us, ratio {:.3}", yaml / rego);
}

fn micros(times: u32, mut work: impl FnMut()) -> f64 {
    let begun = Instant::now();
    (0..times).for_each(|_| work());
    begun.elapsed().as_secs_f64() * 1e6 / f64::from(times)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

criterion_group!(benches, decisions);
criterion_main!(benches);
