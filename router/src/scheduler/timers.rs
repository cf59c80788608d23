use std::{collections::BTreeSet, time::Duration};

use super::{groups::GroupId, jobs::Slot, lanes::LaneId};
use crate::{handle::Session, job::Lease};

/// Something that becomes due. What it was set for may be over by then: who set it looks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A lease ends, or its job has given no sign of life.
    Lease(Slot, Lease),
    /// A runner is silent.
    Silence(Session),
    /// A job is asked about again; the number is its sequence.
    Retry(Slot, u64),
    /// A job is not kept from a runner any more.
    Release(Slot, u64),
    /// The job that has waited longest is stuck.
    Oldest,
    /// The head of a lane goes up a class.
    Age(LaneId),
    /// No online runner could take the jobs of a lane for too long.
    Unmatched(LaneId),
    /// Runners of a lower priority may help out.
    Hold(GroupId),
    /// The leadership of this runner group ends.
    Leadership(usize),
    /// The runners of a capability group hear of their queue.
    Signal(GroupId),
}

/// Everything that becomes due, in order.
#[derive(Default)]
pub(crate) struct Timers(BTreeSet<(Duration, Timer)>);

impl Timers {
    pub(crate) fn set(&mut self, at: Duration, timer: Timer) {
        self.0.insert((at, timer));
    }

    pub(crate) fn unset(&mut self, at: Duration, timer: Timer) {
        self.0.remove(&(at, timer));
    }

    pub(crate) fn next(&self) -> Option<Duration> {
        self.0.first().map(|(at, _)| *at)
    }

    /// What is due at `now`, the earliest first.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Duration, Timer)> {
        self.0.iter().copied()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
