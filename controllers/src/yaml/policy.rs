use std::{sync::Arc, time::SystemTime};

use jiff::civil::Date;
use jobgate_sdk::AdmissionRequest;
use jobgate_yaml::{Fault, Place, Source};

use super::{
    matcher::{Found, Matcher},
    template::Template,
};
use crate::Reads;

/// A policy in YAML, compiled.
#[derive(Debug)]
pub(crate) struct YamlPolicy {
    pub(super) name: Box<str>,
    pub(super) source: Source,
    pub(super) place: Place,
    pub(super) when: Vec<Matcher>,
    pub(super) rules: Vec<Rule>,
    pub(super) exemptions: Vec<Exemption>,
    pub(super) reads: Reads,
    /// What is allowed, but hardly meant.
    pub(super) lints: Vec<Fault>,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: Box<str>,
    /// `policy/rule`.
    pub(super) id: Arc<str>,
    pub(super) place: Place,
    pub(super) when: Vec<Matcher>,
    pub(super) demand: Demand,
    pub(super) matcher: Matcher,
    pub(super) message: Option<Template>,
    pub(super) mode: Mode,
    /// Places in the policy's list of those that name this rule.
    pub(super) exemptions: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    Require,
    Forbid,
}

/// What a rule that fires does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It rejects the job.
    Enforce,
    /// It warns the job's owner.
    Warn,
}

#[derive(Debug)]
pub(super) struct Exemption {
    pub(super) place: Place,
    pub(super) when: Vec<Matcher>,
    pub(super) rules: Vec<Box<str>>,
    pub(super) until: Date,
    /// The first instant at which it no longer holds.
    pub(super) ends: SystemTime,
    pub(super) reason: Box<str>,
}

/// Days before its end at which an exemption is warned of.
const SOON: i32 = 14;

/// What policies say about one question. Empty: they admit it.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) rejections: Vec<Finding>,
    pub(crate) warnings: Vec<Finding>,
    pub(crate) exempted: Vec<String>,
}

/// One rule that fired.
#[derive(Debug)]
pub(crate) struct Finding {
    /// `policy/rule`.
    pub(crate) rule: Arc<str>,
    pub(crate) message: String,
}

/// What one rule says.
pub(super) enum Said<'a> {
    /// Its `match` does not hold, by this matcher.
    NotApplicable(&'a Matcher),
    /// It has nothing against the job.
    Holds,
    /// It has, because of this value; unless there is an exemption.
    Fires(Found<'a>, Option<&'a Exemption>),
}

impl Findings {
    pub(crate) fn is_empty(&self) -> bool {
        self.rejections.is_empty() && self.warnings.is_empty() && self.exempted.is_empty()
    }
}

impl YamlPolicy {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn file(&self) -> &str {
        self.source.name()
    }

    pub(crate) fn reads(&self) -> &Reads {
        &self.reads
    }

    pub(crate) fn lints(&self) -> &[Fault] {
        &self.lints
    }

    /// `policy/rule` of every rule, and the line it stands on.
    pub(crate) fn rules(&self) -> impl Iterator<Item = (&str, u32)> {
        self.rules.iter().map(|rule| (&*rule.id, rule.place.line))
    }

    /// Adds what this policy says. Allocates nothing when it has nothing to say.
    pub(crate) fn judge(&self, request: &AdmissionRequest, findings: &mut Findings) {
        if self.excluded_by(request).is_some() {
            return;
        }
        for rule in &self.rules {
            let Said::Fires(found, exemption) = rule.ask(request, &self.exemptions) else { continue };
            match exemption {
                Some(exemption) => findings.exempted.push(exemption.used_for(rule)),
                None => {
                    let finding = Finding { rule: rule.id.clone(), message: rule.explain(request, found) };
                    match rule.mode {
                        Mode::Enforce => findings.rejections.push(finding),
                        Mode::Warn => findings.warnings.push(finding),
                    }
                }
            }
        }
    }

    /// Exemptions that have ended by this day, or will within two weeks.
    pub(crate) fn ending(&self, today: Date) -> Vec<Fault> {
        let ends_soon = |exemption: &Exemption| {
            let left = today.until(exemption.until).map(|span| span.get_days()).ok()?;
            let rules = exemption.rules.join(", ");
            let message = match left {
                ..0 => format!("the exemption from {rules} ended on {} and holds no more", exemption.until),
                0 => format!("the exemption from {rules} ends today"),
                1..=SOON => format!("the exemption from {rules} ends on {}, in {left} days", exemption.until),
                _ => return None,
            };
            Some(self.source.fault(exemption.place, message).help(format!("its reason is: {}", exemption.reason)))
        };
        self.exemptions.iter().filter_map(ends_soon).collect()
    }

    /// The matcher of the policy's own `match` that keeps it from this job.
    pub(super) fn excluded_by(&self, request: &AdmissionRequest) -> Option<&Matcher> {
        self.when.iter().find(|matcher| !matcher.holds(request))
    }
}

impl Rule {
    pub(super) fn ask<'a>(&'a self, request: &'a AdmissionRequest, exemptions: &'a [Exemption]) -> Said<'a> {
        if let Some(matcher) = self.when.iter().find(|matcher| !matcher.holds(request)) {
            return Said::NotApplicable(matcher);
        }
        let found = match self.demand {
            Demand::Require => self.matcher.unmet(request),
            Demand::Forbid => self.matcher.present(request),
        };
        let Some(found) = found else { return Said::Holds };
        let exemption =
            self.exemptions.iter().map(|index| &exemptions[*index]).find(|exemption| exemption.covers(request));
        Said::Fires(found, exemption)
    }

    /// Why it fires, for the person whose job it is.
    pub(super) fn explain(&self, request: &AdmissionRequest, found: Found<'_>) -> String {
        if let Some(template) = &self.message {
            return template.render(request, found);
        }
        let (subject, wanted) = (self.matcher.subject(), self.matcher.wanted());
        match self.demand {
            Demand::Require => format!("{subject} must be {wanted}, but is {found}"),
            Demand::Forbid => format!("{subject} must not be {wanted}, but is {found}"),
        }
    }
}

impl Exemption {
    fn covers(&self, request: &AdmissionRequest) -> bool {
        request.time() < self.ends && self.when.iter().all(|matcher| matcher.holds(request))
    }

    /// As verdicts list it: `policy/rule: reason (until date)`.
    pub(super) fn used_for(&self, rule: &Rule) -> String {
        format!("{}: {} (until {})", rule.id, self.reason, self.until)
    }
}
