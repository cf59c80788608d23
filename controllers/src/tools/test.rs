use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use jobgate_sdk::{AdmissionRequest, Outcome, Verdict};
use jobgate_yaml::{Fault, Faults, Source};
use serde::Serialize;

use crate::{
    LoadOptions, PolicySet,
    files::{File, Files},
    set::{Part, sources, verdict},
    yaml::{Case, Expect, Findings, YamlPolicy, cases},
};

/// Turns the document of a test case into the question the router would ask about it.
pub type DocumentReader<'a> = dyn Fn(&TestDocument<'_>) -> Result<AdmissionRequest, Faults> + Sync + 'a;

/// What a test case says about its job.
#[derive(Clone, Copy, Debug)]
pub struct TestDocument<'a> {
    /// The job document.
    pub document: &'a serde_json::Value,
    /// The runner it would go to, as the question has it.
    pub runner: Option<&'a serde_json::Value>,
    /// When it is asked.
    pub time: SystemTime,
    /// What is exposed to the policy.
    pub expose: &'a [String],
    /// The file of the case, for faults.
    pub file: &'a str,
}

/// What tests came to.
#[derive(Debug, Default)]
pub struct TestReport {
    /// Every case, in the order of files and lines.
    pub cases: Vec<CaseReport>,
    /// Every rule, and whether a case made it fire or a Rego test went all the way through it.
    pub coverage: Vec<RuleCoverage>,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CaseReport {
    /// Its name.
    pub name: String,
    /// The file it stands in.
    pub file: String,
    /// Line of that file, from 1.
    pub line: u32,
    /// What it came to.
    pub outcome: CaseOutcome,
    /// What was found instead of what was expected, or what is wrong with the case. Empty when it passed.
    pub detail: String,
}

/// What a case came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CaseOutcome {
    /// As expected.
    Passed,
    /// Not as expected.
    Failed,
    /// It could not be asked.
    Broken,
}

/// Whether tests reach a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleCoverage {
    /// `policy/rule`.
    pub rule: String,
    /// The file it stands in.
    pub file: String,
    /// Line of that file, from 1.
    pub line: u32,
    /// They do.
    pub covered: bool,
    /// Lines of a Rego rule that no `test_*` rule reached.
    pub missed: Vec<u32>,
}

impl TestReport {
    /// Whether every case passed. A report without cases did not.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.cases.is_empty() && self.cases.iter().all(|case| case.outcome == CaseOutcome::Passed)
    }
}

/// The cases of one test file, and what they are about.
pub(crate) struct Suite<'s> {
    file: &'s File,
    policy: Tested<'s>,
    cases: Vec<Case>,
}

enum Tested<'s> {
    Yaml(&'s YamlPolicy),
    Rego,
}

impl Suite<'_> {
    /// `policy/rule` of every rule that a case names.
    pub(crate) fn named_rules(&self) -> impl Iterator<Item = String> {
        let policy = match self.policy {
            Tested::Yaml(policy) => Some(policy.name()),
            Tested::Rego => None,
        };
        let named = move |case: &Case| Some(format!("{}/{}", policy?, case.rule.as_deref()?));
        self.cases.iter().filter_map(named)
    }
}

/// Loads policies and runs their tests: for `policy.yaml` (or `policy.rego`) the cases of `policy.test.yaml` beside it, and the
/// `test_*` rules of `*_test.rego`.
///
/// A case without `time` is asked on Thursday 2026-01-01 at noon UTC, so that tests do not depend on the day they are run.
///
/// # Errors
///
/// Everything that is wrong with the policies or with the test files.
pub async fn test(paths: &[PathBuf], options: &LoadOptions, reader: &DocumentReader<'_>) -> Result<TestReport, Faults> {
    let files = Files::read(paths)?;
    let set = PolicySet::compile(&files, options)?.set;
    let (suites, faults) = suites(&files, &set);
    if let Some(faults) = Faults::collect(faults) {
        return Err(faults);
    }
    let mut report = TestReport::default();
    let mut fired = BTreeSet::new();
    for suite in &suites {
        for case in &suite.cases {
            report.cases.push(run(suite, case, &set, options, reader, &mut fired).await);
        }
    }
    report.coverage = yaml_rules(&set, |rule| fired.contains(rule));
    rego_tests(&files, &set, &fired, &mut report)?;
    Ok(report)
}

/// Runs the `test_*` rules of `*_test.rego`, and adds what they and the cases before them reach of the Rego rules.
fn rego_tests(files: &Files, set: &PolicySet, fired: &BTreeSet<String>, report: &mut TestReport) -> Result<(), Faults> {
    let Some((_, rego)) = &set.rego else {
        return match files.rego_tests.first() {
            Some(file) => Err(Fault::new(file.shown(), "there is no Rego policy for this test").into()),
            None => Ok(()),
        };
    };
    let run = rego.run_tests(&sources(&files.rego_tests))?;
    for test in run.tests {
        let (outcome, why) = match (test.passed, test.error) {
            (true, _) => (CaseOutcome::Passed, String::new()),
            (false, None) => (CaseOutcome::Failed, "it does not hold".to_owned()),
            (false, Some(error)) => (CaseOutcome::Broken, error),
        };
        let prints = test.prints.iter().filter(|_| !test.passed).cloned();
        let detail = std::iter::once(why).chain(prints).collect::<Vec<_>>().join("; ");
        report.cases.push(CaseReport { name: test.name, file: test.file, line: test.line, outcome, detail });
    }
    report.coverage.extend(run.coverage.into_iter().map(|covered| RuleCoverage {
        rule: covered.rule.label(),
        covered: covered.covered || fired.contains(&covered.rule.label()),
        line: covered.rule.lines.0,
        file: covered.rule.file,
        missed: covered.missed.into_iter().collect(),
    }));
    Ok(())
}

/// The suites of all YAML test files, and what is wrong with them.
pub(crate) fn suites<'s>(files: &'s Files, set: &'s PolicySet) -> (Vec<Suite<'s>>, Vec<Fault>) {
    let (mut suites, mut faults) = (Vec::new(), Vec::new());
    for file in &files.yaml_tests {
        let Some(policy) = tested(file, files, set) else {
            let fault = Fault::new(file.shown(), "there is no policy beside this test");
            faults.push(fault.help("`images.test.yaml` tests `images.yaml` or `images.rego`"));
            continue;
        };
        let yaml = match policy {
            Tested::Yaml(policy) => Some(policy),
            Tested::Rego => None,
        };
        match cases(&Source::new(file.shown(), file.text.clone()), yaml) {
            Ok(cases) => suites.push(Suite { file, policy, cases }),
            Err(found) => faults.extend(found),
        }
    }
    (suites, faults)
}

fn tested<'s>(test: &File, files: &Files, set: &'s PolicySet) -> Option<Tested<'s>> {
    let name = test.path.file_name()?.to_str()?;
    let stem = name.strip_suffix(".test.yaml").or_else(|| name.strip_suffix(".test.yml"))?;
    let beside =
        |path: &Path, ends: &[&str]| ends.iter().any(|end| path == test.path.with_file_name(format!("{stem}{end}")));
    let file = files.yaml.iter().find(|file| beside(&file.path, &[".yaml", ".yml"]));
    if let Some(file) = file {
        return set.yaml.iter().find(|(order, _)| *order == file.order).map(|(_, policy)| Tested::Yaml(policy));
    }
    files.rego.iter().any(|file| beside(&file.path, &[".rego"])).then_some(Tested::Rego)
}

/// Every rule of a YAML policy, and whether it is covered.
pub(crate) fn yaml_rules(set: &PolicySet, covered: impl Fn(&str) -> bool) -> Vec<RuleCoverage> {
    let rules = set.yaml.iter().flat_map(|(_, policy)| policy.rules().map(move |rule| (policy, rule)));
    let coverage = rules.map(|(policy, (rule, line))| RuleCoverage {
        rule: rule.to_owned(),
        file: policy.file().to_owned(),
        line,
        covered: covered(rule),
        missed: Vec::new(),
    });
    coverage.collect()
}

async fn run(
    suite: &Suite<'_>,
    case: &Case,
    set: &PolicySet,
    options: &LoadOptions,
    reader: &DocumentReader<'_>,
    fired: &mut BTreeSet<String>,
) -> CaseReport {
    let file = suite.file.shown();
    let document = TestDocument {
        document: &case.document,
        runner: case.runner.as_ref(),
        time: case.time.unwrap_or_else(usual_time),
        expose: &options.expose,
        file: &file,
    };
    let (outcome, detail) = match reader(&document) {
        Err(faults) => (CaseOutcome::Broken, faults.iter().map(Fault::one_line).collect::<Vec<_>>().join("; ")),
        Ok(request) => {
            let asked = ask(&suite.policy, set, &request).await;
            fired.extend(asked.fired.iter().cloned());
            match asked.compare(case) {
                None => (CaseOutcome::Passed, String::new()),
                Some(detail) => (CaseOutcome::Failed, detail),
            }
        }
    };
    CaseReport { name: case.name.clone(), line: case.place.line, file, outcome, detail }
}

/// 2026-01-01T12:00:00Z, a Thursday.
fn usual_time() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_268_800)
}

/// What a policy said.
struct Asked {
    verdict: Verdict,
    /// Rules that fired: `policy/rule`, or as Rego names them.
    fired: Vec<String>,
}

async fn ask(policy: &Tested<'_>, set: &PolicySet, request: &AdmissionRequest) -> Asked {
    match policy {
        Tested::Yaml(policy) => {
            let mut findings = Findings::default();
            policy.judge(request, &mut findings);
            let rules = policy.explain(request).rules;
            let fired = rules.iter().filter(|rule| rule.outcome.fired()).map(|rule| rule.rule.clone()).collect();
            Asked { verdict: verdict(vec![Part::Yaml(findings)]), fired }
        }
        Tested::Rego => {
            let Some((_, rego)) = &set.rego else {
                return Asked { verdict: Verdict::fail("there is no Rego policy"), fired: Vec::new() };
            };
            let verdict = rego.decide(request).await;
            let named = verdict.rejection().and_then(|rejection| rejection.rule()).map(str::to_owned);
            let rules = rego.explained(request).rules;
            let fired = rules.into_iter().filter(|rule| rule.outcome.fired()).map(|rule| rule.rule);
            Asked { verdict, fired: named.into_iter().chain(fired).collect() }
        }
    }
}

impl Asked {
    /// How this differs from what the case expects.
    fn compare(&self, case: &Case) -> Option<String> {
        let (found, why) = match self.verdict.outcome() {
            Outcome::Admitted => (Expect::Admit, "admitted".to_owned()),
            Outcome::Rejected(rejection) => {
                let rule = rejection.rule().map(|rule| format!(" by rule {rule}")).unwrap_or_default();
                (Expect::Reject, format!("rejected{rule}: {}", rejection.reason()))
            }
            Outcome::Failed(failure) => (Expect::Fail, format!("failed: {}", failure.message())),
        };
        if found != case.expect {
            return Some(format!("expected {}, but it was {why}", case.expect.as_str()));
        }
        let rule = case.rule.as_deref()?;
        let named = |fired: &String| fired == rule || fired.rsplit('/').next() == Some(rule);
        if self.fired.iter().any(named) {
            return None;
        }
        let fired = match self.fired.is_empty() {
            true => "no rule".to_owned(),
            false => self.fired.join(", "),
        };
        Some(format!("expected rule {rule} to fire, but {fired} did; it was {why}"))
    }
}
