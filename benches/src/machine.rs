//! The state machine alone: no disk, no network, no clock.

use std::time::Instant;

use jobgate_router::machine::{Machine, Shape};

use crate::{
    Result,
    measure::{Effort, median},
    table::{self, Row},
};

const GROUPS: usize = 20;
const PROJECTS: usize = 100;

/// Assignments per second with other numbers of runners, and of waiting jobs.
pub(crate) fn rows(effort: Effort) -> Result<Vec<Row>> {
    let smoke = effort == Effort::Smoke;
    let shape = |runners, waiting| Shape { runners, groups: GROUPS, projects: PROJECTS, waiting };
    let runners = if smoke { [10, 1_000, 2_000] } else { [10, 1_000, 50_000] };
    let waiting = if smoke { [100, 1_000, 5_000] } else { [100, 10_000, 1_000_000] };
    let by_runners = compared(effort, runners.map(|runners| shape(runners, 1_000)))?;
    let by_waiting = compared(effort, waiting.map(|waiting| shape(1_000, waiting)))?;
    let row = |number: usize, what: &str, (floor, rate, ratio): (f64, f64, f64)| {
        Row::at_least(format!("assignments/s of the state machine, {number} {what}"), floor, rate, ratio, 0.7)
    };
    let mut rows = Vec::new();
    for (number, found) in runners.into_iter().zip(by_runners).skip(1) {
        rows.push(row(number, "runners in 20 capability groups, to 10", found));
    }
    for (number, found) in waiting.into_iter().zip(by_waiting).skip(1) {
        rows.push(row(number, "waiting jobs, to 100", found));
    }
    Ok(rows)
}

/// Runs for a while, to be looked at with `perf record`.
pub(crate) fn run(runners: usize, waiting: usize) -> Result<()> {
    let mut machine = Machine::new(Shape { runners, groups: GROUPS, projects: PROJECTS, waiting })?;
    let begun = Instant::now();
    machine.cycles(400_000)?;
    println!("{}", table::rate(400_000.0 / begun.elapsed().as_secs_f64()));
    Ok(())
}

/// Rates of the first shape, of each, and the medians of the ratios of neighbours.
fn compared(effort: Effort, shapes: [Shape; 3]) -> Result<Vec<(f64, f64, f64)>> {
    let (rounds, cycles) = if effort == Effort::Smoke { (1, 320) } else { (15, 16_000) };
    let mut machines = Vec::new();
    for shape in shapes {
        machines.push(Machine::new(shape)?);
    }
    let mut rates: [Vec<f64>; 3] = Default::default();
    for round in 0..=rounds {
        for (machine, rates) in machines.iter_mut().zip(&mut rates) {
            let (before, begun) = (machine.assigned(), Instant::now());
            machine.cycles(cycles)?;
            let rate = (machine.assigned() - before) as f64 / begun.elapsed().as_secs_f64();
            if round > 0 {
                rates.push(rate);
            }
        }
    }
    for (machine, shape) in machines.iter().zip(shapes) {
        let waiting = machine.waiting();
        if waiting.abs_diff(shape.waiting) > GROUPS + shape.waiting / 10 {
            return Err(format!("{waiting} jobs wait, not {}", shape.waiting).into());
        }
    }
    let [floor, ..] = &rates;
    let of = |rates: &Vec<f64>| {
        let ratio = median(rates.iter().zip(floor).map(|(rate, floor)| rate / floor));
        (median(floor.iter().copied()), median(rates.iter().copied()), ratio)
    };
    Ok(rates.iter().map(of).collect())
}

/// What projects of different weights get while all of them have jobs waiting.
pub(crate) fn shares(_: Effort) -> Result<Vec<Row>> {
    const WEIGHTS: [u32; 3] = [3, 2, 1];
    const DISPATCHES: usize = 3_000;
    let got = jobgate_router::machine::shares(&WEIGHTS, 60, DISPATCHES)?;
    let all: u32 = WEIGHTS.iter().sum();
    let off = got.iter().zip(WEIGHTS).map(|(got, weight)| {
        let fair = DISPATCHES as f64 * f64::from(weight) / f64::from(all);
        (*got as f64 - fair).abs() / fair * 100.0
    });
    let off = off.fold(0.0, f64::max);
    let dispatched: Vec<_> = got.iter().map(ToString::to_string).collect();
    let ours = format!("{} ({off:.1} % off)", dispatched.join(" : "));
    let what = "dispatches of projects with weights 3:2:1, 3,000 in all, 60 slots, equal durations";
    Ok(vec![Row::against(what, None, ours, "± 10 %", off <= 10.0)])
}
