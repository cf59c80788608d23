//! One Rego decision of an eight-rule policy through `Controller`, beside a bare evaluation of the same policy by the same
//! engine in the same mode with the input already built. Both in turn, in one run; the ratio of the medians is printed.

#![allow(missing_docs, clippy::expect_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use jobgate_controllers::{LoadOptions, PolicySet};
use jobgate_sdk::{AdmissionRequest, Controller, Image, Job, Project, Question, Service, Strings, Subject, Variable};
use regorus::{Engine, Value};

const POLICY: &str = include_str!("rego.policy");

fn image(repository: &str) -> Image {
    Image {
        name: format!("registry.acme.example/{repository}:1"),
        resolved: format!("registry.acme.example/{repository}:1@sha256:abc"),
        registry: Some("registry.acme.example".into()),
        repository: Some(repository.into()),
        tag: Some("1".into()),
        digest: Some("sha256:abc".into()),
        ..Image::default()
    }
}

fn request() -> AdmissionRequest {
    let variable = |n: usize| Variable {
        key: format!("CI_VARIABLE_{n}"),
        value: Some("some value".into()),
        public: true,
        ..Variable::default()
    };
    let job = Job {
        id: "job-1".into(),
        source_id: Some("4711".into()),
        name: Some("build".into()),
        stage: Some("build".into()),
        r#ref: Some("feature/faster-builds".into()),
        ref_type: Some(1),
        protected: Some(true),
        sha: Some("0123456789abcdef0123456789abcdef01234567".into()),
        environment: Some(String::new()),
        tags: Some(Strings { values: vec!["docker".into(), "linux".into()] }),
        image: Some(image("builder")),
        services: vec![Service { image: Some(image("postgres")), alias: vec!["db".into()] }],
        variables: (0..8).map(variable).collect(),
        timeout_seconds: Some(3600),
        ..Job::default()
    };
    let question = Question {
        id: "question-1".into(),
        admission_id: "admission-1".into(),
        controller: "images".into(),
        scope: "instance".into(),
        dry_run: false,
        time: std::time::UNIX_EPOCH + Duration::from_secs(1_795_000_000),
        time_left: Duration::from_secs(2),
    };
    let project = Project { id: Some(7), path: "acme/payments/api".into(), groups: vec!["acme".into()] };
    AdmissionRequest::new(question, Subject { job: job.into(), project: project.into(), user: None, runner: None })
}

/// The floor: nothing but the engine.
struct Bare {
    engine: Engine,
    input: Value,
}

impl Bare {
    fn new(request: &AdmissionRequest) -> Self {
        let mut engine = Engine::new();
        engine.set_strict_builtin_errors(true);
        engine.add_policy("policy.rego".into(), POLICY.into()).expect("the policy compiles");
        let json = serde_json::to_string(request).expect("a question has a JSON form");
        Self { engine, input: Value::from_json_str(&json).expect("and it can be read") }
    }

    fn decide(&mut self) {
        self.engine.set_input(self.input.clone());
        let deny = self.engine.eval_rule("data.jobgate.deny".into()).expect("it evaluates");
        assert!(deny.as_set().is_ok_and(regorus::value::Set::is_empty));
    }
}

fn decisions(criterion: &mut Criterion) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let loaded = PolicySet::from_texts([("policy.rego", POLICY)], &LoadOptions::default()).expect("the policy loads");
    let set = loaded.set;
    let request = request();
    let mut bare = Bare::new(&request);

    let verdict = runtime.block_on(set.admit(&request));
    assert!(verdict.is_admitted(), "{verdict:?}");
    criterion.bench_function("rego/bare", |bencher| bencher.iter(|| bare.decide()));
    criterion.bench_function("rego/controller", |bencher| {
        bencher.iter(|| runtime.block_on(set.admit(&request)));
    });

    let smoke = std::env::args().any(|arg| arg == "--test");
    let (rounds, each) = if smoke { (3, 10) } else { (101, 200) };
    let mut times: [Vec<f64>; 2] = Default::default();
    for _ in 0..rounds {
        times[0].push(micros(each, || bare.decide()));
        times[1].push(micros(each, || assert!(runtime.block_on(set.admit(&request)).is_admitted())));
    }
    let [bare, controller] = times.map(median);
    println!(
        "rego, eight rules: bare {bare:.1} us, through Controller {controller:.1} us, ratio {:.2}",
        controller / bare
    );
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
