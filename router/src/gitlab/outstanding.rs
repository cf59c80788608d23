//! What the faces see of hand-outs: which are on their way to a runner, and which no runner may go on with.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{handout::GitLabJob, handouts::Shown, names::Basis, tokens::TokenKey};

/// Answers remembered, in bytes. One that is not is failed after its time, and may be retried.
const MOST_BYTES: usize = 64 << 20;

/// Shared, and cheap to clone. The task that owns the hand-outs writes it, after each commit; everybody else reads. Small: a job
/// is in it for as long as it takes its runner to say that it has it.
#[derive(Clone, Default)]
pub(crate) struct Outstanding(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    shown: HashMap<GitLabJob, Shown>,
    /// What was answered to whom, as long as it is not known to have arrived.
    answers: HashMap<Asker, Answered>,
    askers: HashMap<GitLabJob, Asker>,
    /// Of all answers.
    bytes: usize,
}

/// What was answered: an admitted job.
#[derive(Clone)]
pub(crate) struct Answered {
    pub(crate) job: GitLabJob,
    pub(crate) document: Bytes,
    /// What its decision rests on. An answer that is given again is tested again.
    pub(crate) basis: Basis,
}

/// Who asked. A runner that gets an error from something between itself and us asks again within the same call, under the same
/// `X-Request-Id` (facts 7.20).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Asker {
    pub(crate) token: TokenKey,
    pub(crate) system_id: String,
    pub(crate) request_id: String,
}

impl Outstanding {
    /// How a hand-out is; `None` when it is none, or is its runner's and GitLab's own business.
    pub(crate) fn shown(&self, job: GitLabJob) -> Option<Shown> {
        self.state().shown.get(&job).cloned()
    }

    /// Sets it.
    pub(crate) fn show(&self, job: GitLabJob, shown: Option<Shown>) {
        let mut state = self.state();
        if !matches!(shown, Some(Shown::Delivering(_)))
            && let Some(asker) = state.askers.remove(&job)
            && let Some(answered) = state.answers.remove(&asker)
        {
            state.bytes -= answered.document.len();
        }
        match shown {
            Some(shown) => drop(state.shown.insert(job, shown)),
            None => drop(state.shown.remove(&job)),
        }
    }

    /// Remembers what is answered, until it is known to have arrived or is given up.
    pub(crate) fn answered(&self, asker: Asker, answered: Answered) {
        let mut state = self.state();
        let Answered { job, document, .. } = &answered;
        let is_new = !state.askers.contains_key(job) && !state.answers.contains_key(&asker);
        let is_on_its_way = matches!(state.shown.get(job), Some(Shown::Delivering(_)));
        if is_new && is_on_its_way && state.bytes + document.len() <= MOST_BYTES {
            state.bytes += document.len();
            state.askers.insert(*job, asker.clone());
            state.answers.insert(asker, answered);
        }
    }

    /// What this very call was answered already, if that may have been lost on the way.
    pub(crate) fn again(&self, asker: &Asker) -> Option<Answered> {
        self.state().answers.get(asker).cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Outstanding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Answers hold secrets.
        f.debug_map().entries(self.state().shown.iter()).finish()
    }
}
