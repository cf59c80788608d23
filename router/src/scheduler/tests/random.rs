//! Random histories against a simple model: submissions, verdicts, runners that come, go, pause and lie, reloads, clocks that
//! are set, stores that cannot write, crashes between any two steps. After every step the invariants of the design's section 10
//! are checked as far as they concern the scheduler.
//!
//! `JOBGATE_STEPS` says how many steps are made, `JOBGATE_SEED` which history is made again: a failure prints both, after the
//! shortest history that was found to fail.

mod cast;
mod checks;
mod commit;
mod model;
mod runners;
mod steps;

use std::panic::{AssertUnwindSafe, catch_unwind};

use cast::Dice;
use steps::History;

/// Steps of one history. Each begins with an empty router.
const LENGTH: usize = 1000;
/// Steps without `JOBGATE_STEPS`.
const STEPS: usize = 300_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Makes a history of these choices; gives what was wrong, and its last steps.
fn run(choices: &[u64]) -> Result<(), (String, Vec<String>)> {
    let mut history = History::new();
    for choice in choices {
        let result = catch_unwind(AssertUnwindSafe(|| history.step(*choice)));
        let wrong = match result {
            Ok(Ok(())) => continue,
            Ok(Err(wrong)) => wrong,
            Err(_) => "it panicked".to_owned(),
        };
        return Err((wrong, history.log.drain(..).collect()));
    }
    Ok(())
}

/// Leaves out what a failing history does not need, in pieces that become smaller.
fn shrunk(mut choices: Vec<u64>) -> Vec<u64> {
    let (mut piece, mut tries) = (choices.len() / 2, 0);
    while piece > 0 && tries < 1500 {
        let mut from = 0;
        while from < choices.len() && tries < 1500 {
            let mut fewer = choices.clone();
            fewer.drain(from..choices.len().min(from + piece));
            tries += 1;
            if run(&fewer).is_err() {
                choices = fewer;
            } else {
                from += piece;
            }
        }
        piece /= 2;
    }
    choices
}

fn choices(seed: u64, length: usize) -> Vec<u64> {
    let mut dice = Dice::new(seed);
    (0..length).map(|_| dice.next()).collect()
}

fn histories(from: u64, count: u64) {
    for seed in from..from + count {
        let choices = choices(seed, LENGTH);
        if let Err((wrong, log)) = run(&choices) {
            let (made, last) = (log.len(), log[log.len().saturating_sub(30)..].join("\n  "));
            let fewer = shrunk(choices);
            let (shortest, steps) = run(&fewer).expect_err("it has failed before");
            panic!(
                "JOBGATE_SEED={seed}: {wrong}, after {made} steps; the last of them:\n  {last}\n\
                 The shortest history found: {shortest}\n  {}",
                steps[steps.len().saturating_sub(60)..].join("\n  ")
            );
        }
    }
}

/// Invariants 1 to 6 of the design, over random histories.
#[test]
fn random_histories_keep_the_invariants() {
    if let Some(seed) = number("JOBGATE_SEED") {
        return histories(seed, 1);
    }
    let steps = number("JOBGATE_STEPS").unwrap_or(STEPS as u64);
    // Half of them each on a thread of its own.
    let count = steps.div_ceil(2 * LENGTH as u64);
    let first = std::process::id().into();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| histories(first + (1 << 40), count));
        histories(first, count);
        if let Err(panic) = other.join() {
            std::panic::resume_unwind(panic);
        }
    });
}
