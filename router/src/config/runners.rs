use jobgate_sdk::RunnerType;
use jobgate_yaml::{Node, Place};

use super::{RunnerConfig, RunnerOwner, TokenConfig, load::Loader};
use crate::path::PathError;

/// GitLab refuses a job with so many tags; a runner needs no more.
const MOST_TAGS: usize = 50;

pub(super) fn read_runner(loader: &Loader<'_, '_>, node: &Node) -> Option<RunnerConfig> {
    let reader = loader.reader;
    let mut fields = reader.fields(node, "a runner")?;
    let name = fields.require("name").and_then(|node| loader.identifier(node));
    let token = fields.require("token_file").and_then(|node| loader.secret_file(node));
    let kind = fields.take("type").map_or(Some(RunnerType::Instance), |node| {
        let kinds =
            [("instance", RunnerType::Instance), ("group", RunnerType::Group), ("project", RunnerType::Project)];
        reader.choice(node, &kinds)
    });
    let owner_place = fields.place_of("owner");
    let owner_node = fields.take("owner");
    let tags = fields.take("tags").map_or(Some(Vec::new()), |node| read_tags(loader, node));
    let run_untagged = fields.take("run_untagged").map(|node| reader.boolean(node));
    let protected = fields.take("protected").map_or(Some(false), |node| reader.boolean(node));
    let priority = fields.take("priority").map_or(Some(0), |node| reader.integer(node, -1000..=1000));
    let group = fields.take("group").map(|node| loader.identifier(node));
    fields.finish();

    let (kind, tags) = (kind?, tags?);
    let owner = read_owner(loader, kind, owner_node, owner_place)?;
    // GitLab's own default: a runner without tags takes jobs without tags, or it would take none.
    let run_untagged = run_untagged.unwrap_or(Some(tags.is_empty()))?;
    if tags.is_empty() && !run_untagged {
        let message = "a runner without tags that takes no untagged jobs takes no job at all";
        reader.fault_with_help(node.place, message, "add `tags`, or say `run_untagged: true`");
        return None;
    }
    Some(RunnerConfig {
        name: name?.into(),
        token: token?,
        owner,
        tags,
        run_untagged,
        protected: protected?,
        priority: i32::try_from(priority?).ok()?,
        group: group.map_or(Some(None), |name| name.map(|name| Some(name.into())))?,
    })
}

fn read_owner(loader: &Loader<'_, '_>, kind: RunnerType, node: Option<&Node>, place: Place) -> Option<RunnerOwner> {
    let reader = loader.reader;
    let path = |node: &Node| reader.string(node).map(ToOwned::to_owned);
    match (kind, node) {
        (RunnerType::Group, Some(node)) => {
            let group = path(node)?.parse().map_err(|error: PathError| reader.fault(node.place, error.to_string()));
            group.ok().map(RunnerOwner::Group)
        }
        (RunnerType::Project, Some(node)) => {
            let project = path(node)?.parse().map_err(|error: PathError| reader.fault(node.place, error.to_string()));
            project.ok().map(RunnerOwner::Project)
        }
        (RunnerType::Group | RunnerType::Project, None) => {
            reader.fault(place, "a group or project runner needs `owner`: the path whose jobs it takes");
            None
        }
        (_, Some(_)) => {
            let help = "say `type: group` or `type: project`";
            reader.fault_with_help(place, "an instance runner has no `owner`", help);
            None
        }
        (_, None) => Some(RunnerOwner::Instance),
    }
}

pub(super) fn read_token(loader: &Loader<'_, '_>, node: &Node) -> Option<TokenConfig> {
    let reader = loader.reader;
    let mut fields = reader.fields(node, "a token")?;
    let name = fields.require("name").and_then(|node| loader.identifier(node));
    let token = fields.require("token_file").and_then(|node| loader.secret_file(node));
    let may = fields.require("may").and_then(|node| {
        let rights: Vec<_> = reader
            .list(node)?
            .iter()
            .map(|node| reader.choice(node, &[("submit", 's'), ("read", 'r'), ("operate", 'o')]))
            .collect();
        let rights: Vec<_> = rights.into_iter().collect::<Option<_>>()?;
        if rights.is_empty() {
            reader.fault(node.place, "a token that may do nothing is of no use");
            return None;
        }
        Some(rights)
    });
    let projects = fields.take("projects").map_or(Some(Vec::new()), |node| {
        let globs = reader.strings(node)?;
        if globs.is_empty() {
            reader.fault_with_help(node.place, "`projects` is empty", "leave it out for all projects");
            return None;
        }
        let checked: Vec<_> = globs
            .into_iter()
            .map(|(glob, place)| {
                crate::glob::ProjectGlob::parse(glob).map_err(|error| reader.fault(place, error.to_string())).ok()?;
                Some(glob.to_owned())
            })
            .collect();
        checked.into_iter().collect()
    });
    fields.finish();
    let may = may?;
    Some(TokenConfig {
        name: name?.into(),
        token: token?,
        submit: may.contains(&'s'),
        read: may.contains(&'r'),
        operate: may.contains(&'o'),
        projects: projects?,
    })
}

fn read_tags(loader: &Loader<'_, '_>, node: &Node) -> Option<Vec<String>> {
    let tags = loader.reader.strings(node)?;
    if tags.len() >= MOST_TAGS || tags.iter().any(|(tag, _)| tag.trim().is_empty()) {
        loader.reader.fault(node.place, format!("expected fewer than {MOST_TAGS} tags, none of them empty"));
        return None;
    }
    let mut tags: Vec<_> = tags.into_iter().map(|(tag, _)| tag.to_owned()).collect();
    tags.sort();
    tags.dedup();
    Some(tags)
}

impl Loader<'_, '_> {
    /// A name of ours: of a controller, a runner, a token.
    pub(super) fn identifier(&self, node: &Node) -> Option<String> {
        let name = self.reader.name(node)?;
        let fine = name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        if !fine {
            let help = "at most 64 letters, digits, `_`, `-` and `.`";
            self.reader.fault_with_help(node.place, format!("`{name}` is not a name"), help);
            return None;
        }
        Some(name.to_owned())
    }
}
