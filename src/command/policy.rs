//! Tools for people who write policies.

use std::{path::PathBuf, time::SystemTime};

use bytes::Bytes;
use jiff::{Timestamp, tz::TimeZone};
use jobgate_controllers::{
    CaseOutcome, CheckReport, Evaluation, Fault, Faults, LoadOptions, PolicyExplained, PolicySet, RuleOutcome,
    TestDocument, TestReport,
};
use jobgate_router::{Expose, JobDocument, MAX_DOCUMENT_BYTES, question_from_document, read_documents, read_runner};
use jobgate_sdk::{AdmissionRequest, Outcome, Runner};
use serde_json::{Value, json};

use super::submit::{name, read};
use crate::output::{Ended, Exit, Failure, Output, clean};

/// Check, test and try Rego and YAML policies
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Check(Check),
    Test(Test),
    Eval(Eval),
}

/// Compile policies and say everything that is wrong with them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 good, 2 faults.

Examples:
  jobgate policy check policies/
  jobgate policy check policies/scripts.rego --expose script")]
pub(super) struct Check {
    /// Policy files and directories
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// Run the tests of policies: test_* rules of *_test.rego, cases of *.test.yaml
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 all passed, 1 one failed, 2 broken tests or policies, or no tests.

Example:
  jobgate policy test policies/")]
pub(super) struct Test {
    /// Policy files and directories
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// Ask policies about jobs, as a router would
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 admitted, 1 rejected, 2 broken input or evaluation failed; of several jobs, the worst.

Examples:
  jobgate policy eval --policy policies/ --job job.json --explain
  jq '{gitlab: .}' response.json | jobgate policy eval --policy policies/ --job - --json")]
pub(super) struct Eval {
    /// Policy file or directory; may be given again
    #[arg(long = "policy", required = true, value_name = "PATH")]
    policies: Vec<PathBuf>,
    /// File of job documents, one or a list; - for standard input
    #[arg(long, value_name = "FILE")]
    job: PathBuf,
    /// File with the runner the jobs would go to, as `{name: gpu-1, tags: [gpu]}`
    #[arg(long, value_name = "FILE")]
    runner: Option<PathBuf>,
    /// When it is asked, as 2026-01-31T18:00:00+01:00 [default: now]
    #[arg(long, value_name = "TIME")]
    time: Option<Timestamp>,
    /// Tell how each verdict came about: which rule, which line, which value
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    options: Options,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Options {
    /// What the controller is sent beyond the ordinary, as its `expose`: script, or keys of variables
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    expose: Vec<String>,
    /// Package of Rego policies
    #[arg(long, default_value = "jobgate")]
    package: String,
}

impl Options {
    /// For loading, and for asking.
    pub(super) fn load_options(&self) -> Result<(LoadOptions, Expose), Failure> {
        let expose = exposed(&self.expose)?;
        Ok((LoadOptions { package: self.package.clone(), expose: self.expose.clone() }, expose))
    }
}

fn exposed(words: &[String]) -> Result<Expose, Failure> {
    Expose::parse(words).map_err(|unknown| {
        let unknown: Vec<_> = unknown.iter().map(ToString::to_string).collect();
        Failure::new(format_args!("--expose: {}", unknown.join("; ")))
    })
}

impl Command {
    pub(super) async fn run(&self, output: &mut Output) -> Ended {
        match self {
            Self::Check(args) => args.run(output),
            Self::Test(args) => args.run(output).await,
            Self::Eval(args) => args.run(output).await,
        }
    }
}

impl Check {
    fn run(&self, output: &mut Output) -> Ended {
        let (options, _) = self.options.load_options()?;
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
        let report = jobgate_controllers::check(&self.paths, &options, today);
        match output.is_json() {
            true => output.json(&check_json(&report))?,
            false => print_check(&report, output)?,
        }
        Ok(if report.faults.is_some() { Exit::Broken } else { Exit::Good })
    }
}

fn check_json(report: &CheckReport) -> Value {
    let lines = |faults: &[Fault]| faults.iter().map(fault_json).collect::<Vec<_>>();
    let faults: Vec<_> = report.faults.iter().flat_map(Faults::iter).cloned().collect();
    json!({
        "good": faults.is_empty(),
        "policies": report.policies,
        "version": report.version,
        "faults": lines(&faults),
        "warnings": lines(&report.warnings),
        "rules": report.coverage,
    })
}

fn fault_json(fault: &Fault) -> Value {
    let place = fault.place();
    json!({
        "file": fault.source(),
        "line": place.map(|place| place.line),
        "column": place.map(|place| place.column),
        "message": fault.message(),
    })
}

fn print_check(report: &CheckReport, output: &mut Output) -> Result<(), Failure> {
    let faults: Vec<_> = report.faults.iter().flat_map(Faults::iter).collect();
    for fault in &faults {
        output.line(format_args!("{} {fault}", output.state("broken")))?;
    }
    for warning in &report.warnings {
        output.line(format_args!("{} {warning}", output.state("warning")))?;
    }
    let untested: Vec<_> = report.coverage.iter().filter(|rule| !rule.covered).map(|rule| rule.rule.as_str()).collect();
    if !untested.is_empty() {
        output.line(format_args!("no test names {}", untested.join(", ")))?;
    }
    if !faults.is_empty() {
        return output.line(format_args!("{} fault(s)", faults.len()));
    }
    let version = report.version.as_deref().unwrap_or_default();
    output.line(format_args!("good: {} ({version})", report.policies.join(", ")))
}

impl Test {
    async fn run(&self, output: &mut Output) -> Ended {
        let (options, _) = self.options.load_options()?;
        let report = Box::pin(jobgate_controllers::test(&self.paths, &options, &question)).await?;
        match output.is_json() {
            true => output.json(&json!({
                "passed": report.passed(), "cases": report.cases, "rules": report.coverage,
            }))?,
            false => print_tests(&report, output)?,
        }
        let broken = report.cases.is_empty() || report.cases.iter().any(|case| case.outcome == CaseOutcome::Broken);
        Ok(if report.passed() {
            Exit::Good
        } else if broken {
            Exit::Broken
        } else {
            Exit::No
        })
    }
}

/// The document of a test case as the router would ask about it.
fn question(case: &TestDocument<'_>) -> Result<AdmissionRequest, Faults> {
    let bytes = Bytes::from(case.document.to_string());
    let fault = |message: String| Faults::from(Fault::new(case.file, message));
    let documents = read_documents(&bytes, case.file, MAX_DOCUMENT_BYTES)?;
    let [document] = documents.as_slice() else { return Err(fault("a case has one job document".to_owned())) };
    let runner = case.runner.map(|runner| read_runner(&Bytes::from(runner.to_string()), case.file)).transpose()?;
    let expose = Expose::parse(case.expose).map_err(|_| fault("its `expose` names something unknown".to_owned()))?;
    question_from_document(document, runner, case.time, &expose).map_err(|rejection| fault(rejection.to_string()))
}

fn print_tests(report: &TestReport, output: &mut Output) -> Result<(), Failure> {
    for case in &report.cases {
        let word = match case.outcome {
            CaseOutcome::Passed => "passed",
            CaseOutcome::Failed => "failed",
            CaseOutcome::Broken => "broken",
        };
        let detail = if case.detail.is_empty() { String::new() } else { format!(": {}", clean(&case.detail)) };
        output.line(format_args!("{} {}:{} {}{detail}", output.state(word), case.file, case.line, case.name))?;
    }
    for rule in report.coverage.iter().filter(|rule| !rule.covered) {
        output.line(format_args!("{}:{} no case makes {} fire", rule.file, rule.line, rule.rule))?;
    }
    if report.cases.is_empty() {
        return output.line("no tests: write `<policy>.test.yaml` or `<policy>_test.rego` beside the policy");
    }
    let passed = report.cases.iter().filter(|case| case.outcome == CaseOutcome::Passed).count();
    output.line(format_args!("{passed} passed, {} failed", report.cases.len() - passed))
}

impl Eval {
    async fn run(&self, output: &mut Output) -> Ended {
        let (options, expose) = self.options.load_options()?;
        let set = PolicySet::load(&self.policies, &options)?.set;
        let documents = read_documents(&read(&self.job)?, &name(&self.job), MAX_DOCUMENT_BYTES)?;
        if documents.is_empty() {
            return Err(Failure::new(format_args!("{}: there is no job document in it", name(&self.job))));
        }
        let runner = match &self.runner {
            Some(path) => Some(read_runner(&read(path)?, &name(path))?),
            None => None,
        };
        let time = self.time.map_or_else(SystemTime::now, SystemTime::from);
        let mut worst = Exit::Good;
        for document in &documents {
            let judged = judge(&set, document, runner.clone(), time, &expose, self.explain).await;
            worst = worst.max(judged.exit());
            match output.is_json() {
                true => output.json_line(&judged.as_json(document))?,
                false => judged.print(document, output)?,
            }
        }
        Ok(worst)
    }
}

/// What became of one job.
enum Judged {
    /// It contradicts itself: nobody is asked.
    Unasked(String),
    Asked(Evaluation),
}

async fn judge(
    set: &PolicySet,
    document: &JobDocument,
    runner: Option<Runner>,
    time: SystemTime,
    expose: &Expose,
    explain: bool,
) -> Judged {
    match question_from_document(document, runner, time, expose) {
        Ok(request) => {
            let evaluations = Box::pin(jobgate_controllers::eval(set, std::slice::from_ref(&request), explain)).await;
            let none = || Judged::Unasked("no verdict".to_owned());
            evaluations.into_iter().next().map_or_else(none, Judged::Asked)
        }
        Err(rejection) => Judged::Unasked(rejection.to_string()),
    }
}

impl Judged {
    fn exit(&self) -> Exit {
        match self {
            Self::Unasked(_) => Exit::No,
            Self::Asked(evaluation) => match evaluation.verdict.outcome() {
                Outcome::Admitted => Exit::Good,
                Outcome::Rejected(_) => Exit::No,
                Outcome::Failed(_) => Exit::Broken,
            },
        }
    }

    fn word(&self) -> &'static str {
        match self.exit() {
            Exit::Good => "admitted",
            Exit::No => "rejected",
            Exit::Broken => "failed",
        }
    }

    fn rule_and_reason(&self) -> (&str, &str) {
        let Self::Asked(evaluation) = self else {
            let Self::Unasked(reason) = self else { return ("", "") };
            return ("", reason);
        };
        match evaluation.verdict.outcome() {
            Outcome::Admitted => ("", ""),
            Outcome::Rejected(rejection) => (rejection.rule().unwrap_or_default(), rejection.reason().as_str()),
            Outcome::Failed(failure) => ("", failure.message()),
        }
    }

    fn as_json(&self, document: &JobDocument) -> Value {
        let (rule, reason) = self.rule_and_reason();
        let mut line = json!({
            "project": document.project().as_str(),
            "job": document.name(),
            "outcome": self.word(),
            "rule": rule,
            "reason": reason,
        });
        if let Self::Asked(Evaluation { verdict, explanation }) = self {
            line["warnings"] = json!(verdict.warnings());
            line["exempted"] = json!(verdict.exempted());
            line["policy_version"] = json!(verdict.version());
            if let Some(explanation) = explanation {
                line["explanation"] = json!(explanation);
            }
        }
        line
    }

    fn print(&self, document: &JobDocument, output: &mut Output) -> Result<(), Failure> {
        let (rule, reason) = self.rule_and_reason();
        let mut line = format!("{} {}", output.state(self.word()), document.project());
        for (before, part) in [(" ", document.name().unwrap_or_default()), (", rule ", rule), (": ", reason)] {
            if !part.is_empty() {
                line.push_str(before);
                line.push_str(&clean(part));
            }
        }
        output.line(line)?;
        let Self::Asked(Evaluation { verdict, explanation }) = self else { return Ok(()) };
        for (word, said) in [("warning", verdict.warnings()), ("exempted", verdict.exempted())] {
            for said in said {
                output.line(format_args!("  {}: {}", output.state(word), clean(said)))?;
            }
        }
        explanation.iter().flatten().try_for_each(|policy| print_explained(policy, output))
    }
}

fn print_explained(policy: &PolicyExplained, output: &mut Output) -> Result<(), Failure> {
    let excluded = policy.excluded.as_ref().map(|why| format!(": not about this job: {}", clean(why)));
    output.line(format_args!("  {}:{} {}{}", policy.file, policy.line, policy.policy, excluded.unwrap_or_default()))?;
    for rule in &policy.rules {
        let word = match rule.outcome {
            RuleOutcome::NotApplicable => "not applicable".to_owned(),
            outcome => output.state(outcome.as_str()),
        };
        let detail = if rule.detail.is_empty() { String::new() } else { format!(": {}", clean(&rule.detail)) };
        output.line(format_args!("    {}:{} {} {word}{detail}", rule.file, rule.line, rule.rule))?;
    }
    policy.prints.iter().try_for_each(|print| output.line(format_args!("    {}", clean(print))))
}
