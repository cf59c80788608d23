//! Polls over REST: `POST /api/v4/jobs/request` (facts 2).

use std::{net::IpAddr, time::Duration};

use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};

use super::{
    answer,
    poll::{Answer, Face, Given, Poll, Said},
    request::{self, LARGEST_REQUEST, Unread},
    source::Source,
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

impl Source {
    /// Answers a job request, in whatever spelling its path came.
    pub(super) async fn rest(&self, request: Request<Body>, peer: IpAddr) -> Response<Body> {
        if *request.method() != Method::POST {
            let mut response = answer::error(StatusCode::METHOD_NOT_ALLOWED, "405 Not Allowed");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        if request.uri().query().is_some() {
            // GitLab would take parameters from there as well as from the body; runners never write one.
            return answer::error(StatusCode::BAD_REQUEST, "a job request has no query: what it says is its JSON body");
        }
        let (parts, body) = request.into_parts();
        let body = match request::collect(body, LARGEST_REQUEST, &self.0.large).await {
            Ok(body) => body,
            Err(Unread::TooLarge) => {
                let message = format!("a job request has at most {LARGEST_REQUEST} bytes");
                return answer::error(StatusCode::PAYLOAD_TOO_LARGE, &message);
            }
            Err(Unread::Broken) => return answer::error(StatusCode::BAD_REQUEST, "the body of the request broke off"),
            Err(Unread::Late) => {
                return answer::error(StatusCode::REQUEST_TIMEOUT, "the body of the request did not arrive");
            }
        };
        respond(self.poll(Poll { face: Face::Rest, said: Said::of(&parts.headers), bearer: None, body, peer }).await)
    }
}

fn respond(answer: Answer) -> Response<Body> {
    match answer {
        Answer::Job(Given { document, headers }) => {
            let mut response = with(StatusCode::CREATED, headers, Body::from(document));
            // With any other the runner drops the job (facts 7.12).
            response.headers_mut().insert(header::CONTENT_TYPE, JSON);
            response
        }
        Answer::Empty(headers) => with(StatusCode::NO_CONTENT, headers, Body::empty()),
        Answer::Refused(reply) => {
            let mut headers = reply.headers;
            super::headers::from_gitlab(&mut headers);
            headers.remove(header::CONTENT_LENGTH);
            with(reply.status, headers, Body::from(reply.body))
        }
        Answer::Busy(pause) => {
            later(answer::error(StatusCode::TOO_MANY_REQUESTS, "too many requests: come again later"), pause)
        }
        Answer::Unavailable(why, pause) => later(answer::error(StatusCode::SERVICE_UNAVAILABLE, &why), pause),
        Answer::Bad(bad) => answer::error(StatusCode::BAD_REQUEST, &bad.to_string()),
    }
}

fn with(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Runners read whole seconds (facts 7.21), and 0 as at once.
fn later(mut response: Response<Body>, pause: Duration) -> Response<Body> {
    let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
    response.headers_mut().insert(header::RETRY_AFTER, seconds.max(1).into());
    response
}
