//! Polls over gRPC: GitLab Runner's job router (facts 1).

use std::net::{IpAddr, Ipv4Addr};

use http::HeaderMap;
use jobgate_proto::gitlab::{GetJobRequest, GetJobResponse, job_router_server::JobRouter};
use tonic::{Request, Response, Status, async_trait, metadata::MetadataMap};

use super::{
    calls::REQUEST_ID,
    poll::{Answer, Face, Given, Poll, Said},
    request::{BadRequest, LARGEST_REQUEST},
    source::Source,
};
use crate::{config::Secret, faces::Peer};

/// Largest message with a request in it.
pub(crate) const LARGEST_MESSAGE: usize = LARGEST_REQUEST + 1024;

/// Answers `GetJob`.
#[derive(Clone, Debug)]
pub(crate) struct JobRouterFace(Source);

impl JobRouterFace {
    pub(crate) fn new(source: Source) -> Self {
        Self(source)
    }
}

#[async_trait]
impl JobRouter for JobRouterFace {
    /// An error other than `Unavailable` marks the runner as unhealthy, and three of those put it out for an hour (facts 1.6): only
    /// a token that GitLab refuses, or a call that no runner makes, is worth that.
    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<GetJobResponse>, Status> {
        let peer = request.extensions().get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
        let (metadata, _, message) = request.into_parts();
        let token = bearer(&metadata)
            .ok_or_else(|| Status::unauthenticated("a runner token is needed: `authorization: Bearer <token>`"))?;
        let said = Said::of(metadata.as_ref());
        let own_id = said.request_id.clone();
        let answer =
            self.0.poll(Poll { face: Face::Grpc, said, bearer: Some(token), body: message.job_request, peer }).await;
        let (job_response, headers) = match answer {
            Answer::Job(Given { document, headers }) => (document, headers),
            Answer::Empty(headers) => (Default::default(), headers),
            Answer::Refused(reply) if reply.status == http::StatusCode::FORBIDDEN => {
                return Err(Status::permission_denied("GitLab refuses this runner token"));
            }
            // A runner that is told so over REST counts it as a failure and stays healthy; here only this does (facts 1.6).
            Answer::Refused(_) | Answer::Busy(_) => (Default::default(), HeaderMap::new()),
            Answer::Unavailable(why, _) => return Err(Status::unavailable(why)),
            Answer::Bad(bad @ BadRequest::OtherToken) => return Err(Status::permission_denied(bad.to_string())),
            Answer::Bad(bad @ (BadRequest::NoToken | BadRequest::BadToken | BadRequest::NotJson { .. })) => {
                return Err(Status::invalid_argument(bad.to_string()));
            }
        };
        let mut response = Response::new(GetJobResponse { job_response });
        // In the initial headers, also with nothing in the message (facts 7.5).
        let id = headers.get(REQUEST_ID).cloned().or(own_id);
        for (name, value) in [("x-request-id", id.as_ref()), ("x-gitlab-last-update", Answer::last_update(&headers))] {
            if let Some(value) = value.and_then(|value| value.to_str().ok()?.parse().ok()) {
                response.metadata_mut().insert(name, value);
            }
        }
        Ok(response)
    }
}

fn bearer(metadata: &MetadataMap) -> Option<Secret> {
    let (scheme, token) = metadata.get("authorization")?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| Secret::new(token))
}
