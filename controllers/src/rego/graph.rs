//! Rules that depend on each other. The engine meets a recursion of rules with an error, one of functions with the end of
//! the stack, which would be the end of the program.

use std::collections::{BTreeMap, BTreeSet};

use super::names::RuleName;

/// Rules within each other, from `deny` to the last helper.
const DEPTH: usize = 32;

/// What is wrong with a rule's dependencies.
pub(crate) struct Trouble {
    pub(crate) rule: RuleName,
    pub(crate) message: String,
    pub(crate) help: &'static str,
}

/// Finds recursions, and chains of rules that are too long.
pub(crate) fn check(edges: &BTreeMap<RuleName, BTreeSet<RuleName>>) -> Vec<Trouble> {
    // Rules without open dependencies are taken away until none is left; what stays is in a cycle, or leads to one.
    let mut depth: BTreeMap<&RuleName, usize> = BTreeMap::new();
    let mut rest: BTreeSet<&RuleName> = edges.keys().collect();
    loop {
        let ready: Vec<_> =
            rest.iter().copied().filter(|rule| edges[*rule].iter().all(|on| !rest.contains(on))).collect();
        if ready.is_empty() {
            break;
        }
        for rule in ready {
            let below = edges[rule].iter().filter_map(|on| depth.get(on)).max().copied().unwrap_or_default();
            depth.insert(rule, below + 1);
            rest.remove(rule);
        }
    }
    let in_cycle = rest.iter().filter(|rule| reaches(edges, rule));
    let mut troubles: Vec<_> = in_cycle
        .map(|rule| Trouble {
            rule: (*rule).clone(),
            message: format!("`{}` depends on itself", rule.1),
            help: "Rego has no recursion; iterate with `some x in …`",
        })
        .collect();
    if let Some((rule, _)) = depth.iter().find(|(_, depth)| **depth > DEPTH) {
        troubles.push(Trouble {
            rule: (*rule).clone(),
            message: format!("`{}` stands on more than {DEPTH} rules, one above the other", rule.1),
            help: "join some of them",
        });
    }
    troubles
}

/// Whether a rule leads back to itself.
fn reaches(edges: &BTreeMap<RuleName, BTreeSet<RuleName>>, start: &RuleName) -> bool {
    let mut seen = BTreeSet::new();
    let mut next: Vec<_> = edges[start].iter().collect();
    while let Some(rule) = next.pop() {
        if rule == start {
            return true;
        }
        if seen.insert(rule) {
            next.extend(edges.get(rule).into_iter().flatten());
        }
    }
    false
}
