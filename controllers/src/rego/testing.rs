//! Tests of a policy: the `test_*` rules of `*_test.rego` files, and which rules they made fire.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jobgate_yaml::Faults;
use regorus::Value;

use super::{
    SourceFile, check,
    names::{self, Names},
    place,
    replica::{engine_of, one_line},
    rules::RuleInfo,
};

/// What the tests of a policy came to.
#[derive(Clone, Debug)]
pub(crate) struct TestRun {
    /// In the order of files and lines.
    pub(crate) tests: Vec<TestResult>,
    /// Each rule of `deny` and `warn`, and what the tests reached of it.
    pub(crate) coverage: Vec<RuleCovered>,
}

/// One test.
#[derive(Clone, Debug)]
pub(crate) struct TestResult {
    /// As `test_latest_is_refused`.
    pub(crate) name: String,
    pub(crate) file: String,
    pub(crate) line: u32,
    pub(crate) passed: bool,
    /// Why it could not be evaluated. A test that was evaluated and does not hold has none.
    pub(crate) error: Option<String>,
    pub(crate) prints: Vec<String>,
}

/// What the tests reached of a rule.
#[derive(Clone, Debug)]
pub(crate) struct RuleCovered {
    pub(crate) rule: RuleInfo,
    /// Some test went all the way through it. A rule of one line counts as soon as it was evaluated.
    pub(crate) covered: bool,
    /// Its lines that no test reached.
    pub(crate) missed: BTreeSet<u32>,
}

/// Time for one test.
const TEST_BUDGET: Duration = Duration::from_secs(5);

/// Runs the tests. `rules` are those of the policy.
pub(crate) fn run(
    files: &[SourceFile],
    tests: &[SourceFile],
    data: Option<&serde_json::Value>,
    rules: &[RuleInfo],
) -> Result<TestRun, Faults> {
    let all: Vec<_> = files.iter().chain(tests).cloned().collect();
    let modules = check::parse(&all)?;
    check::recursion(&all, &modules, data)?;
    let whole = |error: String| Faults::from(place::fault(&error, &all, "tests"));
    let mut engine = engine_of(&all, data).map_err(whole)?;
    engine.set_enable_coverage(true);
    engine.set_input(Value::new_object());
    let limit = super::replica::timer(TEST_BUDGET);
    engine.set_execution_timer_config(limit);

    let names = Names::gather(&modules);
    let mut results = Vec::new();
    let mut seen = BTreeSet::new();
    for (file, module) in tests.iter().zip(modules.iter().skip(files.len())) {
        let package = names::package(module);
        for rule in &module.policy {
            let name = names::rule_name(rule);
            let is_test = name.starts_with("test_") && names.function(&(package.clone(), name.clone())).is_none();
            if !is_test || !seen.insert((package.clone(), name.clone())) {
                continue;
            }
            super::guard::begin();
            let result = engine.eval_rule(format!("data.{package}.{name}"));
            results.push(TestResult {
                name,
                file: file.path.display().to_string(),
                line: rule.span().line,
                passed: matches!(result, Ok(Value::Bool(true))),
                error: result.err().map(|error| one_line(&error.to_string())),
                prints: engine.take_prints().unwrap_or_default(),
            });
        }
    }
    let covered = engine.get_coverage_report().map(|report| report.files).unwrap_or_default();
    let covered = covered.into_iter().map(|file| (file.path, (file.covered, file.not_covered))).collect();
    Ok(TestRun { tests: results, coverage: rules.iter().map(|rule| coverage(rule, &covered)).collect() })
}

type Lines = (BTreeSet<u32>, BTreeSet<u32>);

fn coverage(rule: &RuleInfo, files: &BTreeMap<String, Lines>) -> RuleCovered {
    let within = |lines: &BTreeSet<u32>| lines.range(rule.lines.0..=rule.lines.1).copied().collect::<BTreeSet<_>>();
    let (hit, missed) = match files.get(&rule.file) {
        Some((covered, not_covered)) => (within(covered), within(not_covered)),
        None => (BTreeSet::new(), (rule.lines.0..=rule.lines.1).collect()),
    };
    let missed: BTreeSet<_> = missed.difference(&hit).copied().collect();
    RuleCovered { rule: rule.clone(), covered: !hit.is_empty() && missed.is_empty(), missed }
}
