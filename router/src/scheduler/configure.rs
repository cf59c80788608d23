//! Chains, runners and rules of the configuration, and the capability groups that come of them.

use std::time::Duration;

use super::{
    Effect, GroupId, Now, Rules, Scheduler, Versions, fingerprint, groups, session::SessionState, timers::Timer,
};
use crate::{chain::Chains, config::RunnerConfig, handle::CoreError};

impl Scheduler {
    /// The chains are other ones from now on. Decisions made under the old ones are found stale when they would serve.
    pub(crate) fn set_chains(&mut self, chains: Chains, now: Now) {
        self.chains = chains;
        self.versions = Versions::default();
        self.match_all(now);
    }

    /// Chains, runners and rules are others from now on, and decisions serve for another time. Streams of runners that are
    /// gone or changed end; they come back as what they are now.
    pub(crate) fn reconfigure(&mut self, chains: Chains, rules: Rules, ttl: Duration, anybody: bool, now: Now) {
        self.chains = chains;
        self.versions = Versions::default();
        self.limits.admission_ttl = ttl;
        let changed = |state: &SessionState| !anybody && rules.runners.iter().all(|runner| *runner != state.config);
        let mut ended: Vec<_> =
            self.sessions.iter().filter(|(_, state)| changed(state)).map(|(session, _)| *session).collect();
        ended.sort_unstable();
        // All of them are closed before the first is detached, or one would get the jobs of another.
        for session in &ended {
            if let Some(state) = self.sessions.get_mut(session) {
                state.draining = true;
            }
            self.refresh(*session, now);
        }
        self.use_rules(rules, now);
        for session in ended {
            self.outcome.effects.push(Effect::End(session, CoreError::RunnerChanged));
            self.detach(session, now);
        }
        self.match_all(now);
    }

    pub(super) fn use_rules(&mut self, rules: Rules, now: Now) {
        self.hold = rules.hold;
        for id in self.groups.ids() {
            if let Some(group) = self.groups.get_mut(id) {
                group.configured.clear();
                // What is full already is watched for the new `hold`, from the end of the step on.
                if let Some(at) = group.hold_at.take() {
                    self.timers.unset(at, Timer::Hold(id));
                }
                self.stepped.insert(id);
            }
        }
        for runner in &rules.runners {
            let id = self.group_of(runner, now);
            if let Some(group) = self.groups.get_mut(id) {
                group.configured.insert(runner.name.clone());
            }
        }
        self.configured = rules.runners;
        for id in self.groups.ids() {
            self.forget_group(id);
        }
        self.lanes.reweigh(rules.fairness, &self.jobs, &mut self.groups, &mut self.timers, now.tick);
        self.use_runner_groups(&rules.groups, now);
    }

    /// The capability group of a runner, made if need be.
    pub(super) fn group_of(&mut self, runner: &RunnerConfig, now: Now) -> GroupId {
        let capability = fingerprint::Capability::of(runner);
        let fingerprint = capability.fingerprint();
        if let Some(id) = self.groups.find(&fingerprint) {
            return id;
        }
        let id = self.groups.insert(capability, fingerprint);
        self.lanes.join(id, &self.jobs, &mut self.groups, &mut self.timers, now.tick);
        id
    }

    /// A capability group without runners goes.
    pub(super) fn forget_group(&mut self, id: GroupId) {
        let empty = |group: &groups::Group| group.sessions.is_empty() && group.configured.is_empty();
        if self.groups.get(id).is_some_and(empty) {
            self.lanes.leave(id);
            self.groups.remove(id);
        }
    }
}
