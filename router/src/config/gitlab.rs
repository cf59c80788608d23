//! The GitLab that the router stands in front of.

use std::collections::HashMap;

use jobgate_yaml::{Fields, Node, Place};

use super::{GitLabConfig, GitLabRunner, RunnerConfig, controllers::is_loopback, load::Loader};

/// What GitLab is told of a job that policy rejects. The first is what its own job router uses, and the last is known to
/// every GitLab (facts on the runner's protocol, 5.3).
const POLICY_REASONS: [&str; 3] = ["job_router_failure", "runner_unsupported", "script_failure"];
/// What it is told where somebody failed. Known to every GitLab, and what `retry:` is usually for.
const FAILURE_REASONS: [&str; 1] = ["runner_system_failure"];
/// One token may be that of a whole fleet of machines.
const POLLS_PER_TOKEN: i64 = 1000;

/// Runners of GitLab without a name are called so, with their id behind it.
pub(crate) const DEFAULT_NAME: &str = "gitlab-runner-";

pub(super) fn read_gitlab(loader: &Loader<'_, '_>, node: &Node) -> Option<GitLabConfig> {
    let reader = loader.reader;
    let mut fields = reader.fields(node, "`gitlab`")?;
    let insecure = fields.take("insecure").map_or(Some(false), |node| reader.boolean(node));
    let url = fields.require("url").and_then(|node| read_url(loader, node, insecure));
    let ca_place = fields.place_of("ca");
    let ca = fields.take("ca").map(|node| loader.bytes_file(node));
    let runners = loader.each(fields.take("runners"), |node| read_runner(loader, node));
    let reasons = fields.take("failure_reasons").map(|node| read_reasons(loader, node));
    let polls_per_token =
        fields.take("polls_per_token").map_or(Some(POLLS_PER_TOKEN), |node| reader.integer(node, 1..=1_000_000));
    fields.finish();

    let (policy_reasons, failure_reasons) =
        reasons.unwrap_or_else(|| Some((words(&POLICY_REASONS), words(&FAILURE_REASONS))))?;
    let (url, ca, runners) = (url?, ca.map_or(Some(None), |ca| ca.map(Some))?, runners?);
    if ca.is_some() && url.starts_with("http://") {
        reader.fault_with_help(ca_place, "`ca` is of no use with an `http://` URL", "use `https://`, or remove `ca`");
        return None;
    }
    loader.unique("runner", runners.iter().map(|(runner, place)| (&*runner.name, *place)));
    let mut ids = HashMap::new();
    for (runner, place) in &runners {
        if let Some(first) = ids.insert(runner.id, &runner.name) {
            reader.fault(*place, format!("runner {} has two names: `{first}` and `{}`", runner.id, runner.name));
        }
    }
    Some(GitLabConfig {
        url,
        ca,
        runners: runners.into_iter().map(|(runner, _)| runner).collect(),
        policy_reasons,
        failure_reasons,
        polls_per_token: usize::try_from(polls_per_token?).ok()?,
    })
}

fn read_url(loader: &Loader<'_, '_>, node: &Node, insecure: Option<bool>) -> Option<String> {
    let url = loader.url(node, &["http", "https"])?;
    if url.contains(['?', '#']) {
        loader.reader.fault(node.place, "the URL of a GitLab has no query and no fragment");
        return None;
    }
    if url.starts_with("http://") && !insecure? && !is_loopback(&url) {
        let message = "runner tokens and jobs' secrets would cross the network in clear";
        loader.reader.fault_with_help(node.place, message, "use `https://`, or say `insecure: true` in `gitlab`");
        return None;
    }
    Some(url)
}

fn read_runner(loader: &Loader<'_, '_>, node: &Node) -> Option<GitLabRunner> {
    let mut fields = loader.reader.fields(node, "a runner of GitLab")?;
    let id = fields.require("id").and_then(|node| loader.reader.integer(node, 1..=i64::MAX));
    let name = fields.require("name").and_then(|node| loader.identifier(node));
    fields.finish();
    Some(GitLabRunner { id: id?, name: name?.into() })
}

fn read_reasons(loader: &Loader<'_, '_>, node: &Node) -> Option<(Vec<String>, Vec<String>)> {
    let mut fields = loader.reader.fields(node, "`failure_reasons`")?;
    let policy = reason_list(loader, &mut fields, "policy", &POLICY_REASONS);
    let failure = reason_list(loader, &mut fields, "failure", &FAILURE_REASONS);
    fields.finish();
    Some((policy?, failure?))
}

fn reason_list(
    loader: &Loader<'_, '_>,
    fields: &mut Fields<'_, '_, '_>,
    key: &'static str,
    otherwise: &[&str],
) -> Option<Vec<String>> {
    let Some(node) = fields.take(key) else { return Some(words(otherwise)) };
    let reasons = loader.reader.strings(node)?;
    if reasons.is_empty() {
        loader.reader.fault(node.place, format!("`{key}` names no failure reason"));
        return None;
    }
    let good = |reason: &str| {
        !reason.is_empty() && reason.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let mut all_good = true;
    for (reason, place) in &reasons {
        if !good(reason) {
            let help = "a word as GitLab has it: `job_router_failure`, `runner_system_failure` …";
            loader.reader.fault_with_help(*place, format!("`{reason}` is no failure reason"), help);
            all_good = false;
        }
    }
    all_good.then(|| reasons.into_iter().map(|(reason, _)| reason.to_owned()).collect())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Loader<'_, '_> {
    /// A name means one runner, whichever way it gets its jobs.
    pub(super) fn gitlab_names(&self, gitlab: Option<&GitLabConfig>, place: Place, runners: &[(RunnerConfig, Place)]) {
        let Some(gitlab) = gitlab else { return };
        let named = gitlab.runners.iter().map(|runner| (&runner.name, Some(runner.id), place));
        let native = runners.iter().map(|(runner, place)| (&runner.name, None, *place));
        for (name, id, place) in named.chain(native) {
            let own = id.map(|id| format!("{DEFAULT_NAME}{id}"));
            if name.starts_with(DEFAULT_NAME) && own.is_none_or(|own| *own != **name) {
                let message = format!("`{name}` is what a runner of GitLab without a name is called");
                self.reader.fault_with_help(place, message, "choose another name");
            }
        }
        for runner in &gitlab.runners {
            if runners.iter().any(|(native, _)| native.name == runner.name) {
                let message = format!("`{}` is a runner of GitLab and one of `runners`", runner.name);
                self.reader.fault_with_help(place, message, "give each its own name");
            }
        }
    }
}
