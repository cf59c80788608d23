//! Ways in which a policy admits in silence, or hurts its host; each was met in the engine.

use std::time::Duration;

use super::{RegoOptions, RegoPolicy, decide, failure, file, options};

#[tokio::test]
async fn what_the_virtual_machine_calls_undefined_fails_here() {
    // A builtin that gets a wrong type.
    let verdict = decide("deny contains \"no\" if startswith(input.project.id, \"7\")").await;
    assert!(failure(&verdict).starts_with("policy.rego:3:"), "{verdict:?}");
    // A division by zero.
    let verdict = decide("deny contains \"no\" if 1 / (input.project.id - 7) > 1").await;
    assert!(failure(&verdict).contains("divide by zero"), "{verdict:?}");
    // Two complete rules that disagree.
    let verdict = decide("level := 1\nlevel := 2 if input.job.protected\ndeny contains \"no\" if level == 1").await;
    assert!(failure(&verdict).contains("conflicts"), "{verdict:?}");
    // Inside a function, and behind `not`.
    let verdict = decide("bad(x) if startswith(x, \"7\")\ndeny contains \"no\" if not bad(input.project.id)").await;
    assert!(verdict.failure().is_some(), "{verdict:?}");
}

/// Doubles a value `times` times, by `step` over `§`.
fn doubled(first: &str, step: &str, times: usize) -> String {
    let mut body = format!("x0 := {first}");
    for n in 0..times {
        body.push_str(&format!("\n\tx{} := {}", n + 1, step.replace('§', &format!("x{n}"))));
    }
    body
}

#[tokio::test]
async fn nothing_grows_without_bound() {
    for (first, step) in [
        ("input.job.ref", "concat(\"\", [§, §])"),
        ("input.job.ref", "sprintf(\"%s%s\", [§, §])"),
        ("input.job.tags", "array.concat(§, §)"),
        ("input.job.ref", "replace(§, \"\", \"mainmainmain\")"),
        ("input.job.ref", "strings.replace_n({\"m\": \"mm\", \"a\": \"aa\", \"i\": \"ii\", \"n\": \"nn\"}, §)"),
        ("input.job.ref", "regex.replace(§, \".\", \"$0$0\")"),
        ("input.job.ref", "json.marshal([§, §])"),
        ("input.job.ref", "json.marshal(§)"),
    ] {
        let body = doubled(first, step, 60);
        let job = jobgate_sdk::Job { tags: Some(jobgate_sdk::Strings { values: vec!["a".into()] }), ..super::job() };
        let rules = format!("package jobgate\ndeny contains \"no\" if {{\n\t{body}\n\tx60 == \"\"\n}}");
        // Not the clock is to end it, however slow the machine.
        let options = RegoOptions { budget: Duration::from_secs(30), ..options() };
        let policy = RegoPolicy::load(&[file("grows.rego", &rules)], None, &options).unwrap();
        let verdict = policy.decide(&super::request(job)).await;
        assert!(failure(&verdict).contains("would make more than one evaluation may"), "{step}: {verdict:?}");
    }
    // Shared parts are small in memory and large when written.
    let body = doubled("input.job.ref", "[§, §]", 60);
    let verdict = decide(&format!("deny contains json.marshal(x60) if {{\n\t{body}\n}}")).await;
    assert!(failure(&verdict).contains("would make more"), "{verdict:?}");
    let verdict = decide(&format!("deny contains {{\"message\": \"x\", \"more\": x60}} if {{\n\t{body}\n}}")).await;
    assert!(failure(&verdict).contains("larger than 64 KiB"), "{verdict:?}");
}

#[tokio::test]
async fn guarded_builtins_do_what_they_did() {
    let holds = [
        "concat(\",\", [\"a\", \"b\"]) == \"a,b\"",
        "strings.replace_n({\"a\": \"b\", \"b\": \"c\"}, \"ab\") == \"cc\"",
        "replace(\"aXbX\", \"X\", \"-\") == \"a-b-\"",
        "regex.replace(\"a1b22\", `[0-9]+`, \"#\") == \"a#b#\"",
        "split(\"a/b\", \"/\") == [\"a\", \"b\"]",
        "array.slice([1, 2, 3], 1, 2) == [2]",
        "object.subset([1], [])",
        "sprintf(\"%s-%d-%v\", [\"a\", 5, [true]]) == \"a-5-[true]\"",
        "regex.match(`^\\w+\\s\\d$`, \"ab 5\")",
        "glob.match(\"acme/*\", [\"/\"], \"acme/api\")",
        "not glob.match(\"acme/*\", [\"/\"], \"acme/a/b\")",
        "lower(\"ÄB\") == \"äb\"",
        "time.parse_rfc3339_ns(input.time) > 0",
        "time.weekday([time.parse_rfc3339_ns(input.time), \"Europe/Berlin\"]) == \"Wednesday\"",
        "semver.compare(\"1.2.3\", \"1.10.0\") == -1",
        "net.cidr_contains(\"10.0.0.0/8\", \"10.1.2.3\")",
        "object.get({\"a\": 1}, \"b\", 2) == 2",
    ];
    let rules = holds.map(|holds| format!("deny contains `{}` if {{ {holds} }}", holds.replace('`', "'"))).join("\n");
    let verdict = decide(&rules).await;
    assert_eq!(1 + verdict.warnings().len(), holds.len(), "{verdict:#?}");
}

mod runaways {
    use std::time::Duration;

    use futures_util::future::{Either, select};
    use jobgate_sdk::{AdmissionRequest, FailureCause, Question, Subject};

    use crate::rego::{
        RegoOptions, RegoPolicy,
        tests::{failure, file, job, options, question, request},
    };

    /// A billion steps for jobs of ref `spin`, none for others.
    const SPIN: &str = "package jobgate\n\nn := numbers.range(1, 1000)\n\ndeny contains \"no\" if {\n\tinput.job.ref == \"spin\"\n\tsome \
                        a in n\n\tsome b in n\n\tsome c in n\n\ta + b + c < 0\n}\n";

    fn spin(budget: u64, workers: usize) -> RegoPolicy {
        let options = RegoOptions { budget: Duration::from_millis(budget), workers, ..options() };
        RegoPolicy::load(&[file("spin.rego", SPIN)], None, &options).unwrap()
    }

    fn on(name: &str) -> AdmissionRequest {
        request(jobgate_sdk::Job { r#ref: Some(name.into()), ..job() })
    }

    #[tokio::test]
    async fn a_loop_is_stopped_by_its_budget() {
        let policy = spin(50, 1);
        // Without the budget this would take longer than anybody waits for a test.
        let verdict = policy.decide(&on("spin")).await;
        assert!(failure(&verdict).contains("stopped at its budget of 50ms"), "{verdict:?}");
        assert!(policy.decide(&on("main")).await.is_admitted());
        assert_eq!(policy.overdue(), 0);
    }

    #[tokio::test]
    async fn it_does_not_hurt_decisions_beside_it() {
        let policy = spin(3_000, 2);
        let (spinning, quiet) = (on("spin"), on("main"));
        let spinning = std::pin::pin!(policy.decide(&spinning));
        let others = async {
            for _ in 0..20 {
                assert!(policy.decide(&quiet).await.is_admitted());
            }
        };
        match select(spinning, std::pin::pin!(others)).await {
            Either::Left(_) => panic!("they waited for it"),
            Either::Right(((), spinning)) => assert!(failure(&spinning.await).contains("budget")),
        }
    }

    #[tokio::test]
    async fn the_answer_is_there_when_the_time_left_is_over() {
        let policy = spin(60_000, 1);
        let short = Question { time_left: Duration::from_millis(50), ..question() };
        let subject = on("spin").subject().clone();
        let verdict = policy.decide(&AdmissionRequest::new(short.clone(), subject)).await;
        assert_eq!(verdict.failure().unwrap().cause(), FailureCause::NoTimeLeft);
        // The only thread is still at it: the next one has no time either, and says so.
        let subject: Subject = on("main").subject().clone();
        let verdict = policy.decide(&AdmissionRequest::new(short, subject)).await;
        assert_eq!(verdict.failure().unwrap().cause(), FailureCause::NoTimeLeft);
    }

    #[tokio::test(start_paused = true)]
    async fn a_simulated_clock_does_not_end_real_evaluations() {
        let policy = spin(2000, 1);
        assert!(policy.decide(&on("main")).await.is_admitted());
    }

    #[tokio::test]
    async fn a_step_that_does_not_end_costs_its_thread_and_no_other() {
        // Two values that share all their parts take for ever to compare, within one step of the engine.
        let mut policy = "package jobgate\n\ndeny contains \"no\" if {\n\tinput.job.ref == \"stuck\"\n\ta0 := [input.job.ref]\n\tb0 := \
                          [input.job.ref]\n"
            .to_owned();
        for n in 0..30 {
            policy.push_str(&format!("\ta{0} := [a{n}, a{n}]\n\tb{0} := [b{n}, b{n}]\n", n + 1));
        }
        policy.push_str("\ta30 != b30\n}\n");
        let options = RegoOptions { budget: Duration::from_millis(500), workers: 1, ..options() };
        let policy = RegoPolicy::load(&[file("stuck.rego", &policy)], None, &options).unwrap();
        let verdict = policy.decide(&on("stuck")).await;
        assert!(failure(&verdict).contains("its thread was given up"), "{verdict:?}");
        assert_eq!(policy.overdue(), 1);
        assert!(policy.decide(&on("main")).await.is_admitted());
    }
}
