//! Runner groups with a single leader, and what keeps runners out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Effect, HEALTHY, Now, Scheduler, session::SessionState, timers::Timer};
use crate::{
    config::RunnerGroupConfig,
    handle::{CoreError, RunnerAction, RunnerOrder, Session, TaintKind},
};

/// A runner group, and who leads it.
pub(crate) struct RunnerGroup {
    pub(crate) name: Arc<str>,
    pub(crate) single_leader: bool,
    pub(crate) leader: Option<Leader>,
    /// Number of the present or last leadership.
    pub(crate) fence: u64,
    pub(crate) pinned: Option<Pin>,
    /// When the leadership of one that is not heard ends.
    pub(super) until: Duration,
    pub(super) members: BTreeSet<Session>,
}

/// The system that leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leader {
    pub(crate) runner: Arc<str>,
    pub(crate) system: Arc<str>,
}

/// The runner that is to lead whenever it can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pin {
    pub(crate) runner: Arc<str>,
    pub(crate) by: String,
    pub(crate) since: Timestamp,
}

/// Whom a taint keeps out of what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TaintKey {
    pub(crate) runner: Arc<str>,
    pub(crate) kind: TaintKind,
    /// One of its systems; all when absent.
    pub(crate) system: Option<Arc<str>>,
}

/// Why, who said so, since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taint {
    pub(crate) reason: String,
    pub(crate) by: String,
    pub(crate) since: Timestamp,
}

/// A leadership as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    fence: u64,
    leader: Option<Leader>,
}

impl Scheduler {
    pub(super) fn use_runner_groups(&mut self, configs: &[RunnerGroupConfig], now: Now) {
        for group in &mut self.runner_groups {
            group.single_leader = false;
        }
        for config in configs {
            let place = self.runner_group(&config.name);
            self.runner_groups[place].single_leader = config.single_leader;
        }
        for place in 0..self.runner_groups.len() {
            self.elect(place, now);
        }
    }

    /// The place of a runner group, made if need be.
    fn runner_group(&mut self, name: &Arc<str>) -> usize {
        if let Some(place) = self.runner_groups.iter().position(|group| group.name == *name) {
            return place;
        }
        self.runner_groups.push(RunnerGroup {
            name: name.clone(),
            single_leader: false,
            leader: None,
            fence: 0,
            pinned: None,
            until: Duration::ZERO,
            members: BTreeSet::new(),
        });
        self.runner_groups.len() - 1
    }

    fn group_of_session(&self, session: Session) -> Option<usize> {
        let name = self.sessions.get(&session)?.config.group.as_ref()?;
        self.runner_groups.iter().position(|group| group.name == *name)
    }

    /// A stream of a group's runner begins.
    pub(super) fn joins(&mut self, session: Session, now: Now) {
        let Some(name) = self.sessions.get(&session).and_then(|state| state.config.group.clone()) else { return };
        let place = self.runner_group(&name);
        self.runner_groups[place].members.insert(session);
        self.elect(place, now);
    }

    /// It has ended; `heard` is when it was heard last.
    pub(super) fn leaves(&mut self, session: Session, state: &SessionState, now: Now) {
        let Some(name) = &state.config.group else { return };
        let Some(place) = self.runner_groups.iter().position(|group| group.name == *name) else { return };
        let group = &mut self.runner_groups[place];
        group.members.remove(&session);
        if group.is_led_by(state) {
            // After a restart it may have longer already.
            group.until = group.until.max(state.heard + HEALTHY);
        }
        self.elect(place, now);
    }

    /// Whether it can lead has changed.
    pub(super) fn reconsider(&mut self, session: Session, now: Now) {
        if let Some(place) = self.group_of_session(session) {
            self.elect(place, now);
        }
    }

    /// The number of the leadership under which a stream gets jobs.
    pub(super) fn fence_of(&self, session: Session) -> Option<u64> {
        let group = &self.runner_groups[self.group_of_session(session)?];
        group.single_leader.then_some(group.fence)
    }

    /// Settles who leads a group. The leader keeps its post while it can lead; one that is not heard keeps it until its
    /// leadership ends, so that there are never two; then the pinned runner, then the one that has been there longest.
    pub(super) fn elect(&mut self, place: usize, now: Now) {
        let Some(group) = self.runner_groups.get(place) else { return };
        if !group.single_leader {
            return self.lead(place, |_, _| true, now);
        }
        let sessions = &self.sessions;
        let member = |session: &Session| sessions.get(session).map(|state| (*session, state));
        let members: Vec<_> = group.members.iter().filter_map(member).collect();
        let present = members.iter().find(|(_, state)| group.is_led_by(state)).map(|(_, state)| *state);
        let stays = present.is_some_and(SessionState::is_candidate);
        let is_unheard = group.leader.is_some() && present.is_none_or(|state| state.silent);
        if is_unheard && now.tick < group.until {
            let until = group.until;
            self.timers.set(until, Timer::Leadership(place));
            return self.lead(place, |_, _| false, now);
        }
        let is_pinned = |state: &SessionState| group.pinned.as_ref().is_some_and(|pin| pin.runner == state.config.name);
        let candidates = || members.iter().filter(|(_, state)| state.is_candidate());
        let longest = |(session, state): &&(Session, &SessionState)| (state.since, *session);
        let pinned = candidates().filter(|(_, state)| is_pinned(state)).min_by_key(longest);
        let next = match pinned {
            Some(_) if stays && present.is_some_and(is_pinned) => None,
            Some(pinned) => Some(pinned),
            None if stays => None,
            None => candidates().min_by_key(longest),
        };
        let heard = next.map_or(now.tick, |(_, state)| state.heard);
        let leader = match next {
            Some((_, state)) => Some(Leader { runner: state.config.name.clone(), system: state.system.clone() }),
            None if stays => group.leader.clone(),
            None => None,
        };
        self.install(place, leader, heard);
        self.lead(place, RunnerGroup::is_led_by, now);
    }

    /// Makes it the leader, under a new number if it was not.
    fn install(&mut self, place: usize, leader: Option<Leader>, heard: Duration) {
        let group = &mut self.runner_groups[place];
        if group.leader == leader {
            return;
        }
        group.leader = leader;
        if group.leader.is_some() {
            group.fence += 1;
            // It lasts from when the leader was heard last: one that falls silent is followed no later than any other.
            group.until = heard + HEALTHY;
        }
        let kept = Kept { fence: group.fence, leader: group.leader.clone() };
        let name = group.name.clone();
        self.keep_setting(format!("leader/{name}"), Some(&kept));
    }

    /// Tells each stream of a group whether it leads, and gives the one that does what waits.
    fn lead(&mut self, place: usize, leads: impl Fn(&RunnerGroup, &SessionState) -> bool, now: Now) {
        let group = &self.runner_groups[place];
        let mut changed = Vec::new();
        for session in &group.members {
            let Some(state) = self.sessions.get_mut(session) else { continue };
            let leads = leads(group, state);
            if std::mem::replace(&mut state.leads, leads) != leads {
                changed.push(*session);
            }
        }
        // First all of them stand where they should, then jobs go out.
        for session in &changed {
            self.refresh(*session, now);
        }
        for session in changed {
            self.after_refresh(session, now);
        }
    }

    /// Does what somebody who operates the router wants of its runners.
    pub(crate) fn operate(&mut self, action: RunnerAction, now: Now) -> Result<(), CoreError> {
        match action {
            RunnerAction::Taint { runner, system, kind, reason, by } => {
                let key = self.taint_key(&runner, system, kind)?;
                self.taint(key, Taint { reason, by, since: now.wall }, now);
            }
            RunnerAction::Untaint { runner, system, kind } => {
                let name = self.known_runner(&runner)?;
                let system: Option<Arc<str>> = system.map(Into::into);
                let keys = self.taints.keys().filter(|key| {
                    key.runner == name
                        && kind.is_none_or(|kind| kind == key.kind)
                        && (system.is_none() || key.system == system)
                });
                for key in keys.cloned().collect::<Vec<_>>() {
                    self.taints.remove(&key);
                    self.keep_setting::<()>(key.setting(), None);
                }
                self.apply_taints(&name, now);
            }
            RunnerAction::Pin { group, runner, by } => {
                let place = self.led_group(&group)?;
                let name = self.known_runner(&runner)?;
                let of_group = |config: &Arc<crate::config::RunnerConfig>| {
                    config.name == name && config.group.as_deref() == Some(&*group)
                };
                let attached = self.sessions.values().any(|state| of_group(&state.config));
                if !attached && !self.configured.iter().any(of_group) {
                    return Err(CoreError::NotInGroup { runner, group });
                }
                let pin = Pin { runner: name, by, since: now.wall };
                self.keep_setting(format!("pin/{group}"), Some(&pin));
                self.runner_groups[place].pinned = Some(pin);
                self.elect(place, now);
            }
            RunnerAction::Unpin { group } => {
                let place = self.led_group(&group)?;
                self.runner_groups[place].pinned = None;
                self.keep_setting::<()>(format!("pin/{group}"), None);
            }
            RunnerAction::Drain { runner, system } => {
                let name = self.known_runner(&runner)?;
                let mut meant = self.sessions_of(&name);
                meant.retain(|session| {
                    let state = self.sessions.get(session);
                    state.is_some_and(|state| system.as_deref().is_none_or(|system| *system == *state.system))
                });
                for session in &meant {
                    if let Some(state) = self.sessions.get_mut(session) {
                        state.draining = true;
                    }
                    self.outcome.effects.push(Effect::Order(*session, RunnerOrder::Drain));
                }
                self.stand_otherwise(&meant, now);
            }
        }
        Ok(())
    }

    fn known_runner(&self, name: &str) -> Result<Arc<str>, CoreError> {
        let configured = self.configured.iter().map(|runner| &runner.name);
        let attached = self.sessions.values().map(|state| &state.config.name);
        let tainted = self.taints.keys().map(|key| &key.runner);
        let mut known = configured.chain(attached).chain(tainted);
        known.find(|known| ***known == *name).cloned().ok_or_else(|| CoreError::NoSuchRunner(name.to_owned()))
    }

    fn led_group(&self, name: &str) -> Result<usize, CoreError> {
        let found = self.runner_groups.iter().position(|group| *group.name == *name);
        let place = found.ok_or_else(|| CoreError::NoSuchRunnerGroup(name.to_owned()))?;
        if !self.runner_groups[place].single_leader {
            return Err(CoreError::NotSingleLeader(name.to_owned()));
        }
        Ok(place)
    }

    fn taint_key(&self, runner: &str, system: Option<String>, kind: TaintKind) -> Result<TaintKey, CoreError> {
        Ok(TaintKey { runner: self.known_runner(runner)?, kind, system: system.map(Into::into) })
    }

    /// Keeps a runner out, from now on and after restarts.
    pub(super) fn taint(&mut self, key: TaintKey, taint: Taint, now: Now) {
        let runner = key.runner.clone();
        self.keep_setting(key.setting(), Some(&taint));
        self.taints.insert(key, taint);
        self.apply_taints(&runner, now);
    }

    fn apply_taints(&mut self, runner: &Arc<str>, now: Now) {
        let sessions = self.sessions_of(runner);
        for session in &sessions {
            self.apply_taint(*session);
        }
        self.stand_otherwise(&sessions, now);
    }

    pub(super) fn apply_taint(&mut self, session: Session) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let is = |kind| {
            [None, Some(state.system.clone())]
                .into_iter()
                .any(|system| self.taints.contains_key(&TaintKey { runner: state.config.name.clone(), kind, system }))
        };
        (state.tainted, state.may_lead) = (is(TaintKind::Jobs), !is(TaintKind::Leadership));
    }

    /// A stream can do more or less than before: its slots, its group's leader and what waits follow.
    pub(super) fn stands_otherwise(&mut self, session: Session, now: Now) {
        self.stand_otherwise(&[session], now);
    }

    /// The same of several: none of them gets what another gives up before all stand where they should.
    fn stand_otherwise(&mut self, sessions: &[Session], now: Now) {
        for session in sessions {
            self.refresh(*session, now);
        }
        for session in sessions {
            self.reconsider(*session, now);
        }
        for session in sessions {
            self.after_refresh(*session, now);
        }
    }

    /// What waits goes to a stream that came, or to others when one went: those of a lower priority may be wanted now.
    fn after_refresh(&mut self, session: Session, now: Now) {
        if let Some(group) = self.sessions.get(&session).map(|state| state.group) {
            self.match_group(group, now);
        }
    }

    fn sessions_of(&self, runner: &Arc<str>) -> Vec<Session> {
        let of_runner = self.sessions.iter().filter(|(_, state)| state.config.name == *runner);
        let mut sessions: Vec<_> = of_runner.map(|(session, _)| *session).collect();
        sessions.sort_unstable();
        sessions
    }

    fn keep_setting<T: Serialize>(&mut self, key: String, value: Option<&T>) {
        // Plain structures of texts and numbers can always be written as JSON.
        let value = value.map(|value| serde_json::to_vec(value).unwrap_or_default());
        self.outcome.settings.insert(key, value);
    }

    /// What was kept of taints, pins and leaders, read back. What makes no sense is left out, and told.
    pub(super) fn restore_settings(&mut self, settings: &BTreeMap<String, Vec<u8>>, until: Duration) -> Vec<String> {
        let mut bad = Vec::new();
        for (key, value) in settings {
            if self.restore_setting(key, value, until).is_none() {
                bad.push(key.clone());
            }
        }
        bad
    }

    fn restore_setting(&mut self, key: &str, value: &[u8], until: Duration) -> Option<()> {
        match key.split_once('/')? {
            ("taint", rest) => {
                let taint = serde_json::from_slice(value).ok()?;
                self.taints.insert(TaintKey::of_setting(rest)?, taint);
            }
            ("pin", group) => {
                let place = self.runner_group(&group.into());
                self.runner_groups[place].pinned = Some(serde_json::from_slice(value).ok()?);
            }
            ("leader", group) => {
                let kept: Kept = serde_json::from_slice(value).ok()?;
                let place = self.runner_group(&group.into());
                let group = &mut self.runner_groups[place];
                (group.fence, group.leader, group.until) = (kept.fence, kept.leader, until);
            }
            // Of others who keep something here.
            _ => {}
        }
        Some(())
    }
}

impl RunnerGroup {
    fn is_led_by(&self, state: &SessionState) -> bool {
        self.leader.as_ref().is_some_and(|leader| leader.runner == state.config.name && leader.system == state.system)
    }
}

impl TaintKey {
    /// The key it is kept under. Names of runners have no `/`; systems may have anything, so theirs comes last.
    fn setting(&self) -> String {
        let Self { runner, kind, system } = self;
        match system {
            Some(system) => format!("taint/{}/{runner}/{system}", kind.as_str()),
            None => format!("taint/{}/{runner}", kind.as_str()),
        }
    }

    fn of_setting(rest: &str) -> Option<Self> {
        let (kind, rest) = rest.split_once('/')?;
        let (runner, system) = match rest.split_once('/') {
            Some((runner, system)) => (runner, Some(system.into())),
            None => (rest, None),
        };
        Some(Self { runner: runner.into(), kind: TaintKind::parse(kind)?, system })
    }
}
