//! The controllers of a configuration, made ready to be asked.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use jobgate_sdk::Controller;
use jobgate_yaml::{Fault, Faults};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    chain::{Chains, Entry, Rules},
    config::{Config, ControllerConfig, ControllerKind, ControllerState},
    core::Event,
    faces::ControllerStatus,
    policy::{PolicySource, PolicySpec, PolicyStatus},
    remote::{Attached, Dialled, Slot},
};

/// Every controller of a configuration with what keeps it alive. Reloads reuse what did not change.
#[derive(Clone, Default)]
pub(crate) struct Roster(Vec<Arc<Member>>);

/// One controller, ready to be asked.
struct Member {
    config: Arc<ControllerConfig>,
    controller: Arc<dyn Controller>,
    link: Link,
    /// Jobs its scope matched.
    matched: Arc<AtomicU64>,
    /// Passes new versions on to the task that owns the state; ends with the member.
    follower: std::sync::Mutex<Option<AbortOnDropHandle<()>>>,
}

/// What is known of a controller beside its answers.
enum Link {
    Policy(watch::Receiver<PolicyStatus>),
    Dialled(Arc<Dialled>),
    Attached(Arc<Attached>),
    /// Rust code in this process.
    Linked,
}

/// A controller of the program's own, without configuration file.
#[derive(Clone)]
pub(crate) struct Linked {
    pub(crate) config: Arc<ControllerConfig>,
    pub(crate) controller: Arc<dyn Controller>,
}

impl Roster {
    /// Makes the controllers of a configuration ready, as far as `before` has not already.
    ///
    /// # Errors
    ///
    /// All faults of all policies; nothing is changed then.
    pub(crate) fn build(
        config: &Config,
        linked: &[Linked],
        policies: &dyn PolicySource,
        before: &Self,
    ) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let mut members = Vec::with_capacity(config.controllers.len() + linked.len());
        for config in &config.controllers {
            if let Some(same) = before.0.iter().find(|member| member.config == *config) {
                members.push(same.clone());
                continue;
            }
            let old = before.0.iter().find(|member| member.config.name == config.name);
            match Member::new(config.clone(), policies, old) {
                Ok(member) => members.push(Arc::new(member)),
                Err(found) => faults.extend(found),
            }
        }
        members.extend(linked.iter().map(|linked| {
            Arc::new(Member::with(linked.config.clone(), linked.controller.clone(), Link::Linked, Arc::default()))
        }));
        Faults::collect(faults).map_or(Ok(Self(members)), Err)
    }

    /// The chains of these controllers.
    pub(crate) fn chains(&self, rules: Rules) -> Chains {
        let entries = self.0.iter().map(|member| Entry {
            config: member.config.clone(),
            controller: member.controller.clone(),
            reads_runner: member.reads_runner(),
            versions: member.versions(),
            matched: member.matched.clone(),
        });
        Chains::new(entries.collect(), rules)
    }

    /// Passes the policy versions on: those that are known now, and every new one. Called again for the same controllers after
    /// their chains were told, it makes up for a version that changed while that was on its way.
    pub(crate) fn follow(&self, events: &mpsc::Sender<Event>) {
        for member in &self.0 {
            member.follow(events);
        }
    }

    /// The controllers that may attach.
    pub(crate) fn slots(&self) -> HashMap<Arc<str>, Slot> {
        let slots = self.0.iter().filter_map(|member| match (&member.config.kind, &member.link) {
            (ControllerKind::Attached { token }, Link::Attached(controller)) => {
                let slot = Slot {
                    token: token.clone(),
                    scope: member.config.scope.to_string(),
                    dry_run: member.config.state == ControllerState::DryRun,
                    controller: controller.clone(),
                };
                Some((member.config.name.clone(), slot))
            }
            _ => None,
        });
        slots.collect()
    }

    /// The controller of this name.
    #[cfg(feature = "bench")]
    pub(crate) fn controller(&self, name: &str) -> Option<Arc<dyn Controller>> {
        self.0.iter().find(|member| *member.config.name == *name).map(|member| member.controller.clone())
    }

    /// The controllers as people look at them.
    pub(crate) fn status(&self) -> Vec<ControllerStatus> {
        self.0.iter().map(|member| member.status()).collect()
    }
}

impl Member {
    fn new(
        config: Arc<ControllerConfig>,
        policies: &dyn PolicySource,
        old: Option<&Arc<Self>>,
    ) -> Result<Self, Faults> {
        let name = format!("controller `{}`", config.name);
        let (controller, link): (Arc<dyn Controller>, _) = match &config.kind {
            ControllerKind::Policy(paths) => {
                let spec = PolicySpec { controller: &config.name, paths, expose: &config.expose };
                let loaded = policies.load(&spec)?;
                for warning in &loaded.warnings {
                    tracing::warn!(controller = %config.name, "{}", warning.one_line());
                }
                (loaded.controller, Link::Policy(loaded.status))
            }
            ControllerKind::Linked => return Err(Fault::new(name, "it has no code in this program").into()),
            ControllerKind::Dialled(dial) => {
                let dialled = Dialled::new(dial).map_err(|error| Fault::new(name, error.to_string()))?;
                let dialled = Arc::new(dialled);
                (dialled.clone(), Link::Dialled(dialled))
            }
            ControllerKind::Attached { token } => {
                // Its streams survive a change of anything but the token.
                let kept = old.and_then(|old| match (&old.config.kind, &old.link) {
                    (ControllerKind::Attached { token: before }, Link::Attached(kept)) if before == token => {
                        Some(kept.clone())
                    }
                    _ => None,
                });
                let attached = kept.unwrap_or_else(Attached::new);
                (attached.clone(), Link::Attached(attached))
            }
        };
        let matched = old.map(|old| old.matched.clone()).unwrap_or_default();
        Ok(Self::with(config, controller, link, matched))
    }

    fn with(
        config: Arc<ControllerConfig>,
        controller: Arc<dyn Controller>,
        link: Link,
        matched: Arc<AtomicU64>,
    ) -> Self {
        Self { config, controller, link, matched, follower: std::sync::Mutex::default() }
    }

    fn reads_runner(&self) -> bool {
        matches!(&self.link, Link::Policy(status) if status.borrow().reads_runner)
    }

    fn versions(&self) -> BTreeSet<Arc<str>> {
        match &self.link {
            Link::Policy(status) => [status.borrow().version.clone()].into(),
            Link::Attached(attached) => attached.versions().borrow().clone(),
            Link::Dialled(dialled) => dialled.versions().borrow().clone(),
            Link::Linked => BTreeSet::new(),
        }
    }

    fn follow(&self, events: &mpsc::Sender<Event>) {
        let (controller, events) = (self.config.name.clone(), events.clone());
        let task = match &self.link {
            Link::Policy(status) => {
                let mut status = status.clone();
                tokio::spawn(async move {
                    // What changed before the first look is told as well: telling the same twice changes nothing.
                    status.mark_changed();
                    while status.changed().await.is_ok() {
                        let now = status.borrow_and_update().clone();
                        let event = Event::Versions {
                            controller: controller.clone(),
                            versions: [now.version].into(),
                            reads_runner: Some(now.reads_runner),
                        };
                        if events.send(event).await.is_err() {
                            return;
                        }
                    }
                })
            }
            Link::Attached(attached) => tokio::spawn(pass_on(attached.versions(), controller, events)),
            Link::Dialled(dialled) => {
                let (versions, dialled) = (dialled.versions(), dialled.clone());
                tokio::spawn(async move { tokio::join!(pass_on(versions, controller, events), dialled.probe()).0 })
            }
            Link::Linked => return,
        };
        // The one before ends.
        *self.follower.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(AbortOnDropHandle::new(task));
    }

    fn status(&self) -> ControllerStatus {
        let (kind, stale, attached) = match &self.link {
            Link::Policy(status) => ("policy", status.borrow().stale, 1),
            Link::Dialled(dialled) => ("dialled", false, dialled.reachable()),
            Link::Attached(attached) => ("attached", false, u32::try_from(attached.count()).unwrap_or(u32::MAX)),
            Link::Linked => ("linked", false, 1),
        };
        let versions: Vec<_> = self.versions().iter().map(ToString::to_string).collect();
        ControllerStatus {
            name: self.config.name.clone(),
            scope: self.config.scope.to_string(),
            state: self.config.state.as_str(),
            kind,
            policy_version: Some(versions.join(", ")).filter(|versions| !versions.is_empty()).map(Into::into),
            stale,
            attached,
            matched_jobs: self.matched.load(Ordering::Relaxed),
        }
    }
}

async fn pass_on(mut versions: watch::Receiver<BTreeSet<Arc<str>>>, controller: Arc<str>, events: mpsc::Sender<Event>) {
    // What changed before the first look is told as well: telling the same twice changes nothing.
    versions.mark_changed();
    while versions.changed().await.is_ok() {
        let now = versions.borrow_and_update().clone();
        let event = Event::Versions { controller: controller.clone(), versions: now, reads_runner: None };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Mutex};

    use jobgate_sdk::{AdmissionRequest, Verdict};
    use jobgate_yaml::Source;

    use super::*;
    use crate::policy::LoadedPolicy;

    /// A policy whose version the test sets.
    struct Versioned(Mutex<Option<watch::Receiver<PolicyStatus>>>);

    impl PolicySource for Versioned {
        fn load(&self, _: &PolicySpec<'_>) -> Result<LoadedPolicy, Faults> {
            let controller = Arc::new(|_: AdmissionRequest| async { Verdict::admit() });
            let status = self.0.lock().unwrap().take().unwrap();
            Ok(LoadedPolicy { controller, status, warnings: Vec::new() })
        }
    }

    async fn next(events: &mut mpsc::Receiver<Event>) -> (String, Option<bool>) {
        match tokio::time::timeout(std::time::Duration::from_secs(9), events.recv()).await {
            Ok(Some(Event::Versions { versions, reads_runner, .. })) => {
                (versions.iter().next().unwrap().to_string(), reads_runner)
            }
            _ => panic!("expected a version"),
        }
    }

    #[tokio::test]
    async fn a_version_that_changed_while_a_reload_was_on_its_way_is_told_after_it() {
        let status = |version: &str| PolicyStatus { version: version.into(), stale: false, reads_runner: true };
        let (publish, known) = watch::channel(status("v1"));
        let text = "controllers:\n  - { name: a, scope: instance, policy: p }\n";
        let config = Config::parse(&Source::new("test", text), Path::new(".")).unwrap();
        let source = Versioned(Mutex::new(Some(known)));
        let roster = Roster::build(&config, &[], &source, &Roster::default()).unwrap();
        let (events, mut told) = mpsc::channel(8);
        roster.follow(&events);
        assert_eq!(next(&mut told).await, ("v1".to_owned(), Some(true)));
        let again = Roster::build(&config, &[], &source, &roster).unwrap();
        publish.send_replace(status("v2"));
        assert_eq!(next(&mut told).await.0, "v2", "before the chains of the reload, which still say v1");
        again.follow(&events);
        assert_eq!(next(&mut told).await.0, "v2", "and after them");
    }
}
