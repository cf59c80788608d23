//! The shape `{ "gitlab": {…}, "tags": […], "user": {…} }`: a job as GitLab hands it out, read as GitLab Runner reads it.

use jobgate_sdk::ScriptLine;

use super::{
    content::{self, Content, ImageSpec, Origin, ServiceSpec, VariableSpec},
    cursor::Cursor,
    native,
};

/// What GitLab Runner takes when `runner_info.timeout` is not above 0, in seconds.
const DEFAULT_TIMEOUT: i64 = 7200;

/// Kinds of secrets providers listed; GitLab knows six.
const PROVIDERS_MAX: usize = 32;

pub(super) fn read(document: &Cursor<'_>) -> Option<Content> {
    document.only("the document", &["gitlab", "tags", "user"]);
    let tags = content::tags(document);
    let (stated_user_id, user_login) = native::user(document);
    let job = document.find("gitlab")?.mapping_of()?;
    let info = section(&job, "job_info");
    let git = section(&job, "git_info");
    if info.is_none() && !job.has("job_info") {
        job.note("`job_info` is missing: whose job is this?");
    }
    let project = info.as_ref().and_then(|info| content::project(info, "project_full_path"));
    let (repo_path, repo_password) = git.as_ref().and_then(repository).unzip();
    let (secret_keys, secret_providers) = secrets(&job);
    let text = |section: &Option<Cursor<'_>>, key| section.as_ref().and_then(|section| section.filled(key));
    let number = |key| info.as_ref().and_then(|info| info.get(key)?.integer());
    let mut content = Content {
        origin: Origin::GitLab,
        project_id: number("project_id"),
        repo_path,
        user_id: number("user_id"),
        stated_user_id,
        user_login,
        source_id: job.get("id").and_then(|id| id.integer()).map(|id| id.to_string()),
        name: text(&info, "name"),
        stage: text(&info, "stage"),
        pipeline_id: number("pipeline_id"),
        source: None,
        ref_name: text(&git, "ref"),
        ref_type: git.as_ref().and_then(content::ref_type),
        protected: git.as_ref().and_then(|git| git.get("protected")?.boolean()),
        sha: text(&git, "sha"),
        environment: None,
        tags,
        image: job.get("image").and_then(|image| self::image(&image)),
        services: each(&job, "services", service),
        variables: job.get("variables").map(|list| list.elements().filter_map(|item| variable(&item)).collect()),
        timeout_seconds: Some(timeout(&job)),
        artifact_paths: each(&job, "artifacts", |item| Some(item.strings("paths"))).concat(),
        cache_keys: each(&job, "cache", cache_keys).concat(),
        secret_providers,
        secret_keys,
        script: script(&job),
        retry_on_lost: false,
        credentials: job.filled("token").into_iter().collect(),
        project: project?,
    };
    content.credentials.extend(each(&job, "credentials", |item| item.filled("password")));
    content.credentials.extend(each(&job, "dependencies", |item| item.filled("token")));
    content.credentials.extend(repo_password.flatten());
    Some(content)
}

/// A mapping under a key.
fn section<'c>(job: &'c Cursor<'c>, key: &'static str) -> Option<Cursor<'c>> {
    job.get(key)?.mapping_of()
}

/// The elements of the list under a key that are mappings, read.
fn each<T>(job: &Cursor<'_>, key: &'static str, read: impl Fn(&Cursor<'_>) -> Option<T>) -> Vec<T> {
    let Some(list) = job.get(key) else { return Vec::new() };
    list.elements().filter_map(|item| read(&item.mapping_of()?)).collect()
}

/// The path of the repository's URL, and the password in it.
fn repository(git: &Cursor<'_>) -> Option<(String, Option<String>)> {
    let url = git.get("repo_url")?;
    let text = url.text().filter(|text| !text.is_empty())?;
    let parts = split_url(text);
    if parts.is_none() {
        url.note("expected the URL of a repository, `https://…`");
    }
    parts.map(|(path, password)| (path.to_owned(), password.map(str::to_owned)))
}

/// The path of a URL without `.git`, and the password in it.
fn split_url(url: &str) -> Option<(&str, Option<&str>)> {
    let (_, rest) = url.split_once("://")?;
    let (authority, path) = rest.split_once('/')?;
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let path = path.strip_suffix('/').unwrap_or(path);
    let password =
        authority.rsplit_once('@').map(|(userinfo, _)| userinfo.split_once(':').map_or(userinfo, |(_, p)| p));
    Some((path.strip_suffix(".git").unwrap_or(path), password))
}

fn timeout(job: &Cursor<'_>) -> i64 {
    let timeout = section(job, "runner_info").and_then(|runner| runner.get("timeout")?.integer());
    timeout.filter(|seconds| *seconds > 0).unwrap_or(DEFAULT_TIMEOUT)
}

fn variable(item: &Cursor<'_>) -> Option<VariableSpec> {
    let item = item.mapping_of()?;
    Some(VariableSpec {
        key: item.string("key").unwrap_or_default(),
        value: item.string("value"),
        public: item.flag("public"),
        masked: item.flag("masked"),
        file: item.flag("file"),
        raw: item.flag("raw"),
    })
}

/// An image; one that says nothing is none.
fn image(item: &Cursor<'_>) -> Option<ImageSpec> {
    let item = item.mapping_of()?;
    let mut image = ImageSpec {
        name: item.string("name").unwrap_or_default(),
        pull_policy: item.strings("pull_policy"),
        entrypoint: item.strings("entrypoint"),
        command: item.strings("command"),
        ..ImageSpec::default()
    };
    if let Some(options) = section(&item, "executor_opts") {
        if let Some(docker) = section(&options, "docker") {
            image.platform = docker.filled("platform");
            image.users.extend(content::user(&docker));
        }
        if let Some(kubernetes) = section(&options, "kubernetes") {
            image.users.extend(content::user(&kubernetes));
        }
    }
    let silent = image.name.is_empty() && image.users.is_empty() && image.platform.is_none();
    (!silent || [&image.pull_policy, &image.entrypoint, &image.command].iter().any(|list| !list.is_empty()))
        .then_some(image)
}

fn service(item: &Cursor<'_>) -> Option<ServiceSpec> {
    let alias = item.string("alias").unwrap_or_default();
    let alias = alias.split([',', ' ']).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    Some(ServiceSpec { image: image(item).unwrap_or_default(), alias })
}

fn cache_keys(item: &Cursor<'_>) -> Option<Vec<String>> {
    Some(item.filled("key").into_iter().chain(item.strings("fallback_keys")).collect())
}

/// The variables that come from secrets providers, and the providers, each once.
fn secrets(job: &Cursor<'_>) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut providers) = (Vec::new(), Vec::new());
    let Some(secrets) = section(job, "secrets") else { return (keys, providers) };
    for (key, secret) in secrets.keys() {
        keys.push(key.to_owned());
        let Some(secret) = secret.mapping_of() else { continue };
        for (provider, settings) in secret.keys() {
            let known = provider == "file" || settings.is_null() || providers.iter().any(|name| name == provider);
            if !known && providers.len() < PROVIDERS_MAX {
                providers.push(provider.to_owned());
            }
        }
    }
    (keys, providers)
}

/// Every hook, the raw `run` and every step, in the order of execution.
fn script(job: &Cursor<'_>) -> Vec<ScriptLine> {
    let mut lines = each(job, "hooks", |hook| Some(script_of(hook, "hooks"))).concat();
    // The key alone is enough to make runners read it, as text.
    if let Some(run) = job.find("run") {
        lines.extend(run.text().map(|text| ScriptLine { place: "run".into(), text: text.into() }));
    }
    lines.extend(each(job, "steps", |step| Some(script_of(step, "steps"))).concat());
    lines
}

fn script_of(item: &Cursor<'_>, list: &str) -> Vec<ScriptLine> {
    let name = item.string("name").unwrap_or_default();
    let lines = item.strings("script").into_iter().enumerate();
    lines.map(|(index, text)| ScriptLine { place: format!("{list}.{name}.script[{index}]"), text }).collect()
}
