//! A three-level chain in this process, from the job to the decision in the store's queue, beside its controllers alone.

use std::{path::Path, sync::Arc, time::Instant};

use jobgate_controllers::PolicySet;
use jobgate_router::{
    Batch, DocumentRef, NewJob, NoPolicies, Router, Store, StoreError, config::Config, jobs_from_documents,
};
use jobgate_sdk::{AdmissionRequest, Controller, Verdict, async_trait};
use jobgate_yaml::Source;
use tokio::sync::mpsc;

use crate::{
    Result, fixtures,
    measure::{Effort, Sample, compare, median},
    policies::{decisions, policy},
    table::Row,
};

/// Says how many decisions it was given.
struct Queue(mpsc::UnboundedSender<usize>);

impl Store for Queue {
    fn commit(&mut self, batch: &Batch) -> std::result::Result<Vec<DocumentRef>, StoreError> {
        if !batch.decisions.is_empty() {
            let _ = self.0.send(batch.decisions.len());
        }
        Ok(Vec::new())
    }
}

/// One policy at several places.
#[derive(Clone)]
struct Shared(Arc<PolicySet>);

#[async_trait]
impl Controller for Shared {
    async fn admit(&self, request: &AdmissionRequest) -> Verdict {
        self.0.admit(request).await
    }
}

pub(crate) async fn rows(effort: Effort) -> Result<Vec<Row>> {
    let levels = [0, 1, 2].map(|_| policy("eight.yaml", fixtures::YAML));
    let [instance, group, project] = levels.map(|level| level.map(|set| Shared(Arc::new(set))));
    let levels = [instance?, group?, project?];
    let (commits, mut committed) = mpsc::unbounded_channel();
    let text = "listen: 127.0.0.1:0\nmax_jobs: 10000000\n";
    let config = Config::parse(&Source::new("bench", text), Path::new(".")).map_err(|faults| faults.to_string())?;
    let mut router = Router::new(config, Arc::new(NoPolicies)).store(Queue(commits));
    let scopes = ["instance".to_owned(), "group:acme".to_owned(), format!("project:{}", fixtures::PROJECT)];
    for (scope, level) in scopes.iter().zip(&levels) {
        router = router.controller(scope.split(':').next().unwrap_or_default(), scope.parse()?, level.clone());
    }
    let bound = router.bind().await?;
    let handle = bound.handle();
    let question = fixtures::question();
    let document = fixtures::document();

    let mut pairs = Vec::new();
    for _ in 0..effort.rounds() {
        let count = effort.calls(1000);
        let mut alone = Sample::default();
        for level in &levels {
            alone.p50 += decisions(level, &question, count).await?.p50;
        }
        let jobs: Vec<NewJob> = (0..count)
            .map(|_| jobs_from_documents(&document, "bench").map_err(|faults| faults.to_string()))
            .collect::<std::result::Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .collect();
        let begun = Instant::now();
        let mut times = Vec::with_capacity(count);
        for job in jobs {
            let sent = Instant::now();
            handle.submit(vec![job], None).await?;
            committed.recv().await.ok_or("the router ended")?;
            times.push(sent.elapsed());
        }
        pairs.push((alone, Sample::of(&mut times, begun.elapsed())));
    }
    let decided = handle.queue().await?;
    if decided.jobs.get("rejected").is_some_and(|rejected| *rejected > 0) {
        return Err("the chain rejects what the policies alone admit".into());
    }
    let compared = compare(&pairs);
    let more = median(pairs.iter().map(|(alone, chain)| chain.p50 - alone.p50));
    let mut row = Row::at_most(
        "a chain of three levels in one process, per job, to the sum of its controllers",
        compared.floor.p50,
        compared.ours.p50,
        more,
        20.0,
    );
    row.ratio = format!("+ {more:.1} µs");
    row.target = "≤ + 20 µs".into();
    Ok(vec![row])
}
