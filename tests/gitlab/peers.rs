//! Peers that are not ours, on either side of jobgate.

use gitlab_runner_mock::{GitlabRunnerMock, MockJobState};

use crate::{
    gitlab::{JobBuilder, Status},
    gitlab_runner::FakeRunner,
    peer::ask_once,
    refusals::at_once,
    site::{CI, POLICY, Setup, TOKEN, soon},
    support::Site,
};

#[tokio::test]
async fn the_crate_gitlab_runner_executes_admitted_jobs_through_jobgate() {
    let world = at_once().start().await;
    let url = world.jobgate.url("");
    assert_eq!(ask_once(&url, TOKEN, false).await, Ok(false));
    let job =
        |id| JobBuilder::new(id).script(&["make", "make test"]).after_script(&["make clean"]).artifact(&["*.txt"]);
    world.gitlab.enqueue(job(1).all_secrets().unknown_keys().set("/dependencies", serde_json::json!([])).build());
    world.gitlab.enqueue(job(2).name("forbidden").build());
    world.gitlab.enqueue(job(3).odd_encodings().build());
    assert_eq!(ask_once(&url, TOKEN, false).await, Ok(true));
    // The second one is rejected, and the third is given in its place.
    assert_eq!(ask_once(&url, TOKEN, true).await, Ok(true));
    let [good, rejected, bad] = world.gitlab.all_ended().await.try_into().unwrap();

    assert_eq!((good.status, bad.status), (Status::Success, Status::Failed));
    assert_eq!(good.trace_text(), "Script: make\nScript: make test\nAfterScript: make clean\n");
    assert_eq!(good.uploads.len(), 1);
    assert!(good.uploads[0].bytes > 0);
    assert_eq!(rejected.failure_reason.as_deref(), Some("job_router_failure"));
    assert!(!rejected.trace_text().contains("Script:") && rejected.uploads.is_empty(), "{}", rejected.trace_text());
    assert_eq!(ask_once(&url, TOKEN, false).await, Ok(false));
    assert_eq!(world.gitlab.breaches(), 0);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn a_stranger_gets_nothing_through_jobgate() {
    let world = at_once().start().await;
    world.gitlab.enqueue(JobBuilder::new(1).build());
    assert!(ask_once(&world.jobgate.url(""), "glrt-stranger", false).await.unwrap_err().contains("403"));
    assert_eq!(world.gitlab.job(1).status, Status::Queued);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn the_crate_gitlab_runner_mock_takes_the_end_of_a_job_from_us() {
    let mock = GitlabRunnerMock::start().await;
    let site = Site::new();
    site.file("names.yaml", POLICY);
    site.file("ci.token", CI);
    // It cannot tell whose a token is, so no runner may have a name.
    let setup = Setup { unnamed: true, ..Setup::new() };
    site.file("jobgate.yaml", &setup.config_for(mock.uri().as_str().trim_end_matches('/')));
    let jobgate = site.start("jobgate.yaml").await;
    let runner = FakeRunner::new(jobgate.url(""), mock.runner_token());
    assert!(runner.poll().await.is_empty());
    // Nor do its jobs say whose they are, so none can be admitted: what it proves is the way of a job that is given up.
    let theirs = mock.add_dummy_job("unit".to_owned());
    assert!(runner.poll().await.is_empty());
    let fails = async {
        while theirs.state() != MockJobState::Failed {
            tokio::task::yield_now().await;
        }
    };
    soon("the end of its job", fails).await;
    assert!(String::from_utf8_lossy(&theirs.log()).contains("`project_full_path` is missing"));
    let decision = &jobgate.get(&format!("/v1/decisions?job=gitlab-{}", theirs.id()), CI).await.1["decisions"][0];
    let runner = decision["runner"].as_str().unwrap();
    assert!(runner.starts_with("gitlab-runner-"), "{decision}");
    jobgate.stop().await;
}
