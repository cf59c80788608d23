use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jobgate_yaml::{Document, Fault, Faults, Limits, Node, Place, Reader, Source};

use super::{
    Config, ControllerKind, DecisionLog, GitLabConfig, NoControllers, Secret, ServerTls,
    controllers::read_controller,
    gitlab::read_gitlab,
    runners::{read_runner, read_token},
    scheduling::{read_priority, read_runner_group, read_weight},
};
use crate::path::Scope;

/// Longest `admission_timeout`: GitLab's own poll ends after 50 s, and a runner must have its answer well before.
const LONGEST_ADMISSION: Duration = Duration::from_secs(25);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

impl Config {
    /// Reads and checks a configuration file; paths in it are relative to it.
    ///
    /// # Errors
    ///
    /// Every fault of it, with place.
    pub fn load(path: &Path) -> Result<Self, Faults> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| Fault::new(&*name, error.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse(&Source::new(name, text), folder)
    }

    /// Reads and checks a configuration; paths in it are relative to `folder`.
    ///
    /// # Errors
    ///
    /// Every fault of it, with place.
    pub fn parse(source: &Source, folder: &Path) -> Result<Self, Faults> {
        Document::read(source, Limits::default(), |reader, root| Loader { reader, folder }.config(root))
    }
}

/// Reads nodes into checked values; the folder is where relative paths begin.
pub(super) struct Loader<'a, 's> {
    pub(super) reader: &'a Reader<'s>,
    pub(super) folder: &'a Path,
}

impl<'a, 's> Loader<'a, 's> {
    fn config(&self, root: &Node) -> Option<Config> {
        let mut fields = self.reader.fields(root, "the configuration")?;
        let listen_place = fields.place_of("listen");
        let listen = fields.take("listen").map_or(Some(default_listen()), |node| self.address(node));
        let external_url = fields.take("external_url").map(|node| self.url(node, &["http", "https"]));
        let tls = fields.take("tls").map(|node| self.server_tls(node));
        let insecure = fields.take("insecure").map_or(Some(false), |node| self.reader.boolean(node));
        let state = fields.take("state").map_or(Some(self.folder.join("jobgate-data")), |node| self.path(node));
        let admission_timeout = self.span_or(&mut fields, "admission_timeout", 10, LONGEST_ADMISSION);
        let admission_ttl = self.span_or(&mut fields, "admission_ttl", 600, DAY);
        let no_controllers = fields.take("no_controllers").map_or(Some(NoControllers::Admit), |node| {
            self.reader.choice(node, &[("admit", NoControllers::Admit), ("reject", NoControllers::Reject)])
        });
        let max_jobs = fields.take("max_jobs").map_or(Some(100_000), |node| self.reader.integer(node, 1..=10_000_000));
        let decision_log = fields.take("decision_log").map(|node| self.decision_log(node));
        let retention =
            fields.take("retention").map_or(Some(30 * DAY), |node| self.span_within(node, HOUR..=3650 * DAY));
        let spillover_hold = fields
            .take("spillover_hold")
            .map_or(Some(Duration::from_secs(30)), |node| self.span_within(node, Duration::ZERO..=HOUR));
        let gitlab_place = fields.place_of("gitlab");
        let gitlab = fields.take("gitlab").map(|node| read_gitlab(self, node));
        let controllers = self.each(fields.take("controllers"), |node| read_controller(self, node));
        let runners = self.each(fields.take("runners"), |node| read_runner(self, node));
        let tokens = self.each(fields.take("tokens"), |node| read_token(self, node));
        let runner_groups = self.each(fields.take("runner_groups"), |node| read_runner_group(self, node));
        let priorities = self.each(fields.take("priorities"), |node| read_priority(self, node));
        let fairness = self.each(fields.take("fairness"), |node| read_weight(self, node));
        fields.finish();

        // From here on everything is checked together; what could not be read has its fault already.
        let listen = listen?;
        let tls = tls.map_or(Some(None), |tls| tls.map(Some))?;
        let external_url = match external_url {
            Some(url) => Some(url?),
            None if listen.ip().is_loopback() => {
                let scheme = if tls.is_some() { "https" } else { "http" };
                Some(format!("{scheme}://{listen}"))
            }
            None => None,
        };
        let (controllers, runners, tokens) = (controllers?, runners?, tokens?);
        self.unique("controller", controllers.iter().map(|(config, place)| (&*config.name, *place)));
        self.unique("runner", runners.iter().map(|(config, place)| (&*config.name, *place)));
        self.unique("token", tokens.iter().map(|(config, place)| (&*config.name, *place)));
        let gitlab = gitlab.map_or(Some(None), |gitlab| gitlab.map(Some))?;
        if gitlab.is_some() && external_url.is_none() {
            let help = "say `external_url`: the URL under which runners reach this router";
            self.reader.fault_with_help(gitlab_place, "runners of GitLab must be told where this router is", help);
        }
        let served = gitlab.iter().flat_map(|gitlab: &GitLabConfig| &gitlab.runners).map(|runner| &*runner.name);
        let names: Vec<_> = runners.iter().map(|(runner, _)| &*runner.name).chain(served).collect();
        self.runner_scopes(&controllers, &names);
        self.gitlab_names(gitlab.as_ref(), gitlab_place, &runners);
        self.distinct_tokens(&controllers, &runners, &tokens);
        // Where the groups themselves have faults, a name that is not among them says nothing.
        let runner_groups = runner_groups?;
        self.unique("runner group", runner_groups.iter().map(|(config, place)| (&*config.name, *place)));
        self.runner_groups(&runners, &runner_groups);
        let config = Config {
            listen,
            external_url,
            tls,
            insecure: insecure?,
            state: state?,
            admission_timeout: admission_timeout?,
            admission_ttl: admission_ttl?,
            no_controllers: no_controllers?,
            max_jobs: usize::try_from(max_jobs?).unwrap_or(usize::MAX),
            gitlab: gitlab.map(Arc::new),
            decision_log: decision_log.map_or(Some(None), |log| log.map(Some))?,
            controllers: controllers.into_iter().map(|(config, _)| Arc::new(config)).collect(),
            runners: runners.into_iter().map(|(config, _)| Arc::new(config)).collect(),
            tokens: tokens.into_iter().map(|(config, _)| config).collect(),
            runner_groups: runner_groups.into_iter().map(|(config, _)| config).collect(),
            priorities: priorities?.into_iter().map(|(rule, _)| rule).collect(),
            fairness: fairness?.into_iter().map(|(rule, _)| rule).collect(),
            spillover_hold: spillover_hold?,
            retention: retention?,
        };
        self.exposure(&config, listen_place);
        Some(config)
    }

    /// Beyond loopback, TLS and tokens are required, or `insecure: true`.
    fn exposure(&self, config: &Config, place: Place) {
        if config.listen.ip().is_loopback() {
            return;
        }
        if config.is_trial() {
            let help =
                "add `tokens` and `runners`; trial mode is for loopback only, `insecure: true` does not change that";
            self.reader.fault_with_help(place, "without any token the router listens on loopback only", help);
        } else if config.tls.is_none() && !config.insecure {
            let help = "add `tls: { cert: …, key: … }`, or say `insecure: true`";
            self.reader.fault_with_help(place, "tokens would cross the network in clear", help);
        }
    }

    /// A runner scope must name a runner that exists, or its controller would be asked about nothing.
    fn runner_scopes(&self, controllers: &[(super::ControllerConfig, Place)], runners: &[&str]) {
        for (controller, place) in controllers {
            let Scope::Runner(name) = &controller.scope else { continue };
            if runners.contains(&&**name) {
                continue;
            }
            let message = match jobgate_yaml::nearest(name, runners.iter().copied()) {
                Some(near) => format!("there is no runner `{name}`; did you mean `{near}`?"),
                None => format!("there is no runner `{name}`"),
            };
            let message = format!("controller `{}`: {message}", controller.name);
            self.reader.fault_with_help(
                *place,
                message,
                "a runner scope names an entry of `runners`, or of `runners` in `gitlab`",
            );
        }
    }

    /// A token says who somebody is, so no two may have the same.
    fn distinct_tokens(
        &self,
        controllers: &[(super::ControllerConfig, Place)],
        runners: &[(super::RunnerConfig, Place)],
        tokens: &[(super::TokenConfig, Place)],
    ) {
        let attached = controllers.iter().filter_map(|(config, place)| match &config.kind {
            ControllerKind::Attached { token } => Some((format!("controller `{}`", config.name), token, *place)),
            _ => None,
        });
        let runners =
            runners.iter().map(|(config, place)| (format!("runner `{}`", config.name), &config.token, *place));
        let tokens = tokens.iter().map(|(config, place)| (format!("token `{}`", config.name), &config.token, *place));
        let mut seen: HashMap<&str, String> = HashMap::new();
        for (whose, token, place) in attached.chain(runners).chain(tokens) {
            match seen.get(token.expose()) {
                Some(first) => {
                    self.reader.fault_with_help(
                        place,
                        format!("{whose} has the token of {first}"),
                        "give each its own",
                    );
                }
                None => drop(seen.insert(token.expose(), whose)),
            }
        }
    }

    pub(super) fn unique<'n>(&self, what: &str, names: impl Iterator<Item = (&'n str, Place)>) {
        let mut seen = HashMap::new();
        for (name, place) in names {
            if let Some(first) = seen.insert(name, place) {
                let message = format!("there are two {what}s named `{name}` (the other is in line {})", first.line);
                self.reader.fault(place, message);
            }
        }
    }

    /// Reads every element of a list that may be absent; `None` when any has a fault.
    pub(super) fn each<T>(&self, node: Option<&Node>, read: impl Fn(&Node) -> Option<T>) -> Option<Vec<(T, Place)>> {
        let Some(node) = node else { return Some(Vec::new()) };
        let items: Vec<_> =
            self.reader.list(node)?.iter().map(|item| read(item).map(|value| (value, item.place))).collect();
        items.into_iter().collect()
    }

    fn address(&self, node: &Node) -> Option<SocketAddr> {
        let text = self.reader.string(node)?;
        let address = text.parse().ok();
        if address.is_none() {
            let message = format!("`{text}` is not an address and port");
            self.reader.fault_with_help(
                node.place,
                message,
                "as `127.0.0.1:7400` or `[::1]:7400`; a port of 0 takes a free one",
            );
        }
        address
    }

    /// A URL of one of these schemes, without userinfo.
    pub(super) fn url(&self, node: &Node, schemes: &[&str]) -> Option<String> {
        let text = self.reader.name(node)?;
        let uri: Option<http::Uri> = text.parse().ok();
        let good = uri.as_ref().is_some_and(|uri| {
            uri.scheme_str().is_some_and(|scheme| schemes.contains(&scheme))
                && uri.host().is_some_and(|host| !host.is_empty())
        });
        let userinfo =
            uri.as_ref().and_then(http::Uri::authority).is_some_and(|authority| authority.as_str().contains('@'));
        if userinfo || (!good && text.contains('@')) {
            let help = "put the token into a file, and name it by `token_file`";
            // Not quoted: what stands before the `@` may be a password.
            self.reader.note(
                Fault::new(
                    format!("{}:{}:{}", self.reader.source().name(), node.place.line, node.place.column),
                    "a URL must not hold a name or password",
                )
                .help(help),
            );
            return None;
        }
        if !good {
            let schemes: Vec<_> = schemes.iter().map(|scheme| format!("{scheme}://")).collect();
            self.reader.fault(node.place, format!("expected a URL that begins with {}", schemes.join(" or ")));
            return None;
        }
        Some(text.trim_end_matches('/').to_owned())
    }

    pub(super) fn path(&self, node: &Node) -> Option<PathBuf> {
        self.reader.name(node).map(|text| self.folder.join(text))
    }

    /// The secret in a file: its text without the line break at its end.
    pub(super) fn secret_file(&self, node: &Node) -> Option<Secret> {
        let path = self.path(node)?;
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => zeroize::Zeroizing::new(text),
            Err(error) => {
                self.reader.fault(node.place, format!("cannot read {}: {error}", path.display()));
                return None;
            }
        };
        let token = text.trim();
        if token.len() < Secret::SHORTEST || token.chars().any(|c| !c.is_ascii_graphic()) {
            let message = format!("{} does not hold a token", path.display());
            let help = format!(
                "one line of at least {} printable ASCII characters; for example `openssl rand -hex 32 > {}`",
                Secret::SHORTEST,
                path.display()
            );
            self.reader.fault_with_help(node.place, message, help);
            return None;
        }
        Some(Secret::new(token))
    }

    pub(super) fn bytes_file(&self, node: &Node) -> Option<Vec<u8>> {
        let path = self.path(node)?;
        let read = std::fs::read(&path);
        read.map_err(|error| self.reader.fault(node.place, format!("cannot read {}: {error}", path.display()))).ok()
    }

    fn server_tls(&self, node: &Node) -> Option<ServerTls> {
        let mut fields = self.reader.fields(node, "`tls`")?;
        let cert = fields.require("cert").and_then(|node| self.existing(node));
        let key = fields.require("key").and_then(|node| self.existing(node));
        let client_ca = fields.take("client_ca").map(|node| self.existing(node));
        fields.finish();
        Some(ServerTls { cert: cert?, key: key?, client_ca: client_ca.map_or(Some(None), |path| path.map(Some))? })
    }

    fn existing(&self, node: &Node) -> Option<PathBuf> {
        let path = self.path(node)?;
        if !path.is_file() {
            self.reader.fault(node.place, format!("there is no file {}", path.display()));
            return None;
        }
        Some(path)
    }

    fn decision_log(&self, node: &Node) -> Option<DecisionLog> {
        let mut fields = self.reader.fields(node, "`decision_log`")?;
        let path = fields.require("path").and_then(|node| self.path(node));
        let max_bytes =
            fields.take("max_bytes").map_or(Some(64 << 20), |node| self.reader.integer(node, 4096..=1 << 40));
        let keep = fields.take("keep").map_or(Some(5), |node| self.reader.integer(node, 1..=1000));
        fields.finish();
        Some(DecisionLog {
            path: path?,
            max_bytes: u64::try_from(max_bytes?).ok()?,
            keep: usize::try_from(keep?).ok()?,
        })
    }
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7400))
}
