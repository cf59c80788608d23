use jobgate_sdk::AdmissionRequest;

use super::{
    matcher::Matcher,
    policy::{Demand, Mode, Rule, Said, YamlPolicy},
};
use crate::{PolicyExplained, RuleExplained, RuleOutcome};

impl YamlPolicy {
    /// What it and each of its rules make of a job, by the same steps that decide.
    pub(crate) fn explain(&self, request: &AdmissionRequest) -> PolicyExplained {
        let excluded = self.excluded_by(request).map(|matcher| self.narrowed(matcher, request));
        let rules = match excluded {
            Some(_) => Vec::new(),
            None => self.rules.iter().map(|rule| self.explain_rule(rule, request)).collect(),
        };
        PolicyExplained {
            policy: self.name.to_string(),
            file: self.file().to_owned(),
            line: self.place.line,
            excluded,
            rules,
            prints: Vec::new(),
        }
    }

    fn explain_rule(&self, rule: &Rule, request: &AdmissionRequest) -> RuleExplained {
        let (outcome, detail) = match rule.ask(request, &self.exemptions) {
            Said::NotApplicable(matcher) => (RuleOutcome::NotApplicable, self.narrowed(matcher, request)),
            Said::Holds => (RuleOutcome::Holds, rule.demand(&rule.matcher.value(request).to_string())),
            Said::Fires(found, Some(exemption)) => {
                let line = exemption.place.line;
                let detail = format!(
                    "{}; exempt until {} by line {line}: {}",
                    rule.demand(&found.to_string()),
                    exemption.until,
                    exemption.reason
                );
                (RuleOutcome::Exempted, detail)
            }
            Said::Fires(found, None) => {
                let outcome = match rule.mode {
                    Mode::Enforce => RuleOutcome::Rejects,
                    Mode::Warn => RuleOutcome::Warns,
                };
                (outcome, rule.demand(&found.to_string()))
            }
        };
        RuleExplained {
            rule: rule.id.to_string(),
            file: self.file().to_owned(),
            line: rule.place.line,
            outcome,
            detail,
        }
    }

    /// Why a `match` does not hold.
    fn narrowed(&self, matcher: &Matcher, request: &AdmissionRequest) -> String {
        let Matcher { line, .. } = matcher;
        let found = matcher.value(request);
        format!("line {line}: match {} {}; found {found}", matcher.subject(), matcher.wanted())
    }
}

impl Rule {
    fn demand(&self, found: &str) -> String {
        let word = match self.demand {
            Demand::Require => "require",
            Demand::Forbid => "forbid",
        };
        format!(
            "line {}: {word} {} {}; found {found}",
            self.matcher.line,
            self.matcher.subject(),
            self.matcher.wanted()
        )
    }
}
