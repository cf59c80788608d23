//! Random histories against a simple model: submissions, verdicts, runners that come, go, pause and lie, reloads, clocks that
//! are set, stores that cannot write, crashes between any two steps. After every step the invariants of the design's section 10
//! are checked as far as they concern the scheduler.
//!
//! `JOBGATE_STEPS` says how many steps are made, `JOBGATE_SEED` which history is made again: a failure prints both, after the
//! shortest history that was found to fail.

/// Writes down what happens, if that is wanted.
macro_rules! note {
    ($history:expr, $($what:tt)*) => {
        if $history.log.is_some() {
            let what = format!($($what)*);
            $history.log.get_or_insert_default().push(what);
        }
    };
}

mod cast;
mod checks;
mod commit;
mod model;
mod runners;
mod steps;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use cast::Dice;
use model::Reached;
use steps::History;

use crate::job::JobState;

/// Steps of one history. Each begins with an empty router.
const LENGTH: usize = 1000;
/// Steps without `JOBGATE_STEPS`.
const STEPS: u64 = 1_000_000;
/// What histories come to, beside every change of state.
const REACHED: [&str; 6] = [
    "a runner was asked about",
    "a lower level helped out",
    "another leader got a job",
    "an assignment was taken back",
    "a crash with jobs on runners",
    "a runner came back with its jobs",
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Makes a history of these choices. Gives what came to pass; or what was wrong, and its steps if they are wanted.
fn run(choices: &[u64], with_log: bool) -> Result<Reached, (String, Vec<String>)> {
    let mut history = History::new(with_log);
    for choice in choices {
        let result = catch_unwind(AssertUnwindSafe(|| history.step(*choice)));
        let wrong = match result {
            Ok(Ok(())) => continue,
            Ok(Err(wrong)) => wrong,
            Err(_) => "it panicked".to_owned(),
        };
        return Err((wrong, history.log.unwrap_or_default()));
    }
    Ok(history.model.reached)
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
            if run(&fewer, false).is_err() {
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

fn histories(from: u64, count: u64) -> Reached {
    let mut reached = Reached::new();
    for seed in from..from + count {
        let choices = choices(seed, LENGTH);
        match run(&choices, false) {
            Ok(of_one) => {
                for (what, often) in of_one {
                    *reached.entry(what).or_default() += often;
                }
            }
            Err(_) => tell(seed, choices),
        }
    }
    reached
}

/// Fails with all that helps to find out why a history did.
fn tell(seed: u64, choices: Vec<u64>) {
    let lines = |log: &[String], most: usize| log[log.len().saturating_sub(most)..].join("\n  ");
    let (wrong, log) = run(&choices, true).expect_err("it fails each time");
    let fewer = shrunk(choices);
    let (shortest, steps) = run(&fewer, true).expect_err("it has failed before");
    panic!(
        "JOBGATE_SEED={seed}: {wrong}, after {} things that happened; the last of them:\n  {}\n\
         The shortest history found: {shortest}\n  {}",
        log.len(),
        lines(&log, 30),
        lines(&steps, 60)
    );
}

/// Invariants 1 to 6 of the design, over random histories.
#[test]
fn random_histories_keep_the_invariants() {
    if let Some(seed) = number("JOBGATE_SEED") {
        histories(seed, 1);
        return;
    }
    let steps = number("JOBGATE_STEPS").unwrap_or(STEPS);
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let count = steps.div_ceil(threads * LENGTH as u64);
    let first = RandomState::new().build_hasher().finish() >> 1;
    let all = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|n| scope.spawn(move || histories(first + n * count, count))).collect();
        let ended = running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        ended.fold(Reached::new(), |mut all, of_one| {
            of_one.into_iter().for_each(|(what, often)| *all.entry(what).or_default() += often);
            all
        })
    });
    if steps >= 100_000 {
        let next = |state: JobState| state.next().iter().map(move |next| (state.as_str(), next.as_str()));
        let wanted = JobState::ALL.into_iter().flat_map(next).chain(REACHED.map(|what| (what, "")));
        // A job is hardly ever lost four times here; tests of their own do that.
        let rare = ("assigned", "failed");
        let missing: Vec<_> = wanted.filter(|what| *what != rare && !all.contains_key(what)).collect();
        assert!(missing.is_empty(), "it never came to {missing:?}: {all:?}");
    }
}
