use std::collections::HashMap;

use jobgate_proto::job::v1::JobRecord;
use jobgate_router::{Cause, Decision, Ruling, VerdictRecord};
use serde_json::{Value, json};

use super::state;
use crate::output::{Failure, Output, Style, clean};

/// What was seen of the jobs, in the order in which they were submitted.
pub(super) struct Show {
    jobs: Vec<Seen>,
    places: HashMap<String, usize>,
}

struct Seen {
    project: String,
    name: String,
    git_ref: String,
    decision: Option<Ending>,
    /// Who refused it, by which rule.
    refusal: String,
    record: Option<JobRecord>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Admitted,
    Rejected,
    FailedClosed,
}

const INTRODUCTION: &str = "\
A router, its controllers and a runner, in this one process. Asked about each job, level by level:
  instance                      image-registries, hardening   Rego
  group:acme                    digests                       YAML, dry run: recorded, never binding
  group:acme/payments           payments                      YAML
  group:acme/shop               shop-time-budget              Rust, attached over gRPC
  project:acme/payments/api     release-from-tags             Rust, in the router's process
  project:acme/payments/ledger  fraud-screen                  gRPC, and nobody answers: its jobs fail closed
";

const NEXT: &str = "\
Next:
  jobgate policy eval --policy examples/demo/payments.yaml --job examples/documents/payments-api.json --explain
  jobgate policy test examples/policies/production
  jobgate serve --config examples/demo/trial.yaml";

impl Show {
    pub(super) fn begin(output: &mut Output) -> Result<Self, Failure> {
        if !output.is_json() {
            output.line(INTRODUCTION)?;
        }
        Ok(Self { jobs: Vec::new(), places: HashMap::new() })
    }

    pub(super) fn submitted(&mut self, id: &str, document: &Value) {
        let text = |pointer| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        self.places.insert(id.to_owned(), self.jobs.len());
        self.jobs.push(Seen {
            project: text("/gitlab/job_info/project_full_path"),
            name: text("/gitlab/job_info/name"),
            git_ref: text("/gitlab/git_info/ref"),
            decision: None,
            refusal: String::new(),
            record: None,
        });
    }

    pub(super) fn decided(&mut self, decision: &Decision, output: &mut Output) -> Result<(), Failure> {
        let Some(job) = self.places.get(decision.job_id.as_str()).map(|place| &mut self.jobs[*place]) else {
            return Ok(());
        };
        // Told again when the verdict of a controller in dry run comes late.
        let again = job.decision.is_some();
        let ending = match (decision.decision, decision.cause) {
            (Ruling::Admitted, _) => Ending::Admitted,
            (Ruling::Rejected, Some(Cause::Failure)) => Ending::FailedClosed,
            (Ruling::Rejected, _) => Ending::Rejected,
        };
        job.decision = Some(ending);
        job.refusal = refusal(decision);
        if output.is_json() {
            return if again { Ok(()) } else { output.json_line(&json!({ "name": job.name, "decision": decision })) };
        }
        if !again {
            let reason = match ending {
                Ending::Admitted => String::new(),
                _ => format!("\n    {}", clean(&decision.reason)),
            };
            let line = format!("{} {} {} @ {}{reason}", ending.word(output), job.project, job.name, job.git_ref);
            output.line(line)?;
        }
        for verdict in decision.verdicts.iter().filter(|verdict| !verdict.enforced && verdict.outcome != "admitted") {
            output.line(format_args!("    {}", would(verdict, output)))?;
        }
        Ok(())
    }

    pub(super) fn changed(&mut self, record: JobRecord) {
        if let Some(place) = self.places.get(&record.id) {
            self.jobs[*place].record = Some(record);
        }
    }

    /// The closing table.
    pub(super) fn end(self, output: &mut Output) -> Result<(), Failure> {
        let ended = |job: &Seen| job.record.as_ref().map(state).unwrap_or_default();
        let count = |ending| self.jobs.iter().filter(|job| job.decision == Some(ending)).count();
        let [admitted, rejected, failed] = [Ending::Admitted, Ending::Rejected, Ending::FailedClosed].map(count);
        let ran = self.jobs.iter().filter(|job| ended(job) == "success").count();
        if output.is_json() {
            return output.json_line(&json!({
                "jobs": self.jobs.len(), "admitted": admitted, "succeeded": ran, "rejected": rejected,
                "failed_closed": failed,
            }));
        }
        output.line("")?;
        let plain = |ending: Option<Ending>| ending.map(Ending::as_str).unwrap_or_default().to_owned();
        let rows = self.jobs.iter().map(|job| {
            let (result, why) = match (&job.decision, &job.record) {
                (Some(Ending::Admitted), Some(record)) => (state(record), record.reason.clone()),
                _ => (String::new(), job.refusal.clone()),
            };
            [job.project.clone(), format!("{} @ {}", job.name, job.git_ref), plain(job.decision), result, why]
        });
        output.table(&["project", "job", "decision", "result", "why"], rows, "no jobs")?;
        output.line(format_args!(
            "\n{} jobs: {admitted} admitted, of which {ran} succeeded; {rejected} rejected; {failed} failed closed\n",
            self.jobs.len()
        ))?;
        output.line(NEXT)
    }
}

/// Who refused a job, and by which rule, in a few words; the whole reason was printed as it fell.
fn refusal(decision: &Decision) -> String {
    let refused = decision.verdicts.iter().find(|verdict| verdict.enforced && verdict.outcome != "admitted");
    match (decision.decision, refused) {
        (Ruling::Admitted, _) => String::new(),
        (Ruling::Rejected, None) => "its document contradicts itself".to_owned(),
        (Ruling::Rejected, Some(verdict)) => {
            let rule = verdict.rule.as_deref().or(verdict.failure).unwrap_or_default();
            let rule = rule.rsplit('/').next().unwrap_or(rule);
            if rule == &*verdict.controller { rule.to_owned() } else { format!("{}: {rule}", verdict.controller) }
        }
    }
}

/// What a controller in dry run would have done.
fn would(verdict: &VerdictRecord, output: &Output) -> String {
    let reason = clean(verdict.reason.as_deref().unwrap_or_default());
    let text = format!("dry run: {} would have {} it: {reason}", verdict.controller, verdict.outcome);
    output.paint(Style::Doubtful, text)
}

impl Ending {
    fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Rejected => "rejected",
            Self::FailedClosed => "failed closed",
        }
    }

    fn word(self, output: &Output) -> String {
        let style = if self == Self::Admitted { Style::Good } else { Style::Bad };
        output.paint(style, format!("{:<13}", self.as_str()))
    }
}
