use std::{collections::HashMap, sync::Arc, time::SystemTime};

use jiff::{civil::Date, tz::TimeZone};
use jobgate_yaml::{Document, Faults, Fields, Limits, Node, Place, Reader, Source, Value};

use super::{
    lint,
    matcher::Matcher,
    matchers::Matchers,
    policy::{Demand, Exemption, Mode, Rule, YamlPolicy},
    template::Template,
};
use crate::{Exposed, Reads};

/// The one version of the language there is.
pub(super) const API_VERSION: &str = "jobgate/v1";
pub(super) const KIND: &str = "Policy";

impl YamlPolicy {
    /// Reads and compiles a policy.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub(crate) fn load(source: &Source, exposed: &Exposed) -> Result<Self, Faults> {
        Document::read(source, Limits::default(), |reader, root| Loading::new(reader, exposed).policy(root))
    }
}

struct Loading<'r, 's> {
    reader: &'r Reader<'s>,
    exposed: &'r Exposed,
    reads: Reads,
}

impl<'r, 's> Loading<'r, 's> {
    fn new(reader: &'r Reader<'s>, exposed: &'r Exposed) -> Self {
        Self { reader, exposed, reads: Reads::default() }
    }

    fn policy(mut self, root: &Node) -> Option<YamlPolicy> {
        let reader = self.reader;
        let mut fields = reader.fields(root, "a policy")?;
        self.constant(&mut fields, "apiVersion", API_VERSION);
        self.constant(&mut fields, "kind", KIND);
        let name = fields.require("name").and_then(|node| self.identifier(node));
        let when = fields.take("match").map(|node| self.conditions(node));
        let rules = fields.require("rules").and_then(|node| self.rules(node, name.unwrap_or_default()));
        let exemptions = fields.take("exemptions").map(|node| self.exemptions(node));
        fields.finish();

        let (mut rules, exemptions) = (rules?, exemptions.unwrap_or_default());
        self.join(&mut rules, &exemptions);
        let mut policy = YamlPolicy {
            name: name?.into(),
            source: reader.source().clone(),
            place: root.place,
            when: when.unwrap_or_default(),
            rules,
            exemptions: exemptions.into_iter().map(|(exemption, _)| exemption).collect(),
            reads: self.reads,
            lints: Vec::new(),
        };
        policy.lints = lint::lints(&policy, reader.source());
        Some(policy)
    }

    fn constant(&self, fields: &mut Fields<'_, '_, '_>, key: &'static str, expected: &'static str) {
        let Some(node) = fields.require(key) else { return };
        let Some(text) = self.reader.string(node) else { return };
        if text != expected {
            self.reader.fault(node.place, format!("`{key}` is `{expected}` here, not `{text}`"));
        }
    }

    /// A name as verdicts and exemptions use it.
    fn identifier<'n>(&self, node: &'n Node) -> Option<&'n str> {
        let name = self.reader.name(node)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.len() > LONGEST_NAME
            || !name.chars().all(plain)
            || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
        {
            let message = format!("`{name}` is not a name");
            let help = format!("up to {LONGEST_NAME} letters, digits, `.`, `_` and `-`, a letter or digit first");
            self.reader.fault_with_help(node.place, message, help);
            return None;
        }
        Some(name)
    }

    fn rules(&mut self, node: &Node, policy: &str) -> Option<Vec<Rule>> {
        let nodes = self.reader.list(node)?;
        if nodes.is_empty() {
            self.reader.fault(node.place, "a policy without rules decides nothing");
        }
        let rules: Vec<_> = nodes.iter().map(|node| self.rule(node, policy)).collect();
        let mut seen: HashMap<&str, Place> = HashMap::new();
        for rule in rules.iter().flatten() {
            if let Some(first) = seen.insert(&rule.name, rule.place) {
                let message = format!("a second rule `{}`; the first is on line {}", rule.name, first.line);
                self.reader.fault(rule.place, message);
            }
        }
        rules.into_iter().collect()
    }

    fn rule(&mut self, node: &Node, policy: &str) -> Option<Rule> {
        let reader = self.reader;
        let mut fields = reader.fields(node, "a rule")?;
        let name = fields.require("name").and_then(|node| self.identifier(node));
        let when = fields.take("match").map(|node| self.conditions(node)).unwrap_or_default();
        let (require, forbid) = (fields.take("require"), fields.take("forbid"));
        let demand = match (require, forbid) {
            (Some(node), None) => Some((Demand::Require, node)),
            (None, Some(node)) => Some((Demand::Forbid, node)),
            (None, None) => {
                reader.fault(fields.place(), "a rule needs one `require` or one `forbid`");
                None
            }
            (Some(_), Some(_)) => {
                let message = "a rule has one `require` or one `forbid`, not both";
                reader.fault_with_help(fields.place_of("forbid"), message, "make it two rules");
                None
            }
        };
        let matcher = demand.and_then(|(demand, node)| Some((demand, self.condition(node, demand)?)));
        let message = fields.take("message").map(|node| self.message(node));
        let mode = fields.take("mode").map(|node| reader.choice(node, MODES));
        fields.finish();

        let (demand, matcher) = matcher?;
        Some(Rule {
            id: format!("{policy}/{}", name?).into(),
            name: name?.into(),
            place: node.place,
            when,
            demand,
            matcher,
            message: message.map_or(Some(None), |template| template.map(Some))?,
            mode: mode.unwrap_or(Some(Mode::Enforce))?,
            exemptions: Vec::new(),
        })
    }

    /// A `match`: at least one matcher.
    fn conditions(&mut self, node: &Node) -> Vec<Matcher> {
        let Some(mut fields) = self.reader.fields(node, "a match") else { return Vec::new() };
        let matchers = self.matchers().several(&mut fields);
        if matches!(&node.value, Value::Map(entries) if entries.is_empty()) {
            self.reader.fault_with_help(node.place, "this `match` has no matcher", "leave it out to match every job");
        }
        fields.finish();
        matchers
    }

    /// What is required or forbidden: exactly one matcher.
    fn condition(&mut self, node: &Node, demand: Demand) -> Option<Matcher> {
        let what = if demand == Demand::Require { "a require" } else { "a forbid" };
        let mut fields = self.reader.fields(node, what)?;
        let mut matchers = self.matchers().several(&mut fields);
        fields.finish();
        let Value::Map(entries) = &node.value else { return None };
        if entries.len() > 1 || matchers.len() > 1 {
            let place = entries.get(1).map_or(node.place, |entry| entry.place);
            let help = "narrow the rule by its own `match`, or make it two rules";
            self.reader.fault_with_help(place, format!("{what} has exactly one matcher"), help);
            return None;
        }
        if entries.is_empty() {
            self.reader.fault(node.place, format!("{what} has exactly one matcher, this has none"));
        }
        matchers.pop()
    }

    fn matchers(&mut self) -> Matchers<'_, 's> {
        Matchers { reader: self.reader, exposed: self.exposed, reads: &mut self.reads }
    }

    fn message(&mut self, node: &Node) -> Option<Template> {
        let text = self.reader.name(node)?;
        match Template::new(text, self.exposed, &mut self.reads) {
            Ok(template) => Some(template),
            Err(bad) => {
                match bad.help {
                    Some(help) => self.reader.fault_with_help(node.place, bad.message, help),
                    None => self.reader.fault(node.place, bad.message),
                }
                None
            }
        }
    }

    /// Exemptions, and where each of the rules they name stands.
    fn exemptions(&mut self, node: &Node) -> Vec<(Exemption, Vec<Place>)> {
        let Some(nodes) = self.reader.list(node) else { return Vec::new() };
        nodes.iter().filter_map(|node| self.exemption(node)).collect()
    }

    fn exemption(&mut self, node: &Node) -> Option<(Exemption, Vec<Place>)> {
        let reader = self.reader;
        let mut fields = reader.fields(node, "an exemption")?;
        let rules = fields.require("rules").and_then(|node| {
            let rules = reader.strings(node)?;
            if rules.is_empty() {
                reader.fault(node.place, "an exemption names the rules it is from");
            }
            Some(rules)
        });
        let until = fields.require("until").and_then(|node| self.last_day(node));
        let reason = fields.require("reason").and_then(|node| reader.name(node));
        let unread = fields.rest().count();
        let when = self.matchers().several(&mut fields);
        if unread == 0 {
            let help = "say whom it is for, as `projects: [\"acme/legacy\"]`";
            reader.fault_with_help(node.place, "an exemption needs at least one matcher", help);
        }
        fields.finish();

        let (until, rules) = (until?, rules?);
        let (rules, places) = rules.into_iter().map(|(rule, place)| (Box::from(rule), place)).unzip();
        let ends = until.1;
        let exemption = Exemption { place: node.place, when, rules, until: until.0, ends, reason: reason?.into() };
        Some((exemption, places))
    }

    /// A date, and the first instant after it in UTC.
    fn last_day(&self, node: &Node) -> Option<(Date, SystemTime)> {
        let text = self.reader.string(node)?;
        let date = Some(text).filter(|text| text.len() == 10).and_then(|text| text.parse::<Date>().ok());
        let day_and_end = date.and_then(|date| {
            let end = date.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok()?;
            Some((date, end.timestamp().into()))
        });
        if day_and_end.is_none() {
            let message = format!("`{text}` is not a date");
            self.reader.fault_with_help(node.place, message, "write the last day it holds, in UTC, as `2026-12-31`");
        }
        day_and_end
    }

    /// Tells each rule its exemptions; every rule named must be there.
    fn join(&self, rules: &mut [Rule], exemptions: &[(Exemption, Vec<Place>)]) {
        for (index, (exemption, places)) in exemptions.iter().enumerate() {
            for (name, place) in exemption.rules.iter().zip(places) {
                if let Some(rule) = rules.iter_mut().find(|rule| rule.name == *name) {
                    rule.exemptions.push(index);
                    continue;
                }
                let message = match jobgate_yaml::nearest(name, rules.iter().map(|rule| &*rule.name)) {
                    Some(near) => format!("no rule `{name}` in this policy; did you mean `{near}`?"),
                    None => format!("no rule `{name}` in this policy"),
                };
                self.reader.fault(*place, message);
            }
        }
    }
}

pub(super) const LONGEST_NAME: usize = 64;
pub(super) const MODES: &[(&str, Mode)] = &[("enforce", Mode::Enforce), ("warn", Mode::Warn)];

/// A name for where a policy came from, shared by what it says.
pub(crate) fn source(name: &str, text: &str) -> Source {
    Source::new(Arc::<str>::from(name), Arc::<str>::from(text))
}
