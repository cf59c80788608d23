//! Those who go on while jobgate dies: runners, the people who push, and a GitLab with faults.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{sync::watch, time::timeout};

use crate::{
    gitlab::{Answer, Endpoint, Gate, GitLab, JobBuilder},
    gitlab_runner::{Code, FakeRunner, Heard, Picked, Polled, Way},
    ledger::Ledger,
};

/// Jobs in GitLab's queue at least.
const QUEUED: usize = 16;
/// Of so many jobs one is lost with its runner before that has said a word.
const DEATHS: u32 = 60;
/// Calls that GitLab holds at once: fewer than runners, so that something always gets on.
const HELD: usize = 3;

/// One manager.
pub struct Manager {
    pub token: &'static str,
    pub system_id: String,
    pub way: Way,
    pub urls: watch::Receiver<String>,
    pub stopped: watch::Receiver<bool>,
    pub ledger: Arc<Ledger>,
    pub dice: SmallRng,
}

impl Manager {
    /// Polls and works, one job after the other, until it is stopped.
    pub async fn run(mut self) {
        let (mut runner, mut failed) = (self.runner("").await, false);
        while !*self.stopped.borrow() {
            if failed {
                runner = self.runner(&runner.0).await;
            }
            let polled = runner.1.poll().await;
            self.ledger.happened();
            // A connection that ends in a call is `Unknown` to tonic, and `Unavailable` to the real one (facts 7.10).
            failed = matches!(polled, Polled::Failed(_) | Polled::Unhealthy(Code::Grpc(tonic::Code::Unknown)));
            let is_ill = !failed && matches!(polled, Polled::Unhealthy(_));
            assert!(!is_ill, "nothing here may stop a runner for an hour: {polled:?}");
            let Polled::Job(job) = polled else { continue };
            self.ledger.given(job.id, &self.system_id);
            if self.dice.random_ratio(1, DEATHS) {
                self.ledger.died_with(job.id);
                continue;
            }
            runner = self.work(runner, *job).await;
        }
    }

    /// This manager at jobgate's URL; after a failure at another, if it moves soon.
    async fn runner(&mut self, failed: &str) -> (String, FakeRunner) {
        let _ = timeout(Duration::from_millis(20), self.urls.wait_for(|url| url != failed)).await;
        let url = self.urls.borrow_and_update().clone();
        let runner = FakeRunner::new(&*url, self.token).system_id(&self.system_id).way(self.way);
        runner.use_router(&url.replace("http://", "grpc://")).await;
        (url, runner)
    }

    /// A whole job, however often jobgate dies meanwhile.
    async fn work(&mut self, mut runner: (String, FakeRunner), mut job: Picked) -> (String, FakeRunner) {
        if runner.1.accept(&mut job).await == Heard::Abort {
            self.ledger.aborted(job.id);
            return runner;
        }
        self.ledger.happened();
        runner.1.run(&mut job).await;
        self.ledger.happened();
        // Until somebody says that it is over: 403 and 404 are what an end that was told before gets.
        while !matches!(runner.1.finish(&mut job).await, Some(200 | 403 | 404)) {
            runner = self.runner(&runner.0).await;
        }
        self.ledger.happened();
        runner
    }
}

/// Keeps the queue filled, until it is stopped. Says how many jobs there were.
pub async fn push(gitlab: Arc<GitLab>, ledger: Arc<Ledger>, mut stopped: watch::Receiver<bool>, seed: u64) -> u64 {
    let (mut dice, mut jobs, mut events) = (SmallRng::seed_from_u64(seed ^ 0x6a6f_6273), 0, ledger.events());
    loop {
        while gitlab.queued() < QUEUED {
            jobs += 1;
            let name = if is_forbidden(&mut dice) { "forbidden" } else { "unit" };
            gitlab.enqueue(JobBuilder::new(jobs).name(name).build());
        }
        tokio::select! {
            changed = events.changed() => changed.unwrap(),
            _ = stopped.wait_for(|stopped| *stopped) => return jobs,
        }
    }
}

fn is_forbidden(dice: &mut SmallRng) -> bool {
    dice.random_ratio(1, 4)
}

/// What GitLab's next calls meet. Calls that are held wait at the gates.
pub fn faults(gitlab: &GitLab, dice: &mut SmallRng) -> Vec<Gate> {
    let mut gates = Vec::new();
    gitlab.quiet();
    for (endpoint, calls) in [(Endpoint::Request, 16), (Endpoint::Update, 24), (Endpoint::Trace, 16)] {
        gitlab.script(endpoint, (0..calls).map(|_| fault(endpoint, dice, &mut gates)));
    }
    gitlab.script(
        Endpoint::Verify,
        (0..2).map(|_| [Answer::Normal, Answer::Status(502)][dice.random_range(0..2)].clone()),
    );
    gates
}

fn fault(endpoint: Endpoint, dice: &mut SmallRng, gates: &mut Vec<Gate>) -> Answer {
    match dice.random_range(0..100) {
        0..4 => Answer::Status(503),
        4..6 => Answer::BreakBefore,
        // A job whose answer GitLab itself loses is lost with or without us: seldom, so that most of what is lost is ours.
        6..8 => Answer::BreakOff,
        8 => Answer::BreakHalfway,
        9 => Answer::Lost(502),
        10..14 if endpoint != Endpoint::Request => Answer::Lost(502),
        14..20 if gates.len() < HELD => Answer::Delay(another(gates)),
        20..26 if gates.len() < HELD => Answer::DelayDelivery(another(gates)),
        _ => Answer::Normal,
    }
}

fn another(gates: &mut Vec<Gate>) -> Gate {
    let gate = Gate::new();
    gates.push(gate.clone());
    gate
}
