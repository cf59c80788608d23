//! Who may ask for what: tokens, and trial mode without any.

mod caller;
mod layer;
mod site;

use std::{fmt, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;

pub(crate) use caller::Caller;
pub(super) use caller::{Right, RunnerIdentity};
pub(super) use layer::check;

use self::site::Site;
use super::{Metrics, throttle::Throttle};
use crate::{
    config::{Config, ControllerKind, RunnerConfig, Secret},
    glob::ProjectGlob,
};

/// The tokens in use; cheap to clone. Replaced as a whole when the configuration is.
#[derive(Clone)]
pub struct Auth(Arc<Shared>);

struct Shared {
    keys: ArcSwap<Keys>,
    site: Site,
    /// Beyond loopback the metrics need a token.
    open_metrics: bool,
    metrics: Metrics,
    wrong: Throttle,
}

/// Why a token list cannot be used: a glob in it is none. The configuration's own reader refuses it before.
#[derive(Debug, thiserror::Error)]
#[error("token `{token}`: {source}")]
pub struct BadProjects {
    token: Arc<str>,
    source: crate::glob::BadGlob,
}

struct Keys {
    trial: bool,
    callers: Vec<(Secret, Caller)>,
    runners: Vec<Arc<RunnerConfig>>,
    controllers: Vec<Secret>,
}

/// What a token is.
enum Holder {
    Caller(Caller),
    Runner(Arc<RunnerConfig>),
    /// Which one, the tunnel itself finds out.
    Controller,
}

impl Auth {
    pub(super) fn new(config: &Config, address: SocketAddr, metrics: Metrics) -> Result<Self, BadProjects> {
        let keys = ArcSwap::from_pointee(Keys::new(config)?);
        let site = Site::new(address, config.external_url.as_deref());
        let open_metrics = address.ip().is_loopback();
        Ok(Self(Arc::new(Shared { keys, site, open_metrics, metrics, wrong: Throttle::default() })))
    }

    /// Takes the tokens of another configuration. Open streams go on under the old ones.
    ///
    /// # Errors
    ///
    /// [`BadProjects`]; the old tokens stay.
    pub fn replace(&self, config: &Config) -> Result<(), BadProjects> {
        self.0.keys.store(Arc::new(Keys::new(config)?));
        Ok(())
    }

    fn wrong_token(&self, peer: Option<SocketAddr>) {
        self.0.metrics.refused("wrong_token");
        if let Some(before) = self.0.wrong.pass() {
            let peer = peer.map(|peer| peer.ip().to_string()).unwrap_or_default();
            tracing::warn!(peer, before, "a wrong token was refused");
        }
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}

impl Keys {
    fn new(config: &Config) -> Result<Self, BadProjects> {
        let caller = |token: &crate::config::TokenConfig| {
            let globs = token.projects.iter().map(|glob| ProjectGlob::parse(glob)).collect::<Result<Vec<_>, _>>();
            let globs = globs.map_err(|source| BadProjects { token: token.name.clone(), source })?;
            Ok((token.token.clone(), Caller::new(token, globs)))
        };
        let controllers = config.controllers.iter().filter_map(|controller| match &controller.kind {
            ControllerKind::Attached { token } => Some(token.clone()),
            _ => None,
        });
        Ok(Self {
            trial: config.is_trial(),
            callers: config.tokens.iter().map(caller).collect::<Result<_, _>>()?,
            runners: config.runners.clone(),
            controllers: controllers.collect(),
        })
    }

    /// Compares with every token, so that the time does not tell which one was near.
    fn holder(&self, token: &str) -> Option<Holder> {
        let mut found = None;
        for (secret, caller) in &self.callers {
            if secret.is(token) {
                found = Some(Holder::Caller(caller.clone()));
            }
        }
        for runner in &self.runners {
            if runner.token.is(token) {
                found = Some(Holder::Runner(runner.clone()));
            }
        }
        for secret in &self.controllers {
            if secret.is(token) {
                found = Some(Holder::Controller);
            }
        }
        found
    }
}
