//! One decision of an eight-rule policy: Rego beside its engine alone, YAML beside Rego.

use std::time::Instant;

use jobgate_controllers::{LoadOptions, PolicySet};
use jobgate_sdk::{AdmissionRequest, Controller};
use regorus::{Engine, Value};

use crate::{
    Result, fixtures,
    measure::{Effort, Sample, compare, micros},
    table::Row,
};

/// The floor: nothing but the engine, in the same mode (its interpreter, strict), with the input built already.
struct Bare {
    engine: Engine,
    input: Value,
}

impl Bare {
    fn new(request: &AdmissionRequest) -> Result<Self> {
        let mut engine = Engine::new();
        engine.set_strict_builtin_errors(true);
        engine.add_policy("eight.rego".into(), fixtures::REGO.into())?;
        let input = Value::from_json_str(&serde_json::to_string(request)?)?;
        Ok(Self { engine, input })
    }

    fn decide(&mut self) -> Result<()> {
        self.engine.set_input(self.input.clone());
        let deny = self.engine.eval_rule("data.jobgate.deny".into())?;
        if deny.as_set().is_ok_and(regorus::value::Set::is_empty) {
            Ok(())
        } else {
            Err("the floor's policy denies".into())
        }
    }
}

pub(crate) async fn rows(effort: Effort) -> Result<Vec<Row>> {
    let request = fixtures::question();
    let mut bare = Bare::new(&request)?;
    let rego = policy("eight.rego", fixtures::REGO)?;
    let yaml = policy("eight.yaml", fixtures::YAML)?;
    let (mut to_engine, mut to_rego) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds() * 3 {
        let floor = turn(effort.calls(200), || bare.decide())?;
        let through_controller = decisions(&rego, &request, effort.calls(200)).await?;
        let of_yaml = decisions(&yaml, &request, effort.calls(2000)).await?;
        to_engine.push((floor, through_controller));
        to_rego.push((through_controller, of_yaml));
    }
    let (engine, yaml) = (compare(&to_engine), compare(&to_rego));
    let mut absolute = Row::at_most("the same, against 10 µs", 10.0, yaml.ours.p50, yaml.ours.p50 / 10.0, 1.0);
    absolute.floor = "–".into();
    Ok(vec![
        Row::at_most(
            "a Rego decision of eight rules, to the engine alone",
            engine.floor.p50,
            engine.ours.p50,
            engine.p50_ratio,
            1.5,
        ),
        Row::at_most("a YAML decision of eight rules, to Rego", yaml.floor.p50, yaml.ours.p50, yaml.p50_ratio, 0.2),
        absolute,
    ])
}

/// A policy as a controller.
pub(crate) fn policy(file: &str, text: &str) -> Result<PolicySet> {
    let loaded = PolicySet::from_texts([(file, text)], &LoadOptions::default()).map_err(|faults| faults.to_string())?;
    Ok(loaded.set)
}

/// So many decisions, one after the other; the mean of them, as the clock would cost more than some of them.
pub(crate) async fn decisions(policy: &dyn Controller, request: &AdmissionRequest, count: usize) -> Result<Sample> {
    let begun = Instant::now();
    for _ in 0..count {
        let verdict = policy.admit(request).await;
        if !verdict.is_admitted() {
            return Err(format!("the policy does not admit: {verdict:?}").into());
        }
    }
    Ok(mean(begun, count))
}

fn turn(count: usize, mut work: impl FnMut() -> Result<()>) -> Result<Sample> {
    let begun = Instant::now();
    for _ in 0..count {
        work()?;
    }
    Ok(mean(begun, count))
}

fn mean(begun: Instant, count: usize) -> Sample {
    let each = micros(begun.elapsed()) / count as f64;
    Sample { p50: each, rate: 1e6 / each, cpu: 0.0 }
}
