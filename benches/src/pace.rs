//! Open loops: calls begin when the clock says so, however the ones before them went.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::mpsc;

use crate::Result;

/// Times of calls, in ns.
pub(crate) type Times = Histogram<u64>;

/// An empty one.
pub(crate) fn times() -> Result<Times> {
    Ok(Histogram::new_with_bounds(1_000, 600_000_000_000, 3)?)
}

pub(crate) fn add(times: &mut Times, took: Duration) {
    times.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
}

/// A quantile in µs.
pub(crate) fn at(times: &Times, quantile: f64) -> f64 {
    times.value_at_quantile(quantile) as f64 / 1e3
}

/// Lets the threads started from now on sleep to the point, instead of up to 50 µs longer.
pub(crate) fn sleep_exactly() {
    // Where it cannot be set, times are a little longer than they should be.
    let _ = std::fs::write("/proc/self/timerslack_ns", "1");
}

/// Numbers, each at its time.
pub(crate) struct Ticks {
    start: Instant,
    rate: u64,
    numbers: mpsc::UnboundedReceiver<u64>,
}

impl Ticks {
    /// Numbers from 0, so many, at `rate` per second. A thread of its own sends them, because the timer of the runtime knows
    /// whole milliseconds only.
    pub(crate) fn start(rate: u64, count: u64) -> Self {
        let (send, numbers) = mpsc::unbounded_channel();
        let start = Instant::now() + Duration::from_millis(20);
        std::thread::spawn(move || {
            for number in 0..count {
                std::thread::sleep(due(start, rate, number).saturating_duration_since(Instant::now()));
                if send.send(number).is_err() {
                    return;
                }
            }
        });
        Self { start, rate, numbers }
    }

    pub(crate) async fn next(&mut self) -> Option<u64> {
        self.numbers.recv().await
    }

    /// When these numbers are due.
    pub(crate) fn schedule(&self) -> impl Fn(u64) -> Instant + Copy + Send + 'static {
        let (start, rate) = (self.start, self.rate);
        move |number| due(start, rate, number)
    }
}

fn due(start: Instant, rate: u64, number: u64) -> Instant {
    start + Duration::from_nanos(number * 1_000_000_000 / rate)
}

/// What calls take, begun at this rate one after the other: measured from their own beginning.
pub(crate) async fn alone<F>(rate: u64, count: u64, mut call: F) -> Result<Times>
where
    F: AsyncFnMut(u64) -> Result<()>,
{
    let (mut ticks, mut times) = (Ticks::start(rate, count), times()?);
    while let Some(number) = ticks.next().await {
        let sent = Instant::now();
        call(number).await?;
        if number >= count / WARM_UP {
            add(&mut times, sent.elapsed());
        }
    }
    Ok(times)
}

/// The first of so many calls do not count.
pub(crate) const WARM_UP: u64 = 10;
