//! Submissions that are repeated, and jobs that are canceled early.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_repeated_submission_makes_no_second_job() {
    let router = start_with(vec![admit_all()], &Disk::default());
    let key = |digest| IdempotencyKey { token: "ci".into(), key: "k".into(), digest: [digest; 32] };
    let first = router.handle.submit(vec![new_job("j1", "acme/api")], Some(key(1))).await.unwrap();
    let again = router.handle.submit(vec![new_job("j2", "acme/api")], Some(key(1))).await.unwrap();
    assert_eq!(first[0].0, again[0].0);
    let other = router.handle.submit(vec![new_job("j3", "acme/api")], Some(key(2))).await;
    assert_eq!(other.unwrap_err(), CoreError::KeyReused);
    tokio::time::advance(Duration::from_secs(24 * 3600 + 1)).await;
    let later = router.handle.submit(vec![new_job("j4", "acme/api")], Some(key(2))).await.unwrap();
    assert_ne!(first[0].0, later[0].0);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_submission_tells_how_a_forgotten_job_ended() {
    let no = enabled("no", |_: AdmissionRequest| async { Verdict::reject("no") });
    let router = start_with(vec![no], &Disk::default());
    let key = IdempotencyKey { token: "ci".into(), key: "k".into(), digest: [1; 32] };
    let first = router.handle.submit(vec![new_job("j0", "acme/api")], Some(key.clone())).await.unwrap();
    until(&router.handle, &first[0].0, &[JobState::Rejected]).await;
    for number in 1..=101 {
        let job = submit(&router.handle, vec![new_job(&format!("j{number}"), "acme/api")]).await.remove(0);
        until(&router.handle, &job, &[JobState::Rejected]).await;
    }
    assert!(router.handle.job(&first[0].0).await.is_err(), "it is forgotten");
    let again = router.handle.submit(vec![new_job("again", "acme/api")], Some(key)).await.unwrap();
    assert_eq!(again, [(first[0].0.clone(), JobState::Rejected)]);
}

#[tokio::test(start_paused = true)]
async fn a_job_canceled_while_it_is_asked_about_stays_canceled_and_its_decision_is_recorded() {
    let slow = enabled("slow", |_: AdmissionRequest| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Verdict::admit()
    });
    let router = start_with(vec![slow], &Disk::default());
    let (session, mut orders) = router.handle.attach(hello("r", 1)).await.unwrap();
    router.handle.runner(session, RunnerEvent::Credit(1)).await.unwrap();
    let id = submit(&router.handle, vec![new_job("j1", "acme/api")]).await.remove(0);
    router.handle.cancel(&id, "ada").await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(router.handle.job(&id).await.unwrap().state, JobState::Canceled);
    assert_eq!(router.handle.decisions(Some(id), 10).await.unwrap().len(), 1);
    assert!(is_quiet(&mut orders));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_canceled_in_the_step_that_takes_it_is_not_decided_about() {
    let router = start_with(Vec::new(), &Disk::default());
    let id = JobId::new("j1");
    let ((submitted, is_submitted), (canceled, is_canceled)) =
        (tokio::sync::oneshot::channel(), tokio::sync::oneshot::channel());
    router.handle.inbox.try_send(Command::Submit(vec![new_job("j1", "acme/api")], None, submitted)).unwrap();
    router.handle.inbox.try_send(Command::Cancel(id.clone(), "me".to_owned(), canceled)).unwrap();
    within(is_submitted).await.unwrap().unwrap();
    assert_eq!(within(is_canceled).await.unwrap().unwrap().state, JobState::Canceled);
    assert!(router.handle.decisions(Some(id), 10).await.unwrap().is_empty());
    let other = submit(&router.handle, vec![new_job("j2", "acme/api")]).await.remove(0);
    assert_eq!(router.handle.job(&other).await.unwrap().state, JobState::Admitted, "in the same step");
    assert_eq!(router.handle.decisions(Some(other), 10).await.unwrap().len(), 1);
}
