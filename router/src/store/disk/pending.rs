//! What is in the log and not in the index yet: where each job and decision lies, not what it says, so that it costs little
//! memory and the log is read once more, from the page cache, when the index is written.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{frame::Place, log::Position};
use crate::store::{DocumentRef, Submission};

/// Changes since a checkpoint.
#[derive(Clone, Debug)]
pub(super) struct Delta {
    /// The log up to here is contained.
    pub(super) until: Position,
    /// Jobs that are not over, as they are last.
    pub(super) live: HashMap<Box<str>, LiveJob>,
    /// Jobs that are over.
    pub(super) over: BTreeMap<Box<str>, Place>,
    /// Decisions, by job and admission.
    pub(super) decisions: BTreeMap<(Box<str>, Box<str>), Place>,
    pub(super) submissions: Vec<Submission>,
    pub(super) settings: BTreeMap<String, Option<Vec<u8>>>,
    pub(super) highest: Highest,
}

/// A job that is not over.
#[derive(Clone, Copy, Debug)]
pub(super) struct LiveJob {
    pub(super) row: Place,
    /// Where its document lies, when it was said since the checkpoint.
    pub(super) document: Option<DocumentRef>,
}

/// The highest numbers ever given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Highest {
    pub(super) lease: u64,
    pub(super) sequence: u64,
}

/// The changes of now, and those that a checkpoint is writing.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) current: Delta,
    pub(super) flushing: Option<Arc<Delta>>,
}

impl Highest {
    pub(super) fn see(&mut self, lease: Option<u64>, sequence: u64) {
        self.lease = self.lease.max(lease.unwrap_or(0));
        self.sequence = self.sequence.max(sequence);
    }
}

impl Delta {
    pub(super) fn new(until: Position, highest: Highest) -> Self {
        Self {
            until,
            highest,
            live: HashMap::new(),
            over: BTreeMap::new(),
            decisions: BTreeMap::new(),
            submissions: Vec::new(),
            settings: BTreeMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty()
            && self.over.is_empty()
            && self.decisions.is_empty()
            && self.submissions.is_empty()
            && self.settings.is_empty()
    }

    /// Notes a row of a job.
    pub(super) fn job(&mut self, id: &str, row: Place, is_over: bool, document: Option<DocumentRef>) {
        if is_over {
            self.live.remove(id);
            self.over.insert(id.into(), row);
            return;
        }
        self.over.remove(id);
        if let Some(job) = self.live.get_mut(id) {
            *job = LiveJob { row, document: document.or(job.document) };
        } else {
            self.live.insert(id.into(), LiveJob { row, document });
        }
    }

    pub(super) fn decision(&mut self, job: &str, admission: &str, place: Place) {
        self.decisions.insert((job.into(), admission.into()), place);
    }

    /// Adds what came later.
    pub(super) fn absorb(&mut self, later: Self) {
        self.until = later.until;
        for (id, job) in later.live {
            self.job(&id, job.row, false, job.document);
        }
        for (id, row) in later.over {
            self.job(&id, row, true, None);
        }
        self.decisions.extend(later.decisions);
        self.submissions.extend(later.submissions);
        self.settings.extend(later.settings);
        self.highest = later.highest;
    }

    /// Where the decisions about a job lie, by admission.
    pub(super) fn decisions_of<'a>(&'a self, job: &'a str) -> impl Iterator<Item = (&'a str, Place)> {
        let from: (Box<str>, Box<str>) = (job.into(), "".into());
        self.decisions
            .range(from..)
            .take_while(move |((of, _), _)| &**of == job)
            .map(|((_, admission), place)| (&**admission, *place))
    }

    /// Jobs that are over, newest id first, from the one before `before`.
    pub(super) fn over_before(&self, before: Option<&str>) -> impl Iterator<Item = (&str, Place)> {
        let until = before.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.over.range::<str, _>((std::ops::Bound::Unbounded, until)).rev().map(|(id, place)| (&**id, *place))
    }
}

impl Pending {
    /// Newest first.
    pub(super) fn deltas(&self) -> impl Iterator<Item = &Delta> {
        std::iter::once(&self.current).chain(self.flushing.as_deref())
    }
}
