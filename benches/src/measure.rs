//! Closed loops, medians, and taking turns.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};

use crate::Result;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Whether it works.
    Smoke,
    /// What it takes.
    Full,
}

impl Effort {
    /// Turns of floor and ours.
    pub(crate) fn rounds(self) -> usize {
        if self == Self::Smoke { 1 } else { 15 }
    }

    /// Calls in a turn.
    pub(crate) fn calls(self, full: usize) -> usize {
        if self == Self::Smoke { full.min(64) } else { full }
    }
}

/// What one turn gave.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Median time of a call, in µs.
    pub(crate) p50: f64,
    /// Calls in a second.
    pub(crate) rate: f64,
    /// What a call took of the processors, in µs, on both sides; 0 where it was not looked at.
    pub(crate) cpu: f64,
}

impl Sample {
    pub(crate) fn of(times: &mut [Duration], took: Duration) -> Self {
        times.sort_unstable();
        let p50 = times.get(times.len() / 2).copied().unwrap_or_default();
        Self { p50: micros(p50), rate: times.len() as f64 / took.as_secs_f64(), cpu: 0.0 }
    }
}

/// Time of processors that this process and another one have used: it says what work costs also on a machine that has other
/// things to do.
pub(crate) struct Cpu {
    other: u32,
    before: f64,
}

impl Cpu {
    pub(crate) fn watch(other: u32) -> Self {
        Self { other, before: used("self") + used(&other.to_string()) }
    }

    /// Adds to a sample what each of its calls used since [`Cpu::watch`].
    pub(crate) fn add(self, sample: &mut Sample, calls: usize) {
        let now = used("self") + used(&self.other.to_string());
        sample.cpu = (now - self.before) / calls as f64;
    }
}

/// In µs, over all threads of a process.
pub(crate) fn used(process: &str) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let of = |thread: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<f64>().ok()
    };
    threads.filter_map(of).sum::<f64>() / 1e3
}

/// Calls `call` so often, so many at once; each new one begins when an old one ends.
///
/// All of them run in tasks of one thread, as the questions of a router do.
pub(crate) async fn closed_loop<F>(in_flight: usize, calls: usize, call: F) -> Result<Sample>
where
    F: AsyncFn(u64) -> Result<()>,
{
    let next = Rc::new(Cell::new(0));
    let begun = Instant::now();
    let worker = async || -> Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(calls / in_flight + 1);
        while next.get() < calls {
            let number = next.replace(next.get() + 1);
            let sent = Instant::now();
            call(number as u64).await?;
            times.push(sent.elapsed());
        }
        Ok(times)
    };
    let mut workers: FuturesUnordered<_> = (0..in_flight).map(|_| worker()).collect();
    let mut all = Vec::with_capacity(calls);
    while let Some(times) = workers.next().await {
        all.extend(times?);
    }
    Ok(Sample::of(&mut all, begun.elapsed()))
}

/// What taking turns gave: medians, and the median of the ratios of each turn, which a machine that is slow for a while
/// changes less than the ratio of the medians.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compared {
    pub(crate) floor: Sample,
    pub(crate) ours: Sample,
    pub(crate) p50_ratio: f64,
    pub(crate) rate_ratio: f64,
    pub(crate) cpu_ratio: f64,
}

pub(crate) fn compare(pairs: &[(Sample, Sample)]) -> Compared {
    let of = |value: &dyn Fn(&(Sample, Sample)) -> f64| median(pairs.iter().map(value));
    Compared {
        floor: Sample { p50: of(&|pair| pair.0.p50), rate: of(&|pair| pair.0.rate), cpu: of(&|pair| pair.0.cpu) },
        ours: Sample { p50: of(&|pair| pair.1.p50), rate: of(&|pair| pair.1.rate), cpu: of(&|pair| pair.1.cpu) },
        p50_ratio: of(&|pair| pair.1.p50 / pair.0.p50),
        rate_ratio: of(&|pair| pair.1.rate / pair.0.rate),
        cpu_ratio: of(&|pair| pair.1.cpu / pair.0.cpu),
    }
}

pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
