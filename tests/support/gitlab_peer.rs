//! A runner that is not ours: the crate `gitlab-runner`.

use std::{borrow::Cow, time::Duration};

use ::gitlab_runner::{GitlabLayer, JobHandler, JobResult, Phase, Runner, RunnerBuilder, UploadableFile, outputln};
use tracing::instrument::WithSubscriber;
use tracing_subscriber::{Registry, layer::SubscriberExt};

/// "Runs" scripts by printing them, and has one file to give.
struct Prints {
    fails: bool,
}

struct Report;

#[async_trait::async_trait]
impl UploadableFile for Report {
    type Data<'a> = &'a [u8];

    fn get_path(&self) -> Cow<'_, str> {
        "report.txt".into()
    }

    async fn get_data(&self) -> Result<&[u8], ()> {
        Ok(b"all is well\n")
    }
}

#[async_trait::async_trait]
impl JobHandler<Report> for Prints {
    async fn step(&mut self, script: &[String], phase: Phase) -> JobResult {
        script.iter().for_each(|line| outputln!("{phase:?}: {line}"));
        if self.fails && phase == Phase::Script { Err(()) } else { Ok(()) }
    }

    async fn get_uploadable_files(&mut self) -> Result<Box<dyn Iterator<Item = Report> + Send>, ()> {
        Ok(Box::new(std::iter::once(Report)))
    }
}

/// Asks once at this `url`, and works on what comes to its end. The runner's answer to whether anything came.
pub async fn ask_once(url: &str, token: &str, fails: bool) -> Result<bool, String> {
    let builds = tempfile::tempdir().unwrap();
    let (layer, jobs) = GitlabLayer::new();
    let asking = async {
        let url = url.parse().unwrap();
        let mut runner: Runner = RunnerBuilder::new(url, token, builds.path(), jobs).build().await;
        let came = runner.request_job(move |_| async move { Ok(Prints { fails }) }).await;
        runner.drain().await;
        came.map_err(|error| error.to_string())
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), asking.with_subscriber(Registry::default().with(layer)));
    ended.await.expect("the job comes to an end")
}
