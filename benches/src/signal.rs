//! How old a queue signal is when a runner has it.

use std::time::{Duration, Instant, SystemTime};

use crate::{
    Result,
    dispatch::{DOCUMENT, fleet_shape},
    fixtures,
    fleet::{Fleet, Seen},
    measure::Effort,
    pace::{self, Ticks},
    site::{Setup, Site},
    table::{self, Row},
};

pub(crate) async fn rows(effort: Effort) -> Result<Vec<Row>> {
    let count = if effort == Effort::Smoke { 1_500 } else { 15_000 };
    let site = Site::start(Setup::default())?;
    let mut fleet = Fleet::attach(&site.router.url(), fleet_shape()).await?;
    let jobs = site.jobs().await?;
    let mut ticks = Ticks::start(1_000, count);
    let begun = Instant::now();
    let submitting = async {
        while let Some(number) = ticks.next().await {
            let mut jobs = jobs.clone();
            let document = fixtures::numbered_document(number, fixtures::PROJECT, &[], DOCUMENT);
            tokio::spawn(async move { jobs.submit(document).await });
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok::<_, crate::Error>(())
    };
    let (mut ages, mut gaps, mut last) = (pace::times()?, pace::times()?, None);
    let listening = async {
        loop {
            let Seen::Signal { runner, at, made } = fleet.next().await? else { continue };
            if let Some(made) = made {
                let since = at.elapsed();
                let now = SystemTime::now().checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH);
                pace::add(&mut ages, now.duration_since(made).unwrap_or_default());
            }
            // A change is heard of at the latest after one gap.
            if runner == 0
                && let Some(last) = last.replace(at)
                && begun.elapsed() > Duration::from_secs(1)
            {
                pace::add(&mut gaps, at.saturating_duration_since(last));
            }
        }
        #[expect(unreachable_code, reason = "gives the loop its type")]
        Ok::<_, crate::Error>(())
    };
    tokio::select! {
        ended = submitting => ended?,
        ended = listening => ended?,
    }
    let row = |what: &str, times: &pace::Times| {
        let longest = times.max() as f64 / 1e3;
        let ours = format!("p50 {}, max {}", table::time(pace::at(times, 0.5)), table::time(longest));
        Row::against(format!("{what}, 1,000 jobs/s, 512 runners"), None, ours, "≤ 1 s", longest <= 1e6)
    };
    if ages.is_empty() {
        return Err("no signal said when it was made".into());
    }
    Ok(vec![
        row("age of a queue signal when a runner has it", &ages),
        row("time between two queue signals of a runner while the queue changes", &gaps).beside(),
    ])
}
