use jobgate_yaml::{Fault, Place, Source};

use super::{
    matcher::{ImagePart, Matcher, Test},
    policy::{Demand, YamlPolicy},
};

/// What is allowed, but hardly meant.
pub(super) fn lints(policy: &YamlPolicy, source: &Source) -> Vec<Fault> {
    let mut lints = Vec::new();
    for rule in &policy.rules {
        let place = Place { line: rule.matcher.line, column: rule.place.column };
        let mut note = |message: String, help: &str| lints.push(source.fault(place, message).help(help));
        match (&rule.matcher.test, rule.demand) {
            (Test::ImagePart(ImagePart::Tag, patterns), Demand::Forbid) if patterns.absent => note(
                format!("rule `{}` also fires on images pinned by digest alone", rule.name),
                "an image without tag and digest has the tag `latest`; leave `\"\"` out",
            ),
            (Test::ImagePart(ImagePart::Repository, patterns), _) => {
                for name in patterns.written().filter(|name| !name.is_empty() && !name.contains(['/', '*'])) {
                    let message = format!("no repository of Docker Hub is `{name}`");
                    note(message, "its own images are `library/…`; the matcher `image` adds that by itself");
                }
            }
            _ => {}
        }
        if rule.demand == Demand::Require && CLAIMED.contains(&rule.matcher.key) {
            let message =
                format!("rule `{}` requires `{}`, which a job's author may forge", rule.name, rule.matcher.key);
            note(message, "prefer what GitLab itself says: `protected`, `refs`, `projects`, `users` by id");
        }
    }
    lints.extend(unresolved(policy, source));
    lints
}

/// Matchers of what a job from GitLab only claims.
const CLAIMED: [&str; 2] = ["sources", "environments"];

/// A `match` on images does not hold for one that is not resolved, so that a rule behind it never sees it.
fn unresolved(policy: &YamlPolicy, source: &Source) -> Option<Fault> {
    let narrowed = |when: &[Matcher]| when.iter().any(|matcher| is_image(&matcher.test));
    let all = narrowed(&policy.when);
    let rule = policy.rules.iter().find(|rule| all || narrowed(&rule.when))?;
    let caught = policy.rules.iter().any(|rule| !all && rule.when.is_empty() && is_image(&rule.matcher.test));
    if caught {
        return None;
    }
    let message = format!("rule `{}` does not see images whose name is not resolved", rule.name);
    let help = "add a rule that does, as `require: { image: [\"**\", \"\"] }`";
    Some(source.fault(rule.place, message).help(help))
}

fn is_image(test: &Test) -> bool {
    matches!(test, Test::Image(_) | Test::Services(_) | Test::ImagePart(..))
}
