//! What the runners of a capability group hear of their queue.

use std::time::Duration;

use super::{
    Effect, Now, Scheduler,
    groups::{Group, GroupId},
    timers::Timer,
};
use crate::handle::{QueueSignal, RunnerOrder, Session};

/// A group hears of changes so often at most …
const INTERVAL: Duration = Duration::from_millis(500);
/// … and a large one less often: so much time for each stream.
const PER_STREAM: Duration = Duration::from_micros(250);

/// What a group heard last, and when it hears again.
#[derive(Default)]
pub(crate) struct Signalled {
    last: Option<(Duration, Values)>,
    armed: bool,
}

/// The numbers of a signal, without the times.
type Values = (u64, u64, Option<Duration>, u64);

impl Scheduler {
    /// Has a group hear of its queue soon. Called whenever its numbers may have changed.
    pub(super) fn signal_soon(&mut self, id: GroupId, now: Now) {
        let Some(group) = self.groups.get_mut(id) else { return };
        if group.signalled.armed || group.sessions.is_empty() {
            return;
        }
        group.signalled.armed = true;
        let at = group.signalled.last.map_or(now.tick, |(at, _)| now.tick.max(at + interval(group)));
        self.timers.set(at, Timer::Signal(id));
    }

    /// A group hears of its queue, unless nothing has changed.
    pub(super) fn signal_due(&mut self, id: GroupId, now: Now) {
        let Some(group) = self.groups.get(id) else { return };
        let values = self.values(group);
        let heard = group.signalled.last.map(|(_, last)| last);
        let sessions: Vec<_> = group.sessions.iter().copied().collect();
        let Some(group) = self.groups.get_mut(id) else { return };
        group.signalled.armed = false;
        if heard == Some(values) {
            return;
        }
        group.signalled.last = Some((now.tick, values));
        for session in sessions {
            self.signal(session, values, now);
        }
    }

    /// A stream that has just begun hears at once.
    pub(super) fn signal_first(&mut self, session: Session, now: Now) {
        let Some(group) = self.sessions.get(&session).and_then(|state| self.groups.get(state.group)) else { return };
        let values = self.values(group);
        self.signal(session, values, now);
    }

    fn signal(&mut self, session: Session, (waiting, running, oldest, capacity): Values, now: Now) {
        let oldest = oldest.map(|since| now.wall_at(since));
        let signal = QueueSignal { waiting, running, oldest, capacity, time: now.wall };
        self.outcome.effects.push(Effect::Order(session, RunnerOrder::Queue(signal)));
    }

    fn values(&self, group: &Group) -> Values {
        (group.waiting, group.running, self.oldest_of(group), group.capacity)
    }

    /// Since when the oldest of a group's waiting jobs waits.
    pub(super) fn oldest_of(&self, group: &Group) -> Option<Duration> {
        let lanes = group.lanes.iter().filter_map(|(_, id)| self.lanes.get(*id));
        lanes.filter_map(|lane| self.lanes.oldest(lane, &self.jobs)).min()
    }
}

fn interval(group: &Group) -> Duration {
    let streams = u32::try_from(group.sessions.len()).unwrap_or(u32::MAX);
    INTERVAL.max(PER_STREAM.saturating_mul(streams))
}
