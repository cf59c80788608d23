//! A jobgate that is killed at each step on which a job goes from GitLab to its runner.

use std::{net::SocketAddr, time::Duration};

use jobgate_sdk::{AdmissionRequest, Verdict, serve};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::watch, time::timeout};

use crate::{
    gitlab::{Answer, Endpoint, Gate, GitLab, JobBuilder, Outcome, Status},
    gitlab_runner::{Heard, Picked},
    jobgate::{HandOuts, Jobgate, MANAGER, NAMES, TOKEN, world},
};

const NONE: HandOuts = HandOuts { asking: 0, delivering: 0, failing: 0 };
const DELIVERING: HandOuts = HandOuts { delivering: 1, ..NONE };
const ASKING: HandOuts = HandOuts { asking: 1, ..NONE };

/// A runner that has its job goes on with it at the restarted jobgate, and comes to its end exactly once.
async fn goes_on(gitlab: &GitLab, jobgate: &mut Jobgate, mut job: Picked) {
    assert_eq!(jobgate.runner().whole(&mut job).await, Some(200));
    let ended = gitlab.ended(job.id).await;
    assert_eq!((ended.status, ended.assignments.len()), (Status::Success, 1));
    assert_eq!((ended.updates.as_slice(), ended.refused), (["running".to_owned(), "success".to_owned()].as_slice(), 0));
    assert_eq!(ended.system_id(), Some(MANAGER));
    // That its runner has it is written as well.
    jobgate.until(NONE).await;
    jobgate.restart();
    assert_eq!(jobgate.handouts().await, NONE);
    assert_eq!(jobgate.decisions(job.id).await.len(), 1);
    assert_eq!(gitlab.breaches(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_gitlab_has_assigned_a_job_it_stays_in_the_queue() {
    let (gitlab, mut jobgate) = world(NAMES).await;
    gitlab.enqueue(JobBuilder::new(17).build());
    let gate = Gate::new();
    gitlab.answers([Answer::Delay(gate.clone())]);
    let runner = jobgate.runner();
    let polled = tokio::spawn(async move { runner.poll().await });
    gate.reached(1).await;
    jobgate.kill();
    assert_eq!(gitlab.answered(Endpoint::Request, 1).await.outcome, Some(Outcome::Gone));
    assert_eq!(gitlab.job(17).status, Status::Queued);
    polled.await.unwrap();
    jobgate.start();
    let job = jobgate.runner().poll().await.job();
    goes_on(&gitlab, &mut jobgate, job).await;
    jobgate.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_with_gitlabs_answer_on_its_way_one_answer_is_lost_and_it_is_known_which() {
    let (gitlab, mut jobgate) = world(NAMES).await;
    gitlab.enqueue(JobBuilder::new(17).build());
    gitlab.enqueue(JobBuilder::new(18).build());
    let gate = Gate::new();
    gitlab.answers([Answer::DelayDelivery(gate.clone())]);
    let runner = jobgate.runner();
    let polled = tokio::spawn(async move { runner.poll().await });
    gate.reached(1).await;
    jobgate.kill();
    assert_eq!(gitlab.answered(Endpoint::Request, 1).await.outcome, Some(Outcome::Gone));
    polled.await.unwrap();
    jobgate.start();
    // Nothing of it had come: it is neither delivered nor decided about, now or later.
    let job = jobgate.runner().poll().await.job();
    assert_eq!(job.id, 18);
    goes_on(&gitlab, &mut jobgate, job).await;
    assert_eq!(gitlab.job(17).status, Status::Running);
    assert!(jobgate.decisions(17).await.is_empty());
    eprintln!("killed with GitLab's answer on its way: answers not yet written 1 (1 open poll, 1 kill)");
    jobgate.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_a_controller_is_asked_the_job_fails_as_the_systems_fault() {
    let (tell, go) = watch::channel(false);
    let slow = serve(move |_: AdmissionRequest| {
        let mut go = go.clone();
        async move {
            let _ = go.wait_for(|go| *go).await;
            Verdict::admit()
        }
    });
    let slow = slow.listen("127.0.0.1:0".parse::<SocketAddr>().unwrap()).bind().await.unwrap();
    let address = slow.local_addr();
    tokio::spawn(slow.into_future());
    let controllers = format!("  - {{ name: slow, scope: instance, grpc: \"http://{address}\", timeout: 25s }}\n");
    let (gitlab, mut jobgate) = world(&controllers).await;
    gitlab.enqueue(JobBuilder::new(17).build());
    let runner = jobgate.runner();
    let polled = tokio::spawn(async move { runner.poll().await });
    jobgate.until(ASKING).await;
    jobgate.kill();
    polled.await.unwrap();
    assert_eq!(gitlab.job(17).updates, Vec::<String>::new());
    jobgate.start();
    let ended = gitlab.ended(17).await;
    assert_eq!((ended.status, ended.failure_reason.as_deref()), (Status::Failed, Some("runner_system_failure")));
    assert_eq!(ended.updates, ["running", "failed"]);
    let log = ended.trace_text();
    assert_eq!(log.matches("jobgate was restarted while it decided about this job").count(), 1, "{log}");
    jobgate.until(NONE).await;
    // Nobody gets it any more, and the next one goes its way.
    tell.send_replace(true);
    assert!(jobgate.runner().poll().await.is_empty());
    gitlab.enqueue(JobBuilder::new(18).build());
    let job = jobgate.runner().poll().await.job();
    assert_eq!(job.id, 18);
    goes_on(&gitlab, &mut jobgate, job).await;
    jobgate.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_the_answer_a_runner_that_has_its_job_goes_on_with_it() {
    let (gitlab, mut jobgate) = world(NAMES).await;
    gitlab.enqueue(JobBuilder::new(17).build());
    let old = jobgate.runner();
    let mut job = old.poll().await.job();
    jobgate.kill();
    // Nobody hears it: that does not end a job.
    assert_eq!(old.accept(&mut job).await, Heard::GoOn);
    jobgate.start();
    assert_eq!(jobgate.handouts().await, DELIVERING);
    goes_on(&gitlab, &mut jobgate, job).await;
    jobgate.stop();
}

/// That such a job is failed once its runner has been silent for a minute is seen at the end of the random kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_the_answer_a_job_that_nobody_speaks_of_is_waited_for_and_not_given_again() {
    for reads in [true, false] {
        let (gitlab, mut jobgate) = world(NAMES).await;
        gitlab.enqueue(JobBuilder::new(17).build());
        let mut deaf = None;
        if reads {
            jobgate.runner().poll().await.job();
        } else {
            deaf = Some(ask_and_never_read(&jobgate.url()).await);
        }
        jobgate.until(DELIVERING).await;
        jobgate.restart();
        drop(deaf);
        assert_eq!(jobgate.handouts().await, DELIVERING);
        assert!(jobgate.runner().poll().await.is_empty());
        // Restarts do not use up its time, or forget it.
        jobgate.restart();
        assert_eq!(jobgate.handouts().await, DELIVERING);
        let job = gitlab.job(17);
        assert_eq!((job.status, job.updates.len(), job.assignments.len()), (Status::Running, 0, 1));
        jobgate.stop();
    }
}

/// A job that GitLab's user cancels while jobgate is dead: its runner hears it from GitLab.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canceled_while_jobgate_is_dead_a_delivered_job_ends_in_its_runner() {
    let (gitlab, mut jobgate) = world(NAMES).await;
    gitlab.enqueue(JobBuilder::new(17).build());
    let mut job = jobgate.runner().poll().await.job();
    jobgate.kill();
    assert!(gitlab.cancel(17));
    jobgate.start();
    assert_eq!(jobgate.runner().accept(&mut job).await, Heard::Abort);
    assert_eq!(gitlab.job(17).status, Status::Canceled);
    assert!(jobgate.runner().poll().await.is_empty());
    jobgate.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_a_runner_hears_that_gitlab_took_its_word_it_goes_on() {
    let (gitlab, mut jobgate) = world(NAMES).await;
    gitlab.enqueue(JobBuilder::new(17).build());
    let runner = jobgate.runner();
    let mut job = runner.poll().await.job();
    let gate = Gate::new();
    gitlab.script(Endpoint::Update, [Answer::DelayDelivery(gate.clone())]);
    let accepting = tokio::spawn(async move {
        let heard = runner.accept(&mut job).await;
        (heard, job)
    });
    gate.reached(1).await;
    jobgate.kill();
    let (heard, job) = timeout(Duration::from_secs(30), accepting).await.unwrap().unwrap();
    assert_eq!((heard, gitlab.job(17).updates.as_slice()), (Heard::GoOn, ["running".to_owned()].as_slice()));
    jobgate.start();
    assert_eq!(jobgate.handouts().await, DELIVERING);
    goes_on(&gitlab, &mut jobgate, job).await;
    jobgate.stop();
}

/// Over a socket whose answer stays where it is.
async fn ask_and_never_read(url: &str) -> TcpStream {
    let address = url.strip_prefix("http://").unwrap();
    let body = json!({ "token": TOKEN, "system_id": MANAGER, "info": { "version": "19.4.0" } }).to_string();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /api/v4/jobs/request HTTP/1.1\r\nhost: {address}\r\nrunner-token: {TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream
}
