//! What is written before it takes effect, and what becomes of it where the store cannot write.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_leaves_has_been_committed_before() {
    let disk = Disk::default();
    let router = start_with(vec![admit_all()], &disk);
    let (session, mut orders) = router.handle.attach(hello("r", 1)).await.unwrap();
    router.handle.runner(session, RunnerEvent::Credit(1)).await.unwrap();
    submit(&router.handle, vec![new_job("j1", "acme/api")]).await;
    let (job, lease) = assigned(&mut orders).await;
    let committed = disk.states.lock().unwrap().clone();
    assert!(committed.contains(&(job.clone(), JobState::Assigned)), "{committed:?}");
    assert_eq!(disk.decisions.lock().unwrap()[0].decision, Ruling::Admitted);
    let result = JobResult { state: JobState::Success, exit_code: Some(0), reason: String::new() };
    router.handle.runner(session, RunnerEvent::Finished(job.clone(), lease, result)).await.unwrap();
    assert!(matches!(next(&mut orders).await, Some(RunnerOrder::Recorded(..))));
    assert!(disk.states.lock().unwrap().contains(&(job, JobState::Success)));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_write_delivers_nothing_refuses_new_jobs_and_loses_none() {
    let disk = Disk::default();
    let mut router = start_with(vec![admit_all()], &disk);
    let (session, mut orders) = router.handle.attach(hello("r", 1)).await.unwrap();
    let job = submit(&router.handle, vec![new_job("j1", "acme/api")]).await.remove(0);
    until(&router.handle, &job, &[JobState::Admitted]).await;
    disk.full.store(true, Ordering::SeqCst);
    router.handle.runner(session, RunnerEvent::Credit(1)).await.unwrap();
    within(router.store_ok.wait_for(|ok| !ok)).await.unwrap();
    assert!(is_quiet(&mut orders), "nothing is delivered");
    let refused = router.handle.submit(vec![new_job("j2", "acme/api")], None).await;
    assert_eq!(refused.unwrap_err(), CoreError::StoreUnavailable, "at once, not when the disk has room again");
    assert_eq!(
        router.handle.job(&job).await.unwrap_err(),
        CoreError::StoreUnavailable,
        "what is not durable is not shown"
    );
    disk.full.store(false, Ordering::SeqCst);
    assert_eq!(assigned(&mut orders).await.0, job, "delivered once it is durable");
    within(router.store_ok.wait_for(|ok| *ok)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_write_for_long_costs_no_job_and_kills_none() {
    let disk = Disk::default();
    let mut router = start_with(vec![admit_all()], &disk);
    let (session, mut orders) = router.handle.attach(hello("r", 2)).await.unwrap();
    router.handle.runner(session, RunnerEvent::Credit(1)).await.unwrap();
    let running = submit(&router.handle, vec![new_job("j1", "acme/api")]).await.remove(0);
    let (_, lease) = assigned(&mut orders).await;
    let waiting = submit(&router.handle, vec![new_job("j2", "acme/api")]).await.remove(0);
    until(&router.handle, &waiting, &[JobState::Admitted]).await;
    disk.full.store(true, Ordering::SeqCst);
    router.handle.runner(session, RunnerEvent::Credit(1)).await.unwrap();
    within(router.store_ok.wait_for(|ok| !ok)).await.unwrap();
    let held = HeldLease { job: running.clone(), lease, started: true };
    for _ in 0..200 {
        router.handle.runner(session, RunnerEvent::Heartbeat(vec![held.clone()])).await.unwrap();
        match within(orders.recv()).await {
            Some(RunnerOrder::Heartbeat) => {}
            other => panic!("a runner that hears nothing kills its jobs; it heard {other:?}"),
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    disk.full.store(false, Ordering::SeqCst);
    assert_eq!(assigned(&mut orders).await.0, waiting);
    assert!(is_quiet(&mut orders), "once, under the lease that is valid");
    assert_eq!(until(&router.handle, &running, &[JobState::Running]).await.lease, Some(lease));
}

#[tokio::test(start_paused = true)]
async fn a_job_is_not_delivered_after_an_outage_when_its_chain_changed_meanwhile() {
    let disk = Disk::default();
    let mut router = start_with(vec![admit_all()], &disk);
    let (session, mut orders) = router.handle.attach(hello("r", 1)).await.unwrap();
    let id = submit(&router.handle, vec![new_job("j1", "acme/api")]).await.remove(0);
    until(&router.handle, &id, &[JobState::Admitted]).await;
    disk.full.store(true, Ordering::SeqCst);
    router.handle.runner(session, RunnerEvent::Credit(1)).await.unwrap();
    within(router.store_ok.wait_for(|ok| !ok)).await.unwrap();
    let strict = chains(vec![enabled("all", |_: AdmissionRequest| async { Verdict::reject("not any more") })])
        .with_versions("all", &["v2".into()].into(), None)
        .unwrap();
    let event = Event::Reconfigured {
        chains: strict,
        runners: Runners::Any,
        settings: Settings::default(),
        names: Names::default(),
        admission_ttl: Duration::from_secs(600),
    };
    router.events.send(event).await.ok().unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    disk.full.store(false, Ordering::SeqCst);
    within(router.store_ok.wait_for(|ok| *ok)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    while let Ok(order) = orders.try_recv() {
        assert!(!matches!(order, RunnerOrder::Assign { .. }), "{order:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_router_whose_store_cannot_write_shuts_down_all_the_same() {
    let disk = Disk::default();
    let mut router = start_with(vec![admit_all()], &disk);
    disk.full.store(true, Ordering::SeqCst);
    let handle = router.handle.clone();
    let never_answered = tokio::spawn(async move { handle.submit(vec![new_job("j1", "acme/api")], None).await });
    within(router.store_ok.wait_for(|ok| !ok)).await.unwrap();
    within(router.handle.drain()).await.unwrap();
    never_answered.abort();
}

#[tokio::test(start_paused = true)]
async fn a_runner_cannot_fill_the_memory_while_the_store_cannot_write() {
    let disk = Disk::default();
    let mut router = start_with(vec![admit_all()], &disk);
    let (session, mut orders) = router.handle.attach(hello("r", 1)).await.unwrap();
    disk.full.store(true, Ordering::SeqCst);
    let handle = router.handle.clone();
    let never_answered = tokio::spawn(async move { handle.submit(vec![new_job("j1", "acme/api")], None).await });
    within(router.store_ok.wait_for(|ok| !ok)).await.unwrap();
    for _ in 0..=MOST_HELD {
        let result = JobResult { state: JobState::Success, exit_code: None, reason: String::new() };
        let lie = RunnerEvent::Finished(JobId::new("nobody's"), crate::job::Lease(7), result);
        router.handle.runner(session, lie).await.unwrap();
    }
    assert!(next(&mut orders).await.is_none(), "its stream ended");
    never_answered.abort();
}
