use std::net::SocketAddr;

use axum::extract::Request;
use http::{HeaderMap, header};

use super::{Auth, Caller, Holder, Keys, RunnerIdentity, site::Foreign};
use crate::faces::{connection::Peer, error::ApiError};

/// Who may ask for a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// Anybody: health, readiness, the descriptions of the wire.
    Open,
    /// Whoever has a token of `tokens`.
    Callers,
    /// A runner.
    Runners,
    /// An attaching controller; also in trial mode its token is needed.
    Controllers,
}

/// Name and tags of a runner in trial mode.
const TRIAL_RUNNER: &str = "x-jobgate-runner";
const TRIAL_TAGS: &str = "x-jobgate-tags";

impl Auth {
    /// Refuses a request before its body is read, or says in its extensions who sent it.
    pub(in crate::faces) fn admit(&self, request: &mut Request) -> Result<(), ApiError> {
        self.admit_anybody(request)?;
        let keys = self.0.keys.load();
        let door = Door::of(request.uri().path());
        if door == Door::Open || (self.0.address.ip().is_loopback() && request.uri().path() == "/metrics") {
            return Ok(());
        }
        if keys.trial && door != Door::Controllers {
            return trial(door, request);
        }
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
        let holder = self.holder(&keys, request.headers(), peer)?;
        let extensions = request.extensions_mut();
        match (door, holder) {
            (Door::Callers, Holder::Caller(caller)) => drop(extensions.insert(caller)),
            (Door::Runners, Holder::Runner(runner)) => drop(extensions.insert(RunnerIdentity(runner))),
            (Door::Controllers, Holder::Controller) => {}
            (door, _) => {
                self.0.metrics.refused("forbidden");
                return Err(ApiError::permission_denied(door.needs()));
            }
        }
        Ok(())
    }

    /// Without asking for a token: what the request is for has its own.
    pub(in crate::faces) fn admit_anybody(&self, request: &Request) -> Result<(), ApiError> {
        if self.0.keys.load().trial {
            self.0.site.check(request.uri(), request.headers()).map_err(|foreign| self.foreign(foreign))?;
        }
        Ok(())
    }

    fn holder(&self, keys: &Keys, headers: &HeaderMap, peer: Option<SocketAddr>) -> Result<Holder, ApiError> {
        let Some(token) = bearer(headers) else {
            self.0.metrics.refused("no_token");
            return Err(ApiError::unauthenticated("a token is needed: `authorization: Bearer <token>`"));
        };
        keys.holder(token).ok_or_else(|| {
            self.wrong_token(peer);
            ApiError::unauthenticated("this token is not one of ours")
        })
    }

    fn foreign(&self, foreign: Foreign) -> ApiError {
        let (label, message) = match foreign {
            Foreign::Origin => ("origin", "without tokens the router answers no web pages"),
            Foreign::Host => {
                ("foreign_host", "without tokens the router answers to `localhost` and its own address and port only")
            }
        };
        self.0.metrics.refused(label);
        ApiError::permission_denied(message)
    }
}

impl Door {
    fn of(path: &str) -> Self {
        if path.starts_with("/jobgate.runner.v1.RunnerGateway/") {
            Self::Runners
        } else if path.starts_with("/jobgate.admission.v1.AdmissionTunnel/") {
            Self::Controllers
        } else if OPEN.contains(&path) || OPEN_BELOW.iter().any(|prefix| path.starts_with(prefix)) {
            Self::Open
        } else {
            Self::Callers
        }
    }

    const fn needs(self) -> &'static str {
        match self {
            Self::Open | Self::Callers => "this is not a token for jobs: it needs one of `tokens`",
            Self::Runners => "this is not a runner's token: it needs one of `runners`",
            Self::Controllers => "this is not a controller's token: it needs that of an `attach` controller",
        }
    }
}

const OPEN: [&str; 2] = ["/healthz", "/readyz"];
const OPEN_BELOW: [&str; 3] = ["/grpc.health.v1.Health/", "/grpc.reflection.", "/api/v4/"];

fn trial(door: Door, request: &mut Request) -> Result<(), ApiError> {
    if door == Door::Callers {
        request.extensions_mut().insert(Caller::trial());
        return Ok(());
    }
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let runner = RunnerIdentity::trial(text(TRIAL_RUNNER), text(TRIAL_TAGS)).ok_or_else(|| {
        ApiError::invalid(format!(
            "in trial mode a runner says its name as metadata `{TRIAL_RUNNER}` (letters, digits, `_`, `-`, `.`), and may \
             say its tags as `{TRIAL_TAGS}`, with commas between them"
        ))
    })?;
    request.extensions_mut().insert(runner);
    Ok(())
}

/// The one bearer token of a request; none when there are several.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
