use std::{
    collections::HashSet,
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::join_all;
use jobgate_proto::admission::v1::{AdmitRequest, AdmitResponse, ScriptLine, Variable, admit_response::Verdict};
use prost::Message;
use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{
    Outcome,
    client::{Client, SLACK, Unanswered},
};
use crate::testing::request;

const AT_ONCE: usize = 64;
const ANSWER_LIMIT: usize = 64 * 1024;
const REASON_LIMIT: usize = 1024;
/// A field number that no message uses, with a length-delimited value: what a newer router may send.
const UNKNOWN_FIELD: &[u8] = b"\x92\xf7\x01\x05later";

type Checking<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// All that need nothing but a controller that runs, in the order of what to repair first.
pub(super) fn all(client: &Client) -> Vec<(&'static str, Checking<'_>)> {
    vec![
        ("answers", Box::pin(answers(client))),
        ("token", Box::pin(token(client))),
        ("64 at once", Box::pin(at_once(client))),
        ("time limit", Box::pin(time_limit(client))),
        ("withdrawn", Box::pin(withdrawn(client))),
        ("repeatable", Box::pin(repeatable(client))),
        ("unknown fields", Box::pin(unknown_fields(client))),
        ("odd texts", Box::pin(odd_texts(client))),
        ("sparse question", Box::pin(sparse(client))),
        ("empty question", Box::pin(empty(client))),
        ("garbage", Box::pin(garbage(client))),
        ("1 MiB question", Box::pin(huge(client))),
        ("health", Box::pin(health(client))),
    ]
}

async fn answers(client: &Client) -> Outcome {
    let question = request().wire();
    match client.ask(&question).await {
        Err(error) if error.code() == Some(Code::Unimplemented) => failed(
            &error,
            "Serve `jobgate.admission.v1.AdmissionController`, of proto/jobgate/admission/v1/admission.proto",
        ),
        Err(error) if error.code() == Some(Code::Unauthenticated) => failed(&error, "Give this suite the right token"),
        Err(error) => {
            failed(&error, "Answer every question with an AdmitResponse; say `failed` when you cannot decide")
        }
        Ok(answer) => sound(&question, &answer),
    }
}

async fn token(client: &Client) -> Outcome {
    if !client.has_token() {
        return Outcome::Skipped("no token was given");
    }
    let stranger = match client.again().await {
        Ok(other) => other.without_token(),
        Err(found) => return Outcome::Failed(found, "Take more than one connection"),
    };
    match stranger.ask(&request().wire()).await {
        Err(error) if error.code() == Some(Code::Unauthenticated) => Outcome::Passed,
        Err(error) => failed(&error, "Answer UNAUTHENTICATED to a caller without the token"),
        Ok(_) => {
            Outcome::Failed("a caller without the token was answered".into(), "Check `authorization: Bearer <token>`")
        }
    }
}

async fn at_once(client: &Client) -> Outcome {
    let questions: Vec<_> = (0..AT_ONCE).map(|_| request().time_left(Duration::from_secs(5)).wire()).collect();
    let answers = join_all(questions.iter().map(|question| client.ask(question))).await;
    let mut ids = HashSet::new();
    for (question, answer) in questions.iter().zip(answers) {
        match answer {
            Err(error) => {
                return failed(&error, "Answer at least 64 questions at once: more workers, or no blocking calls");
            }
            Ok(answer) if answer.id != question.id || !ids.insert(answer.id.clone()) => {
                return wrong_id(question, &answer);
            }
            Ok(_) => {}
        }
    }
    Outcome::Passed
}

async fn time_limit(client: &Client) -> Outcome {
    for time_left in [Duration::from_millis(100), Duration::ZERO] {
        let started = Instant::now();
        let question = request().time_left(time_left).wire();
        match client.ask(&question).await {
            Ok(answer) if answer.id != question.id => return wrong_id(&question, &answer),
            Ok(_) => {}
            Err(error) if error.code() == Some(Code::DeadlineExceeded) && started.elapsed() < time_left + SLACK => {}
            Err(error) => {
                let found = format!("with {time_left:?} left: {}", error.found());
                let advice =
                    "Stop work when `time_left` is over, and answer `failed` with `out_of_time`, or DEADLINE_EXCEEDED";
                return Outcome::Failed(found, advice);
            }
        }
    }
    Outcome::Passed
}

async fn withdrawn(client: &Client) -> Outcome {
    // HTTP/2 servers close connections on which many calls are reset before they begin: 20, often.
    let questions: Vec<_> = (0..AT_ONCE / 4).map(|_| request().wire()).collect();
    // Polled once each, so that they are on their way, and dropped.
    let asked = join_all(questions.iter().map(|question| client.ask(question)));
    let _ = timeout(Duration::ZERO, asked).await;
    survived(client, "Keep serving when a caller goes away before its answer").await
}

async fn repeatable(client: &Client) -> Outcome {
    let question = request().wire();
    let again = match client.again().await {
        Ok(again) => again,
        Err(found) => return Outcome::Failed(found, "Take more than one connection"),
    };
    let (first, second) = tokio::join!(client.ask(&question), again.ask(&question));
    let third = client.ask(&question).await;
    let advice = "Decide by the question (use its `time`, not your clock) and by state that changes slowly";
    match (first, second, third) {
        (Ok(first), Ok(second), Ok(third)) if first == second && second == third => Outcome::Passed,
        (Ok(first), Ok(second), Ok(third)) => {
            let changed = if first == second { third } else { second };
            Outcome::Failed(format!("first {:?}, then {:?}", first.verdict, changed.verdict), advice)
        }
        (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => {
            failed(&error, "Answer a question again when it is asked again")
        }
    }
}

async fn unknown_fields(client: &Client) -> Outcome {
    let advice = "Ignore fields and enum values you do not know: newer routers send them";
    let plain = request();
    let mut at_top = plain.clone().wire().encode_to_vec();
    at_top.extend_from_slice(UNKNOWN_FIELD);
    // Fields that come twice are merged: a second `job` (field 3) adds its unknown field to the first.
    let mut in_job = plain.clone().wire().encode_to_vec();
    in_job.extend_from_slice(&[0x1a, u8::try_from(UNKNOWN_FIELD.len()).unwrap_or_default()]);
    in_job.extend_from_slice(UNKNOWN_FIELD);
    let new_kind = plain.clone().job(|job| job.ref_type = Some(99)).wire().encode_to_vec();
    let id = plain.wire().id;
    for (place, bytes) in [("in the question", at_top), ("in the job", in_job), ("as a kind of ref", new_kind)] {
        match client.ask_raw(bytes.into(), Duration::from_secs(2)).await {
            Ok(answer) if answer.id == id => {}
            Ok(answer) => return Outcome::Failed(format!("{place}: answered under id `{}`", answer.id), advice),
            Err(error) => return Outcome::Failed(format!("{place}: {}", error.found()), advice),
        }
    }
    Outcome::Passed
}

async fn odd_texts(client: &Client) -> Outcome {
    let odd = "\u{0}\u{1b}[31m\u{202e}…🦀\r\n\"'\\${x}%s";
    let question =
        request().image(odd).branch(odd).environment(odd).user(odd).tag(odd).variable(odd, odd).script([odd]).wire();
    match client.ask(&question).await {
        Ok(answer) => sound(&question, &answer),
        Err(error) => failed(&error, "Texts are any UTF-8; job authors choose them"),
    }
}

async fn sparse(client: &Client) -> Outcome {
    let full =
        request().job(|job| *job = jobgate_proto::admission::v1::Job { id: job.id.clone(), ..Default::default() });
    let question = full.wire();
    match client.ask(&question).await {
        Ok(answer) => sound(&question, &answer),
        Err(error) => {
            failed(&error, "Everything `optional`, `user` and `runner` may be unknown: check before you read")
        }
    }
}

async fn empty(client: &Client) -> Outcome {
    let without_job = AdmitRequest { job: None, project: None, ..request().wire() }.encode_to_vec();
    for (what, bytes) in [("no bytes at all", Vec::new()), ("neither job nor project", without_job)] {
        match client.ask_raw(bytes.into(), Duration::from_secs(2)).await {
            Ok(AdmitResponse { verdict: Some(Verdict::Admitted(_)), .. }) => {
                let found = format!("it admitted a question with {what}");
                return Outcome::Failed(found, "Check that `job` and `project` are set, and answer `failed` if not");
            }
            Err(Unanswered::Late(limit)) => {
                let found = format!("a question with {what} got no answer within {limit:?}");
                return Outcome::Failed(found, "Answer `failed`, or a gRPC status, at once");
            }
            Ok(_) | Err(_) => {}
        }
    }
    survived(client, "Keep serving after a question that makes no sense").await
}

async fn garbage(client: &Client) -> Outcome {
    let garbage = Bytes::from_static(b"\xff\xff\xff\xff this is no protobuf \x00\x01\x02");
    match client.ask_raw(garbage, Duration::from_secs(2)).await {
        Ok(AdmitResponse { verdict: Some(Verdict::Admitted(_)), .. }) => {
            Outcome::Failed("it admitted bytes that are no message".into(), "Let the gRPC library refuse them")
        }
        Err(Unanswered::Late(limit)) => {
            Outcome::Failed(format!("no answer within {limit:?}"), "Let the gRPC library refuse what it cannot decode")
        }
        Ok(_) | Err(_) => survived(client, "Keep serving after bytes that are no message").await,
    }
}

async fn huge(client: &Client) -> Outcome {
    let advice = "Take messages of at least 2 MiB (gRPC's usual limit is 4 MiB), and decide about them in time";
    let long = request().script(["x".repeat(1 << 20).as_str()]);
    let many = request().job(|job| {
        let line = |n| ScriptLine { place: format!("steps.script[{n}]"), text: "true".into() };
        job.script.get_or_insert_default().lines = (0..10_000).map(line).collect();
        let variable = |n| Variable { key: format!("KEY_{n}"), value: Some("x".repeat(50)), ..Variable::default() };
        job.variables = (0..10_000).map(variable).collect();
    });
    for (what, question) in [("one long text", long), ("10,000 variables and lines", many)] {
        let question = question.time_left(Duration::from_secs(5)).wire();
        match client.ask(&question).await {
            Ok(answer) if answer.id == question.id => {}
            Ok(answer) => return wrong_id(&question, &answer),
            Err(error) => return Outcome::Failed(format!("{what}: {}", error.found()), advice),
        }
    }
    Outcome::Passed
}

async fn health(client: &Client) -> Outcome {
    let advice = "Serve `grpc.health.v1.Health`: load balancers and Kubernetes ask it";
    let asking = async {
        let question = HealthCheckRequest { service: String::new() };
        HealthClient::new(client.channel.clone()).check(question).await
    };
    match timeout(Duration::from_secs(2), asking).await {
        Ok(Ok(health)) if health.get_ref().status() == ServingStatus::Serving => Outcome::Passed,
        Ok(Ok(health)) => Outcome::Advice(format!("it says {:?}", health.get_ref().status()), advice),
        Ok(Err(status)) => Outcome::Advice(format!("gRPC status {:?}", status.code()), advice),
        Err(_) => Outcome::Advice("no answer".into(), advice),
    }
}

/// Begins shutdown while questions are open; each must end with an answer, or with a word that it was not taken.
pub(super) async fn drain(client: &Client, shut_down: Pin<Box<dyn Future<Output = ()> + Send>>) -> Outcome {
    let advice = "On shutdown take no new questions (GOAWAY), answer the open ones, then end";
    let questions: Vec<_> = (0..AT_ONCE).map(|_| request().time_left(Duration::from_secs(5)).wire()).collect();
    let asked = join_all(questions.iter().map(|question| client.ask(question)));
    let (answers, ()) = tokio::join!(asked, shut_down);
    for answer in answers {
        match answer {
            Ok(_) => {}
            // gRPC's C core, and with it Python, says CANCELLED of calls that it did not take.
            Err(error) if matches!(error.code(), Some(Code::Unavailable | Code::Cancelled)) => {}
            Err(error) => return failed(&error, advice),
        }
    }
    let stopped = async {
        while client.ask(&request().wire()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match timeout(Duration::from_secs(35), stopped).await {
        Ok(()) => Outcome::Passed,
        Err(_) => Outcome::Failed("it still answers 35 s after shutdown was asked for".into(), advice),
    }
}

/// Whether an answer to a proper question is one.
fn sound(question: &AdmitRequest, answer: &AdmitResponse) -> Outcome {
    if answer.id != question.id {
        return wrong_id(question, answer);
    }
    let size = answer.encoded_len();
    if size > ANSWER_LIMIT {
        return Outcome::Failed(
            format!("an answer of {size} bytes"),
            "Keep answers below 64 KiB: fewer, shorter warnings",
        );
    }
    match &answer.verdict {
        None => Outcome::Failed("no verdict is set".into(), "Set one of `admitted`, `rejected`, `failed`"),
        Some(Verdict::Rejected(rejected)) if rejected.reason.trim().is_empty() => {
            Outcome::Failed("it rejected without a reason".into(), "Say why, in one line: the job's owner reads it")
        }
        Some(Verdict::Rejected(rejected))
            if rejected.reason.len() > REASON_LIMIT || rejected.reason.contains(char::is_control) =>
        {
            let found = "its reason is not one line of at most 1 KiB".into();
            Outcome::Advice(found, "Shorten it: the router cuts it, and removes control characters")
        }
        Some(Verdict::Failed(verdict)) => {
            let found = format!("it failed to decide: {}", verdict.message);
            Outcome::Advice(
                found,
                "Check its configuration: a failure rejects the job, unless `on_failure` says otherwise",
            )
        }
        Some(_) => Outcome::Passed,
    }
}

async fn survived(client: &Client, advice: &'static str) -> Outcome {
    let question = request().wire();
    match client.ask(&question).await {
        Ok(answer) if answer.id == question.id => Outcome::Passed,
        Ok(answer) => wrong_id(&question, &answer),
        Err(error) => Outcome::Failed(format!("the next question: {}", error.found()), advice),
    }
}

fn failed(error: &Unanswered, advice: &'static str) -> Outcome {
    Outcome::Failed(error.found(), advice)
}

fn wrong_id(question: &AdmitRequest, answer: &AdmitResponse) -> Outcome {
    let found = format!("question `{}` was answered as `{}`", question.id, answer.id);
    Outcome::Failed(found, "Copy `id` from the question to its answer, and keep questions apart")
}
