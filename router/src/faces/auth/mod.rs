//! Who may ask for what: tokens, and trial mode without any.

mod caller;
mod layer;
mod site;

use std::{fmt, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub(crate) use caller::Caller;
pub(super) use caller::{Right, RunnerIdentity};

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
    keys: Vec<Key>,
}

/// A token, as its digest: those of two tokens that are near each other are not.
struct Key {
    digest: [u8; 32],
    holder: Holder,
}

/// What a token is.
#[derive(Clone)]
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
        let mut keys = Vec::new();
        for token in &config.tokens {
            let globs = token.projects.iter().map(|glob| ProjectGlob::parse(glob)).collect::<Result<Vec<_>, _>>();
            let globs = globs.map_err(|source| AuthError::Projects { token: token.name.clone(), source })?;
            keys.push(Key::new(&token.token, Holder::Caller(Caller::new(token, globs))));
        }
        keys.extend(config.runners.iter().map(|runner| Key::new(&runner.token, Holder::Runner(runner.clone()))));
        for controller in &config.controllers {
            if let ControllerKind::Attached { token } = &controller.kind {
                keys.push(Key::new(token, Holder::Controller));
            }
        }
        Ok(Self { trial: config.is_trial(), keys })
    }

    /// Compares with every token, so that the time does not tell which one was near.
    fn holder(&self, token: &str) -> Option<Holder> {
        let digest = Sha256::digest(token.as_bytes());
        let mut found = None;
        for key in &self.keys {
            if key.digest.ct_eq(digest.as_slice()).into() {
                found = Some(&key.holder);
            }
        }
        found.cloned()
    }
}

impl Key {
    fn new(secret: &Secret, holder: Holder) -> Self {
        Self { digest: Sha256::digest(secret.expose().as_bytes()).into(), holder }
    }
}
