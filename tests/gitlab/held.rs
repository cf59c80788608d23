//! Polls that are held, their runners going away, the router going away, and a store that cannot write.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use jobgate_router::{Batch, DocumentRef, MemoryStore, Store, StoreError};
use jobgate_sdk::{AdmissionRequest, Verdict};

use crate::{
    gitlab::{Answer, Endpoint, Gate, JobBuilder, Outcome, Status},
    gitlab_runner::{Code, Polled, Way},
    refusals::at_once,
    site::{CI, Setup, TOKEN, World, soon},
};

/// A store that writes only while it is well.
struct Ailing(Arc<AtomicBool>);

impl Store for Ailing {
    fn commit(&mut self, batch: &Batch) -> Result<Vec<DocumentRef>, StoreError> {
        match self.0.load(Ordering::Relaxed) {
            true => MemoryStore.commit(batch),
            false => Err(StoreError::new("the disk is full")),
        }
    }
}

#[tokio::test]
async fn a_held_poll_gets_the_job_that_comes() {
    for way in [Way::Rest, Way::Router] {
        let world = Setup::over_grpc().await;
        let runner = world.runner().way(way);
        assert!(runner.poll().await.is_empty());
        let comes = async {
            world.gitlab.holding(1).await;
            assert_eq!(world.metric("open_polls").await, 1);
            world.gitlab.enqueue(JobBuilder::new(17).build());
        };
        let (polled, ()) = soon("the job", async { tokio::join!(runner.poll(), comes) }).await;
        assert_eq!(polled.job().id, 17);
        assert_eq!(world.metric("open_polls").await, 0);
        world.jobgate.stop().await;
    }
}

#[tokio::test]
async fn no_job_is_taken_for_a_runner_that_went_away_while_its_poll_was_held() {
    let world = World::new().await;
    let runner = world.runner();
    assert!(runner.poll().await.is_empty());
    tokio::select! {
        polled = runner.poll() => panic!("it is held: {polled:?}"),
        () = world.gitlab.holding(1) => {}
    }
    world.gitlab.holding(0).await;
    assert_eq!(world.gitlab.answered(Endpoint::Request, 2).await.outcome, Some(Outcome::Gone));
    world.gitlab.enqueue(JobBuilder::new(17).build());
    assert_eq!(world.gitlab.job(17).assignments.len(), 0);
    // The connection was cut while GitLab held it: that is said, since there may have been a job in mid-air.
    world.metric_is("lost_answers_total{why=\"cut_off\"}", 1).await;
    world.jobgate.stop().await;
}

#[tokio::test]
async fn a_job_fails_whose_runner_went_away_while_its_chain_was_asked() {
    let gate = Gate::new();
    let asked = gate.clone();
    let controller = move |_: AdmissionRequest| {
        let gate = asked.clone();
        async move {
            gate.come().await;
            Verdict::admit()
        }
    };
    let world = at_once().start_with(|router| router.controller("slow", "instance".parse().unwrap(), controller)).await;
    world.gitlab.enqueue(JobBuilder::new(17).build());
    tokio::select! {
        polled = world.poll_as("call") => panic!("its chain is asked: {polled:?}"),
        () = gate.reached(1) => {}
    }
    world.metric_is("open_polls", 0).await;
    world.metric_is("handouts{stage=\"asking\"}", 1).await;
    gate.open();
    let ended = world.gitlab.ended(17).await;
    assert_eq!(ended.failure_reason.as_deref(), Some("runner_system_failure"));
    let decisions = world.decisions(17).await;
    assert_eq!((decisions.len(), &decisions[0]["decision"]), (1, &"admitted".into()));
    world.metric_is("finished_total{by=\"jobgate\"}", 1).await;
    world.jobgate.stop().await;
}

#[tokio::test]
async fn held_polls_end_empty_and_soon_when_the_router_shuts_down() {
    let world = Setup::over_grpc().await;
    let (rest, router) = (world.runner(), world.runner().way(Way::Router));
    assert!(rest.poll().await.is_empty());
    assert!(router.poll().await.is_empty());
    let World { gitlab, site: _site, jobgate } = world;
    let stops = async {
        gitlab.holding(2).await;
        let began = tokio::time::Instant::now();
        jobgate.stop().await;
        began.elapsed()
    };
    let (rest, router, took) = soon("the end", async { tokio::join!(rest.poll(), router.poll(), stops) }).await;
    assert!(rest.is_empty() && router.is_empty(), "{rest:?}, {router:?}");
    assert!(took.as_secs() < 10, "it took {took:?}");
    gitlab.enqueue(JobBuilder::new(17).build());
    assert_eq!(gitlab.job(17).status, Status::Queued);
}

#[tokio::test]
async fn a_job_that_was_on_its_way_when_the_router_shuts_down_is_delivered() {
    let world = at_once().start().await;
    let runner = world.runner();
    assert!(runner.poll().await.is_empty());
    world.gitlab.enqueue(JobBuilder::new(17).build());
    let gate = Gate::new();
    world.gitlab.answers([Answer::DelayDelivery(gate.clone())]);
    let World { gitlab, site: _site, jobgate } = world;
    let opens = async {
        gate.reached(1).await;
        tokio::join!(jobgate.stop(), async { gate.open() });
    };
    let (polled, ()) = soon("the job", async { tokio::join!(runner.poll(), opens) }).await;
    assert_eq!(polled.job().id, 17);
    assert_eq!(gitlab.job(17).status, Status::Running);
}

/// Waits until the router says of itself that it is ready, or is not.
async fn ready(world: &World, status: u16) {
    let looking = async {
        while world.call("GET", "/readyz").bearer_auth(CI).send().await.unwrap().status() != status {
            tokio::task::yield_now().await;
        }
    };
    soon("another readiness", looking).await;
}

#[tokio::test]
async fn while_the_store_cannot_write_nothing_is_delivered_and_gitlab_is_not_asked() {
    let well = Arc::new(AtomicBool::new(true));
    let store = Ailing(well.clone());
    let world = at_once().start_with(|router| router.store(store)).await;
    let runner = world.runner();
    assert!(runner.poll().await.is_empty());
    well.store(false, Ordering::Relaxed);
    world.gitlab.enqueue(JobBuilder::new(17).build());
    // The first one finds out. Its job could not be written as given out, and would be old when it can be: it fails at once.
    assert_eq!(world.poll_as("call-1").await.status(), 503);
    let ended = world.gitlab.ended(17).await;
    assert_eq!(ended.failure_reason.as_deref(), Some("runner_system_failure"));
    assert!(ended.trace_text().contains("could not write its state"), "{}", ended.trace_text());
    ready(&world, 503).await;
    let asked = world.gitlab.count(Endpoint::Request);
    world.gitlab.enqueue(JobBuilder::new(18).build());
    for _ in 0..3 {
        assert!(matches!(runner.poll().await, Polled::Failed(Code::Http(503))));
    }
    assert_eq!(world.gitlab.count(Endpoint::Request), asked);
    well.store(true, Ordering::Relaxed);
    ready(&world, 200).await;
    assert_eq!(runner.poll().await.job().id, 18);
    assert_eq!(world.gitlab.verified(TOKEN), 1);
    world.metric_is("handouts{stage=\"failing\"}", 0).await;
    world.jobgate.stop().await;
}
