//! Which runner a token is: GitLab says so, once (`POST /runners/verify`, facts 4.5).

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    calls::{self, CallError, RUNNER_TOKEN, Reply},
    headers,
    request::PollRequest,
    tokens::TokenKey,
    upstream::Upstream,
};

/// Time for one verification.
const WITHIN: Duration = Duration::from_secs(15);
/// Largest answer to one.
const MOST: usize = 64 * 1024;
/// A token that GitLab does not know, or cannot tell about, is asked about again after this time. It keeps strangers from
/// using up what GitLab grants the router's address.
const DOUBT: Duration = Duration::from_secs(30);
/// Tokens remembered at once.
const KNOWN: usize = 50_000;

/// What is known of a token.
#[derive(Clone, Debug)]
pub(super) enum Identity {
    /// It is this runner's.
    Runner(i64),
    /// GitLab has no way to tell (an old one, or something else in its place).
    Unnamed,
}

/// Why it is not known whose a token is.
#[derive(Debug)]
pub(super) enum Unknown {
    /// GitLab does not know the token.
    Refused,
    /// GitLab wants to be left alone for a while.
    Busy(Duration),
    /// GitLab does not answer, or not as it should.
    Outage(String),
}

#[derive(Clone)]
enum Known {
    For(Instant, Option<Identity>),
    Always(i64),
}

type Entry = Arc<tokio::sync::Mutex<Option<Known>>>;

/// Remembers whose tokens are whose.
#[derive(Default)]
pub(super) struct Identities(Mutex<HashMap<TokenKey, Entry>>);

#[derive(Deserialize)]
struct Verified {
    id: Option<i64>,
}

impl Identities {
    /// Whose token this is.
    pub(super) async fn of(
        &self,
        upstream: &Upstream,
        key: TokenKey,
        request: &PollRequest,
        peer: IpAddr,
        now: jiff::Timestamp,
    ) -> Result<Identity, Unknown> {
        let entry = self.entry(key);
        // Held while GitLab is asked: a fleet that starts at once asks once.
        let mut known = entry.lock().await;
        match &*known {
            Some(Known::Always(id)) => return Ok(Identity::Runner(*id)),
            Some(Known::For(until, identity)) if Instant::now() < *until => {
                return identity.clone().ok_or(Unknown::Refused);
            }
            _ => {}
        }
        let reply = verify(upstream, request, peer).await.map_err(|error| Unknown::Outage(error.to_string()))?;
        let doubt = |identity| Some(Known::For(Instant::now() + DOUBT, identity));
        match reply.status {
            StatusCode::OK => {
                let verified = serde_json::from_slice::<Verified>(&reply.body).ok().and_then(|verified| verified.id);
                match verified.filter(|id| *id > 0) {
                    Some(id) => {
                        *known = Some(Known::Always(id));
                        Ok(Identity::Runner(id))
                    }
                    None => {
                        *known = doubt(Some(Identity::Unnamed));
                        Ok(Identity::Unnamed)
                    }
                }
            }
            StatusCode::FORBIDDEN => {
                *known = doubt(None);
                Err(Unknown::Refused)
            }
            StatusCode::TOO_MANY_REQUESTS => Err(Unknown::Busy(reply.pause(now).unwrap_or(Duration::from_secs(5)))),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                *known = doubt(Some(Identity::Unnamed));
                Ok(Identity::Unnamed)
            }
            status => Err(Unknown::Outage(format!("GitLab answers {status} when asked whose token this is"))),
        }
    }

    /// GitLab refused the token when it was used: it is somebody's no more.
    pub(super) fn refused(&self, key: TokenKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    fn entry(&self, key: TokenKey) -> Entry {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= KNOWN && !entries.contains_key(&key) {
            // All are asked about again, which costs a call each.
            entries.clear();
        }
        entries.entry(key).or_default().clone()
    }
}

async fn verify(upstream: &Upstream, request: &PollRequest, peer: IpAddr) -> Result<Reply, CallError> {
    let token = (RUNNER_TOKEN, request.token.expose());
    let body = request.verification();
    let mut call = calls::request(Method::POST, "/api/v4/runners/verify", token, "application/json", body)?;
    // GitLab takes this for the runner's own call, and keeps where it came from (facts 7.28).
    headers::for_gitlab(call.headers_mut(), peer);
    calls::call(upstream, call, MOST, WITHIN).await
}
