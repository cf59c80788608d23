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
    /// Where it listens, whatever a later configuration says. Beyond loopback the metrics need a token.
    address: SocketAddr,
    metrics: Metrics,
    wrong: Throttle,
}

/// Why the tokens of a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// A glob of a token is none. The configuration's own reader refuses it before.
    #[error("token `{token}`: {source}")]
    Projects {
        /// Name of the token.
        token: Arc<str>,
        /// What is wrong with the glob.
        source: crate::glob::BadGlob,
    },
    /// There are neither tokens nor runners, and the router listens beyond loopback: anybody could do anything.
    #[error(
        "without tokens and runners the router listens on loopback only, not on {address}; add `tokens` and `runners`"
    )]
    TrialBeyondLoopback {
        /// Where it listens.
        address: SocketAddr,
    },
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
    pub(super) fn new(config: &Config, address: SocketAddr, metrics: Metrics) -> Result<Self, AuthError> {
        let keys = ArcSwap::from_pointee(Keys::new(config, address)?);
        let site = Site::new(address, config.external_url.as_deref());
        Ok(Self(Arc::new(Shared { keys, site, address, metrics, wrong: Throttle::default() })))
    }

    /// Takes the tokens of another configuration. Open streams go on under the old ones.
    ///
    /// # Errors
    ///
    /// [`AuthError`]; the old tokens stay.
    pub fn replace(&self, config: &Config) -> Result<(), AuthError> {
        self.0.keys.store(Arc::new(Keys::new(config, self.0.address)?));
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
    fn new(config: &Config, address: SocketAddr) -> Result<Self, AuthError> {
        if config.is_trial() && !address.ip().is_loopback() {
            return Err(AuthError::TrialBeyondLoopback { address });
        }
        let caller = |token: &crate::config::TokenConfig| {
            let globs = token.projects.iter().map(|glob| ProjectGlob::parse(glob)).collect::<Result<Vec<_>, _>>();
            let globs = globs.map_err(|source| AuthError::Projects { token: token.name.clone(), source })?;
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
