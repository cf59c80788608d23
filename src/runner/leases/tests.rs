use jobgate_proto::runner::v1::QueueSignal;

use super::*;

/// A scheduler's view of the runner: messages by kind, in a line each.
fn said(effects: &[Effect]) -> Vec<String> {
    let line = |effect: &Effect| match effect {
        Effect::Run { key, .. } => format!("run {}/{}", key.job_id, key.lease),
        Effect::Stop { key, why } => format!("stop {}/{}: {why}", key.job_id, key.lease),
        Effect::Send(RunnerMessage { message: Some(message) }) => match message {
            runner_message::Message::Credit(credit) => format!("credit {}", credit.slots),
            runner_message::Message::Accept(accept) => format!("accept {}/{}", accept.job_id, accept.lease),
            runner_message::Message::Refuse(refuse) => {
                format!("refuse {}/{}: {}", refuse.job_id, refuse.lease, refuse.reason)
            }
            runner_message::Message::Finished(end) => {
                format!("finished {}/{}: {} {}", end.job_id, end.lease, end.outcome().as_str_name(), end.reason)
            }
            runner_message::Message::Draining(_) => "draining".to_owned(),
            other => format!("{other:?}"),
        },
        Effect::Send(_) => "nothing".to_owned(),
    };
    effects.iter().map(line).collect()
}

fn attached(capacity: u32, now: Instant) -> Leases {
    let mut leases = Leases::new(capacity, now);
    assert_eq!(said(&leases.attached(&Welcome::default(), now)), [format!("credit {capacity}")]);
    leases
}

fn tell(leases: &mut Leases, message: gateway_message::Message, now: Instant) -> Vec<String> {
    said(&leases.message(GatewayMessage { message: Some(message) }, now))
}

fn assign(leases: &mut Leases, job_id: &str, lease: u64, now: Instant) -> Vec<String> {
    let document = "payload: {script: ['true']}".into();
    let assign = Assign { job_id: job_id.to_owned(), lease, document, timeout: None, fence: None };
    tell(leases, gateway_message::Message::Assign(assign), now)
}

fn cancel(leases: &mut Leases, job_id: &str, lease: u64, now: Instant) -> Vec<String> {
    let cancel = Cancel { job_id: job_id.to_owned(), lease, reason: String::new() };
    tell(leases, gateway_message::Message::Cancel(cancel), now)
}

fn key(job_id: &str, lease: u64) -> Key {
    Key { job_id: job_id.into(), lease }
}

fn ended(leases: &mut Leases, job_id: &str, lease: u64) -> Vec<String> {
    said(&leases.ended(&key(job_id, lease), End { success: true, exit_code: Some(0), reason: String::new() }))
}

fn killed(leases: &mut Leases, job_id: &str, lease: u64) -> Vec<String> {
    said(&leases.ended(&key(job_id, lease), End::failed(None, "stopped".to_owned())))
}

#[test]
fn credits_never_exceed_free_slots() {
    let now = Instant::now();
    let mut leases = attached(2, now);
    assert_eq!(assign(&mut leases, "a", 1, now), ["accept a/1", "run a/1"]);
    assert_eq!(assign(&mut leases, "b", 2, now), ["accept b/2", "run b/2"]);
    assert_eq!(assign(&mut leases, "c", 3, now), ["refuse c/3: the runner is at capacity"]);
    assert_eq!(ended(&mut leases, "a", 1), ["finished a/1: OUTCOME_SUCCESS ", "credit 1"]);
    assert_eq!(assign(&mut leases, "c", 4, now), ["accept c/4", "run c/4"]);
    leases.detached();
    assert!(ended(&mut leases, "b", 2).iter().all(|line| !line.starts_with("credit")));
    let effects = leases.attached(&Welcome::default(), now);
    let unrecorded = ["finished a/1: OUTCOME_SUCCESS ", "finished b/2: OUTCOME_SUCCESS ", "credit 1"];
    assert_eq!(said(&effects), unrecorded);
}

#[test]
fn a_lease_that_is_held_is_not_run_twice_and_an_older_one_not_at_all() {
    let now = Instant::now();
    let mut leases = attached(3, now);
    assign(&mut leases, "a", 5, now);
    assert_eq!(assign(&mut leases, "a", 5, now), ["credit 1"]);
    let refused = ["refuse a/4: an older lease of a job that this runner holds", "credit 1"];
    assert_eq!(assign(&mut leases, "a", 4, now), refused);
    assert_eq!(assign(&mut leases, "a", 6, now)[0], "stop a/5: canceled");
    assert_eq!(killed(&mut leases, "a", 5)[0], "finished a/5: OUTCOME_CANCELED canceled");
    assert_eq!(assign(&mut leases, "a", 7, now), ["accept a/7", "run a/7"]);
}

#[test]
fn a_void_lease_is_not_held_and_its_result_not_kept() {
    let now = Instant::now();
    let mut leases = attached(1, now);
    assign(&mut leases, "a", 1, now);
    assert_eq!(cancel(&mut leases, "a", 1, now), ["stop a/1: canceled"]);
    assert!(cancel(&mut leases, "a", 1, now).is_empty() && leases.held().is_empty() && !leases.is_empty());
    assert_eq!(
        ended(&mut leases, "a", 1),
        ["finished a/1: OUTCOME_SUCCESS ", "credit 1"]
            .map(|line| line.replace("OUTCOME_SUCCESS ", "OUTCOME_CANCELED canceled"))
    );
    assert!(leases.is_empty());
    assign(&mut leases, "b", 2, now);
    ended(&mut leases, "b", 2);
    assert_eq!(leases.held().len(), 1);
    cancel(&mut leases, "b", 2, now);
    assert!(leases.is_empty(), "a finished lease that is void is forgotten");
}

#[test]
fn silence_stops_every_job_once_and_words_postpone_it() {
    let now = Instant::now();
    let mut leases = attached(2, now);
    assign(&mut leases, "a", 1, now);
    let later = now + Duration::from_secs(29);
    assert!(leases.silence(later).is_empty());
    tell(&mut leases, gateway_message::Message::Heartbeat(Heartbeat::default()), later);
    assert!(leases.silence(now + Duration::from_secs(58)).is_empty());
    let silent = leases.silent_at();
    assert_eq!(silent, later + Duration::from_secs(30));
    leases.detached();
    assert_eq!(said(&leases.silence(silent)), ["stop a/1: stopped: no word from the router for 30s"]);
    assert!(leases.silence(silent).is_empty() && leases.is_silenced());
    assert_eq!(leases.held().len(), 1, "the lease may still be ours: the router decides");
    killed(&mut leases, "a", 1);
    let effects = said(&leases.attached(&Welcome::default(), silent));
    assert_eq!(effects[0], "finished a/1: OUTCOME_FAILED stopped: no word from the router for 30s");
    assert!(!leases.is_silenced());
}

#[test]
fn a_draining_runner_takes_nothing_and_grants_nothing() {
    let now = Instant::now();
    let mut leases = attached(2, now);
    assign(&mut leases, "a", 1, now);
    assert_eq!(said(&leases.drain()), ["draining"]);
    assert_eq!(assign(&mut leases, "b", 2, now), ["refuse b/2: the runner is draining"]);
    assert_eq!(ended(&mut leases, "a", 1), ["finished a/1: OUTCOME_SUCCESS "]);
    leases.detached();
    assert_eq!(said(&leases.attached(&Welcome::default(), now)), ["finished a/1: OUTCOME_SUCCESS ", "draining"]);
}

#[test]
fn results_that_are_never_recorded_come_to_cost_slots() {
    let now = Instant::now();
    let mut leases = attached(1, now);
    for job in 0..1000 {
        assert_eq!(assign(&mut leases, &job.to_string(), 1, now).len(), 2);
        assert_eq!(ended(&mut leases, &job.to_string(), 1).len(), 2);
    }
    assign(&mut leases, "last", 1, now);
    assert_eq!(ended(&mut leases, "last", 1), ["finished last/1: OUTCOME_SUCCESS "]);
    let recorded = Recorded { job_id: "7".to_owned(), lease: 1 };
    assert_eq!(tell(&mut leases, gateway_message::Message::Recorded(recorded), now), ["credit 1"]);
}

#[test]
fn the_fence_goes_with_the_job() {
    let now = Instant::now();
    let mut leases = attached(2, now);
    for (job_id, fence) in [("a", None), ("b", Some(9))] {
        let document = "payload: {script: ['true']}".into();
        let assign = Assign { job_id: job_id.to_owned(), lease: 1, document, timeout: None, fence };
        let effects = leases.message(GatewayMessage { message: Some(gateway_message::Message::Assign(assign)) }, now);
        assert!(matches!(&effects[1], Effect::Run { fence: told, .. } if *told == fence), "{effects:?}");
    }
}

#[test]
fn a_signal_of_the_queue_asks_for_nothing_and_is_a_word_of_the_router() {
    let now = Instant::now();
    let mut leases = attached(1, now);
    let later = now + Duration::from_secs(20);
    assert!(tell(&mut leases, gateway_message::Message::Queue(QueueSignal::default()), later).is_empty());
    assert_eq!(leases.silent_at(), later + Duration::from_secs(30));
}
