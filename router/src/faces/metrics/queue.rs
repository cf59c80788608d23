//! Demand and capacity of each capability group, and who leads. Labels are fingerprints and names of the configuration.

use std::{collections::BTreeMap, sync::Arc};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::signed;
use crate::handle::{GroupQueue, QueueStatus, RunnerStatus, TaintKind};

/// Capability groups exported by themselves. Who submits jobs can make up more: demand that no runner serves has groups, too.
const MOST_GROUPS: usize = 1000;
/// Hexadecimal digits of a fingerprint that are shown.
const DIGITS: usize = 12;
/// Those above [`MOST_GROUPS`], together.
const OTHER: &str = "other";

/// Set at each scrape.
#[derive(Default)]
pub(super) struct QueueGauges {
    waiting: Family<OfGroup, Gauge>,
    running: Family<OfGroup, Gauge>,
    demand: Family<OfGroup, Gauge>,
    oldest_wait: Family<OfGroup, Gauge>,
    capacity: Family<OfGroup, Gauge>,
    free: Family<OfGroup, Gauge>,
    leaders: Family<Leader, Gauge>,
    taints: Family<Taint, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
struct OfGroup {
    fingerprint: String,
    r#type: &'static str,
    served: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Leader {
    group: Arc<str>,
    runner: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Taint {
    runner: Arc<str>,
    kind: &'static str,
}

/// What is exported under one label.
#[derive(Clone, Copy, Default)]
struct Sums {
    waiting: u64,
    running: u64,
    oldest_wait: u64,
    capacity: u64,
    free: u64,
}

impl QueueGauges {
    pub(super) fn register(&self, to: &mut Registry) {
        to.register("queue_waiting", "Jobs waiting that a capability group could take", self.waiting.clone());
        to.register("queue_running", "Jobs that runners of a capability group have", self.running.clone());
        let help = "Jobs waiting and running of a capability group: the number to scale on";
        to.register("queue_demand", help, self.demand.clone());
        let help = "Age of the oldest waiting job of a capability group; 0 when none waits";
        to.register_with_unit("queue_oldest_wait", help, Unit::Seconds, self.oldest_wait.clone());
        to.register("queue_capacity", "Slots of attached runners of a capability group", self.capacity.clone());
        to.register("queue_free", "Free slots of attached runners of a capability group", self.free.clone());
        let help = "1 for the runner that leads its runner group, 0 for the others of it";
        to.register("runner_leader", help, self.leaders.clone());
        to.register("runner_tainted", "1 for a runner that a taint of this kind keeps out", self.taints.clone());
    }

    pub(super) fn set(&self, queue: &QueueStatus, runners: &[RunnerStatus]) {
        self.set_groups(&queue.groups);
        self.leaders.clear();
        self.taints.clear();
        for status in runners {
            let led = status.group.as_ref().filter(|name| queue.leaders.iter().any(|leader| leader.group == **name));
            if let Some(group) = led {
                let label = Leader { group: group.clone(), runner: status.name.clone() };
                self.leaders.get_or_create(&label).set(status.leader.into());
            }
            for kind in [TaintKind::Leadership, TaintKind::Jobs] {
                let label = Taint { runner: status.name.clone(), kind: kind.as_str() };
                let tainted = status.taints.iter().any(|taint| taint.kind == kind);
                self.taints.get_or_create(&label).set(tainted.into());
            }
        }
    }

    fn set_groups(&self, groups: &[GroupQueue]) {
        for family in [&self.waiting, &self.running, &self.demand, &self.oldest_wait, &self.capacity, &self.free] {
            family.clear();
        }
        for (label, sums) in exported(groups) {
            self.waiting.get_or_create(&label).set(signed(sums.waiting));
            self.running.get_or_create(&label).set(signed(sums.running));
            self.demand.get_or_create(&label).set(signed(sums.waiting.saturating_add(sums.running)));
            self.oldest_wait.get_or_create(&label).set(signed(sums.oldest_wait));
            self.capacity.get_or_create(&label).set(signed(sums.capacity));
            self.free.get_or_create(&label).set(signed(sums.free));
        }
    }
}

/// The groups that have runners come first, so that made up ones cannot push them out; then in the order of fingerprints, so
/// that the same ones are exported each time.
fn exported(groups: &[GroupQueue]) -> BTreeMap<OfGroup, Sums> {
    let mut order: Vec<_> = groups.iter().collect();
    order.sort_unstable_by_key(|group| (!group.served, &group.fingerprint));
    let mut exported = BTreeMap::<OfGroup, Sums>::new();
    for (position, group) in order.into_iter().enumerate() {
        let served = if group.served { "true" } else { "false" };
        let label = if position < MOST_GROUPS {
            let fingerprint = group.fingerprint.chars().take(DIGITS).collect();
            OfGroup { fingerprint, r#type: group.kind, served }
        } else {
            OfGroup { fingerprint: OTHER.to_owned(), r#type: OTHER, served }
        };
        let sums = exported.entry(label).or_default();
        sums.waiting = sums.waiting.saturating_add(group.waiting);
        sums.running = sums.running.saturating_add(group.running);
        sums.oldest_wait = sums.oldest_wait.max(group.oldest_wait_seconds.unwrap_or(0));
        sums.capacity = sums.capacity.saturating_add(group.capacity);
        sums.free = sums.free.saturating_add(group.free);
    }
    exported
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(number: usize, served: bool) -> GroupQueue {
        GroupQueue {
            fingerprint: format!("{number:012x}ffff"),
            kind: "instance",
            owner: Some("acme/secret".into()),
            tags: vec!["secret-tag".into()],
            run_untagged: false,
            protected: false,
            served,
            waiting: 2,
            running: 1,
            oldest_wait_seconds: Some(number as u64),
            capacity: 3,
            free: 2,
            systems: 1,
        }
    }

    #[test]
    fn many_groups_are_bounded_and_those_with_runners_stay() {
        let mut groups: Vec<_> = (0..2500).map(|number| group(number, false)).collect();
        groups.extend((9000..9010).map(|number| group(number, true)));
        let shown = exported(&groups);
        assert_eq!(shown.len(), MOST_GROUPS + 1);
        assert_eq!(shown.keys().filter(|label| label.served == "true").count(), 10);
        let other = OfGroup { fingerprint: "other".into(), r#type: "other", served: "false" };
        let sums = shown[&other];
        assert_eq!((sums.waiting, sums.running, sums.oldest_wait), (2 * 1510, 1510, 2499));
        assert!(shown.keys().all(|label| label.fingerprint == "other" || label.fingerprint.len() == DIGITS));
        assert!(!format!("{:?}", shown.keys()).contains("secret"), "labels hold nothing of a job");
    }

    #[test]
    fn groups_that_are_gone_are_not_exported_any_more() {
        let gauges = QueueGauges::default();
        let mut registry = Registry::default();
        gauges.register(&mut registry);
        let scrape = |groups| {
            gauges.set(&QueueStatus { groups, ..QueueStatus::default() }, &[]);
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        assert!(scrape(vec![group(7, true)]).contains("queue_demand{fingerprint=\"000000000007\",type=\"instance\""));
        assert!(!scrape(Vec::new()).contains("000000000007"));
    }
}
