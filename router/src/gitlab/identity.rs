//! Which runner a token is: GitLab says so, once (`POST /runners/verify`, facts 4.5).

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{Method, StatusCode};
use jiff::Timestamp;
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

/// GitLab is left alone for so long after it did not answer: everybody with the token waits for one answer.
const OUTAGE: Duration = Duration::from_secs(2);

/// Why it is not known whose a token is.
#[derive(Clone, Debug)]
pub(super) enum Unknown {
    /// GitLab does not know the token.
    Refused,
    /// GitLab wants to be left alone for a while.
    Busy(Duration),
    /// GitLab does not answer, or not as it should.
    Outage(String),
}

/// The runner's id; `None` where GitLab has no way to tell (an old one, or something else in its place).
type Id = Option<i64>;

#[derive(Clone)]
enum Known {
    Always(i64),
    /// Until then.
    For(Instant, Result<Id, Unknown>),
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
    ) -> Result<Id, Unknown> {
        let entry = self.entry(key);
        // Held while GitLab is asked: a fleet that starts at once asks once.
        let mut known = entry.lock().await;
        match &*known {
            Some(Known::Always(id)) => return Ok(Some(*id)),
            Some(Known::For(until, found)) if Instant::now() < *until => return found.clone(),
            _ => {}
        }
        let found = look(verify(upstream, request, peer).await);
        *known = Some(match &found {
            Ok(Some(id)) => Known::Always(*id),
            Ok(None) | Err(Unknown::Refused) => Known::For(Instant::now() + DOUBT, found.clone()),
            Err(Unknown::Busy(pause)) => Known::For(Instant::now() + *pause, found.clone()),
            Err(Unknown::Outage(_)) => Known::For(Instant::now() + OUTAGE, found.clone()),
        });
        found
    }

    /// GitLab refused the token when it was used: it is somebody's no more.
    pub(super) fn refused(&self, key: TokenKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    fn entry(&self, key: TokenKey) -> Entry {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= KNOWN && !entries.contains_key(&key) {
            // Strangers' first; if that is not enough, all are asked about again, which costs a call each.
            entries.retain(|_, entry| entry.try_lock().is_ok_and(|known| matches!(*known, Some(Known::Always(_)))));
            if entries.len() >= KNOWN {
                entries.clear();
            }
        }
        entries.entry(key).or_default().clone()
    }
}

/// What GitLab's answer says.
fn look(answer: Result<Reply, CallError>) -> Result<Id, Unknown> {
    let reply = answer.map_err(|error| Unknown::Outage(error.to_string()))?;
    match reply.status {
        StatusCode::OK => {
            let verified = serde_json::from_slice::<Verified>(&reply.body).ok().and_then(|verified| verified.id);
            Ok(verified.filter(|id| *id > 0))
        }
        StatusCode::FORBIDDEN => Err(Unknown::Refused),
        StatusCode::TOO_MANY_REQUESTS => {
            Err(Unknown::Busy(reply.pause(Timestamp::now()).unwrap_or(Duration::from_secs(5))))
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(None),
        status => Err(Unknown::Outage(format!("GitLab answers {status} when asked whose token this is"))),
    }
}

async fn verify(upstream: &Upstream, request: &PollRequest, peer: IpAddr) -> Result<Reply, CallError> {
    let token = (RUNNER_TOKEN, request.token.expose());
    let body = request.verification();
    let mut call = calls::request(Method::POST, "/api/v4/runners/verify", token, "application/json", body)?;
    // Whoever comes with many wrong tokens is counted by GitLab, and not the router.
    headers::for_gitlab(call.headers_mut(), peer);
    calls::call(upstream, call, MOST, WITHIN).await
}
