//! Which jobs go first, whose runners they get, and which runners belong together.

use jobgate_yaml::{Fields, Node, Place, Reader};

use super::{PriorityRule, RunnerConfig, RunnerGroupConfig, WeightRule, load::Loader};
use crate::glob::{ProjectGlob, TextGlob};

pub(super) fn read_runner_group(loader: &Loader<'_, '_>, node: &Node) -> Option<RunnerGroupConfig> {
    let mut fields = loader.reader.fields(node, "a runner group")?;
    let name = fields.require("name").and_then(|node| loader.identifier(node));
    let single_leader = fields.take("single_leader").map_or(Some(false), |node| loader.reader.boolean(node));
    fields.finish();
    Some(RunnerGroupConfig { name: name?.into(), single_leader: single_leader? })
}

pub(super) fn read_priority(loader: &Loader<'_, '_>, node: &Node) -> Option<PriorityRule> {
    let reader = loader.reader;
    let mut fields = reader.fields(node, "a priority rule")?;
    let class = fields.take("class").map_or(Some(0), |node| reader.integer(node, -100..=100));
    let projects = globs(reader, &mut fields, "projects", ProjectGlob::parse);
    let environments = globs(reader, &mut fields, "environments", TextGlob::parse);
    let refs = globs(reader, &mut fields, "refs", TextGlob::parse);
    let sources = words(reader, &mut fields, "sources");
    let protected = fields.take("protected").map(|node| reader.boolean(node));
    fields.finish();
    let rule = PriorityRule {
        class: i32::try_from(class?).ok()?,
        projects: projects?,
        environments: environments?,
        refs: refs?,
        sources: sources?,
        protected: protected.map_or(Some(None), |protected| protected.map(Some))?,
    };
    if rule == (PriorityRule { class: rule.class, ..PriorityRule::default() }) {
        let message = "a priority rule without a matcher would fit every job";
        let help = "add one of `projects`, `environments`, `refs`, `sources`, `protected`; for every project say \
                    `projects: [\"**\"]`";
        reader.fault_with_help(node.place, message, help);
        return None;
    }
    Some(rule)
}

pub(super) fn read_weight(loader: &Loader<'_, '_>, node: &Node) -> Option<WeightRule> {
    let reader = loader.reader;
    let mut fields = reader.fields(node, "an entry of `fairness`")?;
    // What is not there is a fault; what is there is checked even so.
    let projects_there = fields.require("projects").is_some();
    let projects = globs(reader, &mut fields, "projects", ProjectGlob::parse);
    let weight = fields.require("weight").and_then(|node| reader.integer(node, 1..=1000));
    fields.finish();
    let weight = u32::try_from(weight?).ok()?;
    projects.filter(|_| projects_there).map(|projects| WeightRule { projects, weight })
}

/// What a list of globs holds; nothing when the key is absent. One that is there and empty would fit no job.
fn globs<G, E: ToString>(
    reader: &Reader<'_>,
    fields: &mut Fields<'_, '_, '_>,
    key: &'static str,
    parse: fn(&str) -> Result<G, E>,
) -> Option<Vec<G>> {
    let Some(node) = fields.take(key) else { return Some(Vec::new()) };
    let texts = filled(reader, node, key)?;
    let globs: Vec<_> = texts
        .into_iter()
        .map(|(text, place)| parse(text).map_err(|error| reader.fault(place, error.to_string())).ok())
        .collect();
    globs.into_iter().collect()
}

fn words(reader: &Reader<'_>, fields: &mut Fields<'_, '_, '_>, key: &'static str) -> Option<Vec<String>> {
    let Some(node) = fields.take(key) else { return Some(Vec::new()) };
    let words: Vec<_> = filled(reader, node, key)?
        .into_iter()
        .map(|(word, place)| {
            let fine = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
            if !fine {
                let help = "a word as GitLab has it, compared exactly: `push`, `schedule`, `web`, `api`, `trigger` …";
                reader.fault_with_help(place, format!("`{word}` is not a source of pipelines"), help);
            }
            fine.then(|| word.to_owned())
        })
        .collect();
    words.into_iter().collect()
}

fn filled<'n>(reader: &Reader<'_>, node: &'n Node, key: &str) -> Option<Vec<(&'n str, Place)>> {
    let texts = reader.strings(node)?;
    if texts.is_empty() {
        reader.fault_with_help(node.place, format!("`{key}` is empty: no job would fit"), "leave it out to fit all");
        return None;
    }
    Some(texts)
}

impl Loader<'_, '_> {
    /// A runner that is in a group must be in one that exists.
    pub(super) fn runner_groups(&self, runners: &[(RunnerConfig, Place)], groups: &[(RunnerGroupConfig, Place)]) {
        for (runner, place) in runners {
            let Some(name) = &runner.group else { continue };
            if groups.iter().any(|(group, _)| group.name == *name) {
                continue;
            }
            let message = match jobgate_yaml::nearest(name, groups.iter().map(|(group, _)| &*group.name)) {
                Some(near) => format!("there is no runner group `{name}`; did you mean `{near}`?"),
                None => format!("there is no runner group `{name}`"),
            };
            let help =
                format!("`group` names an entry of `runner_groups`: `- {{ name: {name}, single_leader: true }}`");
            self.reader.fault_with_help(*place, format!("runner `{}`: {message}", runner.name), help);
        }
    }
}
