//! The reckoning after all kills: what became of each job that GitLab assigned.

use std::fmt;

use crate::{
    gitlab::{Call, GitLab, Job, Outcome, Status},
    jobgate::Jobgate,
    ledger::Ledger,
};

#[derive(Debug, Default)]
pub struct Sums {
    pub delivered: usize,
    /// By policy.
    rejected: usize,
    /// Before a runner had it, or with a runner that died.
    failed: usize,
    /// Answers of GitLab that never came to jobgate: its own faults.
    lost_by_gitlab: usize,
    not_written: usize,
    twice: Vec<u64>,
    unadmitted: Vec<u64>,
    /// Given to another manager than GitLab assigned it to.
    misdirected: Vec<u64>,
    left_running: Vec<u64>,
    /// Ended otherwise than it should, and how.
    wrong: Vec<String>,
}

impl Sums {
    pub async fn of(gitlab: &GitLab, jobgate: &Jobgate, ledger: &Ledger) -> Self {
        let (mut sums, calls) = (Self::default(), gitlab.all_calls());
        for job in gitlab.ledger() {
            if !job.assignments.is_empty() {
                sums.add(&job, &calls, jobgate, ledger).await;
            }
        }
        let live = ledger.aborts().into_iter().map(|job| format!("job {job} was ended in its runner"));
        sums.wrong.extend(live);
        sums
    }

    async fn add(&mut self, job: &Job, calls: &[Call], jobgate: &Jobgate, ledger: &Ledger) {
        let (managers, decisions) = (ledger.managers(job.id), jobgate.decisions(job.id).await);
        let admitted = decisions.iter().any(|decision| decision["decision"] == "admitted");
        let assigned = &job.assignments[0];
        if managers.len() > 1 || job.assignments.len() > 1 {
            self.twice.push(job.id);
        }
        if managers.iter().any(|manager| *manager != assigned.system_id) {
            self.misdirected.push(job.id);
        }
        if !managers.is_empty() && (is_forbidden(job) || !admitted) {
            self.unadmitted.push(job.id);
        }
        if !job.status.is_final() {
            // Nobody may have heard of what was not written: no runner, and not GitLab.
            let unheard = managers.is_empty() && job.updates.is_empty() && job.trace.is_empty();
            self.unfinished(job, unheard && decisions.is_empty(), &calls[assigned.call.unwrap()]);
            return;
        }
        let given = !managers.is_empty() && !ledger.is_dead(job.id);
        let fault = match job.status {
            Status::Success if given => None,
            Status::Failed if given => Some("its runner had it"),
            Status::Failed => fault_of_failure(job, decisions.is_empty(), admitted),
            _ => Some("it ended in no way that is known"),
        };
        if let Some(fault) = fault {
            let reason = job.failure_reason.as_deref().unwrap_or("none");
            let (updates, log) = (&job.updates, job.trace_text());
            self.wrong.push(format!("job {} ({:?}, {reason}, {updates:?}): {fault}: {log}", job.id, job.status));
        }
        match job.status {
            Status::Success => self.delivered += 1,
            _ if is_forbidden(job) && !decisions.is_empty() => self.rejected += 1,
            _ => self.failed += 1,
        }
    }

    /// A job that is left running. It is nobody's fault if nothing of it had reached jobgate's disk. What reaches it of a job
    /// is a hand-out, which ends or stays in the counts by stage, and there are none left; or a decision, which is kept. So
    /// what is left running without a decision was never written. Of those, the ones whose answer GitLab's end of the
    /// connection lost were GitLab's own; the others came to a jobgate that was killed before it had written them, or that
    /// was gone already.
    fn unfinished(&mut self, job: &Job, unwritten: bool, call: &Call) {
        match call.outcome {
            _ if !unwritten => self.left_running.push(job.id),
            Some(Outcome::Gone | Outcome::Status(201)) => self.not_written += 1,
            Some(Outcome::Cut | Outcome::Status(_)) => self.lost_by_gitlab += 1,
            None => self.left_running.push(job.id),
        }
    }

    /// `most`: how many polls can have been open at a kill, times kills.
    pub fn check(&self, most: u64) {
        assert!(self.wrong.is_empty(), "ended otherwise than they should:\n{}", self.wrong.join("\n"));
        let faults = [&self.twice, &self.unadmitted, &self.misdirected, &self.left_running];
        assert!(faults.iter().all(|jobs| jobs.is_empty()), "{self:?}");
        assert!(self.not_written as u64 <= most, "{self:?}");
    }
}

/// Why a failed job that no runner went on with should not have ended so.
fn fault_of_failure(job: &Job, undecided: bool, admitted: bool) -> Option<&'static str> {
    let log = job.trace_text();
    let once = |part: &str| log.matches(part).count() == 1;
    let (reason, words) = match () {
        () if undecided => ("runner_system_failure", "jobgate was restarted while it decided about this job"),
        () if admitted => ("runner_system_failure", "did not take it up in time"),
        () => ("job_router_failure", "forbidden is a name that nobody may use"),
    };
    let gone = admitted && once("was gone before it could be given to it");
    match () {
        () if job.failure_reason.as_deref() != Some(reason) => Some("another failure reason"),
        () if job.updates != ["running", "failed"] => Some("other updates"),
        () if !once("What to do:") || !(once(words) || gone) => Some("its log does not say why, once"),
        () => None,
    }
}

fn is_forbidden(job: &Job) -> bool {
    let document: serde_json::Value = serde_json::from_slice(&job.document).unwrap();
    document["job_info"]["name"] == "forbidden"
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delivered, rejected, failed, lost_by_gitlab, not_written, .. } = self;
        write!(
            f,
            "delivered {delivered}, rejected {rejected}, failed with a reason {failed}; twice {}, unadmitted {}, \
             misdirected {}, left running {}, otherwise wrong {}; answers not yet written {not_written}, lost by GitLab \
             itself {lost_by_gitlab}",
            self.twice.len(),
            self.unadmitted.len(),
            self.misdirected.len(),
            self.left_running.len(),
            self.wrong.len(),
        )
    }
}
